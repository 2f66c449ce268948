# SPDX-License-Identifier: Apache-2.0
"""Which image comes when, and its random numbers: functions of the seed and the position in a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .base import LabelledImages

# Random streams beside those of the samples.
_SHUFFLE, _RESERVE = (0,), (1,)


class SampleOrder:
    """Which image stands at which position of a run.

    Args:
        dataset: its length counts, and its name in messages.
        order: positions in the data set that make an epoch, before shuffling; None for each once.
        seed: 0 or more.

    Raises:
        DataError: there is no image, or the order names one that the data set does not have.
    """

    def __init__(self, dataset: LabelledImages, order: Sequence[int] | None, seed: int) -> None:
        self._order = _checked(dataset, order)
        self._seed = seed
        self._epoch = -1
        self._shuffled = self._order

    def index(self, position: int) -> int:
        """Position in the data set of the sample at a position of the run."""
        epoch, place = divmod(position, len(self._order))
        if epoch != self._epoch:
            self._shuffled = self._generator(epoch, _SHUFFLE).permutation(self._order)
            self._epoch = epoch
        return int(self._shuffled[place])

    def reserve(self, position: int) -> Iterator[int]:
        """Every image of the order once, in the order in which they may replace the one at this position."""
        yield from self._generator(position, _RESERVE).permutation(np.unique(self._order)).tolist()

    def crop_generator(self, position: int) -> np.random.Generator:
        """The random numbers of the crop at a position of the run."""
        return self._generator(position, ())

    def _generator(self, number: int, stream: tuple[int, ...]) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([self._seed, number], spawn_key=stream)))


def _checked(dataset: LabelledImages, order: Sequence[int] | None) -> NDArray[np.int64]:
    count = len(dataset)
    indices = np.arange(count) if order is None else np.asarray(order, np.int64)
    if indices.size == 0:
        raise DataError(f"data set {dataset.spec.name!r} has no image to train on")
    if indices.min() < 0 or indices.max() >= count:
        raise DataError(f"order goes from {indices.min()} to {indices.max()}, the data set has images 0 to {count - 1}")
    return indices
