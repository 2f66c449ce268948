# SPDX-License-Identifier: Apache-2.0
"""Whatever a user calls an image, as uint8 [H, W, 3] RGB."""

from __future__ import annotations

import glob
import io
import os
import struct
import threading
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from .errors import ImageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
MAX_PIXELS = 400_000_000
# What Pillow's readers raise on damaged files, apart from its own exceptions.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, ArithmeticError, struct.error)
# Rows converted at once: Pillow holds 4 bytes a pixel, and a conversion of the whole makes two copies of that.
_STRIP = 512
_opening = threading.Lock()

Rgb = NDArray[np.uint8]


def read_image(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Rgb:
    """Read an image file as uint8 [H, W, 3] RGB.

    The EXIF orientation is applied. Grey becomes three equal channels, palettes are resolved, alpha is dropped
    (the colours below it stay), 16-bit values lose their lower byte, 32-bit and float grey must lie in 0..255.

    Args:
        path: the file.
        max_pixels: larger pictures are refused before they are decoded.

    Raises:
        ImageError: missing, empty, truncated, not an image, or too large.
    """
    return _decode(path, str(path), max_pixels)


def as_rgb(image: Any, color: str = "rgb", max_pixels: int = MAX_PIXELS) -> Rgb:
    """Any supported image as uint8 [H, W, 3] RGB.

    Args:
        image: a path; encoded bytes; a PIL image; an ndarray [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], uint8
            0..255, uint16 0..65535 or float 0..1; anything with shape, dtype and slicing that gives such arrays (zarr,
            HDF5); or a torch tensor [H, W] or [C, H, W] (C of 1, 3, 4) of the same types.
        color: order of the channels of arrays and tensors: ``"rgb"`` or ``"bgr"`` (OpenCV's).
        max_pixels: limit for files and bytes.

    Raises:
        ImageError: none of these, or a shape, dtype or value that is not an image.
    """
    if color not in ("rgb", "bgr"):
        raise ImageError(f"color {color!r} is not 'rgb' or 'bgr'")
    if isinstance(image, (str, os.PathLike)):
        return read_image(image, max_pixels)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(bytes(image)), "image bytes", max_pixels)
    if isinstance(image, Image.Image):
        # Only a turned picture: the copy that exif_transpose makes of any other doubles the memory.
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        return _from_pil(ImageOps.exif_transpose(image) if turned else image, "PIL image")
    if isinstance(image, np.ndarray):
        return _from_array(image, color)
    if type(image).__module__.partition(".")[0] == "torch" and hasattr(image, "detach"):
        return _from_tensor(image, color)
    size = sliceable_size(image)
    if size is not None:
        return _from_array(np.asarray(image[: size[0], : size[1]]), color)
    raise ImageError(
        f"cannot use a {type(image).__name__} as an image; give a path, bytes, a PIL image, an ndarray or a tensor"
    )


def sliceable_size(image: Any) -> tuple[int, int] | None:
    """(height, width) of an ndarray or of what can be sliced like one; None for other kinds of images.

    Raises:
        ImageError: its shape is not that of an image.
    """
    is_tensor = type(image).__module__.partition(".")[0] == "torch"
    if is_tensor or not all(hasattr(image, name) for name in ("shape", "dtype", "__getitem__")):
        return None
    _check_shape(tuple(image.shape))
    return int(image.shape[0]), int(image.shape[1])


def list_images(sources: Iterable[str | os.PathLike[str]], recursive: bool = False) -> list[Path]:
    """Image files of files, folders and globs, in the order given, sorted within each, without repeats.

    Args:
        sources: paths; a folder stands for the images in it, a pattern for what it matches.
        recursive: also look in the folders below.

    Raises:
        ImageError: a source does not exist, or a folder or pattern holds no image.
    """
    found: dict[Path, None] = {}
    for source in sources:
        found.update(dict.fromkeys(list_files(source, recursive)))
    return list(found)


def list_files(
    source: str | os.PathLike[str],
    recursive: bool = False,
    suffixes: Collection[str] = SUFFIXES,
    nothing: str = "no image",
) -> list[Path]:
    """Files that a path stands for, sorted: itself, those of a folder, or what a pattern matches.

    Args:
        source: the path.
        recursive: also look in the folders below.
        suffixes: of files in a folder, in lower case.
        nothing: what a folder without such files holds.

    Raises:
        ImageError: it does not exist, or a folder or pattern holds nothing.
    """
    path = Path(source)
    if path.is_dir():
        walk = path.rglob("*") if recursive else path.iterdir()
        found = sorted(p for p in walk if p.suffix.lower() in suffixes and p.is_file())
        if not found:
            deeper = "" if recursive else " (use --recursive to look in the folders below it)"
            raise ImageError(f"folder {str(source)!r} holds {nothing}{deeper}")
        return found
    if path.exists():
        return [path]
    found = sorted(Path(p) for p in glob.glob(os.fspath(source), recursive=True) if os.path.isfile(p))
    if not found:
        raise ImageError(f"{os.fspath(source)!r}: no such file, folder or pattern that matches a file")
    return found


