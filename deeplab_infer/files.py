# SPDX-License-Identifier: Apache-2.0
"""Files, and lines of files, that are written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from .errors import DeepLabError


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` (same suffix); it replaces ``path`` only on success.

    Whatever ends the block early (an error, Ctrl-C, a full disk) removes the temporary file and leaves
    an earlier ``path`` as it was.
    """
    target = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{target.stem[:16]}.", suffix=target.suffix, dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~umask())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO]:
    """Open ``path`` for writing so that readers see the old file or the whole new one.

    Args:
        path: the file to write; its folder must exist.
        mode: ``"wb"`` or ``"w"`` (text is UTF-8).
    """
    encoding = None if "b" in mode else "utf-8"
    with atomic_path(path) as temporary, open(temporary, mode, encoding=encoding) as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


def json_line(value: Any) -> str:
    """A JSON-able value as one line in ASCII, its newline at the end."""
    return json.dumps(value, separators=(",", ":")) + "\n"


def append_whole(stream: Any, data: bytes) -> None:
    """Append to an unbuffered binary file; what cannot be written whole is taken back.

    Raises:
        OSError: the disk is full, or the file cannot be written; it is as it was.
    """
    before = stream.tell()
    try:
        while data:
            data = data[stream.write(data) :]
    except BaseException:
        stream.seek(before)
        stream.truncate()
        raise


def sha256_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content, 64 lower-case hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def require_writable_dir(path: str | os.PathLike[str]) -> Path:
    """Create the folder ``path`` where missing and check that files can be made in it.

    Raises:
        DeepLabError: it is a file, cannot be created, or is read-only.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (FileExistsError, NotADirectoryError):
        raise DeepLabError(f"output folder {str(folder)!r} is a file; choose another folder") from None
    except OSError as error:
        raise DeepLabError(
            f"cannot write to folder {str(folder)!r}: {error.strerror}; choose a folder you may write to"
        ) from error
    return folder


def umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
