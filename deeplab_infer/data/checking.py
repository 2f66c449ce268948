# SPDX-License-Identifier: Apache-2.0
"""Reads a whole data set: its problems, its statistics, and which images hold which classes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..configs.suggest import suggest
from ..errors import DataError, DeepLabError
from .base import LabelledImages
from .dataset_report import DatasetReport, Problem
from .listing import reason, some

Progress = Callable[[int, int], None]
_Result = TypeVar("_Result")
_MAX_THREADS = 8


def check_dataset(
    dataset: LabelledImages, progress: Progress | None = None, limit: int | None = None, threads: int | None = None
) -> DatasetReport:
    """Read the pairs of a data set and collect what is wrong with them and what they hold.

    Args:
        dataset: may be read from several threads at once.
        progress: called with (images read, images to read).
        limit: read only so many images, evenly spread over the data set.
        threads: default: the CPUs, at most 8.

    Raises:
        DataError: ``limit`` is below 1. Problems of files do not raise; they are in the report.
    """
    chosen = _spread(len(dataset), limit)
    report = _Tally(dataset)
    results = _in_threads(lambda index: _inspect(dataset, index), chosen, threads)
    for done, result in enumerate(results, 1):
        report.add(result)
        if progress is not None:
            progress(done, len(chosen))
    return report.finish(len(chosen))


def presence(
    dataset: LabelledImages, progress: Progress | None = None, threads: int | None = None
) -> NDArray[np.bool_]:
    """Which images hold which classes, bool [images, classes]; of data sets with files only the labels are read.

    Raises:
        DataError: labels that cannot be read, or hold what is no class.
    """
    found = np.zeros((len(dataset), len(dataset.spec.classes)), np.bool_)

    def counts(index: int) -> NDArray[np.int64]:
        return _count(_read_labels(dataset, index), dataset, index)[0]

    for index, pixels in enumerate(_in_threads(counts, range(len(dataset)), threads)):
        found[index] = pixels > 0
        if progress is not None:
            progress(index + 1, len(dataset))
    return found


def hard_class_order(
    dataset: LabelledImages,
    classes: Sequence[str],
    repeat: int = 2,
    progress: Progress | None = None,
    threads: int | None = None,
) -> list[int]:
    """Positions of all images, those with any of the given classes ``repeat`` times: DeepLabv3's bootstrapping.

    Args:
        dataset: the training images.
        classes: names of classes that the network finds hard.
        repeat: how often an image with one of them comes in one pass; 1 changes nothing.
        progress: called with (images read, images to read).
        threads: default: the CPUs, at most 8.

    Returns:
        positions in rising order, repeated ones next to each other; shuffle them before use.

    Raises:
        DataError: an unknown class (near misses are suggested), no class, ``repeat`` below 1, or classes in no image.
    """
    known = dataset.spec.classes
    if repeat < 1:
        raise DataError(f"images with hard classes are repeated at least once, got {repeat}")
    if not classes:
        raise DataError("no hard classes given; name at least one")
    for name in classes:
        if name not in known:
            raise DataError(f"{dataset.spec.name} has no class {name!r}{suggest(name, known)} (known: {some(known)})")
    columns = [known.index(name) for name in classes]
    hard: list[bool] = np.any(presence(dataset, progress, threads)[:, columns], axis=1).tolist()
    if not any(hard):
        raise DataError(f"no image of the {len(dataset):,} of {dataset.spec.name} holds any of {', '.join(classes)}")
    return [index for index, is_hard in enumerate(hard) for _ in range(repeat if is_hard else 1)]


class _Inspected(NamedTuple):
    """What one pair showed; only ``problem`` where it is unusable."""

    file: str
    problem: str | None
    size: tuple[int, int] = (0, 0)
    pixels: NDArray[np.int64] = np.zeros(0, np.int64)
    ignored: int = 0


class _Tally:
    """Sums over pairs."""

    def __init__(self, dataset: LabelledImages) -> None:
        self.dataset = dataset
        count = len(dataset.spec.classes)
        self.problems: list[Problem] = []
        self.pixels, self.images_with, self.pixels_with = (np.zeros(count, np.int64) for _ in range(3))
        self.ignored = 0
        self.sizes: Counter[tuple[int, int]] = Counter()

    def add(self, pair: _Inspected) -> None:
        if pair.problem is not None:
            self.problems.append(Problem(pair.file, pair.problem))
            return
        self.pixels += pair.pixels
        self.images_with += pair.pixels > 0
        self.pixels_with += np.where(pair.pixels > 0, pair.pixels.sum(), 0)
        self.ignored += pair.ignored
        self.sizes[pair.size] += 1

    def finish(self, checked: int) -> DatasetReport:
        return DatasetReport(
            name=self.dataset.spec.name,
            classes=self.dataset.spec.classes,
            images=len(self.dataset),
            checked=checked,
            problems=tuple(self.problems),
            pixels=self.pixels,
            images_with=self.images_with,
            pixels_with=self.pixels_with,
            ignored=self.ignored,
            sizes=dict(self.sizes.most_common()),
        )


def _inspect(dataset: LabelledImages, index: int) -> _Inspected:
    file = dataset.name(index)
    try:
        image, labels = dataset[index]
        pixels, ignored = _count(labels, dataset, index)
    except DeepLabError as error:
        return _Inspected(file, reason(error, file))
    return _Inspected(file, None, (image.shape[0], image.shape[1]), pixels, ignored)


def _count(labels: NDArray[np.uint8], dataset: LabelledImages, index: int) -> tuple[NDArray[np.int64], int]:
    """Pixels of each class, int64 [C], and ignored ones."""
    histogram = np.bincount(labels.ravel(), minlength=256)
    count = len(dataset.spec.classes)
    ignored = int(histogram[dataset.spec.ignore_index])
    histogram[dataset.spec.ignore_index] = 0
    if wrong := np.flatnonzero(histogram[count:]).tolist():
        raise DataError(f"{dataset.name(index)}: label {wrong[0] + count} is none of the {count} classes")
    return histogram[:count].astype(np.int64), ignored


def _read_labels(dataset: LabelledImages, index: int) -> NDArray[np.uint8]:
    """Without the image where the data set can."""
    labels = getattr(dataset, "labels", None)
    return dataset[index][1] if labels is None else labels(index)


def _spread(count: int, limit: int | None) -> list[int]:
    """All positions, or ``limit`` of them evenly spread, first and last included."""
    if limit is None or limit >= count:
        return list(range(count))
    if limit < 1:
        raise DataError(f"a check reads at least 1 image, got a limit of {limit}")
    return [round(i * (count - 1) / max(1, limit - 1)) for i in range(limit)]


def _in_threads(function: Callable[[int], _Result], indices: Iterable[int], threads: int | None) -> Iterator[_Result]:
    """Results in order; what has not begun is dropped when the caller stops early."""
    pool = ThreadPoolExecutor(threads or min(_MAX_THREADS, len(os.sched_getaffinity(0))))
    try:
        yield from pool.map(function, indices)
    finally:
        pool.shutdown(cancel_futures=True)
