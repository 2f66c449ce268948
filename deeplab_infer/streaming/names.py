# SPDX-License-Identifier: Apache-2.0
"""What names stand for: images, videos, cameras, folders, patterns, and names that come on stdin."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from PIL import UnidentifiedImageError

from ..errors import ImageError
from ..images import DAMAGED, MAX_PIXELS, list_files, open_picture
from ..images import SUFFIXES as IMAGE_SUFFIXES
from .pyav import is_device, is_url
from .video import SUFFIXES as VIDEO_SUFFIXES

_CHUNK = 1 << 16
_LONGEST = 1 << 16  # a name with more bytes is no name
Name = str | Path


def is_live(name: Name) -> bool:
    """Whether a name is an address or a device."""
    return is_url(str(name)) or is_device(str(name))


def is_video(name: Name) -> bool:
    """Whether a file is taken for a video: by its suffix, and where that says nothing because it is no picture."""
    suffix = Path(name).suffix.lower()
    if suffix in VIDEO_SUFFIXES or suffix in IMAGE_SUFFIXES:
        return suffix in VIDEO_SUFFIXES
    try:
        if not os.path.isfile(name) or os.path.getsize(name) == 0:
            return False
        with open_picture(name, MAX_PIXELS):
            return False
    except UnidentifiedImageError:
        return True
    except DAMAGED:
        return False


def is_media(name: Name) -> bool:
    """Whether a name is a video or a camera rather than an image."""
    return is_live(name) or is_video(name)


def expand(source: Name, recursive: bool = False) -> list[Name]:
    """Images, videos and cameras that a name stands for, sorted.

    Args:
        source: a file, an address, a device, a folder (the images and videos in it), or a pattern.
        recursive: also look in the folders below.

    Returns:
        Paths; addresses and devices as text.

    Raises:
        ImageError: nothing of that name, or a folder or pattern without a file.
    """
    if is_live(source):
        return [str(source)]
    return list(list_files(source, recursive, {*IMAGE_SUFFIXES, *VIDEO_SUFFIXES}, "no image and no video"))


def expand_all(sources: Iterable[Name], recursive: bool = False) -> list[Name]:
    """`expand` of each, in the order given, without repeats."""
    found: dict[Name, None] = {}
    for source in sources:
        found.update(dict.fromkeys(expand(source, recursive)))
    return list(found)


def read_names(read: Callable[[int], bytes], null: bool = False) -> Iterator[str]:
    """Names that come on a stream, each as soon as it is there; empty ones are passed over.

    Args:
        read: gives at most so many bytes as soon as there are some, none at the end. Names need not be UTF-8.
        null: names end with a NUL byte, as ``find -print0`` writes them, instead of a newline.

    Raises:
        ImageError: no end of a name in 64 KiB.
    """
    end, rest = (b"\0" if null else b"\n"), b""
    while block := read(_CHUNK):
        *names, rest = (rest + block).split(end)
        if len(rest) > _LONGEST:
            what = "NUL byte (-0)" if null else "newline"
            raise ImageError(f"stdin: no {what} in {len(rest)} bytes; names of files are expected, one each")
        yield from (os.fsdecode(name) for name in names if name)
    if rest:
        yield os.fsdecode(rest)
