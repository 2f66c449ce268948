# SPDX-License-Identifier: Apache-2.0
"""Predictions of a whole dataset in memory, compressed without loss."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

# Label images compress some fifty-fold at the fastest level already.
_FASTEST = [cv2.IMWRITE_PNG_COMPRESSION, 1]


class LabelStore:
    """Label images by index: about 40 KiB for one of 1024 x 2048 pixels."""

    def __init__(self) -> None:
        self._encoded: dict[int, NDArray[np.uint8]] = {}

    def put(self, index: int, labels: NDArray[Any]) -> None:
        """Keep one image's labels, integers [H, W] in 0..65535.

        Raises:
            DataError: a value beyond that.
        """
        if labels.size and not 0 <= labels.min() <= labels.max() <= 65535:
            raise DataError(f"labels to keep must lie in 0..65535, got {labels.min()}..{labels.max()}")
        narrow = labels.astype(np.uint8 if not labels.size or labels.max() < 256 else np.uint16)
        _, self._encoded[index] = cv2.imencode(".png", narrow, _FASTEST)

    def get(self, index: int) -> NDArray[Any]:
        """The labels of one image, uint8 or uint16 [H, W].

        Raises:
            DataError: none were kept.
        """
        if index not in self._encoded:
            raise DataError(f"no prediction of image {index} was kept: it could not be read before; evaluate again")
        return np.asarray(cv2.imdecode(self._encoded[index], cv2.IMREAD_UNCHANGED))

    def __len__(self) -> int:
        return len(self._encoded)
