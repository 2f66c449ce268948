# SPDX-License-Identifier: Apache-2.0
"""The files of one image, as a table."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..segmentation import Segmentation
from .geotiff import write_geotiff
from .labelme import encode_labelme
from .options import OutputOptions


class Place(NamedTuple):
    """Where a file of an image comes to lie.

    Attributes:
        target: the file at the end.
        temporary: what is written, beside it.
    """

    target: Path
    temporary: Path


@dataclass(frozen=True)
class ImageFile:
    """A kind of file that is written of each image.

    Attributes:
        suffix: what is appended to the image's stem.
        wanted: whether the options ask for it.
        write: makes the file; gives what should be said of it, once a run.
    """

    suffix: str
    wanted: Callable[[OutputOptions], bool]
    write: Callable[[Segmentation, Place, OutputOptions], str | None]


def _mask(result: Segmentation, place: Place, options: OutputOptions) -> None:
    _store(place, result.encode(".png", "labels"))


def _overlay(result: Segmentation, place: Place, options: OutputOptions) -> None:
    _store(place, result.encode(".png", "overlay", options.alpha))


def _arrays(result: Segmentation, place: Place, options: OutputOptions) -> None:
    _store(place, result.encode(".npz"))


def _labelme(result: Segmentation, place: Place, options: OutputOptions) -> None:
    _store(place, encode_labelme(result, place.target, options.min_area, options.tolerance))


def _geotiff(result: Segmentation, place: Place, options: OutputOptions) -> str | None:
    size = result.labels.shape
    placed = write_geotiff(place.temporary, [result.labels], size, result.path, result.classes, result.palette)
    return None if placed else no_georeference(result.path)


def no_georeference(path: str | None) -> str:
    """What is said of the first image whose GeoTIFF lies nowhere."""
    what = "an image that is no file" if path is None else repr(path)
    return f"{what} has no georeference, so its GeoTIFF has none; nor have those of other such images"


def _store(place: Place, data: bytes) -> None:
    with open(place.temporary, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


IMAGE_FILES = (
    ImageFile(".png", lambda options: options.masks, _mask),
    ImageFile("_overlay.png", lambda options: options.overlay, _overlay),
    ImageFile(".npz", lambda options: options.npz, _arrays),
    ImageFile(".json", lambda options: options.labelme, _labelme),
    ImageFile(".tif", lambda options: options.geotiff, _geotiff),
)
