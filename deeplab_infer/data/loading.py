# SPDX-License-Identifier: Apache-2.0
"""Batches for training: drawn ahead by other processes, the same for any number of them, from any step on."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ..errors import DataError, ImageError
from ..preprocess import Size
from .base import LabelledImages
from .listing import reason
from .sample_order import SampleOrder
from .transforms import Augmentation, Sample, augment

_log = logging.getLogger(__name__)

# What torch says, wherever the main process happens to be, when one of its reading processes has died.
_DEATH = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)")
_SHARED_MEMORY = Path("/dev/shm")


class Batch(NamedTuple):
    """The crops of one step.

    Attributes:
        images: uint8 [N, h, w, 3] RGB, torch on the CPU; 0 in padding.
        labels: uint8 [N, h, w]; the data set's ``ignore_index`` in padding.
        valid: int64 [N, 2]: (rows, columns) of each crop that hold picture; the rest is padding (`Sample.valid`).
        names: what the data set calls the images.
    """

    images: Tensor
    labels: Tensor
    valid: Tensor
    names: tuple[str, ...]


class _Drawn(NamedTuple):
    """What a reading process hands over: a batch, unless too few images can be read, and (name, reason) of those."""

    batch: Batch | None
    skipped: tuple[tuple[str, str], ...]


class TrainingBatches:
    """Batches of steps ``start`` .. ``steps - 1``, one pass; close it, or use it in a ``with`` statement.

    The sample at position p (p = 0 is the first one of step 0) is decided by the seed and p alone: epoch
    ``p // len(order)`` is a permutation of ``order``, and the crop is drawn from ``PCG64(SeedSequence([seed, p]))``.
    So the batches do not depend on ``workers``, a run resumed at any step sees what the whole one would have seen, and
    ``world`` processes with ``batch`` samples see together the samples of one process with ``world * batch``.

    An image that cannot be read is reported once, as a warning, and its place in the batch is taken by another image,
    chosen from the seed and the position too. What goes wrong in code rather than in files is raised as it is.

    Args:
        dataset: images with labels. Reading processes are made by torch's default start method, ``fork`` on Linux up
            to Python 3.13: what the data set holds in memory is then shared and not copied. With others it is pickled.
        augmentation: recipe of the crops.
        crop: (height, width).
        batch: samples per batch of this process.
        seed: of order and crops, 0 or more.
        steps: where the whole run ends.
        start: first step to give.
        rank, world: this process among those that train together; it gets the rank-th ``batch`` of each step's samples.
        workers: reading processes; 0 draws in this process, one batch ahead in a thread.
        order: positions in the data set that make an epoch, before shuffling; None for each once. A position that
            comes twice is seen twice an epoch.
        skip_limit: how many images may be unreadable.
        pin_memory: batches lie in page-locked memory, for copies to a CUDA device.
        start_method: of the reading processes: ``"fork"``, ``"forkserver"``, ``"spawn"``; None for torch's default.

    Raises:
        DataError: an argument is out of range. While iterating: more than ``skip_limit`` images cannot be read, or a
            reading process died.
    """

    def __init__(
        self,
        dataset: LabelledImages,
        augmentation: Augmentation,
        crop: Size,
        batch: int,
        *,
        seed: int,
        steps: int,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        workers: int = 2,
        order: Sequence[int] | None = None,
        skip_limit: int = 10,
        pin_memory: bool = False,
        start_method: str | None = None,
    ) -> None:
        at_least = {"batch": (batch, 1), "height of the crop": (crop[0], 1), "width of the crop": (crop[1], 1)}
        at_least |= {"seed": (seed, 0), "start": (start, 0), "rank": (rank, 0), "world": (world, 1)}
        at_least |= {"workers": (workers, 0), "skip_limit": (skip_limit, 0)}
        for name, (given, least) in at_least.items():
            if given < least:
                raise DataError(f"{name} must be at least {least}, got {given}")
        if rank >= world:
            raise DataError(f"rank counts from 0 and must be below world, got rank {rank} of {world}")
        if start > steps:
            raise DataError(f"the run has {steps} steps and cannot start at step {start}")
        self._start, self._steps, self._workers, self._skip_limit = start, steps, workers, skip_limit
        self._dataset, self._pin_memory, self._start_method = dataset, pin_memory, start_method
        self._order = SampleOrder(dataset, order, seed)
        self._batches = _Batches(dataset, augmentation, crop, batch, self._order, rank, world, skip_limit, workers)
        self._skipped: dict[str, str] = {}
        self._running: Generator[Batch, None, None] | None = None

    def __len__(self) -> int:
        return self._steps - self._start

    def __iter__(self) -> Iterator[Batch]:
        self.close()
        self._running = self._give()
        return self._running

    def __enter__(self) -> TrainingBatches:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        # torch raises the death of a reading process from a signal handler: in the middle of the training step.
        if isinstance(error, RuntimeError) and _DEATH.search(str(error)):
            raise self._death(error) from error

    @property
    def skipped(self) -> dict[str, str]:
        """The images that could not be read so far, by name, and why."""
        return dict(self._skipped)

    def close(self) -> None:
        """End the reading processes or the thread; iterating ends too."""
        running, self._running = self._running, None
        if running is not None:
            running.close()

    def _give(self) -> Generator[Batch, None, None]:
        source = self._from_processes() if self._workers else self._from_thread()
        try:
            for drawn in source:
                yield self._checked(drawn)
        except RuntimeError as error:
            if _DEATH.search(str(error)):
                raise self._death(error) from error
            raise
        finally:
            source.close()

    def _from_thread(self) -> Generator[_Drawn, None, None]:
        with ThreadPoolExecutor(1) as pool:
            upcoming = None
            for step in range(self._start, self._steps):
                drawn = self._batches[step] if upcoming is None else upcoming.result()
                upcoming = pool.submit(self._batches.__getitem__, step + 1) if step + 1 < self._steps else None
                yield _pinned(drawn) if self._pin_memory else drawn

    def _from_processes(self) -> Generator[_Drawn, None, None]:
        loader: DataLoader[_Drawn] = DataLoader(
            self._batches,
            batch_size=None,
            sampler=range(self._start, self._steps),
            num_workers=self._workers,
            collate_fn=_as_it_is,
            pin_memory=self._pin_memory,
            worker_init_fn=_begin_worker,
            multiprocessing_context=self._start_method,
            # Of its own, or starting the processes would draw from the generator that dropout draws from.
            generator=torch.Generator(),
        )
        # A forked process has OpenCV's thread pool without its threads, and crashes when it stops them: no pool, then.
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            running = iter(loader)
        finally:
            cv2.setNumThreads(threads)
        try:
            yield from running
        finally:
            # What the iterator does when it is collected; an exception's traceback could keep it until much later.
            running._shutdown_workers()  # type: ignore[attr-defined]

    def _checked(self, drawn: _Drawn) -> Batch:
        for name, why in drawn.skipped:
            if name not in self._skipped:
                self._skipped[name] = why
                _log.warning("%s cannot be read, another image takes its place: %s", name, why)
        if drawn.batch is None or len(self._skipped) > self._skip_limit:
            listed = "\n".join(f"  {name}: {why}" for name, why in self._skipped.items())
            raise DataError(
                f"{len(self._skipped)} of the images cannot be read, and at most {self._skip_limit} may be missing "
                f"(skip_limit) as long as others are left:\n{listed}\n"
                "repair these files, or take them out of the data set"
            )
        # Pinning makes lists of tuples.
        return drawn.batch._replace(names=tuple(drawn.batch.names))

    def _death(self, error: RuntimeError) -> DataError:
        match = _DEATH.search(str(error))
        pids = [int(pid) for pid in match.group(1).split(",")] if match else []
        reading = [
            self._dataset.name(self._order.index(position))
            for pid, position in self._batches.reading.tolist()
            if pid in pids and position >= 0
        ]
        where = f" while it worked on {' and '.join(reading)}" if reading else ""
        space = f"; {_SHARED_MEMORY} has {_free_space(_SHARED_MEMORY)}" if _SHARED_MEMORY.exists() else ""
        return DataError(
            f"a process that reads training images died{where}: {str(error).strip().splitlines()[0]}\n"
            f"usual causes: the machine or container is out of memory or shared memory{space}; a file crashes "
            "its decoder\n"
            "use --workers 0 (reads in this process), fewer workers, a smaller crop or a smaller batch; "
            "docker run needs --shm-size or --ipc=host"
        )


class _Batches(Dataset[_Drawn]):
    """Batches by step; what a reading process runs."""

    def __init__(
        self,
        dataset: LabelledImages,
        augmentation: Augmentation,
        crop: Size,
        batch: int,
        order: SampleOrder,
        rank: int,
        world: int,
        skip_limit: int,
        workers: int,
    ) -> None:
        self._dataset, self._augmentation, self._crop = dataset, augmentation, crop
        self._batch, self._order, self._rank, self._world = batch, order, rank, world
        self._skip_limit = skip_limit
        # A row a process: its id, and the position it works on or -1. The main process reads it when one has died.
        self.reading = torch.full((workers, 2), -1).share_memory_() if workers else torch.empty(0, 2)

    def __getitem__(self, step: int) -> _Drawn:
        first = (step * self._world + self._rank) * self._batch
        skipped: dict[str, str] = {}
        drawn = []
        for position in range(first, first + self._batch):
            self._note(position)
            sample = self._draw(position, skipped)
            if sample is None:
                return _Drawn(None, tuple(skipped.items()))
            drawn.append(sample)
        self._note(-1)
        return _Drawn(_stacked(drawn), tuple(skipped.items()))

    def _draw(self, position: int, skipped: dict[str, str]) -> tuple[Sample, str] | None:
        """The sample at a position and its image's name; None when too many images are unreadable."""
        wanted = self._order.index(position)
        sample = self._try(wanted, position, skipped)
        if sample is not None:
            return sample
        for index in self._order.reserve(position):
            if len(skipped) > self._skip_limit:
                return None
            if index != wanted and (sample := self._try(index, position, skipped)) is not None:
                return sample
        return None

    def _try(self, index: int, position: int, skipped: dict[str, str]) -> tuple[Sample, str] | None:
        name = self._dataset.name(index)
        if name in skipped:
            return None
        try:
            rng = self._order.crop_generator(position)
            pair = self._dataset[index]
            return augment(pair, self._augmentation, self._crop, rng, self._dataset.spec.ignore_index), name
        except (DataError, ImageError, OSError) as error:
            skipped[name] = reason(error, name)
            return None

    def _note(self, position: int) -> None:
        info = get_worker_info()
        if info is not None:
            self.reading[info.id, 0] = os.getpid()
            self.reading[info.id, 1] = position


def _stacked(drawn: list[tuple[Sample, str]]) -> Batch:
    samples = [sample for sample, _ in drawn]
    return Batch(
        torch.from_numpy(np.stack([sample.image for sample in samples])),
        torch.from_numpy(np.stack([sample.labels for sample in samples])),
        torch.tensor([sample.valid for sample in samples], dtype=torch.int64),
        tuple(name for _, name in drawn),
    )


def _pinned(drawn: _Drawn) -> _Drawn:
    if drawn.batch is None:
        return drawn
    images, labels, valid, names = drawn.batch
    return drawn._replace(batch=Batch(images.pin_memory(), labels.pin_memory(), valid.pin_memory(), names))


def _as_it_is(drawn: Any) -> Any:
    return drawn


def _begin_worker(worker: int) -> None:
    # torch gives each process one thread by itself. A no-op after a fork, see above.
    cv2.setNumThreads(1)
    # Ctrl-C reaches every process of the terminal; the main one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _free_space(folder: Path) -> str:
    usage = shutil.disk_usage(folder)
    return f"{usage.free / 2**20:.0f} of {usage.total / 2**20:.0f} MiB free"
