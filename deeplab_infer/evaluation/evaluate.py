# SPDX-License-Identifier: Apache-2.0
"""A predictor run over a dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.base import LabelledImages, Pair
from ..errors import DataError, ImageError
from .confusion import ConfusionMatrix, Scores

Watcher = Callable[[int, NDArray[Any], NDArray[Any]], None]
_SHOWN = 20


@dataclass(frozen=True)
class Evaluation:
    """What a run over a dataset gave.

    Attributes:
        matrix: the counts.
        images: how many were evaluated.
        unreadable: why the others were not; each message names its file.
        seconds: spent in ``predict``.
    """

    matrix: ConfusionMatrix
    images: int
    unreadable: tuple[str, ...]
    seconds: float

    def scores(self) -> Scores:
        """IoU, accuracies and their means."""
        return self.matrix.scores()


def evaluate(
    predict: Callable[[NDArray[np.uint8]], NDArray[Any]],
    dataset: LabelledImages,
    progress: Callable[[int, int], None] | None = None,
    *,
    watchers: Sequence[Watcher] = (),
    skip_unreadable: int = 0,
    read_ahead: bool = False,
) -> Evaluation:
    """Run a predictor over a dataset and count.

    Once more images than allowed could not be read, the remaining ones are only read, so that the error names all bad
    ones.

    Args:
        predict: from an image, uint8 [H, W, 3] RGB, to its labels, integers [H, W].
        dataset: images with labels.
        progress: called with (images done, images in all).
        watchers: called for each image with its index, its labels and the prediction, both [H, W].
        skip_unreadable: how many images may be left out because they cannot be read.
        read_ahead: read the next image in a thread while one is predicted. It saves time where the prediction leaves
            the CPU free, as on a GPU; on a CPU the two slow each other.

    Raises:
        DataError: images could not be read; or labels or predictions do not fit the classes, naming the image.
    """
    matrix = ConfusionMatrix(dataset.spec.classes, dataset.spec.ignore_index)
    unreadable: list[str] = []
    images, seconds = 0, 0.0
    for index, pair in enumerate(_pairs(dataset, read_ahead)):
        if isinstance(pair, Exception):
            unreadable.append(_named(dataset, index, pair))
        elif len(unreadable) <= skip_unreadable:
            image, labels = pair
            started = perf_counter()
            predicted = predict(image)
            seconds += perf_counter() - started
            try:
                matrix.add(predicted, labels)
            except DataError as error:
                raise DataError(_named(dataset, index, error)) from error
            for watch in watchers:
                watch(index, labels, predicted)
            images += 1
        if progress is not None:
            progress(index + 1, len(dataset))
    if len(unreadable) > skip_unreadable:
        raise DataError(_complaint(unreadable, len(dataset), skip_unreadable))
    return Evaluation(matrix, images, tuple(unreadable), seconds)


def _pairs(dataset: LabelledImages, read_ahead: bool) -> Iterator[Pair | Exception]:
    """The pairs in order; errors of reading as values."""

    def read(index: int) -> Pair | Exception:
        try:
            return dataset[index]
        except (DataError, ImageError, OSError) as error:
            return error

    if not read_ahead:
        yield from map(read, range(len(dataset)))
        return
    with ThreadPoolExecutor(1) as pool:
        upcoming = pool.submit(read, 0)
        for index in range(len(dataset)):
            pair = upcoming.result()
            if index + 1 < len(dataset):
                upcoming = pool.submit(read, index + 1)
            yield pair


def _named(dataset: LabelledImages, index: int, error: Exception) -> str:
    name, text = dataset.name(index), str(error)
    return text if name in text else f"{name}: {text}"


def _complaint(unreadable: Sequence[str], count: int, allowed: int) -> str:
    shown = "\n  ".join(unreadable[:_SHOWN])
    more = f"\n  and {len(unreadable) - _SHOWN} more" if len(unreadable) > _SHOWN else ""
    return (
        f"{len(unreadable)} of {count} images could not be read, {allowed} may be left out; repair them or allow more "
        f"(deeplab-eval --skip-unreadable {len(unreadable)}, deeplab-train --skip-limit):\n  {shown}{more}"
    )
