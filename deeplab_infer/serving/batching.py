# SPDX-License-Identifier: Apache-2.0
"""Images of many requests through one network, in batches of one size."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol

from ..configs import ModelConfig
from ..images import Rgb
from ..manifest import Manifest
from ..segmentation import Palette, Segmentation


class Model(Protocol):
    """What of a `deeplab_infer.Segmenter` the server uses."""

    classes: tuple[str, ...]
    palette: Palette
    config: ModelConfig

    @property
    def manifest(self) -> Manifest: ...
    @property
    def largest_batch(self) -> int: ...
    def batch_key(self, height: int, width: int) -> Hashable: ...
    def predict(self, image: Any, *, scores: bool = ...) -> Any: ...
    def describe(self) -> dict[str, Any]: ...
    def close(self) -> None: ...


@dataclass
class Done:
    """A segmentation and how it came about; times in seconds."""

    result: Segmentation
    batch: int
    queued: float
    inference: float


@dataclass(eq=False)
class _Waiting:
    pixels: Rgb
    scores: bool
    key: Hashable
    since: float = field(default_factory=perf_counter)
    future: Future[Done] = field(default_factory=Future)


class Batcher:
    """One thread that runs a model on what is handed to it, the oldest first.

    An image waits at most ``latency_s`` for others that enter the network at its size; longer waits come from the
    images before it. One whose future was cancelled is dropped.

    Args:
        model: what runs.
        batch: images at once at most.
        latency_s: seconds.
        observe: called with each `Done` batch: number of images, seconds.
    """

    def __init__(
        self,
        model: Model,
        batch: int,
        latency_s: float,
        observe: Callable[[int, float], None] = lambda count, seconds: None,
    ) -> None:
        self._model, self._latency, self._observe = model, latency_s, observe
        self._batch = min(batch, model.largest_batch)
        self._waiting: list[_Waiting] = []
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="deeplab-model", daemon=True)
        self._thread.start()

    @property
    def depth(self) -> int:
        """Images that wait."""
        return len(self._waiting)

    def submit(self, pixels: Rgb, scores: bool = False) -> Future[Done]:
        """Hand over an image, uint8 [H, W, 3] RGB.

        Args:
            pixels: the image.
            scores: also give the probabilities of its classes.

        Raises:
            RuntimeError: the batcher was closed.
        """
        item = _Waiting(pixels, scores, (self._model.batch_key(*pixels.shape[:2]), scores))
        with self._changed:
            if self._closing:
                raise RuntimeError("the batcher is closed")
            self._waiting.append(item)
            self._changed.notify_all()
        return item.future

    def close(self) -> None:
        """Finish what was handed over, then stop."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while group := self._gather():
            self._run([item for item in group if item.future.set_running_or_notify_cancel()])
            del group  # while this thread waits, nothing may hold the images of the last batch

    def _gather(self) -> list[_Waiting]:
        """The oldest image and those that go with it; empty when there will be none."""
        with self._changed:
            while True:
                self._waiting = [item for item in self._waiting if not item.future.cancelled()]
                if not self._waiting:
                    if self._closing:
                        return []
                    self._changed.wait()
                    continue
                oldest = self._waiting[0]
                group = [item for item in self._waiting if item.key == oldest.key][: self._batch]
                left = oldest.since + self._latency - perf_counter()
                if len(group) == self._batch or left <= 0 or self._closing:
                    self._waiting = [item for item in self._waiting if item not in group]
                    return group
                self._changed.wait(left)

    def _run(self, group: Sequence[_Waiting]) -> None:
        if not group:
            return
        started = perf_counter()
        try:
            results = self._model.predict([item.pixels for item in group], scores=group[0].scores)
        except Exception as error:  # noqa: BLE001  whatever a runtime raises is the answer to those who wait
            if len(group) > 1:
                for item in group:  # one image must not spoil the others
                    self._run([item])
                return
            group[0].future.set_exception(error)
            return
        seconds = perf_counter() - started
        self._observe(len(group), seconds)
        for item, result in zip(group, results, strict=True):
            item.future.set_result(Done(result, len(group), started - item.since, seconds))
