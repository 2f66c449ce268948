# SPDX-License-Identifier: Apache-2.0
"""One line in the log and one count for every request."""

from __future__ import annotations

import logging
import string
from dataclasses import dataclass, field
from datetime import datetime, timezone
from time import perf_counter
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .metrics import Metrics

_log = logging.getLogger(__name__)
_SHOWN = string.punctuation + string.digits + string.ascii_letters
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
GONE = 499  # as nginx calls it: nobody was there to answer


@dataclass
class Notes:
    """What became of a request.

    Attributes:
        seconds: of its stages.
        detail: of the image.
        gone: whether the client went away.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    detail: str = ""
    gone: bool = False

    def server_timing(self) -> str:
        """As a ``Server-Timing`` header, in milliseconds."""
        return ", ".join(f"{name};dur={value * 1e3:.1f}" for name, value in self.seconds.items())


class AccessLog:
    """ASGI middleware; puts `Notes` into ``scope["deeplab_notes"]``.

    Args:
        app: what is watched.
        metrics: where to count.
        paths: those that are counted by name; the rest is "other".
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str]) -> None:
        self._app, self._metrics, self._paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, sent = perf_counter(), GONE, 0
        notes = scope["deeplab_notes"] = Notes()

        async def watch(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
            sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            self._note(scope, notes, GONE if notes.gone else status, sent, perf_counter() - started)

    def _note(self, scope: Scope, notes: Notes, status: int, sent: int, seconds: float) -> None:
        path = scope["path"] if scope["path"] in self._paths else "other"
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._metrics.requests.labels(path, method, str(status)).inc()
        self._metrics.seconds.labels(path).observe(seconds)
        if notes.gone:
            self._metrics.dropped.inc()
        for name, value in notes.seconds.items():
            self._metrics.stages.labels(name).observe(value)
        # A path may hold anything, line ends too.
        target = quote(scope["path"], safe=_SHOWN)[:200]
        query = quote(scope.get("query_string", b"").decode("latin-1"), safe=_SHOWN)[:200]
        client = (scope.get("client") or ("-",))[0]
        parts = [f"{name} {value * 1e3:.1f}" for name, value in notes.seconds.items()]
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        _log.info(
            "%s %s %s %s %d %d bytes %.1f ms%s", now, client, method, target + ("?" + query if query else ""), status,
            sent, seconds * 1e3, f" ({', '.join([notes.detail, *parts])})" if parts and notes.detail else "",
        )  # fmt: skip
