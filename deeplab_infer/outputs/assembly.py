# SPDX-License-Identifier: Apache-2.0
"""Files of a whole run, made of one record an image, in the memory of one record.

A record is what `Outputs.write` returns: JSON-able, complete, and of one image only, so that several processes may
append theirs to journals and any of them may make the files at the end.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..files import atomic_write, json_line
from ..segmentation import Palette, Segmentation
from .coco import coco_annotations, write_coco
from .cvat import cvat_masks, write_cvat
from .options import OutputOptions

Record = dict[str, Any]


@dataclass(frozen=True)
class RunFile:
    """A file of the whole run.

    Attributes:
        name: of the file.
        part: key of a record that only this file uses; None where it uses the others.
        wanted: whether the options ask for it.
        collect: makes that part of an image's record.
        write: makes the file of all records.
    """

    name: str
    part: str | None
    wanted: Callable[[OutputOptions], bool]
    collect: Callable[[Segmentation, OutputOptions], Any] | None
    write: Callable[[Path, tuple[str, ...], Palette, Iterable[Record]], None]


def _lines(target: Path, classes: tuple[str, ...], palette: Palette, records: Iterable[Record]) -> None:
    with atomic_write(target, "w") as stream:
        for record in records:
            stream.write(dump({key: value for key, value in record.items() if key not in PARTS}))


RUN_FILES = (
    RunFile("results.jsonl", None, lambda options: options.json, None, _lines),
    RunFile(
        "coco.json",
        "coco",
        lambda options: options.coco is not None,
        coco_annotations,
        lambda target, classes, palette, records: write_coco(target, classes, records),
    ),
    RunFile(
        "cvat.xml",
        "cvat",
        lambda options: options.cvat,
        lambda result, options: cvat_masks(result, options.min_area),
        write_cvat,
    ),
)
PARTS = frozenset(file.part for file in RUN_FILES if file.part is not None)


def run_files(options: OutputOptions) -> list[RunFile]:
    """Those that the options ask for."""
    return [file for file in RUN_FILES if file.wanted(options)]


def assemble(
    folder: str | os.PathLike[str],
    options: OutputOptions,
    classes: tuple[str, ...],
    palette: Palette,
    records: Callable[[], Iterable[Record]],
) -> list[Path]:
    """Make the files of a whole run, each whole or not at all.

    Args:
        folder: where they go.
        options: those that the records were made with.
        classes, palette: of the model.
        records: gives all records from the first on; called once a file. Of an image that was done again after
            a restart only one record may be among them; `read_records` sees to that.

    Returns:
        The files.

    Raises:
        DataError: records that were made without what the options ask for.
        OSError: a file cannot be written.
    """
    made = []
    for file in run_files(options):
        target = Path(folder) / file.name
        file.write(target, classes, palette, _checked(records(), file))
        made.append(target)
    return made


def read_records(*journals: str | os.PathLike[str]) -> Iterator[Record]:
    """The records of several files with one a line; of those with one stem the first.

    A last line that was cut short (its process was killed) is left out. Memory: about 100 bytes a record.

    Raises:
        DataError: a line is damaged.
    """
    seen: set[bytes] = set()
    for journal in journals:
        for record in read_lines(journal):
            key = hashlib.blake2b(record["stem"].encode(errors="surrogatepass"), digest_size=16).digest()
            if key not in seen:
                seen.add(key)
                yield record


def read_lines(journal: str | os.PathLike[str]) -> Iterator[Record]:
    """The records of one file, all of them; otherwise as `read_records`."""
    with open(journal, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith("\n"):
                return
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if not isinstance(record, dict) or not isinstance(record.get("stem"), str):
                raise DataError(f"{os.fspath(journal)}: line {number} is no record; it is damaged")
            yield record


def dump(record: Record) -> str:
    """A record as a line."""
    return json_line(record)


def _checked(records: Iterable[Record], file: RunFile) -> Iterator[Record]:
    for record in records:
        if file.part is not None and file.part not in record:
            raise DataError(f"the record of {record.get('stem')!r} was made without {file.name}; run it again")
        yield record
