# SPDX-License-Identifier: Apache-2.0
"""From what a caller gives to a source of frames."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sized
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import DeepLabError, ImageError
from ..images import as_rgb, open_picture, sliceable_size
from ..runtime.gpu_array import is_gpu_array
from .items import BYTES_A_PIXEL, Counts, Failure, Frame, Source
from .live import Reconnect, open_live
from .names import Name, expand, is_live, is_video
from .pyav import Opening, shown
from .video import open_video

Loader = Callable[[Any], Any]


class Images:
    """Images that a caller gives: arrays, tensors, PIL images, bytes, or paths of files.

    Args:
        images: any iterable, read as the images are needed.
        load: makes of an image what is segmented.
        name: what a person calls it.
        hurried: images may take a while.
        max_pixels: of files.
    """

    live = False

    def __init__(self, images: Iterable[Any], load: Loader, name: str, hurried: bool, max_pixels: int) -> None:
        self.name, self.hurried, self.counts = name, hurried, Counts()
        self._images, self._load, self._max_pixels = images, load, max_pixels
        self._stopped = False

    @property
    def total(self) -> int | None:
        """Images, where the iterable has a length."""
        return len(self._images) if isinstance(self._images, Sized) else None

    def frames(self) -> Iterator[Frame]:
        """See `Source.frames`."""
        for index, image in enumerate(self._images):
            if self._stopped:
                return
            yield self._frame(image, index)

    def stop(self) -> None:
        """See `Source.stop`."""
        self._stopped = True

    def _frame(self, image: Any, index: int) -> Frame:
        path = os.fspath(image) if isinstance(image, (str, os.PathLike)) else None
        cost = size_of(image, self._max_pixels) * BYTES_A_PIXEL
        return Frame(lambda: self._load(image), cost, index, None, path or self.name, path, fresh=path is not None)


class Several:
    """Sources one after the other; one that cannot be used is a `Failure`, and the others follow."""

    def __init__(self, names: Iterable[Name], open_one: Callable[[Name], Source], name: str) -> None:
        self._names, self._open, self.name = names, open_one, name
        self._current: Source | None = None
        self._stopped = False
        self._done = Counts()

    live = False
    hurried = True
    total = None

    @property
    def counts(self) -> Counts:
        """Of all sources so far."""
        now = self._current.counts if self._current is not None else Counts()
        done = self._done
        return Counts(done.damaged + now.damaged, done.missing + now.missing, done.reconnects + now.reconnects)

    def frames(self) -> Iterator[Frame | Failure]:
        """See `Source.frames`."""
        for number, name in enumerate(self._names):
            if self._stopped:
                return
            try:
                self._current = self._open(name)
                yield from self._current.frames()
            except ImageError as error:
                yield Failure(shown(str(name)), number, error)
            finally:
                self._done, self._current = self.counts, None

    def stop(self) -> None:
        """See `Source.stop`."""
        self._stopped = True
        current = self._current
        if current is not None:
            current.stop()


def open_source(source: Any, color: str, opening: Opening, reconnect: Reconnect) -> Source:
    """What a caller gives as a source of frames.

    Args:
        source: a path, pattern, folder, address or device; a list of these; an array [N, H, W, 3]; or an iterable of
            whatever `Segmenter.predict` takes.
        color: channel order of arrays and tensors.
        opening: how videos are opened.
        reconnect: how lost cameras are.

    Raises:
        DeepLabError: none of these; otherwise as the kinds of sources do.
    """

    def load(image: Any) -> Any:
        return loaded(image, color, opening.max_pixels)

    def files(paths: Iterable[Any], name: str) -> Images:
        return image_files(paths, name, opening.max_pixels)

    def open_name(name: Name) -> Source:
        if is_live(name):
            return open_live(str(name), opening, reconnect)
        return open_video(str(name), opening) if is_video(name) else files([name], str(name))

    if isinstance(source, (str, Path)):
        names = expand(source)
        if len(names) == 1:
            return open_name(names[0])
        if any(is_video(name) for name in names):
            return Several(names, open_name, str(source))
        return files(names, str(source))
    if isinstance(source, (bytes, bytearray, Image.Image)) or _is_one_image(source):
        raise DeepLabError("a stream needs a source of several images; for one use predict, or give [image]")
    if not isinstance(source, Iterable):
        raise DeepLabError(
            f"a {type(source).__name__} is no source; give a path, a pattern, a folder, an address, a device, or an "
            "iterable of images"
        )
    if isinstance(source, (list, tuple)) and source and all(isinstance(name, (str, Path)) for name in source):
        return Several([found for name in source for found in expand(name)], open_name, f"{len(source)} sources")
    return Images(source, load, "images", True, opening.max_pixels)


def image_files(paths: Iterable[Any], name: str, max_pixels: int, hurried: bool = False) -> Images:
    """Image files as a source; ``hurried`` where their names may take a while."""
    return Images(paths, lambda path: loaded(path, "rgb", max_pixels), name, hurried, max_pixels)


def loaded(image: Any, color: str, max_pixels: int) -> Any:
    """An image as `Segmenter.predict` takes it, decoded; what is sliced or lies on a GPU stays as it is.

    Raises:
        ImageError: not an image, or there is no memory for it.
    """
    in_place = is_gpu_array(image) or (not isinstance(image, np.ndarray) and sliceable_size(image) is not None)
    if in_place:
        return image
    try:
        return as_rgb(image, color, max_pixels)
    except MemoryError as error:
        what = os.fspath(image) if isinstance(image, (str, os.PathLike)) else "the image"
        raise ImageError(
            f"{what}: not enough memory for its pixels; cut it, or give an array that is sliced"
        ) from error


def size_of(image: Any, max_pixels: int) -> int:
    """Pixels of an image, as far as its header or shape says; 0 where it does not."""
    if isinstance(image, (str, os.PathLike)):
        try:
            with open_picture(image, max_pixels) as picture:
                return picture.width * picture.height
        except Exception:  # noqa: BLE001  whatever is wrong with the file is said when it is read
            return 0
    if isinstance(image, Image.Image):
        return image.width * image.height
    shape = tuple(getattr(image, "shape", ()))
    return int(np.prod(shape)) // 3 if len(shape) == 3 else int(np.prod(shape)) if len(shape) == 2 else 0


def _is_one_image(source: Any) -> bool:
    shape = getattr(source, "shape", None)
    return shape is not None and len(shape) in (2, 3)
