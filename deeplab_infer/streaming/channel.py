# SPDX-License-Identifier: Apache-2.0
"""Hand-over between threads, bounded in number, and a bound on bytes for all of them together."""

from __future__ import annotations

import threading
from collections import deque
from time import perf_counter
from typing import Final, Generic, TypeVar

T = TypeVar("T")


class _Mark:
    pass


END: Final = _Mark()  # nothing will come any more
NOTHING: Final = _Mark()  # nothing came in time


class Channel(Generic[T]):
    """A queue of at most ``size`` items that either side can end.

    Attributes:
        peak: most items that it has held.
        error: why the producer ended early.
    """

    def __init__(self, size: int) -> None:
        self._size, self._items = size, deque[T]()
        self._changed = threading.Condition()
        self._finished = self._closed = self._held = False
        self.peak = 0
        self.error: BaseException | None = None

    def put(self, item: T) -> bool:
        """Hand over, waiting for room; False when nobody wants it any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._size)
            return self._append(item)

    def put_newest(self, item: T) -> list[T]:
        """Hand over at once; gives back what had to leave for it, the oldest."""
        with self._changed:
            left = [self._items.popleft() for _ in range(len(self._items) - self._size + 1)]
            self._append(item)
            return left

    def get(self, until: float | None = None) -> T | _Mark:
        """The oldest item, or `END`, or `NOTHING`.

        Args:
            until: a time of `perf_counter` until which to wait; a producer that is held is not waited for either. None
                waits for an item or the end.
        """
        with self._changed:
            while not self._items:
                if self._finished or self._closed:
                    return END
                left = None if until is None else until - perf_counter()
                if left is not None and (left <= 0 or self._held):
                    return NOTHING
                self._changed.wait(left)
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def hold(self, held: bool) -> None:
        """The producer waits for memory (or no longer): whoever collects items should go on with what is there."""
        with self._changed:
            self._held = held
            self._changed.notify_all()

    def finish(self, error: BaseException | None = None) -> None:
        """No more items; the consumer still gets those that are there."""
        with self._changed:
            self._finished, self.error = True, error
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody takes items any more; what is there is forgotten."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()

    def _append(self, item: T) -> bool:
        if self._closed:
            return False
        self._items.append(item)
        self.peak = max(self.peak, len(self._items))
        self._changed.notify_all()
        return True


class Budget:
    """Bytes that may be in use at once; something larger than all of it goes alone.

    Attributes:
        peak: most bytes in use.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._used, self._closed = limit, 0, False
        self._changed = threading.Condition()
        self.peak = 0

    def try_take(self, cost: int) -> bool:
        """Take ``cost`` bytes if they are free."""
        with self._changed:
            return self._take(cost)

    def take(self, cost: int) -> bool:
        """Take ``cost`` bytes, waiting for them; False once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._fits(cost))
            return self._take(cost)

    def give(self, cost: int) -> None:
        """Give ``cost`` bytes back."""
        with self._changed:
            self._used -= cost
            self._changed.notify_all()

    def close(self) -> None:
        """Let nobody wait any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _fits(self, cost: int) -> bool:
        return self._used == 0 or self._used + cost <= self._limit

    def _take(self, cost: int) -> bool:
        if self._closed or not self._fits(cost):
            return False
        self._used += cost
        self.peak = max(self.peak, self._used)
        return True
