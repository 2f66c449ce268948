# SPDX-License-Identifier: Apache-2.0
"""Segmentations of a source, one after the other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from ..errors import DeepLabError
from ..images import MAX_PIXELS
from ..manifest import Manifest
from ..segmentation import Segmentation
from .items import Counts, Failure, Source
from .live import Reconnect
from .pipeline import Pipeline, Plan, Result, Stopped
from .pyav import Opening
from .smoothing import Smoother
from .sources import open_source

_log = logging.getLogger(__name__)
LIVE_LATENCY_MS = 50.0
AHEAD = 512 << 20
ErrorHandler = Callable[[Failure], None]


class Model(Protocol):
    """What of a `deeplab_infer.Segmenter` a stream uses."""

    @property
    def manifest(self) -> Manifest: ...
    @property
    def largest_batch(self) -> int: ...
    @property
    def concurrency(self) -> int: ...
    def batch_key(self, height: int, width: int) -> Hashable: ...
    def predict(self, image: Any, *, color: str | None = ..., scores: bool = ..., progress: Any = ...) -> Any: ...
    def describe(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class StreamOptions:
    """See `deeplab_infer.Segmenter.stream`."""

    batch: int | None = None
    latency_ms: float | None = None
    drop: bool = False
    smooth: int = 0
    scores: bool = False
    every: int = 1
    color: str = "rgb"
    decoder: str = "auto"
    reconnect: Reconnect = field(default_factory=Reconnect)
    timeout_s: float = 10.0
    input_options: dict[str, str] = field(default_factory=dict)
    max_pixels: int = MAX_PIXELS
    ahead: int = AHEAD
    on_error: ErrorHandler | None = None
    progress: Callable[[int, int], None] | None = None

    def __post_init__(self) -> None:
        at_least = {"every": (self.every, 1), "ahead": (self.ahead, 1), "smooth": (self.smooth, 0)}
        at_least |= {"batch": (1 if self.batch is None else self.batch, 1)}
        for name, (given, least) in at_least.items():
            if given < least:
                raise DeepLabError(f"{name} must be at least {least}, got {given}")
        if self.latency_ms is not None and self.latency_ms < 0:
            raise DeepLabError(f"latency_ms must be at least 0, got {self.latency_ms}")
        if self.smooth and self.scores:
            raise DeepLabError("scores belong to the labels of one frame; they do not go with smooth")

    @property
    def opening(self) -> Opening:
        """Those that say how videos are opened."""
        return Opening(self.decoder, self.timeout_s, self.input_options, self.max_pixels)


class Stream(Iterator[Segmentation]):
    """An iterator over the segmentations of a source; reading begins with the first one asked for.

    Closes itself at the end, on errors, and when it is forgotten; where it is left early, close it or use it in a
    ``with`` statement, so that the model is free afterwards.

    Attributes:
        source: what is read.
        options: how.
        given: results given so far.
        failures: images and sources that could not be used.
    """

    def __init__(self, model: Model, source: Any, options: StreamOptions) -> None:
        self.options = options
        self._smoother = Smoother(options.smooth) if options.smooth else None
        self.source: Source = (
            source if _is_source(source) else open_source(source, options.color, options.opening, options.reconnect)
        )
        self.given = 0
        self.failures: list[Failure] = []
        if options.drop and not self.source.live:
            raise DeepLabError(f"{self.source.name} is not live: frames are dropped only from cameras, leave out drop")
        calls = _Calls(model, options)
        self._pipeline = Pipeline(self.source, calls.run, calls.key, _plan(model, self.source, options))
        calls.pipeline = self._pipeline
        self._items = self._pipeline.take()
        self._closed = False

    # -- what is known about it

    @property
    def live(self) -> bool:
        """Whether the source is a camera."""
        return self.source.live

    @property
    def total(self) -> int | None:
        """Results to expect, where that is known."""
        total = self.source.total
        return None if total is None else -(-total // self.options.every)

    @property
    def dropped(self) -> int:
        """Frames of a camera that were dropped so far."""
        return self._pipeline.dropped

    @property
    def counts(self) -> Counts:
        """Damaged pieces, missing frames and reconnects so far."""
        return self.source.counts

    # -- iterating

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Segmentation:
        if self._closed:
            raise StopIteration
        try:
            for item in self._items:
                if isinstance(item, Result):
                    self.given += 1
                    return self._finished(item)
                self._report(item)
        except BaseException:
            self.close()
            raise
        self.close()
        if not self.given and self.failures and self.options.on_error is None:
            raise self.failures[0].error
        raise StopIteration

    def close(self) -> None:
        """Stop reading and free what is held; no result follows."""
        self._closed = True
        self._pipeline.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_pipeline"):
            self._pipeline.stop()

    # -- how

    def _finished(self, item: Result) -> Segmentation:
        frame, result = item.frame, item.segmentation
        extra: dict[str, Any] = {"frame": frame.index, "time_s": frame.time_s, "source": frame.source}
        labels = result.labels
        if self._smoother is not None:
            if frame.fresh:
                self._smoother.reset()
            labels = self._smoother.smooth(labels)
            extra["smooth"] = self.options.smooth
        return replace(result, labels=labels, path=frame.path or result.path, metadata={**result.metadata, **extra})

    def _report(self, failure: Failure) -> None:
        self.failures.append(failure)
        if self.options.on_error is None:
            _log.warning("skipped: %s", failure.error)
        else:
            self.options.on_error(failure)


class _Calls:
    """What the threads call; it does not hold the `Stream`, which may be forgotten while they run."""

    pipeline: Pipeline

    def __init__(self, model: Model, options: StreamOptions) -> None:
        self._model, self._options = model, options

    def run(self, images: list[Any]) -> Sequence[Segmentation]:
        decoded = all(isinstance(image, np.ndarray) for image in images)  # and so RGB; others are used in place
        color = "rgb" if decoded else self._options.color
        return self._model.predict(images, color=color, scores=self._options.scores, progress=self._progress)

    def key(self, image: Any) -> Hashable:
        height, width = image.shape[:2]
        return self._model.batch_key(height, width)

    def _progress(self, done: int, total: int) -> None:
        if self.pipeline.closed:
            raise Stopped
        if self._options.progress is not None:
            self._options.progress(done, total)


def _plan(model: Model, source: Source, options: StreamOptions) -> Plan:
    # A batch fills a GPU better. On a CPU, where one image fills it, labels are those of the image alone, to the bit.
    default = 1 if str(model.describe()["device"]).startswith("cpu") else model.largest_batch
    latency = LIVE_LATENCY_MS if options.latency_ms is None and source.hurried else options.latency_ms
    return Plan(
        batch=min(options.batch or default, model.largest_batch),
        latency_s=None if latency is None else latency / 1e3,
        workers=model.concurrency,
        drop=options.drop,
        every=options.every,
        ahead=options.ahead,
    )


def _is_source(source: Any) -> bool:
    return hasattr(source, "frames") and hasattr(source, "counts")
