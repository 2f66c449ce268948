# SPDX-License-Identifier: Apache-2.0
"""Label pictures as they are stored: palettes and grey values stay numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ..errors import DataError
from ..images import DAMAGED, MAX_PIXELS, open_picture

# Pillow spreads grey values of fewer bits over 0..255; the class index is what the file stores.
_GREY_STEPS = {"L;2": 85, "L;4": 17}
_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)

Raw = NDArray[np.uint8] | NDArray[np.uint16]


def read_label_picture(path: Path, max_pixels: int = MAX_PIXELS) -> Raw:
    """The numbers that a label file stores.

    Returns:
        uint8 or uint16 [H, W], the grey values or palette indices; or uint8 [H, W, 3], RGB colours.

    Raises:
        DataError: missing, empty, truncated, no image, too large, partly transparent, or of a kind without labels.
    """
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path}: the label file is empty (0 bytes); copy or make it again")
        with open_picture(path, max_pixels) as image:
            if image.width * image.height > max_pixels:
                raise DataError(f"{path}: {image.width} x {image.height} pixels are more than the limit {max_pixels}")
            step = _grey_step(image)
            image.load()
            return _numbers(image, step, path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such label file") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder, not a label file") from None
    except PermissionError:
        raise DataError(f"{path}: permission denied") from None
    except UnidentifiedImageError:
        raise DataError(
            f"{path}: not an image in a format that can be read, or cut short; labels are PNG files as a rule"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"{path}: more pixels than the limit {max_pixels}") from None
    except DAMAGED as error:
        raise DataError(f"{path}: damaged or truncated label file ({error}); copy or make it again") from error


def size_mismatch(image: Path, image_size: tuple[int, ...], other: str, other_size: tuple[int, ...]) -> DataError:
    """The error for an image and labels of different (height, width); ``other`` names the labels."""
    text = (
        f"{image} has {image_size[0]} x {image_size[1]} pixels (height x width), but {other} has "
        f"{other_size[0]} x {other_size[1]}"
    )
    orientation = exif_orientation(image)
    if orientation in _TURNED:
        fit = "the stored picture, not the turned one" if other_size[::-1] == image_size[:2] else "neither"
        return DataError(
            f"{text}: the image carries EXIF orientation {orientation}, which turns it on its side; the labels "
            f"fit {fit}. Turn the pixels themselves (for example with 'mogrify -auto-orient') and label that picture"
        )
    return DataError(f"{text}; labels must have the size of their image")


def exif_orientation(image: Path) -> int:
    """EXIF orientation of an image file, 1 where it has none."""
    try:
        with open_picture(image, MAX_PIXELS) as header:
            return int(header.getexif().get(_ORIENTATION, 1))
    except DAMAGED:
        return 1  # damaged EXIF turns nothing; the pixels were read before


def _grey_step(image: Image.Image) -> int:
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else None
    raw_mode = arguments if isinstance(arguments, str) else arguments[0] if arguments else None
    return _GREY_STEPS.get(str(raw_mode), 1)


def _numbers(image: Image.Image, step: int, path: Path) -> Raw:
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8)
    if image.mode in ("L", "P"):
        stored = np.asarray(image)
        return stored if step == 1 else stored // np.uint8(step)
    if image.mode.startswith("I"):
        return _integers(np.asarray(image), path)
    if image.mode == "RGB":
        return np.asarray(image)
    if image.mode in ("RGBA", "LA"):
        pixels = np.asarray(image)
        if pixels[..., -1].min() < 255:
            raise DataError(f"{path}: some label pixels are transparent; save the labels without an alpha channel")
        return pixels[..., 0] if image.mode == "LA" else pixels[..., :3]
    raise DataError(
        f"{path}: pictures of mode {image.mode!r} hold no labels; save class indices as a grey or palettised PNG"
    )


def _integers(values: NDArray, path: Path) -> NDArray[np.uint16]:
    if values.size and (int(values.min()) < 0 or int(values.max()) > 65535):
        raise DataError(f"{path}: values {values.min()}..{values.max()} are no labels; save class indices as a PNG")
    return values.astype(np.uint16)