def _decode(source: Any, name: str, max_pixels: int) -> Rgb:
    try:
        with open_picture(source, max_pixels) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ImageError(
                    f"{name}: {width} x {height} pixels are more than the limit of {max_pixels}; raise max_pixels "
                    "if you trust the file, or give an array that is read in pieces"
                )
            image.load()
            ImageOps.exif_transpose(image, in_place=True)  # a turned copy would double the memory of a large picture
            return _from_pil(image, name)
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise ImageError(f"{name}: is a folder, not an image") from None
    except PermissionError:
        raise ImageError(f"{name}: permission denied") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name}: not an image in a format that can be read, or an empty file") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name}: more pixels than the limit of {max_pixels}") from error
    except DAMAGED as error:
        raise ImageError(f"{name}: damaged or truncated image ({error})") from error


def open_picture(source: Any, max_pixels: int, formats: tuple[str, ...] | None = None) -> Image.Image:
    """Read the header only. Pillow's own limit is global, warns at 89 million pixels and refuses at 179 million.

    Args:
        source: a path or a binary stream.
        max_pixels: Pillow warns above it and refuses above twice that.
        formats: names of the readers of Pillow that are tried; None tries all.
    """
    with _opening:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max_pixels
        try:
            return Image.open(source, formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _from_pil(image: Image.Image, name: str) -> Rgb:
    """Pixels of an upright picture."""
    if image.mode in ("I;16", "I;16B", "I;16L", "I;16N"):
        return _grey((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        values = np.asarray(image)
        if image.mode == "I" and values.size and values.min() >= 0 and 255 < values.max() <= 65535:
            return _grey((values >> 8).astype(np.uint8))
        if values.size and not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 255):
            raise ImageError(f"{name}: grey values of mode {image.mode!r} are outside 0..255; convert the image first")
        return _grey(values.astype(np.uint8))
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, _STRIP):
        strip = image.crop((0, top, image.width, min(top + _STRIP, image.height)))
        if strip.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
            strip = strip.convert("RGBA")
        pixels[top : top + _STRIP] = np.asarray(strip.convert("RGB"))
    return pixels


def _from_array(array: NDArray[Any], color: str) -> Rgb:
    _check_shape(array.shape)
    pixels = _to_uint8(array[:, :, 0] if array.shape[2:] == (1,) else array)
    if pixels.ndim == 2:
        return _grey(pixels)
    pixels = pixels[:, :, :3]
    return np.ascontiguousarray(pixels[:, :, ::-1] if color == "bgr" else pixels)


def _check_shape(shape: tuple[int, ...]) -> None:
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3, 4)):
        hint = "; torch's [C, H, W] order is for tensors" if len(shape) == 3 and shape[0] in (1, 3, 4) else ""
        raise ImageError(f"an image array must be [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], got {list(shape)}{hint}")
    if 0 in shape:
        raise ImageError(f"the image is empty: shape {list(shape)}")


def _from_tensor(tensor: Any, color: str) -> Rgb:
    array = tensor.detach().cpu().numpy()
    if array.ndim == 3:
        if array.shape[0] not in (1, 3, 4):
            raise ImageError(
                f"an image tensor must be [H, W] or [C, H, W] with C of 1, 3 or 4, got {list(array.shape)}"
            )
        array = array.transpose(1, 2, 0)
    elif array.ndim != 2:
        raise ImageError(
            f"an image tensor must be [H, W] or [C, H, W], got {list(array.shape)}; pass a batch as a list"
        )
    return _from_array(array, color)


def _to_uint8(array: NDArray[Any]) -> Rgb:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return (array >> 8).astype(np.uint8)
    if array.dtype in (np.float16, np.float32, np.float64):
        if not np.isfinite(array).all():
            raise ImageError("the image holds NaN or infinite values")
        low, high = float(array.min()), float(array.max())
        if low < -1e-3 or high > 1 + 1e-3:
            raise ImageError(f"a float image must lie in 0..1, got {low:.3g}..{high:.3g}; divide by 255, or pass uint8")
        return np.round(np.clip(array.astype(np.float32), 0, 1) * 255).astype(np.uint8)
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    raise ImageError(f"an image must be uint8, uint16 or float, got {array.dtype}")


def _grey(values: Rgb) -> Rgb:
    return np.repeat(np.ascontiguousarray(values)[:, :, None], 3, axis=2)
