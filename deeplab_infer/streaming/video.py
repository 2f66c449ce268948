# SPDX-License-Identifier: Apache-2.0
"""Video files, and addresses that give a recording rather than what happens now."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ..errors import ImageError
from .decoding import Decoder, to_rgb
from .items import BYTES_A_PIXEL, Counts, Frame
from .pyav import Opening, explain, import_av, open_input, shown

_log = logging.getLogger(__name__)
SUFFIXES = frozenset({
    ".3gp", ".asf", ".avi", ".flv", ".h264", ".h265", ".hevc", ".m2ts", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov",
    ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m",
})  # fmt: skip
_COUNTING = frozenset({"mov", "mp4"})  # formats with an index of all frames
_SHORT_S = 0.5  # seconds that may be missing at the end: containers round


@dataclass(frozen=True)
class VideoInfo:
    """What a written video takes over from the one read.

    Attributes:
        rate: mean frames a second.
        pixel_aspect: width of a pixel over its height.
        audio_from: where its sound can be read from; None where there is none or it cannot be read a second time.
        has_audio: whether it has sound.
    """

    rate: Fraction
    pixel_aspect: Fraction
    audio_from: str | None
    has_audio: bool


def video_info(container: Any, audio_from: str | None) -> VideoInfo:
    """`VideoInfo` of an opened video."""
    stream = container.streams.video[0]
    has_audio = bool(container.streams.audio)
    rate = stream.average_rate or stream.guessed_rate or 25
    aspect = stream.codec_context.sample_aspect_ratio or 1
    return VideoInfo(Fraction(rate), Fraction(aspect), audio_from if has_audio else None, has_audio)


class VideoFile:
    """A recorded video.

    Args:
        source: path or address.
        container: opened; this object closes it.

    Attributes:
        info: what a written video takes over.
    """

    live = hurried = False

    def __init__(self, source: str, container: Any) -> None:
        self.name = shown(source)
        self.counts = Counts()
        self.info = video_info(container, source)
        self._container, self._stopped = container, False
        # Other containers count what may be empty, or not at all.
        counted = not _COUNTING.isdisjoint(container.format.name.split(","))
        self._announced: int = container.streams.video[0].frames if counted else 0
        self._duration_s = container.duration / 1_000_000 if container.duration else None

    @property
    def total(self) -> int | None:
        """Frames, counted by the container or estimated from its duration."""
        if self._announced or self._duration_s is None:
            return self._announced or None
        return max(1, round(self._duration_s * float(self.info.rate)))

    def frames(self) -> Iterator[Frame]:
        """See `Source.frames`.

        Raises:
            ImageError: the rest cannot be decoded or read.
        """
        decoder = Decoder(self._container, self.name)
        start = (self._container.start_time or 0) / 1_000_000
        count, last = 0, 0.0
        try:
            for picture in decoder.frames():
                if self._stopped:
                    return
                time_s = count / float(self.info.rate) if picture.time is None else max(0.0, picture.time - start)
                last = max(last, time_s)
                self.counts.damaged = decoder.damaged
                yield frame_of(picture, count, time_s, self.name, decoder.jumped)
                count += 1
        except import_av().error.FFmpegError as error:
            raise ImageError(
                f"{self.name}: cannot be read beyond {last:.2f} s ({explain(error)}); {count} frames were read"
            ) from error
        finally:
            self.counts.damaged = decoder.damaged
            self._container.close()
        self._tell_what_is_missing(count, last)

    def stop(self) -> None:
        """See `Source.stop`."""
        self._stopped = True

    def _tell_what_is_missing(self, count: int, last: float) -> None:
        if not count:
            raise ImageError(f"{self.name}: no frame of it can be decoded")
        self.counts.missing = max(0, self._announced - count)
        end = self._duration_s
        if self.counts.missing or self.counts.damaged:
            of = f" of {self._announced}" if self._announced else ""
            undecoded = self.counts.damaged
            _log.warning("%s: damaged: %d%s frames decoded, %d pieces undecodable", self.name, count, of, undecoded)
        elif end is not None and last < end - _SHORT_S - 2 / float(self.info.rate):
            what = "%s: ends after %.2f s, announced are %.2f s; it is truncated, or its sound is longer"
            _log.warning(what, self.name, last, end)


def frame_of(picture: Any, index: int, time_s: float, name: str, fresh: bool) -> Frame:
    """A decoded frame whose conversion to RGB waits until there is room."""
    return Frame(
        load=lambda: to_rgb(picture),
        cost=picture.width * picture.height * BYTES_A_PIXEL,
        index=index,
        time_s=time_s,
        source=name,
        fresh=fresh,
    )


def open_video(source: str, opening: Opening) -> VideoFile:
    """A video file.

    Raises:
        ImageError: it cannot be opened or holds no video.
        BackendError: PyAV or the decoder is missing.
    """
    return VideoFile(source, open_input(source, opening))
