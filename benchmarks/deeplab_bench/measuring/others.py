# SPDX-License-Identifier: Apache-2.0
"""What other processes take of the processors meanwhile: a timing beside them is not this program's."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

_STAT = Path("/proc/stat")
_IDLE = (3, 4)  # of the fields behind "cpu": idle, iowait
QUIET = 0.15


class OthersCpu:
    """Share of all processors' time that was spent outside this process, since it was made; Linux."""

    def __init__(self, stat: Path = _STAT) -> None:
        self._stat = stat
        self._start = self._read()

    def share(self) -> float | None:
        """0..1; None where the system does not say."""
        now, start = self._read(), self._start
        if now is None or start is None or now[1] <= start[1]:
            return None
        busy, total, own = (after - before for after, before in zip(now, start, strict=True))
        return min(1.0, max(0.0, (busy - own) / total))

    def _read(self) -> tuple[float, float, float] | None:
        """Seconds: busy, busy and idle, of this process."""
        try:
            fields = [int(text) for text in self._stat.read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]
        except (OSError, ValueError):
            return None
        total = sum(fields)
        idle = sum(fields[index] for index in _IDLE)
        tick = os.sysconf("SC_CLK_TCK")
        return (total - idle) / tick, total / tick, time.process_time()


def wait_for_quiet(
    seconds: float, sleep: Callable[[float], None] = time.sleep, others: Callable[[], OthersCpu] = OthersCpu
) -> None:
    """Wait until others take less than `QUIET` over one second, for ``seconds`` at most."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        watch = others()
        sleep(1.0)
        share = watch.share()
        if share is None or share < QUIET:
            return
