# SPDX-License-Identifier: Apache-2.0
"""A large image through a runner that goes from windows to labels by itself: block by block of windows.

A block is a rectangle of neighbouring windows. A pixel of it is final where no window outside the block covers it, so
blocks share windows at their borders, which run once for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DeepLabError
from ..pixels import Pixels
from ..preprocess import Size
from .streamed import Band
from .windows import Grid, Window, grid_of


@dataclass(frozen=True)
class Span:
    """Windows ``first:last`` along one axis, and the positions ``begin:end`` that they alone decide."""

    first: int
    last: int
    begin: int
    end: int


def spans_of(starts: Sequence[int], window: int, length: int, count: int) -> list[Span]:
    """Blocks along one axis: as few of ``count`` windows as decide every position of 0..length-1, in order.

    Args:
        starts: first positions of the windows, ascending.
        window: pixels of each.
        length: of the axis.
        count: windows in a block; more than `shared` of these windows.
    """
    count = min(count, len(starts))
    step = count - shared(starts, window)
    rest = len(starts) - count
    firsts = [min(index * step, rest) for index in range(-(-rest // step) + 1)] if rest else [0]
    spans: list[Span] = []
    for first in firsts:
        last = first + count
        end = starts[last] if last < len(starts) else length
        spans.append(Span(first, last, spans[-1].end if spans else 0, end))
    return spans


def shared(starts: Sequence[int], window: int) -> int:
    """Windows that two neighbouring blocks have in common: the most that overlap a window from one side."""
    return max(sum(0 < other - start < window for other in starts) for start in starts)


def block_shape(grid: Grid, classes: int, memory: int) -> Size:
    """(rows, columns) of windows of the largest, nearly square block whose float logits take at most ``memory`` bytes.

    Raises:
        DeepLabError: not even the smallest block fits.
    """
    axes = list(zip((grid.tops, grid.lefts), grid.window, strict=True))
    least = [min(len(starts), shared(starts, window) + 1) for starts, window in axes]
    best: Size | None = None
    for extra in range(max(len(starts) for starts, _ in axes)):
        shape = [min(len(starts), low + extra) for (starts, _), low in zip(axes, least, strict=True)]
        pixels = [starts[n - 1] + window for (starts, window), n in zip(axes, shape, strict=True)]
        need = 4 * classes * pixels[0] * pixels[1]
        if need > memory:
            if best is None:
                raise DeepLabError(
                    f"{shape[0]} x {shape[1]} overlapping windows of {list(grid.window)} need {need} bytes of logits, "
                    f"and memory is {memory}; raise memory or make the windows smaller"
                )
            break
        best = shape[0], shape[1]
    assert best is not None
    return best


def block_bands(
    pixels: Pixels,
    windows: Sequence[Window],
    segment: Callable[..., tuple[Any, Any]],
    classes: int,
    memory: int,
    batch: int,
    scores: bool,
    ran: Callable[[int], None],
) -> Iterator[Band]:
    """The answer of an image, a row of blocks at a time.

    Args:
        pixels: the image, at the network's size.
        windows: from `place_windows`.
        segment: a runner's ``segment_windows``.
        classes: channels of the logits.
        memory: bytes of float logits that a block may have.
        batch: windows run at once.
        scores: also give the probability of each label.
        ran: is told the number of windows of each block.

    Raises:
        DeepLabError: ``memory`` is too small for a block.
    """
    grid = grid_of(windows)
    rows, columns = block_shape(grid, classes, memory)
    across = spans_of(grid.lefts, grid.window[1], grid.size[1], columns)
    for down in spans_of(grid.tops, grid.window[0], grid.size[0], rows):
        labels = np.empty((down.end - down.begin, grid.size[1]), np.uint8 if classes <= 256 else np.int32)
        winners = np.empty(labels.shape, np.float32) if scores else None
        for aside in across:
            top, left = grid.tops[down.first], grid.lefts[aside.first]
            inside = [
                Window(y - top, x - left, y - top + grid.window[0], x - left + grid.window[1])
                for y in grid.tops[down.first : down.last]
                for x in grid.lefts[aside.first : aside.last]
            ]
            size = inside[-1].bottom, inside[-1].right
            part = np.ascontiguousarray(pixels.read(top, left, top + size[0], left + size[1]))
            found, winner = segment(part, inside, size, batch=batch, scores=scores)
            own = slice(down.begin - top, down.end - top), slice(aside.begin - left, aside.end - left)
            labels[:, aside.begin : aside.end] = found[own]
            if winners is not None:
                winners[:, aside.begin : aside.end] = winner[own]
            ran(len(inside))
        yield Band(down.begin, labels, winners)


def blocks_run(grid: Grid, shape: Size) -> int:
    """Windows that all blocks of a shape run, those that are shared counted once for each."""
    down = spans_of(grid.tops, grid.window[0], grid.size[0], shape[0])
    across = spans_of(grid.lefts, grid.window[1], grid.size[1], shape[1])
    return sum(b.last - b.first for b in down) * sum(a.last - a.first for a in across)
