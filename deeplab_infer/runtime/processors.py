# SPDX-License-Identifier: Apache-2.0
"""Which processors this process may compute on."""

from __future__ import annotations

import os
from pathlib import Path

_TOPOLOGY = Path("/sys/devices/system/cpu")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def compute_threads(topology: Path = _TOPOLOGY, quota: Path = _QUOTA) -> int:
    """Threads that a network should run on: one a physical core that this process may use.

    Two threads of one core share its arithmetic units, which one thread of a convolution keeps busy. A container's
    limit of processor time (cgroup v2) counts too: threads beyond it are stopped for the rest of each period.

    Args:
        topology: Linux's description of the processors; where it says nothing, each counts as a core.
        quota: the container's ``cpu.max``.

    Returns:
        At least 1.
    """
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = {_siblings(topology / f"cpu{index}") or str(index) for index in usable}
    limit = _limit(quota)
    return max(1, len(cores) if limit is None else min(len(cores), limit))


def _siblings(processor: Path) -> str:
    """The processors of a core, as Linux lists them; empty where it does not."""
    try:
        return (processor / "topology" / "thread_siblings_list").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _limit(quota: Path) -> int | None:
    """Whole processors' worth of time, at least 1; None without a limit."""
    try:
        allowed, period = quota.read_text(encoding="ascii").split()
        return None if allowed == "max" else max(1, int(allowed) // int(period))
    except (OSError, ValueError):
        return None
