# SPDX-License-Identifier: Apache-2.0
"""Cameras: addresses and V4L2 devices, connected again when they are lost."""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from ..errors import DeepLabError, ImageError
from .decoding import Decoder
from .items import Counts, Frame
from .pyav import Opening, explain, import_av, is_final, open_input, shown
from .video import VideoFile, frame_of, video_info

_log = logging.getLogger(__name__)
# Formats without times of their own, for which FFmpeg supposes 25 frames a second.
_UNTIMED = frozenset({"mpjpeg", "mjpeg", "jpeg_pipe", "image2pipe", "h264", "hevc"})
_STEP_S = 1e-3


@dataclass(frozen=True)
class Reconnect:
    """How a lost camera is looked for.

    Attributes:
        attempts: in a row; 0 for none.
        first_s: seconds before the first; each further wait is twice as long.
        cap_s: longest wait in seconds.
    """

    attempts: int = 10
    first_s: float = 0.5
    cap_s: float = 30.0

    def __post_init__(self) -> None:
        if self.attempts < 0 or self.first_s < 0 or self.cap_s < self.first_s:
            raise DeepLabError(
                "reconnecting needs attempts >= 0 and 0 <= first delay <= longest delay, got "
                f"{self.attempts}, {self.first_s} s, {self.cap_s} s"
            )

    def delay_s(self, attempt: int) -> float:
        """Seconds before an attempt, counted from 0."""
        return min(self.cap_s, self.first_s * 2.0 ** min(attempt, 60))


class Camera:
    """A live source.

    Times are those of the stream, in seconds from its first frame; after a reconnect they go on with the time that
    passed, and for formats without times they are those of arrival.

    Args:
        source: address or device.
        container: opened; this object closes it.
        opening: how it is opened again.
        reconnect: how often.

    Attributes:
        info: what a written video takes over.
    """

    live = hurried = True
    total = None

    def __init__(self, source: str, container: Any, opening: Opening, reconnect: Reconnect) -> None:
        self.name = shown(source)
        self.counts = Counts()
        self.info = video_info(container, None)
        self._source, self._container = source, container
        self._opening, self._reconnect = opening, reconnect
        self._stop = threading.Event()
        self._begun: float | None = None
        self._index, self._last, self._damaged_before = 0, -_STEP_S, 0

    def frames(self) -> Iterator[Frame]:
        """See `Source.frames`.

        Raises:
            ImageError: it is gone and does not come back.
        """
        attempt, container = 0, self._container
        while not self._stop.is_set():
            before = self._index
            reason, ended = yield from self._connection(container)
            attempt = 0 if self._index > before else attempt
            if self._stop.is_set():
                return
            if self._reconnect.attempts == 0 and self._index:
                _log.log(logging.INFO if ended else logging.WARNING, "%s: %s", self.name, reason)
                return
            found, attempt = self._connect_again(reason, attempt)
            if found is None:
                return
            container = found

    def stop(self) -> None:
        """See `Source.stop`."""
        self._stop.set()

    def _connection(self, container: Any) -> Generator[Frame, None, tuple[str, bool]]:
        """Frames of one connection; returns why it ended, and whether it ended in order."""
        decoder = Decoder(container, self.name)
        untimed = not _UNTIMED.isdisjoint(container.format.name.split(","))
        offset: float | None = None
        fresh = True
        try:
            for picture in decoder.frames():
                if self._stop.is_set():
                    return "stopped", True
                now = perf_counter()
                self._begun = now if self._begun is None else self._begun
                time_s = now - self._begun
                if not untimed and picture.time is not None:
                    offset = time_s - picture.time if offset is None else offset
                    time_s = picture.time + offset
                self._last = max(time_s, self._last + _STEP_S)
                self.counts.damaged = self._damaged_before + decoder.damaged
                yield frame_of(picture, self._index, self._last, self.name, fresh or decoder.jumped)
                self._index, fresh = self._index + 1, False
            return "the stream ended", True
        except import_av().error.FFmpegError as error:
            return explain(error), False
        except ImageError as error:
            return str(error), False
        finally:
            self._damaged_before += decoder.damaged
            self.counts.damaged = self._damaged_before
            container.close()

    def _connect_again(self, reason: str, attempt: int) -> tuple[Any, int]:
        """A new container and the attempts so far; None when stopped."""
        while attempt < self._reconnect.attempts:
            delay = self._reconnect.delay_s(attempt)
            attempt += 1
            _log.warning(
                "%s: %s; connecting again in %.1f s (attempt %d of %d)",
                self.name, reason, delay, attempt, self._reconnect.attempts,
            )  # fmt: skip
            if self._stop.wait(delay):
                return None, attempt
            try:
                container = open_input(self._source, self._opening)
            except import_av().error.FFmpegError as error:
                reason = explain(error)
                if is_final(error):
                    break
            except ImageError as error:
                reason = str(error)
            else:
                self.counts.reconnects += 1
                _log.warning("%s: connected again", self.name)
                return container, attempt
        raise ImageError(
            f"{self.name}: the camera is gone after {self._index} frames: {reason}; {attempt} attempts to connect again"
        )


def open_live(source: str, opening: Opening, reconnect: Reconnect) -> Camera | VideoFile:
    """A camera; an address that says how long it is gives a recording instead.

    Raises:
        ImageError: it cannot be opened; the first connection is tried once, so that a wrong address is said at once.
        BackendError: PyAV or the decoder is missing.
    """
    try:
        container = open_input(source, opening)
    except import_av().error.FFmpegError as error:
        raise ImageError(f"{shown(source)}: {explain(error)}") from error
    if container.duration and container.duration > 0:
        return VideoFile(source, container)
    return Camera(source, container, opening, reconnect)
