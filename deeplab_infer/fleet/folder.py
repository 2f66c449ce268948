# SPDX-License-Identifier: Apache-2.0
"""The hidden folder of a job inside its output folder: description, journals, and the lock of a run."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from ..errors import DataError, DeepLabError
from ..files import atomic_write
from .description import check_same
from .journal import JournalName

NAME = ".deeplab-job"
_JOB = "job.json"


class JobFolder:
    """A job that is begun or gone on with. A context manager: while it is open no other run works on the job.

    Attributes:
        outputs: the output folder.
        path: the job's folder in it.
        token: tells this job from others, also where two machines have different folders of one name.
        root: folder to which names of images are relative, in files of the whole run.
        run: number of this run, from 1.
    """

    def __init__(self, outputs: Path, description: dict[str, Any], root: str | None, *, restart: bool = False) -> None:
        """Begin a job, or go on with it.

        Args:
            outputs: the output folder, which must exist.
            description: of `describe`.
            root: of a job that is begun.
            restart: forget a job that was begun before; its outputs are written anew one by one.

        Raises:
            DeepLabError: another job was begun there, or a run on it is going on.
            DataError: its description is damaged.
        """
        self.outputs, self.path = outputs, outputs / NAME
        self.path.mkdir(exist_ok=True)
        self._lock = _lock(self.path / "lock", outputs)
        try:
            if restart:
                _forget(self.path)
            known = self._known()
            if known is None:
                known = {"token": secrets.token_hex(16), "root": root, **description}
                with atomic_write(self.path / _JOB, "w") as stream:
                    json.dump(known, stream, indent=1)
            else:
                check_same(known, description, outputs)
        except BaseException:
            self._lock.close()
            raise
        self.token, self.root = known["token"], known["root"]
        self.run = max((name.run for name in self.journals()), default=0) + 1

    def journals(self) -> list[JournalName]:
        """Those that there are, as they were written."""
        return journals(self.path)

    def __enter__(self) -> JobFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.close()

    def _known(self) -> dict[str, Any] | None:
        path = self.path / _JOB
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            known = None
        if not isinstance(known, dict) or not {"token", "root", "format"} <= set(known):
            raise DataError(f"{path}: is damaged; give --restart to do all images again")
        return known


def journals(folder: Path) -> list[JournalName]:
    """The journals in a job's folder, as they were written."""
    return sorted(name for entry in os.scandir(folder) if (name := JournalName.of(entry.name)) is not None)


def read_token(folder: Path) -> str | None:
    """The token of the job in a folder; None where there is no job, or none that can be read."""
    try:
        return json.loads((folder / _JOB).read_text(encoding="utf-8"))["token"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _lock(path: Path, outputs: Path) -> IO[bytes]:
    stream = open(path, "ab")  # noqa: SIM115  closed with the job
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        raise DeepLabError(
            f"another run is writing to {str(outputs)!r}; wait for it or end it, or give another folder with -o"
        ) from None
    except OSError as error:
        stream.close()
        raise DeepLabError(
            f"the file system of {str(outputs)!r} has no locks ({error.strerror}); give another folder with -o"
        ) from error
    return stream


def _forget(folder: Path) -> None:
    """Remove everything but the lock; the description last, so that no journal is ever without its own."""
    names = sorted((entry.name for entry in os.scandir(folder) if entry.name != "lock"), key=lambda name: name == _JOB)
    for name in names:
        (folder / name).unlink()
