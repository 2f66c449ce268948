# SPDX-License-Identifier: Apache-2.0
"""A part of a dataset for a quick look."""

from __future__ import annotations

from ..data.base import LabelledImages, Pair
from ..errors import DataError


class EvenlySpread:
    """``count`` images spread evenly over a dataset: from the middle of each of ``count`` equal stretches.

    Args:
        source: the dataset.
        count: how many; as many as there are at most.

    Raises:
        DataError: ``count`` is below 1.
    """

    def __init__(self, source: LabelledImages, count: int) -> None:
        if count < 1:
            raise DataError(f"at least 1 image must be evaluated, got {count}")
        count = min(count, len(source))
        self.spec = source.spec
        self._source = source
        self._indices = [(2 * i + 1) * len(source) // (2 * count) for i in range(count)]

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Pair:
        return self._source[self._indices[index]]

    def name(self, index: int) -> str:
        """As the source calls it."""
        return self._source.name(self._indices[index])
