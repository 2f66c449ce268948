# SPDX-License-Identifier: Apache-2.0
"""One video or camera through a model: overlay video, JSON lines, files of every frame."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import DeepLabError, ImageError
from ..files import require_writable_dir
from ..outputs import OutputOptions, Outputs
from ..segmentation import Segmentation
from ..streaming.lines import FrameLines
from ..streaming.names import Name
from ..streaming.pyav import shown
from ..streaming.stream import Stream
from ..streaming.video_writer import OverlayVideo
from .stream_progress import Running, StreamProgress

# Options that make files of images, which a video has only with --frames.
_OF_IMAGES = ("npz", "coco", "labelme", "cvat", "geotiff")


@dataclass(frozen=True)
class VideoPlan:
    """What is written of each video.

    Attributes:
        outputs: what is asked for of images, and which pixels keep their class.
        video: NAME_overlay.mp4; frames: a folder NAME with the files of every frame. NAME.jsonl follows from `outputs`.
        max_frames: results after which it ends.
    """

    outputs: OutputOptions
    video: bool
    frames: bool
    max_frames: int | None

    def check(self) -> None:
        """Refuse what would write nothing, or not what was asked for.

        Raises:
            DeepLabError: what to do instead.
        """
        asked = [name for name in _OF_IMAGES if getattr(self.outputs, name)]
        if asked and not self.frames:
            raise DeepLabError(
                f"--{asked[0]} makes files of images; a video gives NAME_overlay.mp4 and with --json NAME.jsonl. Add "
                "--frames for files of every frame"
            )
        if not (self.video or self.outputs.json or self.frames):
            raise DeepLabError("nothing would be written of a video: with --no-video give --json or --frames")

    @property
    def suffixes(self) -> list[str]:
        """What is appended to a video's stem."""
        wanted = {"_overlay.mp4": self.video, ".jsonl": self.outputs.json, "": self.frames}
        return [suffix for suffix, asked in wanted.items() if asked]

    @property
    def needs_scores(self) -> bool:
        """Whether results need scores."""
        return self.outputs.threshold is not None or (self.frames and self.outputs.needs_scores)


class VideoFiles:
    """The files of one video, closed so that they can be used whatever happens."""

    def __init__(self, stream: Stream, folder: Path, stem: str, plan: VideoPlan, segmenter: Any, every: int) -> None:
        info, opening = stream.source.info, stream.options.opening  # type: ignore[attr-defined]
        self._choice = plan.outputs
        self._overlay: OverlayVideo | None = None
        self._lines: FrameLines | None = None
        self._images: Outputs | None = None
        self.names: list[str] = []
        if plan.video:
            path = folder / f"{stem}_overlay.mp4"
            self._overlay = OverlayVideo(path, info, opening, plan.outputs.alpha, every)
            self.names.append(path.name)
        if plan.outputs.json:
            self._lines = FrameLines(folder / f"{stem}.jsonl")
            self.names.append(f"{stem}.jsonl")
        if plan.frames:
            options = replace(plan.outputs, json=False)
            place = require_writable_dir(folder / stem)
            self._images = Outputs(place, options, segmenter.classes, segmenter.palette)
            self.names.append(f"{stem}/")

    def write(self, result: Segmentation) -> None:
        """Add a frame."""
        chosen = self._choice.choose(result)
        if self._overlay is not None:
            self._overlay.write(chosen)
        if self._lines is not None:
            self._lines.write(chosen)
        if self._images is not None:
            self._images.write(result, f"{result.metadata['frame']:08d}")

    def __enter__(self) -> VideoFiles:
        self._stack = contextlib.ExitStack()
        for file in (self._overlay, self._lines, self._images):
            if file is not None:
                self._stack.enter_context(file)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)


def segment_video(
    segmenter: Any,
    name: Name,
    stem: str,
    folder: Path,
    plan: VideoPlan,
    progress: StreamProgress,
    options: dict[str, Any],
) -> tuple[int, bool]:
    """Segment a video or camera; what cannot be read is said.

    Args:
        segmenter: the model.
        name: path, address or device.
        stem: name of its outputs; folder: where they go; plan: which.
        progress: shows how far it is.
        options: of `Segmenter.stream`.

    Returns:
        Frames done, and whether that is all of it.

    Raises:
        OSError: the disk is full; what was written before is kept.
    """
    told = shown(str(name))
    stream: Stream | None = None
    try:
        stream = segmenter.stream(name, scores=plan.needs_scores, progress=progress.windows, **options)
        assert stream is not None
        with stream, VideoFiles(stream, folder, stem, plan, segmenter, options["every"]) as files:
            running = progress.begin(told, _fewer(stream.total, plan.max_frames), "fps")
            try:
                for result in islice(stream, plan.max_frames):
                    files.write(result)
                    running.step()
            finally:
                running.end()
                print(_summary(told, stream, running, files.names))
    except ImageError as error:
        progress.say(f"{'ended early' if stream is not None and stream.given else 'skipped'}: {error}")
        return (0 if stream is None else stream.given), False
    return stream.given, not (stream.failures or stream.counts.damaged or stream.counts.missing)


def _fewer(total: int | None, limit: int | None) -> int | None:
    return limit if total is None else total if limit is None else min(total, limit)


def _summary(name: str, stream: Stream, running: Running, files: list[str]) -> str:
    counts = stream.counts
    notes = {
        "dropped": stream.dropped,
        "missing": counts.missing,
        "damaged pieces": counts.damaged,
        "reconnects": counts.reconnects,
    }
    said = "".join(f", {number} {what}" for what, number in notes.items() if number)
    where = f" into {', '.join(files)}" if running.count else ""
    return f"{name}: {running.count} frames in {running.seconds:.1f} s, {running.rate:.1f} fps{said}{where}"
