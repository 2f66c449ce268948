# SPDX-License-Identifier: Apache-2.0
"""Images of which parts are asked for: in memory, or read piece by piece from whatever can be sliced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from .errors import ImageError
from .images import Rgb, as_rgb, sliceable_size
from .preprocess import Size


class Pixels(Protocol):
    """An image.

    Attributes:
        size: (height, width).
        array: the whole image, uint8 [H, W, 3] RGB, or None where it is read in pieces.
    """

    @property
    def size(self) -> Size: ...
    @property
    def array(self) -> Rgb | None: ...
    def read(self, top: int, left: int, bottom: int, right: int) -> Rgb:
        """Rows ``top:bottom`` of columns ``left:right``, uint8 RGB."""
        ...


class InMemory:
    """Pixels of an array, uint8 [H, W, 3] RGB."""

    def __init__(self, array: Rgb) -> None:
        self.array: Rgb = array
        self.size: Size = (array.shape[0], array.shape[1])

    def read(self, top: int, left: int, bottom: int, right: int) -> Rgb:
        """See `Pixels.read`; a view."""
        return self.array[top:bottom, left:right]


class Sliced:
    """Pixels of anything with ``shape`` and slicing of rows and columns: np.memmap, zarr, HDF5, a reader of tiles.

    A piece is converted as `as_rgb` converts an array, so that a wrong dtype or value is found where it is read.
    """

    array = None

    def __init__(self, source: Any, size: Size, color: str) -> None:
        self._source, self.size, self._color = source, size, color

    def read(self, top: int, left: int, bottom: int, right: int) -> Rgb:
        """See `Pixels.read`.

        Raises:
            ImageError: the source gave another shape, or values that are no pixels.
        """
        piece = as_rgb(np.asarray(self._source[top:bottom, left:right]), self._color)
        if piece.shape[:2] != (bottom - top, right - left):
            raise ImageError(
                f"the image gave {list(piece.shape[:2])} pixels for rows {top}:{bottom}, columns {left}:{right}; its "
                f"shape says {list(self.size)}"
            )
        return piece


class Mirrored:
    """Other pixels with left and right exchanged."""

    array = None

    def __init__(self, pixels: Pixels) -> None:
        self._pixels, self.size = pixels, pixels.size

    def read(self, top: int, left: int, bottom: int, right: int) -> Rgb:
        """See `Pixels.read`; a view of what the other pixels give."""
        width = self.size[1]
        return self._pixels.read(top, width - right, bottom, width - left)[:, ::-1]


def open_pixels(image: Any, color: str, max_pixels: int, in_pieces: Callable[[Size], bool]) -> Pixels:
    """An image for reading parts of it.

    Args:
        image, color, max_pixels: as in `as_rgb`.
        in_pieces: whether an array of this size should rather be read in pieces than be held, or converted, whole.

    Raises:
        ImageError: as `as_rgb`.
    """
    size = sliceable_size(image)
    if size is None or not in_pieces(size) or _is_plain(image, color):
        return InMemory(as_rgb(image, color, max_pixels))
    return Sliced(image, size, color)


def _is_plain(image: Any, color: str) -> bool:
    """An array that `as_rgb` takes as it is, without a copy."""
    plain = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape[2:] == (3,)
    return plain and color == "rgb" and image.flags.c_contiguous
