# SPDX-License-Identifier: Apache-2.0
"""Bounded stages: reading and decoding, batching and inference, and whoever takes the results, each in its thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from ..errors import ImageError
from ..segmentation import Segmentation
from .channel import END, NOTHING, Budget, Channel
from .items import Failure, Frame, Source

_log = logging.getLogger(__name__)
_JOIN_S = 1.0


class Stopped(BaseException):
    """Raised inside a running inference whose result nobody wants any more."""


@dataclass(frozen=True)
class Plan:
    """How a pipeline runs.

    Attributes:
        batch: images at once at most.
        latency_s: seconds that an image waits for others; None: as long as it takes to fill the batch.
        workers: batches at once.
        drop: the newest frame takes the place of the oldest that waits.
        every: only each so many-th frame of a source.
        ahead: bytes of images and labels in the pipeline.
    """

    batch: int
    latency_s: float | None
    workers: int
    drop: bool
    every: int
    ahead: int


@dataclass(eq=False)
class Loaded:
    """A frame with its image, and how long decoding it took."""

    frame: Frame
    image: Any
    decode_ms: float


@dataclass(eq=False)
class Result:
    """A frame with its segmentation."""

    frame: Frame
    segmentation: Segmentation


Run = Callable[[list[Any]], Sequence[Segmentation]]


class Pipeline:
    """Runs a source through a model; results come in order.

    Args:
        source: what is read, in a thread of its own.
        run: images to segmentations, called from ``plan.workers`` threads.
        key: of an image; only images of one key make a batch.
        plan: sizes.

    Attributes:
        dropped: frames dropped so far.
        read: the hand-over from decoding to inference; results: from inference to the caller; budget: bytes.
    """

    def __init__(self, source: Source, run: Run, key: Callable[[Any], Hashable], plan: Plan) -> None:
        self._source, self._run, self._key, self._plan = source, run, key, plan
        self.dropped = 0
        # Twice the batch: one that waits while another one is filled.
        self.read: Channel[Loaded | Failure] = Channel(plan.batch if plan.drop else 2 * plan.batch)
        self.results: Channel[Future[list[Result | Failure]]] = Channel(plan.workers)
        self.budget = Budget(plan.ahead)
        self.closed = self._joined = False
        self._pending: Loaded | None = None
        self._threads = [
            threading.Thread(target=self._read, name="deeplab-read", daemon=True),
            threading.Thread(target=self._infer, name="deeplab-infer", daemon=True),
        ]

    def take(self) -> Iterator[Result | Failure]:
        """Start, and give everything in order; a result's memory counts as free once the next one is asked for.

        Raises:
            Whatever the source or the model raised, after the results before it.
        """
        for thread in self._threads:
            thread.start()
        while isinstance(future := self.results.get(), Future):
            waiting = future.result()[::-1]
            del future  # while the next image is read, nothing here may hold the one before
            while waiting:
                item = waiting.pop()
                cost = item.frame.cost if isinstance(item, Result) else 0
                yield item
                del item
                self._free(cost)
        if self.results.error is not None:
            raise self.results.error

    def stop(self) -> None:
        """Tell all threads to end, without waiting for it."""
        self.closed = True
        self._source.stop()
        self.budget.close()
        self.read.close()
        self.results.close()

    def close(self) -> None:
        """End all threads; batches that run are waited for, so that the model may be closed afterwards."""
        if self._joined:
            return
        self._joined = True
        self.stop()
        reader, infer = self._threads
        if infer.ident is not None:
            infer.join()
        if reader.ident is not None:
            reader.join(_JOIN_S)
        if reader.is_alive():
            _log.debug("%s: still waits for data; it ends with its timeout", self._source.name)

    # -- reading

    def _read(self) -> None:
        error: BaseException | None = None
        frames = self._source.frames()
        try:
            for item in frames:
                if isinstance(item, Frame) and item.index % self._plan.every:
                    continue
                if self.closed or not self._hand_over(item):
                    break
        except BaseException as caught:  # noqa: BLE001  raised again where results are taken
            error = caught
        finally:
            close = getattr(frames, "close", None)
            if close is not None:
                close()
            self.read.finish(error)

    def _hand_over(self, item: Frame | Failure) -> bool:
        if isinstance(item, Failure):
            return self.read.put(item)
        if not self._admit(item):
            return False
        started = perf_counter()
        try:
            image = item.load()
        except ImageError as error:
            self._free(item.cost)
            return self.read.put(Failure(item.source, item.index, error))
        loaded = Loaded(item, image, (perf_counter() - started) * 1e3)
        return self._put_newest(loaded) if self._plan.drop else self.read.put(loaded)

    def _admit(self, frame: Frame) -> bool:
        # What is dropped needs no budget: it is bounded by the number of frames, and must not wait.
        if self._plan.drop or self.budget.try_take(frame.cost):
            return True
        self.read.hold(True)
        try:
            return self.budget.take(frame.cost)
        finally:
            self.read.hold(False)

    def _put_newest(self, loaded: Loaded) -> bool:
        self.dropped += len(self.read.put_newest(loaded))
        return not self.closed

    def _free(self, cost: int) -> None:
        if not self._plan.drop:
            self.budget.give(cost)

    # -- inference

    def _infer(self) -> None:
        error: BaseException | None = None
        pool = ThreadPoolExecutor(self._plan.workers, "deeplab-model")
        try:
            while group := self._gather():
                running = pool.submit(self._segment, group)
                del group
                if not self.results.put(running):
                    break
                del running
        except BaseException as caught:  # noqa: BLE001  raised again where results are taken
            error = caught
        finally:
            self.results.finish(error)
            pool.shutdown(wait=True, cancel_futures=self.closed)

    def _gather(self) -> list[Loaded | Failure]:
        """The next images that go together, and failures between them; empty at the end."""
        first = self._pending or self.read.get()
        self._pending = None
        if not isinstance(first, (Loaded, Failure)):
            if self.read.error is not None:
                raise self.read.error
            return []
        group: list[Loaded | Failure] = [first]
        if isinstance(first, Failure):
            return group
        if self._plan.batch == 1:
            return group
        key = self._key(first.image)
        latency = self._plan.latency_s
        until = perf_counter() + (1e9 if latency is None else latency)
        count = 1
        while count < self._plan.batch:
            item = self.read.get(until)
            if item is END or item is NOTHING:
                break
            if isinstance(item, Loaded):
                if self._key(item.image) != key:
                    self._pending = item
                    break
                count += 1
            group.append(item)  # type: ignore[arg-type]
        return group

    def _segment(self, group: list[Loaded | Failure]) -> list[Result | Failure]:
        images = [item for item in group if isinstance(item, Loaded)]
        if not images:
            return [item for item in group if isinstance(item, Failure)]
        try:
            found = iter(self._run([item.image for item in images]))
        except ImageError as error:
            if len(images) > 1:  # one image must not spoil the others
                return [result for item in group for result in self._segment([item])]
            self._free(images[0].frame.cost)
            failure = Failure(images[0].frame.source, images[0].frame.index, error)
            return [failure if isinstance(item, Loaded) else item for item in group]
        results: list[Result | Failure] = []
        for item in group:
            if isinstance(item, Loaded):
                segmentation = next(found)
                segmentation.timings_ms["decode"] = item.decode_ms
                results.append(Result(item.frame, segmentation))
            else:
                results.append(item)
        return results
