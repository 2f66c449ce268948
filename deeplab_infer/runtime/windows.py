# SPDX-License-Identifier: Apache-2.0
"""Sliding-window inference: where windows lie, and how their logits become one map."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..ops.functional import upsample

Size = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """Rows ``top:bottom`` and columns ``left:right`` of an image."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def size(self) -> Size:
        """(height, width)."""
        return self.bottom - self.top, self.right - self.left


def place_windows(height: int, width: int, window: Size, stride: Size) -> list[Window]:
    """The reference's placement, row by row.

    Along an axis there are ``max(length - window + stride - 1, 0) // stride + 1`` windows, ``stride`` apart; the last
    is shifted back to end at the border. A side shorter than the window gives a smaller window, never padding.

    >>> sorted({w.left for w in place_windows(1025, 2049, (769, 769), (513, 513))})
    [0, 513, 1026, 1280]
    """
    rows = _starts(height, window[0], stride[0])
    columns = _starts(width, window[1], stride[1])
    return [
        Window(top, left, min(top + window[0], height), min(left + window[1], width))
        for top in rows
        for left in columns
    ]


def _starts(length: int, window: int, stride: int) -> list[int]:
    count = max(length - window + stride - 1, 0) // stride + 1
    return [max(min(index * stride, length - window), 0) for index in range(count)]


def slide(
    image: NDArray[np.uint8],
    run: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    windows: list[Window],
    classes: int,
    align_corners: bool,
    batch: int,
) -> NDArray[np.float32]:
    """Logits of an image from windows: each resized to its window, summed, divided by the visits.

    Memory: ``classes * H * W`` float32 for the sum, besides ``batch`` windows of logits.

    Args:
        image: uint8 [H, W, 3].
        run: from uint8 [n, h, w, 3] to logits float32 [n, classes, h', w'].
        windows: from `place_windows`.
        classes: channels of the logits.
        align_corners: corner rule of the resize.
        batch: windows run at once.

    Returns:
        float32 [classes, H, W].
    """
    height, width = image.shape[:2]
    total = np.zeros((classes, height, width), np.float32)
    visits = np.zeros((height, width), np.float32)
    for group in _batches(windows, batch):
        crops = np.stack([image[w.top : w.bottom, w.left : w.right] for w in group])
        for window, logits in zip(group, run(crops), strict=True):
            area = (slice(window.top, window.bottom), slice(window.left, window.right))
            total[:, area[0], area[1]] += upsample(logits, window.size, align_corners)
            visits[area] += 1
    total /= visits
    return total


def _batches(windows: list[Window], batch: int) -> Iterator[list[Window]]:
    """Consecutive windows of one size, at most ``batch`` of them."""
    group: list[Window] = []
    for window in windows:
        if group and (len(group) == batch or window.size != group[0].size):
            yield group
            group = []
        group.append(window)
    if group:
        yield group
