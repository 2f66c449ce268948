# SPDX-License-Identifier: Apache-2.0
"""The overlay of every frame of a video, as a video with its times and its sound."""

from __future__ import annotations

import logging
import os
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from ..errors import BackendError, DeepLabError
from ..images import Rgb
from ..segmentation import Segmentation
from .audio import AudioCopy
from .pyav import Opening, explain, import_av
from .video import VideoInfo

_log = logging.getLogger(__name__)
_CLOCK = 90_000  # ticks a second of the written times
# Encoders that PyAV may have, the best first, with their options.
ENCODERS: tuple[tuple[str, dict[str, str]], ...] = (
    ("libx264", {"preset": "veryfast", "crf": "20", "bf": "0"}),
    ("libopenh264", {"b": "8000000"}),
    ("mpeg4", {"q": "3"}),
)
# In pieces while it is written, so that what a full disk or a kill leaves can be played; an ordinary MP4 once closed.
_CONTAINER = {"movflags": "+hybrid_fragmented+delay_moov", "flush_packets": "1"}
_GOP = 50  # frames from one that needs no others to the next; also what a kill may cost


class OverlayVideo:
    """Writes ``path``, an MP4 with H.264 video; the file appears with the first frame.

    Frames keep their presentation times, so that a variable frame rate stays one. An odd width or height gets a
    repeated column or row, for 4:2:0 colour needs even sizes. Frames of another size than the first are scaled to it.

    Args:
        path: file to write, replaced where it exists.
        info: of the video that is read.
        opening: how its sound is opened; sound is copied as it is where MP4 takes it.
        alpha: opacity of the overlay's colours, 0..1.
        every: of how many frames one is written; the mean rate follows.
    """

    def __init__(self, path: Path, info: VideoInfo, opening: Opening, alpha: float, every: int = 1) -> None:
        self.path, self._info, self._opening = path, info, opening
        self._alpha, self._rate = alpha, info.rate / every
        self._container: Any = None
        self._stream: Any = None
        self._audio: AudioCopy | None = None
        self._size = (0, 0)  # height, width
        self._last = -1  # ticks
        self.frames = 0

    def write(self, result: Segmentation) -> None:
        """Add a frame at the ``time_s`` of its metadata.

        Raises:
            OSError: the disk is full, or the file cannot be written.
            BackendError: PyAV has no encoder.
        """
        picture = result.plot(self._alpha)
        if self._container is None:
            self._open(picture.shape[0], picture.shape[1])
        time_s = float(result.metadata["time_s"] or 0.0)
        self._last = max(self._last + 1, round(time_s * _CLOCK))
        frame = import_av().VideoFrame.from_ndarray(self._fitted(picture), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
        frame.pts, frame.time_base = self._last, Fraction(1, _CLOCK)
        self._mux(frame)
        if self._audio is not None:
            self._audio.copy_until(time_s)
        self.frames += 1

    def close(self, finished: bool = True) -> None:
        """End the file so that it can be played.

        Args:
            finished: the source has ended too: the rest of its sound is copied. Otherwise sound ends with the pictures.

        Raises:
            OSError: the disk is full; what was written before can be played.
        """
        container, self._container = self._container, None
        if container is None:
            return
        try:
            self._mux(None, container)
            if self._audio is not None:
                self._audio.copy_until(float("inf") if finished else self._last / _CLOCK)
        finally:
            if self._audio is not None:
                self._audio.close()
            self._close_file(container)

    def __enter__(self) -> OverlayVideo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(finished=error is None)

    # -- how

    def _open(self, height: int, width: int) -> None:
        av = import_av()
        self._size = (height + height % 2, width + width % 2)
        if self._size != (height, width):
            what = "%s: %d x %d pixels are padded to %d x %d, H.264 needs even sizes"
            _log.info(what, self.path.name, width, height, self._size[1], self._size[0])
        encoder, options = _encoder(av)
        # "file:" keeps FFmpeg from taking a name with a colon for an address.
        target = "file:" + os.path.abspath(self.path)
        self._container = av.open(target, "w", format="mp4", options=_CONTAINER)
        self._stream = self._container.add_stream(encoder, rate=self._rate.limit_denominator(1001), options=options)
        self._stream.height, self._stream.width, self._stream.pix_fmt = *self._size, "yuv420p"
        context = self._stream.codec_context
        context.time_base, context.gop_size = Fraction(1, _CLOCK), _GOP
        context.sample_aspect_ratio = self._info.pixel_aspect
        context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
        context.color_range = 1  # 16..235
        self._audio = self._open_audio(av)

    def _open_audio(self, av: Any) -> AudioCopy | None:
        if not self._info.has_audio:
            return None
        if self._info.audio_from is None:
            _log.info("%s: without sound; that of cameras is not recorded", self.path.name)
            return None
        try:
            return AudioCopy(self._info.audio_from, self._container, self._opening)
        except (av.error.FFmpegError, ValueError, DeepLabError) as error:
            _log.warning("%s: without sound: an MP4 file does not take it (%s)", self.path.name, explain(error))
            return None

    def _fitted(self, picture: Rgb) -> Rgb:
        height, width = picture.shape[:2]
        rows, columns = self._size
        if (height + height % 2, width + width % 2) != self._size:
            picture = np.asarray(cv2.resize(picture, (columns, rows), interpolation=cv2.INTER_AREA), np.uint8)
        elif (height, width) != self._size:
            picture = np.pad(picture, ((0, rows - height), (0, columns - width), (0, 0)), mode="edge")
        return np.ascontiguousarray(picture)

    def _mux(self, frame: Any, container: Any = None) -> None:
        with _as_os_error(self.path):
            for packet in self._stream.encode(frame):
                (container or self._container).mux_one(packet)

    def _close_file(self, container: Any) -> None:
        with _as_os_error(self.path):
            container.close()


class _as_os_error:
    """FFmpeg's errors of writing as `OSError` with the name of the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, import_av().error.FFmpegError):
            raise OSError(error.errno, error.strerror or str(error), str(self._path)) from error


def _encoder(av: Any) -> tuple[str, dict[str, str]]:
    for number, (name, options) in enumerate(ENCODERS):
        if name in av.codecs_available:
            if number:
                _log.warning("this PyAV has no %s; the overlay video is encoded with %s", ENCODERS[0][0], name)
            return name, options
    names = ", ".join(name for name, _ in ENCODERS)
    raise BackendError(f"this PyAV has none of the encoders {names}; take another: pip install 'deeplab-infer[video]'")
