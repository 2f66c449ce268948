# SPDX-License-Identifier: Apache-2.0
"""Image files through a model into outputs, with a bar."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..fleet.segmenting import ImageFile, segment_files
from ..outputs import Outputs
from ..outputs.assembly import Record
from .stream_progress import Running, StreamProgress

Bar = tuple[StreamProgress, Running]


def segment_images(
    segmenter: Any,
    files: Iterable[tuple[Path, str]],
    outputs: Outputs,
    bar: Bar,
    options: dict[str, Any],
    *,
    hurried: bool,
    max_pixels: int,
) -> tuple[int, int]:
    """See `segment_files`; bad images are said and counted.

    Args:
        segmenter: the model.
        files: paths with the stems of their outputs, read as they are needed.
        outputs: where results go.
        bar: shows how far it is.
        options: of `Segmenter.stream`.
        hurried: names may take a while to come.
        max_pixels: of a file.

    Returns:
        How many were done, and how many could not be.
    """
    counts = _Counts(bar)
    named = (ImageFile(str(path), stem) for path, stem in files)
    segment_files(segmenter, named, outputs, counts, options, hurried=hurried, max_pixels=max_pixels)
    return counts.good, counts.bad


class _Counts:
    """A `Watcher` that shows and counts."""

    def __init__(self, bar: Bar) -> None:
        self._progress, self._running = bar
        self.windows = self._progress.windows
        self.good = self.bad = 0

    def started(self, file: ImageFile) -> None:
        """Is not shown."""

    def done(self, file: ImageFile, record: Record) -> None:
        self.good += 1
        self._running.step()

    def failed(self, file: ImageFile, error: Exception) -> None:
        self.bad += 1
        self._progress.say(f"skipped: {error}")
        self._running.step()
