# SPDX-License-Identifier: Apache-2.0
"""JSON lines of frames, there for a reader as soon as each is done."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import IO, Any

from ..files import append_whole, json_line
from ..segmentation import Segmentation


class FrameLines:
    """Writes ``path``, a line a frame; it appears with the first one, and only ever holds whole lines.

    Args:
        path: file to write, replaced where it exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream: IO[bytes] | None = None

    def write(self, result: Segmentation) -> None:
        """Add a frame.

        Raises:
            OSError: the disk is full, or the file cannot be written; the line is not in it.
        """
        line = json_line(frame_record(result))
        if self._stream is None:
            self._stream = open(self.path, "wb", buffering=0)  # noqa: SIM115  closed by `close`
        append_whole(self._stream, line.encode())

    def close(self) -> None:
        """No more lines."""
        if self._stream is not None:
            self._stream.close()

    def __enter__(self) -> FrameLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def frame_record(result: Segmentation) -> dict[str, Any]:
    """What is written of a frame: its number, time in seconds, size, area of each class present (0..1), and timings."""
    whole = result.to_dict()
    time_s = result.metadata["time_s"]
    record = {"frame": result.metadata["frame"], "time_s": None if time_s is None else round(time_s, 6)}
    kept = ("height", "width", "areas", "timings_ms", "mean_score")
    return record | {key: whole[key] for key in kept if key in whole}
