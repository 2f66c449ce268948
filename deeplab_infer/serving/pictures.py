# SPDX-License-Identifier: Apache-2.0
"""Bytes from a stranger to pixels: the header is judged before anything is decoded."""

from __future__ import annotations

import io
import re
import warnings

from PIL import Image, UnidentifiedImageError

from ..errors import ImageError
from ..images import DAMAGED, Rgb, as_rgb, open_picture
from .problems import Problem

# Readers that decode by themselves: Pillow's others include one that starts Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM")
_NAMES = ", ".join(FORMATS)


def decode(data: io.BytesIO, max_pixels: int) -> Rgb:
    """Uint8 [H, W, 3] RGB, upright, as `deeplab_infer.images.as_rgb` gives it.

    Raises:
        Problem: 413 for more than ``max_pixels``; 422 for other formats, damaged and truncated files.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns above its limit and refuses above twice that: both are ours to say, below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = open_picture(data, max_pixels, FORMATS)
        with picture:
            width, height = picture.size
            if width * height > max_pixels:
                raise _too_many(f"the image of {width:,} x {height:,} pixels", max_pixels)
            picture.load()
            return as_rgb(picture)
    except Image.DecompressionBombError as error:
        count = re.search(r"\((\d+) pixels\)", str(error))
        raise _too_many(f"the image of {int(count[1]):,} pixels" if count else "the image", max_pixels) from None
    except UnidentifiedImageError:
        raise Problem(
            422, f"the body is not an image of a known format ({_NAMES})", "send an image file", reason="not_an_image"
        ) from None
    except (ImageError, *DAMAGED) as error:
        raise Problem(
            422, f"the image is damaged or truncated ({error})", "open it in another program, or send it again",
            reason="damaged",
        ) from error  # fmt: skip


def _too_many(said: str, limit: int) -> Problem:
    hint = "send a smaller image, or start the server with a larger --max-pixels"
    return Problem(413, f"{said} has more than the limit of {limit:,} pixels", hint, reason="pixels")
