# SPDX-License-Identifier: Apache-2.0
"""Connected regions of classes, each within its box."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray


class Region(NamedTuple):
    """Pixels of one class within their box.

    Attributes:
        label: the class.
        top, left: of the box in the image.
        mask: bool [h, w], the pixels of the box that belong to it.
    """

    label: int
    top: int
    left: int
    mask: NDArray[np.bool_]

    @property
    def area(self) -> int:
        """How many pixels it has."""
        return int(np.count_nonzero(self.mask))

    @property
    def bbox(self) -> list[int]:
        """``[x, y, width, height]``."""
        return [self.left, self.top, self.mask.shape[1], self.mask.shape[0]]


def whole_classes(labels: NDArray[Any], classes: int) -> Iterator[Region]:
    """The pixels of each class that is present, by rising label.

    Args:
        labels: [H, W]; labels from ``classes`` on have no class.
        classes: how many there are.
    """
    for label in np.unique(labels[labels < classes]).tolist():
        mask = labels == label
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        top, left = int(rows[0]), int(columns[0])
        yield Region(label, top, left, mask[top : rows[-1] + 1, left : columns[-1] + 1])


def connected_regions(whole: Region, min_area: float) -> Iterator[Region]:
    """The 8-connected parts of a class that have at least ``min_area`` pixels, from the top down.

    Memory: 4 bytes a pixel of the class's box.
    """
    count, parts, stats, _ = cv2.connectedComponentsWithStats(whole.mask.view(np.uint8), connectivity=8)
    for index in range(1, count):
        left, top, width, height, area = stats[index].tolist()
        if area >= min_area:
            mask = parts[top : top + height, left : left + width] == index
            yield Region(whole.label, whole.top + top, whole.left + left, mask)
