# SPDX-License-Identifier: Apache-2.0
"""Logits of an image by bands of rows, so that the whole map of floats is never in memory.

A network's output is smaller than its window (at stride 4, a sixteenth), so the outputs of all windows that a band
touches are kept, and the band's logits are made from them when it is their turn. Rows are the same bits as those of
`ops.merge_windows` and `ops.upsample_argmax` of the whole map, which tests assert.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .. import _C
from ..errors import DeepLabError
from ..ops.resize_taps import Taps, resize_taps
from ..pixels import Pixels
from ..preprocess import Size
from .blending import shares
from .tta import softmax
from .windows import Window, grid_of, split_windows

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
_BAND_BYTES = 32 << 20  # of floats of a band: large enough for the calls into C++ to be few


class Map(Protocol):
    """Logits of which rows are asked for, from the top down.

    Attributes:
        shape: (classes, height, width).
    """

    @property
    def shape(self) -> tuple[int, int, int]: ...
    def rows(self, top: int, bottom: int) -> NDArray[np.float32]:
        """Rows ``top:bottom``, float32 [C, bottom - top, W]; ``top`` never goes back."""
        ...


class WholeMap:
    """Logits that are in memory, float32 [C, H, W]."""

    def __init__(self, logits: NDArray[np.float32]) -> None:
        self._logits = logits
        self.shape: tuple[int, int, int] = logits.shape

    def rows(self, top: int, bottom: int) -> NDArray[np.float32]:
        """See `Map.rows`."""
        return np.ascontiguousarray(self._logits[:, top:bottom], np.float32)


class WindowMap:
    """Logits of an image from windows, which run when a row needs them and are forgotten after their last one.

    Memory: the outputs of the rows of windows that cover a pixel and of one batch, besides the rows asked for.
    """

    def __init__(
        self,
        pixels: Pixels,
        run: Run,
        windows: Sequence[Window],
        classes: int,
        align_corners: bool,
        batch: int,
        *,
        blend: str = "mean",
        threads: int | None = None,
        ran: Callable[[int], None] | None = None,
    ) -> None:
        """Nothing runs yet.

        Args:
            pixels: the image at the network's size.
            run: from uint8 [n, h, w, 3] to logits float32 [n, classes, h', w'].
            windows: from `place_windows`.
            classes: channels of the logits.
            align_corners: corner rule of the resize of a window's logits to its pixels.
            batch: windows run at once.
            blend: one of `BLENDS`.
            threads: None for every processor this process may use.
            ran: is told the number of windows of each batch that ran.

        Raises:
            DeepLabError: windows that are not those of `place_windows` for this image, or no such blend.
        """
        self._grid = grid = grid_of(windows)
        if grid.size != pixels.size:
            raise DeepLabError(f"the windows are of an image of {list(grid.size)}, got one of {list(pixels.size)}")
        self.shape: tuple[int, int, int] = (classes, *grid.size)
        self._align_corners, self._threads = align_corners, threads or 0
        self._tops, self._lefts = grid.tops, grid.lefts
        self._shares = None
        if blend != "mean":  # a mean is divided by the visits at the end, as merge_windows does it, bit for bit
            self._shares = (
                shares(blend, self._tops, grid.window[0], grid.size[0]),
                shares(blend, self._lefts, grid.window[1], grid.size[1]),
            )
        self._visits = tuple(
            _visits(starts, window, length)
            for starts, window, length in zip((self._tops, self._lefts), grid.window, grid.size, strict=True)
        )
        self._outputs = _outputs(pixels, run, split_windows(windows, batch), ran)
        self._kept: dict[int, NDArray[np.float32]] = {}
        self._came = 0

    def rows(self, top: int, bottom: int) -> NDArray[np.float32]:
        """See `Map.rows`."""
        high, columns = self._grid.window[0], len(self._lefts)
        band = np.zeros((self.shape[0], bottom - top, self.shape[2]), np.float32)
        touching = [q for q, start in enumerate(self._tops) if start < bottom and start + high > top]
        for index in [index for index in self._kept if index < touching[0] * columns]:
            del self._kept[index]
        while self._came < (touching[-1] + 1) * columns:
            self._kept[self._came] = next(self._outputs)
            self._came += 1
        for q in touching:
            first, last = max(top, self._tops[q]), min(bottom, self._tops[q] + high)
            self._add(q, first - self._tops[q], last - self._tops[q], band[:, first - top : last - top])
        if self._shares is None:
            band /= self._visits[0][top:bottom, None] * self._visits[1]
        return band

    def _add(self, q: int, first: int, last: int, band: NDArray[np.float32]) -> None:
        """Rows ``first:last`` of the q-th row of windows, added to float32 [C, last - first, W]."""
        (high, wide), columns = self._grid.window, len(self._lefts)
        size = self._kept[q * columns].shape[1:]
        y_index, y_weight = _rows_of(_window_taps(size[0], high, self._align_corners), first, last)
        x_index, x_weight = _window_taps(size[1], wide, self._align_corners)
        if self._shares is not None:
            y_weight = _weighted(y_weight, self._shares[0][q, first:last])
        for column, left in enumerate(self._lefts):
            weight = x_weight if self._shares is None else _weighted(x_weight, self._shares[1][column])
            logits = self._kept[q * columns + column]
            band[:, :, left : left + wide] += _C.upsample(logits, y_index, y_weight, x_index, weight, self._threads)


def _visits(starts: Sequence[int], window: int, length: int) -> NDArray[np.float32]:
    """How many windows cover each position of an axis, float32 [length]."""
    visits = np.zeros(length, np.float32)
    for start in starts:
        visits[start : start + window] += 1
    return visits


def _outputs(
    pixels: Pixels, run: Run, groups: Sequence[Sequence[Window]], ran: Callable[[int], None] | None
) -> Iterator[NDArray[np.float32]]:
    """Logits [C, h', w'] of one window after the other; batches run when their first is asked for."""
    for group in groups:
        found = run(np.stack([pixels.read(w.top, w.left, w.bottom, w.right) for w in group]))
        if ran is not None:
            ran(len(group))
        yield from np.ascontiguousarray(found, np.float32)


def _window_taps(size_in: int, size_out: int, align_corners: bool) -> Taps:
    """Taps of a window's resize with the fractions of ``csrc/common/position.h``: exact ratios, rounded once."""
    at = np.arange(size_out, dtype=np.int64)
    if size_in == size_out:
        return at[:, None].astype(np.int32), np.ones((size_out, 1), np.float32)
    denominator = max(size_out - 1, 1) if align_corners else 2 * size_out
    position = at * (size_in - 1) if align_corners else np.maximum(at * 2 * size_in + size_in - size_out, 0)
    low, rest = position // denominator, position % denominator
    inside = low < size_in - 1
    fraction = np.where(inside, rest.astype(np.float32) / np.float32(denominator), np.float32(0))
    index = np.stack([np.minimum(low, size_in - 1), np.minimum(low + 1, size_in - 1)], axis=1)
    return index.astype(np.int32), np.stack([np.float32(1) - fraction, fraction], axis=1)


