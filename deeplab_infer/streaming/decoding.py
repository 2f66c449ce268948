# SPDX-License-Identifier: Apache-2.0
"""Frames of an opened video: past damaged places, upright, as RGB."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from ..images import Rgb
from .pyav import explain, import_av

_log = logging.getLogger(__name__)
_GIVE_UP = 1000  # pieces in a row that cannot be decoded


class Decoder:
    """Decoded frames of the first video stream of a container.

    Attributes:
        damaged: pieces that could not be decoded so far.
        jumped: whether the last frame given comes after such a piece.
    """

    def __init__(self, container: Any, name: str) -> None:
        self._container, self._name = container, name
        self._stream = container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self.damaged = 0
        self.jumped = False
        self._in_a_row = 0

    def frames(self) -> Iterator[Any]:
        """PyAV's frames in order of presentation.

        A piece that cannot be decoded is counted, reported once with its place, and passed over: decoding goes on with
        the next one that can.

        Raises:
            ImageError: nothing but damaged pieces any more.
            av.error.FFmpegError: the source cannot be read any more.
        """
        errors = import_av().error
        for packet in self._container.demux(self._stream):
            try:
                decoded = packet.decode()
            except (errors.InvalidDataError, errors.PatchWelcomeError) as error:
                self._note(packet, error)
                continue
            for frame in decoded:
                self._in_a_row = 0
                yield frame
                self.jumped = False

    def _note(self, packet: Any, error: Exception) -> None:
        self.damaged += 1
        self._in_a_row += 1
        self.jumped = True
        where = "" if packet.pts is None else f" at {float(packet.pts * packet.time_base):.2f} s"
        if self.damaged == 1:
            what = "%s: damaged%s (%s); going on with the next frame that can be decoded"
            _log.warning(what, self._name, where, getattr(error, "strerror", None) or error)
        if self._in_a_row >= _GIVE_UP:
            raise ImageError(
                f"{self._name}: {self._in_a_row} pieces in a row{where} cannot be decoded ({explain(error)}); the rest "
                "of the video is left out"
            )


def to_rgb(frame: Any) -> Rgb:
    """A decoded frame as it should be seen: uint8 [H, W, 3] RGB, turned and mirrored as its display matrix says."""
    return upright(frame.to_ndarray(format="rgb24"), display_matrix(frame))


def display_matrix(frame: Any) -> tuple[int, int, int, int] | None:
    """(a, b, c, d) of a frame's display matrix: a pixel (x, y) is seen at (a x + c y, b x + d y), up to a shift."""
    raw = frame.side_data.get("DISPLAYMATRIX")
    if raw is None:
        return None
    values = np.frombuffer(bytes(raw), np.int32)
    return int(values[0]), int(values[1]), int(values[3]), int(values[4])


def upright(pixels: Rgb, matrix: tuple[int, int, int, int] | None) -> Rgb:
    """Pixels [H, W, 3] turned by multiples of 90 degrees and mirrored; other turns are left out, with a message."""
    if matrix is None:
        return pixels
    a, b, c, d = matrix
    if not b and not c:
        turned, flip_x, flip_y = pixels, a < 0, d < 0
    elif not a and not d:
        turned, flip_x, flip_y = pixels.transpose(1, 0, 2), c < 0, b < 0
    else:
        _log.warning("the video asks to be turned by an angle that is no multiple of 90 degrees; it is not turned")
        return pixels
    view: NDArray[np.uint8] = turned[:: -1 if flip_y else 1, :: -1 if flip_x else 1]
    return np.ascontiguousarray(view)
