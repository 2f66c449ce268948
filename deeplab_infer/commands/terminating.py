# SPDX-License-Identifier: Apache-2.0
"""A service manager's SIGTERM ends a command as Ctrl-C does: files are closed properly."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

from ..signals import handling


@contextlib.contextmanager
def stop_like_ctrl_c() -> Iterator[None]:
    """SIGTERM raises `KeyboardInterrupt` inside the block; elsewhere than in the main thread nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with handling(signal.default_int_handler, signal.SIGTERM):
        yield