def _rows_of(taps: Taps, first: int, last: int) -> Taps:
    return taps[0][first:last], taps[1][first:last]


def _weighted(weight: NDArray[np.float32], share: NDArray[np.float64]) -> NDArray[np.float32]:
    """Taps of a resize whose result is multiplied by a share at each position: no pass over the pixels for it."""
    return (weight * share[:, None]).astype(np.float32)


class Resized:
    """A map at the size of the image, as logits or as labels, by bands of rows."""

    def __init__(
        self, source: Map, size: Size, align_corners: bool, *, via: Size | None = None, threads: int | None = None
    ) -> None:
        """Nothing runs yet.

        Args:
            source: logits at the network's size, or at its output's.
            size: (height, width) of the image.
            align_corners: corner rule of the resize.
            via: the reference's first resize, as in `ops.functional.upsample`.
            threads: None for every processor this process may use.
        """
        self._source, self._threads = source, threads or 0
        _, height, width = source.shape
        self._same = size == (height, width)
        self._y = resize_taps(height, size[0], align_corners, None if via is None else via[0])
        self._x = resize_taps(width, size[1], align_corners, None if via is None else via[1])

    def logits(self, top: int, bottom: int) -> NDArray[np.float32]:
        """Rows ``top:bottom``, float32 [C, bottom - top, W]; ``top`` never goes back."""
        rows, index, weight = self._read(top, bottom)
        return rows if self._same else _C.upsample(rows, index, weight, *self._x, self._threads)

    def labels(self, top: int, bottom: int, scores: bool) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
        """Classes of rows ``top:bottom``, and the softmax probability of each where asked for."""
        rows, index, weight = self._read(top, bottom)
        found = _C.upsample_argmax(rows, index, weight, *self._x, scores, self._threads)
        return found if isinstance(found, tuple) else (found, None)

    def _read(self, top: int, bottom: int) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]:
        index, weight = _rows_of(self._y, top, bottom)
        low, high = int(index.min()), int(index.max()) + 1
        return self._source.rows(low, high), index - np.int32(low), weight


