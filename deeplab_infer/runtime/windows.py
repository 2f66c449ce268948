# SPDX-License-Identifier: Apache-2.0
"""Sliding-window inference: where windows lie, and how their logits become one map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import DeepLabError
from ..ops.fused import merge_windows

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


PLACEMENTS = ("reference", "even")


def place_windows(height: int, width: int, window: Size, stride: Size, placement: str = "reference") -> list[Window]:
    """Windows that cover an image, row by row.

    ``"reference"`` is mmsegmentation's placement: along an axis there are
    ``max(length - window + stride - 1, 0) // stride + 1`` windows, ``stride`` apart; the last is shifted back to end at
    the border. ``"even"`` is the same with the smallest stride that needs no window more (`even_stride`): the overlap
    that the shift piles up at the border is spread over all windows. A side shorter than the window gives a smaller
    window, never padding.

    >>> sorted({w.left for w in place_windows(1025, 2049, (769, 769), (513, 513))})
    [0, 513, 1026, 1280]
    >>> sorted({w.left for w in place_windows(1025, 2049, (769, 769), (513, 513), "even")})
    [0, 427, 854, 1280]

    Raises:
        DeepLabError: no such placement.
    """
    if placement not in PLACEMENTS:
        raise DeepLabError(f"windows {placement!r} is not one of {', '.join(PLACEMENTS)}")
    if placement == "even":
        stride = even_stride(height, window[0], stride[0]), even_stride(width, window[1], stride[1])
    rows = _starts(height, window[0], stride[0])
    columns = _starts(width, window[1], stride[1])
    return [
        Window(top, left, min(top + window[0], height), min(left + window[1], width))
        for top in rows
        for left in columns
    ]


def even_stride(length: int, window: int, stride: int) -> int:
    """The smallest stride along an axis that needs no more windows than ``stride`` does.

    With a rest of R = length - window there are n = ceil(R / stride) steps, and this is ceil(R / n): at most
    ``stride``, so neighbours overlap by ``window - stride`` at least, and the last is shifted by less than n pixels.
    """
    rest = max(length - window, 0)
    steps = -(-rest // stride)
    return -(-rest // steps) if steps else stride


def _starts(length: int, window: int, stride: int) -> list[int]:
    count = max(length - window + stride - 1, 0) // stride + 1
    return [max(min(index * stride, length - window), 0) for index in range(count)]


@dataclass(frozen=True)
class Grid:
    """Windows as `merge_windows` takes them.

    Attributes:
        size: (height, width) of the image.
        window: (height, width) of every window.
        stride: (vertical, horizontal) distance of neighbours.
    """

    size: Size
    window: Size
    stride: Size

    @property
    def tops(self) -> list[int]:
        """First rows of the rows of windows."""
        return _starts(self.size[0], self.window[0], self.stride[0])

    @property
    def lefts(self) -> list[int]:
        """First columns of the columns of windows."""
        return _starts(self.size[1], self.window[1], self.stride[1])


def grid_of(windows: Sequence[Window]) -> Grid:
    """The grid that windows lie in.

    >>> grid_of(place_windows(1025, 2049, (769, 769), (513, 513)))
    Grid(size=(1025, 2049), window=(769, 769), stride=(256, 513))

    Raises:
        DeepLabError: not as `place_windows` places them.
    """
    if not windows:
        raise DeepLabError("there are no windows; place_windows gives them")
    size, window = (windows[-1].bottom, windows[-1].right), windows[0].size
    stride = _distance([w.top for w in windows], window[0]), _distance([w.left for w in windows], window[1])
    if place_windows(*size, window, stride) != list(windows):
        raise DeepLabError("these windows are no regular grid; place_windows gives one, row by row")
    return Grid(size, window, stride)


def _distance(starts: list[int], window: int) -> int:
    """From the first window to its neighbour; any distance does where there is none."""
    return min((start for start in starts if start > 0), default=window)


def split_windows(windows: Sequence[Window], batch: int) -> list[Sequence[Window]]:
    """Runs of at most ``batch`` windows, as equal as they can be: a network likes to see few sizes."""
    runs = -(-len(windows) // batch)
    each = -(-len(windows) // runs)
    return [windows[start : start + each] for start in range(0, len(windows), each)]


def slide(
    image: NDArray[np.uint8],
    run: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    windows: Sequence[Window],
    classes: int,
    align_corners: bool,
    batch: int,
    threads: int | None = None,
) -> NDArray[np.float32]:
    """Logits of an image from windows: each resized to its window, summed, divided by the visits.

    Memory: ``classes * H * W`` float32 for the result, besides the logits of all windows.

    Args:
        image: uint8 [H, W, 3].
        run: from uint8 [n, h, w, 3] to logits float32 [n, classes, h', w'].
        windows: from `place_windows`.
        classes: channels of the logits.
        align_corners: corner rule of the resize.
        batch: windows run at once.
        threads: None for every processor this process may use.

    Returns:
        float32 [classes, H, W].

    Raises:
        DeepLabError: windows that are not those of `place_windows` for this image.
    """
    grid = grid_of(windows)
    if grid.size != image.shape[:2]:
        raise DeepLabError(f"the windows are of an image of {list(grid.size)}, got one of {list(image.shape[:2])}")
    logits = np.empty(0, np.float32)
    done = 0
    for group in split_windows(windows, batch):
        found = run(np.stack([image[w.top : w.bottom, w.left : w.right] for w in group]))
        if done == 0:
            logits = np.empty((len(windows), classes, *found.shape[2:]), np.float32)
        logits[done : done + len(group)] = found
        done += len(group)
    merged: NDArray[np.float32] = merge_windows(
        logits, grid.size, window=grid.window, stride=grid.stride, align_corners=align_corners, threads=threads
    )
    return merged
