# SPDX-License-Identifier: Apache-2.0
"""How far a stream is: a bar with frames a second and the time left; without a terminal a line now and then."""

from __future__ import annotations

import logging
from time import perf_counter
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from .cli import make_console

_log = logging.getLogger(__name__)
_EVERY_S = 30.0


class _Count(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.completed:.0f}" + (f"/{task.total:.0f}" if task.total else ""))


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if not task.speed else f"{task.speed:.1f} {task.fields.get('unit', '')}")


class _Left(ProgressColumn):
    """The time left, or where the end is unknown the time that passed."""

    max_refresh = 0.5

    def __init__(self) -> None:
        super().__init__()
        self._left, self._passed = TimeRemainingColumn(), TimeElapsedColumn()

    def render(self, task: Task) -> Text:
        return self._left.render(task) if task.total else self._passed.render(task)


class StreamProgress:
    """A context manager; used from one thread, but for `windows`.

    Args:
        quiet: show nothing.
    """

    def __init__(self, quiet: bool) -> None:
        self._console, self._quiet = make_console(stderr=True), quiet
        hidden = quiet or not self._console.is_terminal
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), _Count(), _Rate(), _Left())
        self._bar = Progress(*columns, console=self._console, disable=hidden, transient=True)
        self._windows = self._bar.add_task("windows", visible=False)
        self._lines = hidden and not quiet

    def __enter__(self) -> StreamProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin(self, name: str, total: int | None, unit: str) -> Running:
        """A new bar.

        Args:
            name: of what is done.
            total: how much there is, where that is known.
            unit: what is counted a second, e.g. ``"fps"``.
        """
        return Running(self._bar, self._bar.add_task(name, total=total, unit=unit), self._lines)

    def windows(self, done: int, total: int) -> None:
        """How far a large image is."""
        self._bar.update(self._windows, completed=done, total=total, visible=done < total)

    def say(self, message: str) -> None:
        """Print a problem above the bar."""
        self._console.print(message, style="red", markup=False, soft_wrap=True)


class Running:
    """One bar."""

    def __init__(self, bar: Progress, task: Any, lines: bool) -> None:
        self._bar, self._task, self._lines = bar, task, lines
        self._begun = self._said = perf_counter()
        self.count = 0

    @property
    def seconds(self) -> float:
        """Since the bar began."""
        return perf_counter() - self._begun

    @property
    def rate(self) -> float:
        """Steps a second so far."""
        return self.count / max(self.seconds, 1e-9)

    def step(self) -> None:
        """One more is done."""
        self.count += 1
        self._bar.advance(self._task)
        now = perf_counter()
        if self._lines and now - self._said >= _EVERY_S:
            self._said = now
            task = self._bar.tasks[self._bar.task_ids.index(self._task)]
            of = f" of {task.total:.0f}, about {(task.total - self.count) / self.rate:.0f} s left" if task.total else ""
            _log.info("%s: %d%s, %.1f a second", task.description, self.count, of, self.rate)

    def end(self) -> None:
        """Take the bar away."""
        self._bar.remove_task(self._task)
