# SPDX-License-Identifier: Apache-2.0
"""Signals while a block runs."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def handling(handler: Callable[[int, Any], Any], *numbers: signal.Signals) -> Iterator[None]:
    """Inside the block these signals go to the handler, afterwards to whoever had them; in the main thread only."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
