# SPDX-License-Identifier: Apache-2.0
"""Image files through a model into outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol

from ..errors import ImageError
from ..outputs import Outputs
from ..outputs.assembly import Record
from ..outputs.banded import in_bands, write_in_bands
from ..streaming.sources import image_files


class ImageFile(NamedTuple):
    """An image to be done.

    Attributes:
        path: of the file.
        stem: name of its outputs, without suffix.
    """

    path: str
    stem: str


class Watcher(Protocol):
    """Is told what becomes of each image; `started` comes from another thread."""

    def started(self, file: ImageFile) -> None:
        """It is about to be read; several may be in work."""
        ...

    def done(self, file: ImageFile, record: Record) -> None:
        """Its outputs are on the disk."""
        ...

    def failed(self, file: ImageFile, error: ImageError) -> None:
        """It is no image, or its outputs cannot be made; it has none."""
        ...

    def windows(self, done: int, total: int) -> None:
        """How far a large image is."""
        ...


def segment_files(
    segmenter: Any,
    files: Iterable[ImageFile],
    outputs: Outputs,
    watcher: Watcher,
    options: dict[str, Any],
    *,
    hurried: bool,
    max_pixels: int,
) -> None:
    """Segment images; the next ones are decoded and the last one is written meanwhile.

    Args:
        segmenter: the model.
        files: read as they are needed.
        outputs: where results go.
        watcher: is told of each.
        options: of `Segmenter.stream`.
        hurried: files may take a while to come.
        max_pixels: of a file.

    Raises:
        OSError: the disk is full, or a file cannot be written.
        DeepLabError: the model does not take images of such a size.
    """
    if in_bands(segmenter, outputs):
        _in_bands(segmenter, files, outputs, watcher)
        return
    in_work: dict[int, ImageFile] = {}

    def paths() -> Iterator[str]:
        for index, file in enumerate(files):
            in_work[index] = file
            watcher.started(file)
            yield file.path

    with segmenter.stream(
        image_files(paths(), "images", max_pixels, hurried),
        scores=outputs.needs_scores,
        progress=watcher.windows,
        on_error=lambda failure: watcher.failed(in_work.pop(failure.index), failure.error),
        **options,
    ) as results:
        for result in results:
            file = in_work.pop(result.metadata["frame"])
            try:
                record = outputs.write(result, file.stem)
            except ImageError as error:
                watcher.failed(file, error)
            else:
                watcher.done(file, record)
            del result  # it has the image: a large one should be gone before the next is read


def _in_bands(segmenter: Any, files: Iterable[ImageFile], outputs: Outputs, watcher: Watcher) -> None:
    """Large rasters, one after the other: their pixels are never whole in memory."""
    for file in files:
        watcher.started(file)
        try:
            record = write_in_bands(segmenter, file.path, file.stem, outputs, watcher.windows)
            if record is None:
                result = segmenter.predict(file.path, scores=outputs.needs_scores, progress=watcher.windows)
                record = outputs.write(result, file.stem)
        except ImageError as error:
            watcher.failed(file, error)
        else:
            watcher.done(file, record)
