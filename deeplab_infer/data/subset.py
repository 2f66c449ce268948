# SPDX-License-Identifier: Apache-2.0
"""A part of a data set."""

from __future__ import annotations

from collections.abc import Sequence

from .base import LabelledImages, Pair


class Subset:
    """The images at some positions of a data set, in their order."""

    def __init__(self, source: LabelledImages, indices: Sequence[int]) -> None:
        self.spec = source.spec
        self._source = source
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Pair:
        return self._source[self._indices[index]]

    def name(self, index: int) -> str:
        """As the source calls it."""
        return self._source.name(self._indices[index])
