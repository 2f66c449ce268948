# SPDX-License-Identifier: Apache-2.0
"""A job as it is handed to processes that do parts of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..outputs import OutputOptions
from .description import describe


@dataclass(frozen=True)
class Job:
    """Model, options and folder; may be pickled. Paths are absolute: workers may have another working folder.

    Attributes:
        model: path or name.
        segmenter: options of `Segmenter`.
        stream: ``batch`` and ``latency_ms`` of `Segmenter.stream`.
        outputs: what is written.
        folder: the output folder.
        max_pixels: of an image file.
    """

    model: str
    segmenter: dict[str, Any]
    stream: dict[str, Any]
    outputs: OutputOptions
    folder: Path
    max_pixels: int

    @classmethod
    def of(
        cls,
        model: str,
        segmenter: dict[str, Any],
        stream: dict[str, Any],
        outputs: OutputOptions,
        folder: str | os.PathLike[str],
        max_pixels: int,
    ) -> Job:
        """With absolute paths; a model that is no file keeps its name."""
        whole = os.path.abspath(model) if os.path.exists(model) else model
        return cls(whole, segmenter, stream, outputs, Path(os.path.abspath(folder)), max_pixels)

    def description(self) -> dict[str, Any]:
        """See `describe`."""
        return describe(self.model, self.segmenter, self.outputs)


@dataclass(frozen=True)
class Task:
    """What a worker has to know of the run.

    Attributes:
        job: what is to be done.
        fingerprint: of the model's file, which must be the same everywhere.
        token: of the job's folder, by which a worker sees that its folder is the same.
        root: folder to which names of images are relative, in files of the whole run.
        run: number of the run.
    """

    job: Job
    fingerprint: str
    token: str
    root: str | None
    run: int


class Outcome(NamedTuple):
    """What became of an image.

    Attributes:
        path: of the image.
        error: why it has no outputs; None where it has.
    """

    path: str
    error: str | None


def root_of(paths: Sequence[str]) -> str:
    """The folder that all images lie in."""
    return os.path.commonpath({os.path.dirname(path) for path in paths})
