# SPDX-License-Identifier: Apache-2.0
"""``classes.txt``: one class a line, with or without its colour."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..configs import DatasetSpec
from ..configs.datasets import generic_dataset
from ..errors import DataError
from .label_rules import MAX_CLASSES, Colour
from .listing import read_lines

IGNORE_NAME = "ignore"
_FORMS = "a class is 'name', 'name,#rrggbb' or 'name R G B'"
_ONLY_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
_HEX = re.compile(r"(?P<name>.*?)[\s,]*#(?P<colour>[0-9a-fA-F]{6})")
_DECIMAL = re.compile(r"(?P<name>.*?)[\s,]+(?P<r>\d+)[\s,]+(?P<g>\d+)[\s,]+(?P<b>\d+)")
_CUT_SHORT = re.compile(r".*[\s,]\d+[\s,]+\d+")


@dataclass(frozen=True)
class ClassFile:
    """Content of a class file: the classes, whether it gives their colours, and the colour of ignored pixels if any."""

    spec: DatasetSpec
    colours: bool
    ignore_colour: Colour | None


def read_classes(file: Path) -> ClassFile:
    """Read a class file.

    Lines that start with ``#`` are comments. A last line ``ignore`` with a colour is no class: it gives the colour of
    ignored pixels in masks saved in colours. Without colours, classes get generated ones for pictures.

    Raises:
        DataError: not readable, a malformed line, colours for some classes only, or classes that are none, double or
            more than 255.
    """
    entries = [
        (number, *_parse(line, file, number))
        for number, line in enumerate(read_lines(file, "the class list"), 1)
        if line and (not line.startswith("#") or _ONLY_COLOUR.fullmatch(line))
    ]
    ignore_colour = entries.pop()[2] if entries and entries[-1][1] == IGNORE_NAME else None
    for number, name, _ in entries:
        if name == IGNORE_NAME:
            raise DataError(
                f"{file}, line {number}: 'ignore' is no class and has no index; make it the last line, or delete it"
            )
    names = tuple(name for _, name, _ in entries)
    check_class_names(names, str(file))
    palette = tuple(colour for _, _, colour in entries if colour is not None)
    if palette and len(palette) < len(names):
        bare = next(name for _, name, colour in entries if colour is None)
        raise DataError(f"{file}: class {bare!r} has no colour but others have; give every class one, or none")
    _check_colours(palette, names, ignore_colour, file)
    name = file.absolute().parent.name or "folder"
    spec = DatasetSpec(name, names, palette or generic_dataset(len(names), names).palette)
    return ClassFile(spec, bool(palette), ignore_colour)


def check_class_names(names: Sequence[str], source: str) -> None:
    """Refuse lists of classes that cannot be trained on.

    Raises:
        DataError: no class, an empty or double name, or more than 255 classes.
    """
    if not names:
        raise DataError(f"{source}: there are no classes; {_FORMS}, one a line")
    for position, name in enumerate(names):
        if not name.strip():
            raise DataError(f"{source}: class {position} has an empty name")
    double = [name for name, count in Counter(names).items() if count > 1]
    if double:
        raise DataError(f"{source}: class {double[0]!r} is listed twice; every class needs a name of its own")
    if len(names) > MAX_CLASSES:
        raise DataError(f"{source}: {len(names)} classes; label maps of 8 bits hold at most {MAX_CLASSES}")


def _parse(line: str, file: Path, number: int) -> tuple[str, Colour | None]:
    name, colour = line, None
    if match := _HEX.fullmatch(line):
        name, code = match["name"], int(match["colour"], 16)
        colour = (code >> 16, code >> 8 & 255, code & 255)
    elif match := _DECIMAL.fullmatch(line):
        name, colour = match["name"], (int(match["r"]), int(match["g"]), int(match["b"]))
    if not name or "#" in name or "," in name or _CUT_SHORT.fullmatch(name):
        raise DataError(f"{file}, line {number}: cannot read {line!r}; {_FORMS}")
    if colour and max(colour) > 255:
        raise DataError(f"{file}, line {number}: colour {colour} of {name!r} is not three values in 0..255")
    return name, colour


def _check_colours(palette: tuple[Colour, ...], names: tuple[str, ...], ignored: Colour | None, file: Path) -> None:
    seen: dict[Colour, str] = {} if ignored is None else {ignored: IGNORE_NAME}
    for name, colour in zip(names, palette, strict=False):
        if colour in seen:
            raise DataError(f"{file}: {seen[colour]!r} and {name!r} have the same colour {colour}")
        seen[colour] = name
