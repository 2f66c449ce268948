# SPDX-License-Identifier: Apache-2.0
"""A fixed number of places: a request without one is answered 429 before its body is read.

What a request may take in memory times the places is what the server takes. A place is held from the headers to the
last byte of the answer, so that slow uploads and slow readers count too.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .problems import Problem

_PIECE = 64 << 10  # what a client that does not read leaves with us
# After an early refusal the rest of the body is dropped for a while: closed at once, the client would see a broken
# connection instead of the answer.
_LINGER_BYTES = 64 << 20
_LINGER_SECONDS = 3.0


class Places:
    """Counts the requests under way; used from one event loop."""

    def __init__(self, count: int) -> None:
        self.count, self.taken = count, 0

    def take(self) -> bool:
        """Whether there was one left."""
        if self.taken >= self.count:
            return False
        self.taken += 1
        return True

    def give(self) -> None:
        """Back."""
        self.taken -= 1


class Admission:
    """ASGI middleware around the paths that hold images.

    Args:
        app: what is guarded.
        places: shared with whoever reports them.
        paths: which paths.
        retry_after: seconds after which a place may be free.
        refused: called with each `Problem`.
        timeout_s: seconds in which a piece of the answer must be taken.
    """

    def __init__(
        self,
        app: ASGIApp,
        places: Places,
        paths: frozenset[str],
        retry_after: Callable[[], int],
        refused: Callable[[Problem], None],
        timeout_s: float,
    ) -> None:
        self._app, self._places, self._paths = app, places, paths
        self._retry_after, self._refused, self._timeout = retry_after, refused, timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] not in self._paths or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(receive, send, self._timeout)
        if self._places.take():
            try:
                await self._app(scope, exchange.receive, exchange.send)
            except asyncio.TimeoutError:
                return  # the client stopped reading: the connection is closed without the rest
            finally:
                self._places.give()
        else:
            problem = self._full()
            self._refused(problem)
            await problem.response()(scope, exchange.receive, exchange.send)
        await exchange.finish()

    def _full(self) -> Problem:
        seconds = self._retry_after()
        return Problem(
            429, f"all {self._places.count} places are taken", f"send it again in {seconds} s",
            reason="full", headers={"Retry-After": str(seconds)},
        )  # fmt: skip


class _Exchange:
    """One request and its answer: sent in pieces, and ended when the body has come in or enough of it was dropped."""

    def __init__(self, receive: Receive, send: Send, timeout_s: float) -> None:
        self._receive, self._send, self._timeout = receive, send, timeout_s
        self._body_over = self._answered = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._body_over = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if not self._body_over:
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await self._send(message)
            return
        body = message.get("body", b"")
        for start in range(0, len(body), _PIECE):
            piece = {"type": "http.response.body", "body": body[start : start + _PIECE], "more_body": True}
            await asyncio.wait_for(self._send(piece), self._timeout)
        self._answered |= not message.get("more_body", False)

    async def finish(self) -> None:
        """Drop what the client still sends, then end the answer."""
        if not self._body_over:
            # One that goes on sending has its connection closed under it.
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._drop_rest(), _LINGER_SECONDS)
        if self._answered:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _drop_rest(self) -> None:
        left = _LINGER_BYTES
        while not self._body_over and left > 0:
            left -= len((await self.receive()).get("body", b""))
