# SPDX-License-Identifier: Apache-2.0
"""What the journals of a job say of each image: done, bad, or how many processes died of it."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from .journal import Event, Identity, JournalName, identity_of, parse, read_events

LOCAL = "local"  # the writer of a run without workers: each run has the place of the one before
DEADLY = 2  # processes that an image may kill before it is left out


class Bad(NamedTuple):
    """Why an image has no outputs.

    Attributes:
        error: what is wrong.
        identity: of the file that was tried.
        deadly: processes died of it.
    """

    error: str
    identity: Identity | None
    deadly: bool


class Deaths(NamedTuple):
    """Processes that died while a file was in work, and which file that was."""

    identity: Identity | None
    times: int


class Ledger:
    """The state of images, from journals that are read one after the other.

    About 200 bytes an image and the names themselves; records stay in the journals.

    Args:
        paths: the images; others are passed over. None: all that journals speak of.

    Attributes:
        bad: images that have no outputs, by their paths.
        deaths: images that were in work when a process died, and are not done.
        interrupted: images that were in work when a process was ended, whether or not they were done later.
        outputs: names of all files that were written.
        model: what a process said of the model that it opened: ``classes`` and ``palette``; None where none did.
    """

    def __init__(self, paths: Sequence[str] | None = None) -> None:
        self._grows = paths is None
        self._index = {path: index for index, path in enumerate(paths or ())}
        self._journals: list[Path] = []
        size = len(self._index)
        self._journal, self._offset = array("i", [-1]) * size, array("q", [0]) * size
        self._size, self._mtime = array("q", [0]) * size, array("q", [0]) * size
        self._open: OrderedDict[int, IO[bytes]] = OrderedDict()
        self.bad: dict[str, Bad] = {}
        self.deaths: dict[str, Deaths] = {}
        self.interrupted: set[str] = set()
        self.outputs: set[str] = set()
        self.model: Event | None = None

    def read(self, folder: Path, names: Iterable[JournalName], *, run: int) -> None:
        """Read journals as they were written.

        Args:
            folder: where they are.
            names: sorted; all attempts of a writer together.
            run: the run that is going on.

        Raises:
            DataError: one is damaged.
        """
        names = list(names)
        there = set(names)
        for name in names:
            follower = name._replace(attempt=name.attempt + 1) in there
            replaced = name.run < run if name.writer == LOCAL else follower
            self._read_one(folder / name.file, replaced)

    def is_done(self, path: str) -> bool:
        """Whether there is a record of it."""
        index = self._index.get(path)
        return index is not None and self._journal[index] >= 0

    def identity(self, path: str) -> Identity:
        """Of the file that was done."""
        index = self._index[path]
        return Identity(self._size[index], self._mtime[index])

    def record(self, path: str) -> dict[str, Any]:
        """Of an image that is done.

        Raises:
            DataError: its journal is damaged.
            OSError: its journal cannot be read.
        """
        index = self._index[path]
        journal = self._journal[index]
        stream = self._opened(journal)
        stream.seek(self._offset[index])
        return parse(stream.readline(), self._journals[journal])["record"]

    def close(self) -> None:
        """Close journals that `record` opened."""
        while self._open:
            self._open.popitem()[1].close()

    # -- how

    def _read_one(self, path: Path, replaced: bool) -> None:
        """``replaced``: another process has the place of its writer."""
        number = len(self._journals)
        self._journals.append(path)
        in_work: dict[str, Identity | None] = {}
        ended = False
        for offset, event in read_events(path):
            if "start" in event:
                in_work[event["start"]] = identity_of(event)
            elif "done" in event:
                in_work.pop(event["done"], None)
                self._done(event, number, offset)
            elif "failed" in event:
                in_work.pop(event["failed"], None)
                self._failed(event)
            elif "classes" in event:
                self.model = event
            ended = "end" in event
        if not ended:
            self.interrupted.update(in_work)
        if replaced and not ended:
            for image, identity in in_work.items():
                self._died(image, identity)

    def _done(self, event: Event, journal: int, offset: int) -> None:
        path = event["done"]
        self.outputs.update(event["record"]["files"])
        index = self._place(path)
        if index is None:
            return
        self._journal[index], self._offset[index] = journal, offset
        self._size[index], self._mtime[index] = identity_of(event) or (-1, -1)
        self.bad.pop(path, None)
        self.deaths.pop(path, None)

    def _failed(self, event: Event) -> None:
        path = event["failed"]
        index = self._place(path)
        if index is not None:
            self._journal[index] = -1
            self.bad[path] = Bad(event["error"], identity_of(event), event["deadly"])

    def _died(self, path: str, identity: Identity | None) -> None:
        if self._place(path) is None or self.is_done(path):
            return
        before = self.deaths.get(path)
        count = before.times if before is not None and before.identity == identity else 0
        self.deaths[path] = Deaths(identity, count + 1)

    def _place(self, path: str) -> int | None:
        if path not in self._index and self._grows:
            self._index[path] = len(self._index)
            for column, value in ((self._journal, -1), (self._offset, 0), (self._size, 0), (self._mtime, 0)):
                column.append(value)
        return self._index.get(path)

    def _opened(self, journal: int) -> IO[bytes]:
        """A journal, open; as many stay open as a process may have."""
        stream = self._open.pop(journal, None) or open(self._journals[journal], "rb")  # noqa: SIM115
        self._open[journal] = stream
        if len(self._open) > 32:
            self._open.popitem(last=False)[1].close()
        return stream
