# SPDX-License-Identifier: Apache-2.0
"""A list of measurements within a budget of time: what does not fit is left out and said, and Ctrl-C keeps the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from deeplab_infer.errors import DeepLabError
from deeplab_infer.files import require_writable_dir

from ..records import Record, Result, make_record, now, write_record

if TYPE_CHECKING:
    from rich.console import Console

_GRACE_S = 30.0  # beyond the budget, for a task that was thought to fit


@dataclass(frozen=True)
class Task:
    """One measurement.

    Attributes:
        name: what the progress bar and the list of what was left out say.
        seconds: how long it should take; corrected by how long earlier tasks took.
        run: measures; takes the seconds after which it should give up, or None.
    """

    name: str
    seconds: float
    run: Callable[[float | None], Result | list[Result]]


@dataclass
class Campaign:
    """Runs tasks in their order, which should be that of their worth.

    Attributes:
        kind: of the record.
        budget: seconds for all tasks; None is no limit.
        path: JSON file that is rewritten after every task, so that nothing is lost whatever happens.
        protocol, extra: of the record.
        results, left_out, interrupted: what came of it.
    """

    kind: str
    budget: float | None = None
    path: str | None = None
    protocol: dict[str, Any] = field(default_factory=dict)
    ceilings: dict[str, Any] | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    clock: Callable[[], float] = perf_counter
    results: list[Result] = field(default_factory=list)
    left_out: list[dict[str, str]] = field(default_factory=list)
    interrupted: bool = False

    def __post_init__(self) -> None:
        """Find out about a bad budget or path before minutes of measuring.

        Raises:
            DeepLabError: a budget that is not positive.
            OSError: the result cannot be written.
        """
        if self.budget is not None and self.budget <= 0:
            raise DeepLabError(f"--budget must be positive, got {self.budget:g}; leave it out for no limit")
        if self.path:
            require_writable_dir(Path(self.path).parent)
        self._started, self._began = now(), self.clock()
        self._spent = self._expected = 0.0

    def run(self, tasks: Iterable[Task], console: Console) -> Record:
        """Run what fits; the record of it, written to `path` if there is one."""
        waiting = list(tasks)
        with _progress(console, len(waiting)) as progress:
            while waiting and not self.interrupted:
                task = waiting.pop(0)
                if not self._fits(task):
                    self.leave_out(task.name, f"would not fit into the budget of {self.budget:g} s")
                    progress.done(task.name)
                    continue
                progress.start(task.name)
                try:
                    self._run(task)
                except KeyboardInterrupt:
                    self.interrupted = True
                    waiting.insert(0, task)
                progress.done(task.name)
        for task in waiting:
            self.leave_out(task.name, "interrupted")
        return self.record()

    def leave_out(self, name: str, reason: str) -> None:
        """Note what is not measured, and why."""
        self.left_out.append({"name": name, "reason": reason})

    def record(self) -> Record:
        """What came of it, for those who change the results afterwards; written to `path` if there is one."""
        return self._record(complete=not self.interrupted)

    def _record(self, complete: bool) -> Record:
        record = make_record(
            self.kind,
            self.results,
            self._started,
            left_out=self.left_out,
            complete=complete,
            ceilings=self.ceilings,
            protocol=self.protocol,
            extra=self.extra,
        )
        if self.path:
            write_record(self.path, record)
        return record

    def _run(self, task: Task) -> None:
        began = self.clock()
        left = None if self.budget is None else max(1.0, self._left()) + _GRACE_S
        found = task.run(left)
        self.results += found if isinstance(found, list) else [found]
        self._spent += self.clock() - began
        self._expected += task.seconds
        if self.path:
            self._record(complete=False)

    def _left(self) -> float:
        assert self.budget is not None
        return self.budget - (self.clock() - self._began)

    def _fits(self, task: Task) -> bool:
        if self.budget is None:
            return True
        pace = self._spent / self._expected if self._expected else 1.0
        return task.seconds * pace <= self._left()


class _Bar:
    def __init__(self, progress: Any, task: Any) -> None:
        self._progress, self._task = progress, task

    def start(self, name: str) -> None:
        self._progress.update(self._task, description=name)

    def done(self, name: str) -> None:
        self._progress.update(self._task, advance=1, description=name)


class _Lines:
    """For a terminal that is not one: a line a task, without bars."""

    def __init__(self, console: Console, total: int) -> None:
        self._console, self._total, self._count = console, total, 0

    def start(self, name: str) -> None:
        self._console.print(f"[{self._count + 1}/{self._total}] {name}", markup=False, highlight=False)

    def done(self, name: str) -> None:
        self._count += 1


def _progress(console: Console, total: int) -> Any:
    if not console.is_terminal:
        return nullcontext(_Lines(console, total))
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        BarColumn(20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    return _Shown(Progress(*columns, console=console, transient=True), total)


class _Shown:
    """A rich progress bar as a context that gives a `_Bar`."""

    def __init__(self, progress: Any, total: int) -> None:
        self._progress, self._total = progress, total

    def __enter__(self) -> _Bar:
        self._progress.start()
        return _Bar(self._progress, self._progress.add_task("", total=self._total))

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
