# SPDX-License-Identifier: Apache-2.0
"""A process's part of a job: one model, one journal, images as they come."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import DeepLabError, first_line
from ..outputs import Outputs
from .description import fingerprint
from .folder import NAME, journals, read_token
from .job import Outcome, Task
from .journal import Journal, JournalName, identify
from .ledger import DEADLY, Ledger
from .segmenting import ImageFile, segment_files

if TYPE_CHECKING:
    from ..segmenter import Segmenter

# Images in a row that fail for another reason than being bad images: then it is not the images.
_IN_A_ROW = 10
_OPENINGS = 3
Tell = Callable[[Outcome], None]


class Worker:
    """Segments images and keeps a journal of it. A context manager.

    Args:
        task: what is to be done.
        writer: names this worker within the run; who takes the place of a dead one has the same name.
        past: what is known of images from before; None reads what those wrote whose place it takes.
        windows: is told how far a large image is.

    Raises:
        DeepLabError: the folder or the model's file is not that of the task, or the model cannot be opened.
        OSError: the journal cannot be written.
    """

    def __init__(
        self,
        task: Task,
        writer: str,
        past: Ledger | None = None,
        windows: Callable[[int, int], None] | None = None,
    ) -> None:
        folder = task.job.folder / NAME
        _check_place(task, folder)
        self._windows = windows
        self._task, self._failures = task, 0
        self._tell: Tell = _nobody
        before = [name for name in journals(folder) if (name.run, name.writer) == (task.run, writer)]
        self._past = past or Ledger()
        name = JournalName(task.run, writer, len(before))
        about = {"writer": writer, "host": platform.node(), "pid": os.getpid(), "version": __version__}
        self._journal = Journal(folder / name.file, about)
        if past is None and before:
            self._past.read(folder, [*before, name], run=task.run)
            _check_openings(folder, before)
        try:
            self._segmenter = self._open()
        except BaseException:
            self._journal.close(ended=True)
            raise

    def work(self, files: Sequence[ImageFile], tell: Tell) -> None:
        """Segment images; what is said of them is on the disk when this ends.

        Args:
            files: a part that fits in memory many times.
            tell: is told what became of each, in any order.

        Raises:
            OSError: the disk is full, or a file cannot be written.
            DeepLabError: many images in a row failed for a reason that is not theirs.
        """
        left = {file.path: file for file in files}

        def remember(outcome: Outcome) -> None:
            left.pop(outcome.path, None)
            tell(outcome)

        self._tell = remember
        together = [file for file in files if not self._known(file)]
        with contextlib.suppress(_Unexpected):
            self._segment(together)
        # Those that were in work when a process died or something else broke: one at a time, to know which it is.
        for file in list(left.values()):
            self._alone(file)
        self._journal.sync()

    def close(self, *, ended: bool = True) -> None:
        """No more images follow. ``ended``: this is no death."""
        self._segmenter.close()
        self._journal.close(ended=ended)

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- Watcher

    def started(self, file: ImageFile) -> None:
        """See `Watcher`."""
        self._journal.started(file.path)

    def done(self, file: ImageFile, record: dict[str, Any]) -> None:
        """See `Watcher`."""
        self._journal.done(file.path, record)
        self._failures = 0
        self._tell(Outcome(file.path, None))

    def failed(self, file: ImageFile, error: Exception) -> None:
        """See `Watcher`."""
        self._fail(file, str(error))

    def windows(self, done: int, total: int) -> None:
        """See `Watcher`."""
        if self._windows is not None:
            self._windows(done, total)

    # -- how

    def _open(self) -> Segmenter:
        from ..segmenter import Segmenter

        job = self._task.job
        segmenter = Segmenter(job.model, **job.segmenter)
        try:
            palette, classes = segmenter.palette, segmenter.classes
            root = self._task.root
            self._outputs = Outputs(job.folder, job.outputs, classes, palette, root=root, whole_run=False)
            self._journal.opened(classes, palette)
        except BaseException:
            segmenter.close()
            raise
        return segmenter

    def _known(self, file: ImageFile) -> bool:
        """Whether an image is not to be done with others; tells what is known of it."""
        if self._past.is_done(file.path):
            self._tell(Outcome(file.path, None))
        elif (bad := self._past.bad.get(file.path)) is not None:
            self._tell(Outcome(file.path, bad.error))
        elif (deaths := self._past.deaths.get(file.path)) is None:
            return False
        elif deaths.times >= DEADLY and deaths.identity == identify(file.path):
            self._fail(file, f"{file.path}: {deaths.times} processes died while it was in work; it is left out", True)
        return True

    def _segment(self, files: Sequence[ImageFile]) -> None:
        job = self._task.job
        try:
            segment_files(
                self._segmenter, files, self._outputs, self, job.stream, hurried=False, max_pixels=job.max_pixels
            )
        except OSError:
            raise
        except Exception as error:  # whatever a runtime raises; the images are tried one by one
            raise _Unexpected from error

    def _alone(self, file: ImageFile) -> None:
        try:
            self._segment([file])
        except _Unexpected as unexpected:
            error = unexpected.__cause__
            assert isinstance(error, Exception)
            kind = "" if isinstance(error, DeepLabError) else f"{type(error).__name__}: "
            said = kind + first_line(error)
            self._fail(file, f"{file.path}: {said}")
            self._failures += 1
            if self._failures >= _IN_A_ROW:
                raise DeepLabError(f"the last {_IN_A_ROW} images failed alike: {said}") from error

    def _fail(self, file: ImageFile, error: str, deadly: bool = False) -> None:
        self._journal.failed(file.path, error, deadly=deadly)
        self._tell(Outcome(file.path, error))


class _Unexpected(Exception):
    """Something else than a bad image or a full disk."""


def _nobody(outcome: Outcome) -> None:
    raise AssertionError("nobody is to be told")


def _check_place(task: Task, folder: Path) -> None:
    """The folder and the model's file are those of the process that began the run."""
    if read_token(folder) != task.token:
        raise DeepLabError(
            f"the output folder {str(task.job.folder)!r} is not the same on {platform.node()}; images, model and "
            "output folder must lie at the same paths on all machines, for instance on a shared file system"
        )
    if (found := fingerprint(task.job.model)) != task.fingerprint:
        there = "there is no such file" if not found.startswith("sha256:") else "that is another file"
        raise DeepLabError(f"the model {task.job.model!r} was not found on {platform.node()}: {there}")


def _check_openings(folder: Path, before: Sequence[JournalName]) -> None:
    """Processes that die while they open the model are not replaced for ever."""
    unopened = 0
    for name in reversed(before):
        ledger = Ledger()
        ledger.read(folder, [name], run=name.run)
        if ledger.model is not None:
            break
        unopened += 1
    if unopened >= _OPENINGS:
        raise DeepLabError(f"{unopened} processes died on {platform.node()} while they opened the model")
