# SPDX-License-Identifier: Apache-2.0
"""Large GeoTIFFs from file to file: read in pieces, segmented in bands, written in tiles."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from .assembly import Record
from .geotiff import open_raster, require_rasterio
from .writer import Outputs

_TYPES = ("uint8", "uint16")


class RasterPixels:
    """An opened raster as an image that can be sliced: its first three bands, or its only one.

    Attributes:
        shape: (height, width, 3), or (height, width).
        dtype: uint8 or uint16.
    """

    def __init__(self, raster: Any) -> None:
        self._raster, self._lock = raster, threading.Lock()  # GDAL reads a data set from one thread at a time
        self._bands = [1, 2, 3] if raster.count >= 3 else [1]
        self.shape = (raster.height, raster.width, 3) if raster.count >= 3 else (raster.height, raster.width)
        self.dtype = np.dtype(raster.dtypes[0])

    def __getitem__(self, at: tuple[slice, slice]) -> NDArray[Any]:
        """Rows and columns, [h, w, 3] or [h, w].

        Raises:
            ImageError: the file is damaged.
        """
        rasterio = require_rasterio()
        (top, bottom, _), (left, right, _) = (part.indices(n) for part, n in zip(at, self.shape, strict=False))
        window = rasterio.windows.Window(left, top, right - left, bottom - top)
        try:
            with self._lock:
                pixels = self._raster.read(self._bands, window=window)
        except rasterio.errors.RasterioIOError as error:
            raise ImageError(f"{self._raster.name}: damaged or truncated image ({error})") from error
        return pixels[0] if len(self._bands) == 1 else np.moveaxis(pixels, 0, 2)


@contextmanager
def raster_pixels(path: str | os.PathLike[str]) -> Iterator[RasterPixels | None]:
    """A georeferenced file with one, three or more bands of uint8 or uint16, no colour table; None for others."""
    with open_raster(os.fspath(path)) as raster:
        fits = (
            raster is not None
            and raster.count != 2
            and raster.dtypes[0] in _TYPES
            and raster.colorinterp[0].name != "palette"
        )
        yield RasterPixels(raster) if fits else None


def in_bands(segmenter: Any, outputs: Outputs) -> bool:
    """Whether a run is one that `write_in_bands` takes files of."""
    return outputs.banded and segmenter.describe()["mode"] == "slide"


def write_in_bands(
    segmenter: Any,
    path: str | os.PathLike[str],
    stem: str,
    outputs: Outputs,
    progress: Callable[[int, int], None] | None,
) -> Record | None:
    """Segment a georeferenced file without its pixels or labels ever being whole in memory.

    That is done where only GeoTIFFs are written (`Outputs.banded`), by a `Segmenter` in slide mode, of a file that
    `raster_pixels` takes. The labels are those of `Segmenter.predict`.

    Returns:
        its record (`Outputs.write_bands`); None where nothing was done.

    Raises:
        ImageError: the file is damaged.
        OSError: its GeoTIFF cannot be written.
    """
    if not in_bands(segmenter, outputs):
        return None
    with raster_pixels(path) as pixels:
        if pixels is None:
            return None
        bands = segmenter.predict_bands(pixels, scores=outputs.needs_scores, progress=progress)
        return outputs.write_bands(bands, (pixels.shape[0], pixels.shape[1]), os.fspath(path), stem)
