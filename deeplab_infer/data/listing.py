# SPDX-License-Identifier: Apache-2.0
"""What lies in a folder, for finding pairs and for saying what is missing."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path

from ..errors import DataError

_SHOWN = 5


def require_folder(path: str | os.PathLike[str], what: str, advice: str) -> Path:
    """The folder as a `Path`.

    Raises:
        DataError: it is missing or a file; the message ends with ``advice``.
    """
    folder = Path(path)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise DataError(f"{what} {str(folder)!r} is a file, not a folder; {advice}")
    above = next(parent for parent in (*folder.parents, Path()) if parent.is_dir())
    raise DataError(f"{what} {str(folder)!r} does not exist ({describe(above)}); {advice}")


def describe(folder: Path) -> str:
    """``'data' holds a, b, c``: what is in a folder, for messages."""
    if not folder.is_dir():
        return f"there is no folder {str(folder)!r}"
    names = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in visible(folder))
    return f"{str(folder)!r} holds {some(names)}" if names else f"{str(folder)!r} is empty"


def some(names: Collection[str]) -> str:
    """The first few of many names and how many more there are."""
    first = [name for name, _ in zip(names, range(_SHOWN), strict=False)]
    more = len(names) - len(first)
    return ", ".join(first) + (f" and {more:,} more" if more else "")


def reason(error: Exception, name: str) -> str:
    """What an error says of the file ``name``, without its path in front; another file's path stays.

    >>> reason(ValueError("/data/images/a.png: no such file"), "images/a.png")
    'no such file'
    """
    path, _, rest = str(error).partition(": ")
    return rest if rest and path.endswith(name) else str(error)


def visible(folder: Path) -> Iterable[os.DirEntry[str]]:
    """A folder's entries without hidden ones (macOS leaves ``._name.png`` beside ``name.png``)."""
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]


def files_below(folder: Path) -> list[str]:
    """Paths of all files in a folder and those below it, relative to it with ``/``, sorted, without hidden ones."""
    found = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        base = Path(place).relative_to(folder)
        found += [(base / name).as_posix() for name in names if not name.startswith(".")]
    return sorted(found)


def read_lines(file: Path, what: str) -> list[str]:
    """Lines of a UTF-8 text file without blanks around them; empty ones are kept, so that positions are line numbers.

    Raises:
        DataError: it cannot be read, or is not text.
    """
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except FileNotFoundError:
        raise DataError(f"{what} {str(file)!r} does not exist ({describe(file.parent)})") from None
    except UnicodeDecodeError:
        raise DataError(f"{what} {str(file)!r} is not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"{what} {str(file)!r} cannot be read: {error.strerror}") from error
