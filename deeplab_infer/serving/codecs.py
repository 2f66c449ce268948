# SPDX-License-Identifier: Apache-2.0
"""Decoding and encoding beside the event loop, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")


class Codecs:
    """Threads for work that one request waits for.

    Args:
        count: how many; as many images are in decoded and encoded form at once.
    """

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, "deeplab-codec")

    async def run(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """Await ``work(*arguments)`` in a thread; cancelled before it began, it never runs."""
        # The pool keeps cancelled jobs until a thread is free: theirs must not hold an image.
        job: list[Any] = [work, *arguments]
        future = self._pool.submit(_run, job)
        try:
            return await asyncio.wrap_future(future)
        finally:
            job.clear()

    def close(self) -> None:
        """Wait for what is running."""
        self._pool.shutdown()


def _run(job: list[Any]) -> Any:
    taken = job.copy()
    return taken[0](*taken[1:]) if taken else None
