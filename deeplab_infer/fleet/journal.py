# SPDX-License-Identifier: Apache-2.0
"""A journal: what one process did, a line an event, written so that a killed process leaves whole lines.

Lines are JSON in ASCII (a name with newlines or bytes that are not UTF-8 is one line too). The first one says who
writes, the second what model it opened. Then ``{"start": path}`` before an image is read, ``{"done": path}`` with its
record once its outputs are on the disk, ``{"failed": path}`` with what is wrong with it, and ``{"end": true}`` where
the process came to its end.

A line is handed to the operating system at once: the death of the process loses none of it. `Journal.sync` puts them on
the disk, so that a power cut or another machine's cache loses none either.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DataError
from ..files import append_whole, json_line

Event = dict[str, Any]
_NAME = re.compile(r"(\d{5,})-(.+)-(\d{3,})\.jsonl")


class Identity(NamedTuple):
    """What tells a file from a changed one: bytes, and time of the last change in nanoseconds."""

    size: int
    mtime: int


def identify(path: str) -> Identity | None:
    """The identity of a file; None where there is none that can be read."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return Identity(found.st_size, found.st_mtime_ns)


class JournalName(NamedTuple):
    """Who writes a journal; sorted as they were written.

    Attributes:
        run: number of the run, from 1.
        writer: a process of it; a process that takes the place of a dead one keeps its name.
        attempt: how many had its place before.
    """

    run: int
    writer: str
    attempt: int

    @classmethod
    def of(cls, file: str) -> JournalName | None:
        """Of the name of a file; None of others."""
        found = _NAME.fullmatch(file)
        return None if found is None else cls(int(found[1]), found[2], int(found[3]))

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.run:05d}-{self.writer}-{self.attempt:03d}.jsonl"


class Journal:
    """A new journal; a context manager. May be shared between threads.

    Args:
        path: of the file, which must not exist.
        about: what its first line says.
    """

    def __init__(self, path: Path, about: Event) -> None:
        self._stream: Any = open(path, "xb", buffering=0)  # noqa: SIM115  closed in `close`
        self._lock = threading.Lock()
        self._identities: dict[str, Identity | None] = {}
        self.path = path
        self._append(about)

    def opened(self, classes: Sequence[str], palette: Sequence[Sequence[int]]) -> None:
        """The model was opened."""
        self._append({"classes": list(classes), "palette": [list(color) for color in palette]})

    def started(self, path: str) -> None:
        """An image is about to be read."""
        found = identify(path)
        with self._lock:
            self._identities[path] = found
        self._append({"start": path, **_about(found)})

    def done(self, path: str, record: dict[str, Any]) -> None:
        """Its outputs are on the disk."""
        self._append({"done": path, **_about(self._identity(path)), "record": record})

    def failed(self, path: str, error: str, *, deadly: bool = False) -> None:
        """It has no outputs. ``deadly``: processes died of it, it is not to be tried again until it changes."""
        self._append({"failed": path, **_about(self._identity(path)), "error": error, "deadly": deadly})

    def sync(self) -> None:
        """Put what was written on the disk."""
        os.fsync(self._stream.fileno())

    def close(self, *, ended: bool) -> None:
        """No more lines follow. ``ended``: images that were begun and not done did no harm."""
        if self._stream.closed:
            return
        try:
            if ended:
                self._append({"end": True})
            self.sync()
        finally:
            self._stream.close()

    def _identity(self, path: str) -> Identity | None:
        with self._lock:
            return self._identities.pop(path) if path in self._identities else identify(path)

    def _append(self, event: Event) -> None:
        """Add a line; one that cannot be written whole is taken back.

        Raises:
            OSError: the disk is full.
        """
        data = json_line(event).encode("ascii")
        with self._lock:
            append_whole(self._stream, data)


def _about(found: Identity | None) -> Event:
    return {} if found is None else found._asdict()


def identity_of(event: Event) -> Identity | None:
    """The identity in a line."""
    return Identity(event["size"], event["mtime"]) if "size" in event else None


def read_events(path: Path) -> Iterator[tuple[int, Event]]:
    """The lines of a journal and where each begins, in bytes. A last line that was cut short is left out.

    Raises:
        DataError: a line is damaged.
    """
    offset = 0
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                return
            yield offset, parse(line, path, number)
            offset += len(line)


def parse(line: bytes, path: Path, number: int | None = None) -> Event:
    """A line.

    Raises:
        DataError: it is damaged.
    """
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        where = "" if number is None else f"line {number} "
        raise DataError(f"{path}: {where}is damaged; remove the file, and its images are done again")
    return event
