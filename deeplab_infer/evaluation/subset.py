# SPDX-License-Identifier: Apache-2.0
"""A part of a dataset for a quick look."""

from __future__ import annotations

from ..data.base import LabelledImages
from ..data.subset import Subset
from ..errors import DataError


class EvenlySpread(Subset):
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
        super().__init__(source, [(2 * i + 1) * len(source) // (2 * count) for i in range(count)])
