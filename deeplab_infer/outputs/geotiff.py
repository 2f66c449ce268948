# SPDX-License-Identifier: Apache-2.0
"""Labels as a GeoTIFF that lies where its input lies. Needs rasterio (GDAL), imported where it is used.

The file: one band of class indices, uint8 with nodata 255 (uint16 and 65535 beyond 255 classes), the palette as its
colour table, the class names in its metadata, tiles of 256 x 256, deflate. Pixels without a class are nodata, and so
are those that the input marks as having no data.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DeepLabError, ImageError
from ..masks import no_class
from ..segmentation import Palette

_TILE = 256


def require_rasterio() -> Any:
    """The package.

    Raises:
        DeepLabError: it is not installed.
    """
    try:
        import rasterio
    except ImportError:
        raise DeepLabError("GeoTIFFs need rasterio: pip install 'deeplab-infer[geo]'") from None
    return rasterio


@contextmanager
def open_raster(path: str | None) -> Iterator[Any]:
    """The input as a raster with a georeference, or None where it has none, or is no file that GDAL reads."""
    rasterio = require_rasterio()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        try:
            raster = None if path is None else rasterio.open(path)
        except rasterio.errors.RasterioIOError:
            raster = None
        if raster is None:
            yield None
            return
        with raster:
            yield raster if is_georeferenced(raster) else None


def is_georeferenced(raster: Any) -> bool:
    """Whether an opened raster says where it lies: by a transform, ground control points or an RPC model."""
    return not raster.transform.is_identity or bool(raster.gcps[0]) or raster.rpcs is not None


def write_geotiff(
    target: str | os.PathLike[str],
    bands: Iterable[NDArray[Any]],
    size: tuple[int, int],
    source: str | None,
    classes: tuple[str, ...],
    palette: Palette,
) -> bool:
    """Write labels, some rows at a time.

    Args:
        target: the file; the caller makes it appear whole.
        bands: labels [rows, W], integers, from the top down.
        size: (height, width) of all.
        source: the input image, whose coordinate reference system, transform, ground control points, RPC model and
            nodata pixels are kept.
        classes, palette: names and RGB colours.

    Returns:
        whether the input has a georeference; otherwise the file has none either.

    Raises:
        DeepLabError: rasterio is missing.
        ImageError: the input's orientation tag turns its pixels away from its georeference.
        OSError: it cannot be written.
    """
    rasterio = require_rasterio()
    height, width = size
    nothing = no_class(len(classes))
    kind = "uint8" if nothing == 255 else "uint16"
    profile = {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "count": 1,
        "dtype": kind,
        "nodata": nothing,
        "tiled": True,
        "blockxsize": _TILE,
        "blockysize": _TILE,
        "compress": "deflate",
        "bigtiff": "if_safer",
    }
    with open_raster(source) as raster, warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        if raster is not None:
            _check_fits(raster, size, str(source))
        with rasterio.open(target, "w", **profile, **_place(raster)) as file:
            _describe(file, raster, classes, palette)
            top = 0
            for rows in _tile_rows(bands):
                window = rasterio.windows.Window(0, top, width, len(rows))
                file.write(_without_nodata(rows, raster, window, nothing).astype(kind), 1, window=window)
                top += len(rows)
    _check_written(rasterio, Path(target), size)
    return raster is not None


def _place(raster: Any) -> dict[str, Any]:
    if raster is None:
        return {}
    points, system = raster.gcps
    if points:
        return {"gcps": points, "crs": system}
    return {"crs": raster.crs, "transform": raster.transform}


def _describe(file: Any, raster: Any, classes: tuple[str, ...], palette: Palette) -> None:
    if raster is not None:
        if raster.rpcs is not None:
            file.rpcs = raster.rpcs
        if "AREA_OR_POINT" in raster.tags():
            file.update_tags(AREA_OR_POINT=raster.tags()["AREA_OR_POINT"])
    file.update_tags(1, **{f"class_{index}": name for index, name in enumerate(classes)})
    if len(classes) <= 256:
        file.write_colormap(1, {index: (*color, 255) for index, color in enumerate(palette)})


def _tile_rows(bands: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """The same rows in pieces of a tile's height: a compressed tile that is written twice takes twice the space."""
    kept: list[NDArray[Any]] = []
    count = 0
    for band in bands:
        while len(band):
            part, band = band[: _TILE - count], band[_TILE - count :]
            kept.append(part)
            count += len(part)
            if count == _TILE:
                yield np.concatenate(kept) if len(kept) > 1 else part
                kept, count = [], 0
    if kept:
        yield np.concatenate(kept)


def _without_nodata(rows: NDArray[Any], raster: Any, window: Any, nothing: int) -> NDArray[Any]:
    """Labels with `nothing` where the input has no data, by its nodata value, its mask or its alpha band."""
    if raster is None or all(flag.name == "all_valid" for flags in raster.mask_flag_enums for flag in flags):
        return rows
    return np.where(raster.dataset_mask(window=window) == 0, nothing, rows)


def _check_fits(raster: Any, size: tuple[int, int], source: str) -> None:
    if (raster.height, raster.width) != tuple(size) or _is_turned(source):
        raise ImageError(
            f"{source}: its orientation tag turns the image away from its georeference; remove the tag, or leave out "
            "--geotiff"
        )


def _is_turned(source: str) -> bool:
    from PIL import ExifTags

    from ..images import DAMAGED, open_picture

    try:
        with open_picture(source, 1 << 40) as picture:
            return picture.getexif().get(ExifTags.Base.Orientation, 1) != 1
    except DAMAGED:  # only GDAL reads it, which turns nothing
        return False


def _check_written(rasterio: Any, target: Path, size: tuple[int, int]) -> None:
    """GDAL writes the last tiles while it closes the file, where it raises no error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            with rasterio.open(target) as file:
                for top in range(0, size[0], _TILE):
                    file.read(1, window=rasterio.windows.Window(0, top, size[1], min(_TILE, size[0] - top)))
    except rasterio.errors.RasterioIOError as error:
        raise OSError(
            f"a GeoTIFF in {str(target.parent)!r} could not be written whole: the disk may be full"
        ) from error
