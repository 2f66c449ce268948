# SPDX-License-Identifier: Apache-2.0
"""The one `openvino.Core` of a process."""

from __future__ import annotations

import os
from typing import Any

import openvino

# A forked child must not use its parent's, whose threads it has not; it must not free it either.
_CORES: dict[int, Any] = {}


def shared_core() -> Any:
    """The process's `openvino.Core`, made at the first call and never freed.

    OpenVINO's CPU plugin gives the thread that makes a Core an alternate signal stack and takes it back with the Core.
    Of two Cores closed in the order in which they were made, or of one closed in another thread, it leaves the thread a
    stack that is unmapped: the next signal with a handler (Ctrl-C, a child that ends) kills the process with SIGSEGV.
    Seen with OpenVINO 2026.4.1.
    """
    pid = os.getpid()
    if pid not in _CORES:
        _CORES.setdefault(pid, openvino.Core())
    return _CORES[pid]
