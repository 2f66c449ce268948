# SPDX-License-Identifier: Apache-2.0
"""What every data set is: images with labels, by position."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..configs import DatasetSpec

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


class LabelledImages(Protocol):
    """Images with labels: uint8 [H, W, 3] RGB and uint8 [H, W], class indices or the spec's ``ignore_index``.

    Opening one checks that its files are there; reading a pair raises `DataError` or `ImageError` that names the file.
    May be read from several processes and threads at once.
    """

    spec: DatasetSpec

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Pair: ...

    def name(self, index: int) -> str:
        """What messages and pictures call an image: its path within the data set, or its scene."""
        ...