@dataclass(frozen=True)
class Band:
    """Some rows of an image's answer.

    Attributes:
        top: first of the rows.
        labels: [rows, W], uint8 up to 256 classes, else int32.
        scores: float32 [rows, W], probability of each label, 0..1, where asked for.
        probabilities: float32 [C, rows, W], of all classes, where asked for.
    """

    top: int
    labels: NDArray[Any]
    scores: NDArray[np.float32] | None = None
    probabilities: NDArray[np.float32] | None = None


def bands_of(size: Size, classes: int) -> Iterator[tuple[int, int]]:
    """(top, bottom) of bands whose logits take about 32 MiB, from the top of an image of ``size`` down."""
    step = max(1, min(size[0], _BAND_BYTES // (4 * classes * size[1])))
    for top in range(0, size[0], step):
        yield top, min(top + step, size[0])


def label_bands(image: Resized, size: Size, classes: int, scores: bool, probabilities: bool) -> Iterator[Band]:
    """The answer of one pass over an image of ``size``, band by band."""
    for top, bottom in bands_of(size, classes):
        labels, winners = image.labels(top, bottom, scores)
        yield Band(top, labels, winners, softmax(image.logits(top, bottom)) if probabilities else None)


def mean_bands(passes: Sequence[tuple[Resized, bool]], size: Size, classes: int, probabilities: bool) -> Iterator[Band]:
    """The mean of the probabilities of several passes, band by band.

    Args:
        passes: of images of ``size``, each with whether it saw its image mirrored.
        size: (height, width) of the image.
        classes: channels of the logits.
        probabilities: give them.
    """
    for top, bottom in bands_of(size, classes):
        total = np.zeros((classes, bottom - top, size[1]), np.float32)
        for image, flipped in passes:
            found = softmax(image.logits(top, bottom))
            total += found[:, :, ::-1] if flipped else found
        total /= len(passes)
        labels = total.argmax(0).astype(np.uint8 if classes <= 256 else np.int32)
        yield Band(top, labels, total.max(0), total if probabilities else None)


def collect(bands: Iterator[Band], size: Size, classes: int, scores: bool, probabilities: bool) -> Band:
    """All bands as one of the whole image; scores and probabilities are dropped where they are not asked for."""
    labels = np.empty(size, np.uint8 if classes <= 256 else np.int32)
    winners = np.empty(size, np.float32) if scores else None
    maps = np.empty((classes, *size), np.float32) if probabilities else None
    for band in bands:
        rows = slice(band.top, band.top + len(band.labels))
        labels[rows] = band.labels
        if winners is not None and band.scores is not None:
            winners[rows] = band.scores
        if maps is not None and band.probabilities is not None:
            maps[:, rows] = band.probabilities
    return Band(0, labels, winners, maps)
