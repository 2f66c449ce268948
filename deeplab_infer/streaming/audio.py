# SPDX-License-Identifier: Apache-2.0
"""Sound of one video copied into another, without encoding it again."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from .pyav import Opening, explain, import_av, open_again, shown

_log = logging.getLogger(__name__)


class AudioCopy:
    """Copies the first audio stream of a source, which is opened a second time, as the pictures advance.

    Args:
        source: path or address.
        output: container that is written; the stream is added to it.
        opening: how the source is opened.
    """

    def __init__(self, source: str, output: Any, opening: Opening) -> None:
        self._name = shown(source)
        self._container = open_again(source, opening)
        self._start = (self._container.start_time or 0) / 1_000_000
        stream = self._container.streams.audio[0]
        self._packets: Iterator[Any] = self._container.demux(stream)
        self._next: Any = None
        self._output = output
        try:
            self._stream = output.add_stream_from_template(stream)
        except BaseException:
            self.close()
            raise

    def copy_until(self, time_s: float) -> None:
        """Copy what is heard up to a time, in seconds from the start of the source.

        Raises:
            OSError: it cannot be written.
        """
        while (packet := self._peek()) is not None:
            if float(packet.dts * packet.time_base) - self._start > time_s:
                return
            self._next = None
            shift = round(self._start / packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts - shift
            packet.dts -= shift
            packet.stream = self._stream
            self._output.mux_one(packet)

    def close(self) -> None:
        """Close the source."""
        self._container.close()

    def _peek(self) -> Any:
        """The next packet, None at the end; where sound is damaged it ends, with a message."""
        while self._next is None:
            try:
                packet = next(self._packets)
            except StopIteration:
                return None
            except import_av().error.FFmpegError as error:
                _log.warning("%s: its sound ends early: %s", self._name, explain(error))
                self._packets = iter(())
                return None
            if packet.dts is not None:  # the last one is empty
                self._next = packet
        return self._next
