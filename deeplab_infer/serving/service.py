# SPDX-License-Identifier: Apache-2.0
"""From the body of a request to the bytes of its answer."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Coroutine
from time import perf_counter
from typing import Any

from starlette.requests import ClientDisconnect, Request

from .. import __version__
from ..errors import DeepLabError
from .access import Notes
from .admission import Places
from .answers import check_query, encode
from .batching import Batcher, Done, Model
from .codecs import Codecs
from .metrics import Metrics
from .options import ServeOptions
from .pictures import FORMATS, decode
from .problems import ClientGone, Problem
from .schemas import SegmentQuery
from .uploads import check_headers, picture_in, read_body

_log = logging.getLogger(__name__)
_MANIFEST = (
    "input_kind", "output_kind", "precision", "batch", "height", "width", "checkpoint_sha256", "tools", "report",
    "rest", "kept_layers",
)  # fmt: skip


class Service:
    """A model, the threads around it, and its counters. `close` finishes what was accepted."""

    def __init__(self, model: Model, options: ServeOptions) -> None:
        self.model, self.options = model, options
        self.metrics, self.places = Metrics(), Places(options.queue)
        self._codecs = Codecs(options.codecs)
        self._image_seconds = 0.0  # of the network, smoothed
        self._batcher = Batcher(model, options.batch, options.latency_s, self._observe)
        self.closing = False
        self.metrics.watch(lambda: self._batcher.depth, lambda: self.places.taken, options.queue)

    def close(self) -> None:
        """Stop the threads and free the model."""
        self.closing = True
        self._batcher.close()
        self._codecs.close()
        self.model.close()

    def check_open(self) -> None:
        """Raises `Problem` 503 once the service is closed."""
        if self.closing:
            raise Problem(503, "the server is ending", "use another one", headers={"Retry-After": "1"})

    def retry_after(self) -> int:
        """Seconds in which half of the places should be done, at least 1."""
        seconds = self._image_seconds * self.places.count / 2
        return max(1, min(math.ceil(seconds), math.ceil(self.options.timeout_s)))

    def refused(self, problem: Problem) -> None:
        """Count a refusal."""
        self.metrics.rejected.labels(problem.reason or str(problem.status)).inc()

    async def segment(self, request: Request, query: SegmentQuery, notes: Notes) -> bytes:
        """Read the body, segment it and encode the answer, in the time there is.

        Raises:
            Problem: whatever is wrong with the request, the model's failure, or 408 and 504.
            ClientGone: nobody waits for the answer.
        """
        ends = perf_counter() + self.options.timeout_s
        check_query(query, self.model.classes)
        if query.scores and self.model.manifest.output_kind == "labels":
            raise Problem(409, "the model has no scores", "export it with --output logits", reason="parameter")
        check_headers(request, self.options.max_body)
        started = perf_counter()
        try:
            body = await asyncio.wait_for(read_body(request, self.options.max_body), self.options.timeout_s)
        except ClientDisconnect:
            raise ClientGone from None
        except asyncio.TimeoutError:
            said = f"the body did not arrive within {self.options.timeout_s:g} s"
            raise Problem(408, said, "send it faster, or a smaller file", reason="slow_upload") from None
        notes.seconds["upload"] = perf_counter() - started
        picture = picture_in(request, body)
        del body
        return await self._while_wanted(request, self._answer([picture], query, notes), ends - perf_counter())

    async def _answer(self, picture: list[Any], query: SegmentQuery, notes: Notes) -> bytes:
        """Decode, infer, encode. The list is emptied: no stage keeps what the one before it held."""
        self.check_open()
        started = perf_counter()
        pixels = await self._codecs.run(decode, picture.pop(), self.options.max_pixels)
        notes.seconds["decode"] = perf_counter() - started
        notes.detail = f"{pixels.shape[0]} x {pixels.shape[1]} pixels"
        future = self._batcher.submit(pixels, bool(query.scores))
        del pixels
        try:
            done: Done = await asyncio.wrap_future(future)
        except DeepLabError as error:
            raise Problem(422, str(error), "GET /v1/model says what the model takes", reason="size") from error
        except Exception as error:  # a runtime raises what it likes
            _log.exception("the model failed")
            said = f"the model failed ({type(error).__name__})"
            raise Problem(500, said, "the server's log has the details", reason="model") from error
        notes.seconds |= {"queue": done.queued, "inference": done.inference}
        notes.detail += f", batch of {done.batch}"
        self.metrics.pixels.inc(done.result.labels.size)
        started = perf_counter()
        answer = await self._codecs.run(encode, done.result, query)
        notes.seconds["encode"] = perf_counter() - started
        return answer

    async def _while_wanted(self, request: Request, work: Coroutine[Any, Any, bytes], seconds: float) -> bytes:
        """The result of ``work``, which is cancelled when the client goes away or the time is over."""
        task = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait({task, gone}, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if gone.done():
                raise ClientGone
            said = f"the image was not done within {self.options.timeout_s:g} s"
            raise Problem(
                504, said, "try again later, or a smaller image",
                reason="timeout", headers={"Retry-After": str(self.retry_after())},
            )  # fmt: skip
        finally:
            task.cancel()
            gone.cancel()
            await asyncio.gather(task, gone, return_exceptions=True)

    def _observe(self, count: int, seconds: float) -> None:
        self.metrics.batches.observe(count)
        each = seconds / count
        self._image_seconds = each if not self._image_seconds else 0.8 * self._image_seconds + 0.2 * each

    def describe(self) -> dict[str, Any]:
        """The answer of ``/v1/model``."""
        model, options = self.model, self.options
        classes = [
            {"index": index, "name": name, "color": list(color)}
            for index, (name, color) in enumerate(zip(model.classes, model.palette, strict=True))
        ]
        limits = {
            "max_body_bytes": options.max_body,
            "max_pixels": options.max_pixels,
            "requests_held": options.queue,
            "batch": min(options.batch, model.largest_batch),
            "latency_ms": options.latency_s * 1e3,
            "timeout_s": options.timeout_s,
            "formats": list(FORMATS),
        }
        manifest = {name: getattr(model.manifest, name) for name in _MANIFEST}
        return {
            "name": model.config.name, "version": __version__, "classes": classes, "run": model.describe(),
            "manifest": manifest, "limits": limits,
        }  # fmt: skip


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
