# SPDX-License-Identifier: Apache-2.0
"""Protocol buffers' text format, as far as a config.pbtxt needs it, without protobuf."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class Symbol(str):
    """The name of an enum's value, which is written without quotes."""

    __slots__ = ()


def to_text(fields: Mapping[str, Any], indent: int = 0) -> str:
    """Fields of a message as lines.

    Args:
        fields: value by field name. A mapping is a message, a sequence of mappings a repeated one (also a map field,
            whose entries have ``key`` and ``value``), any other sequence a repeated scalar. Scalars are str, int,
            bool and `Symbol`.
        indent: spaces before each line.
    """
    lines = []
    for name, value in fields.items():
        if isinstance(value, Mapping):
            lines.append(_message(name, value, indent))
        elif isinstance(value, str) or not isinstance(value, Sequence):
            lines.append(f"{' ' * indent}{name}: {_scalar(value)}\n")
        elif value and isinstance(value[0], Mapping):
            lines += [_message(name, one, indent) for one in value]
        else:
            lines.append(f"{' ' * indent}{name}: [{', '.join(map(_scalar, value))}]\n")
    return "".join(lines)


def map_entries(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A map field as the repeated message that it is in the text format."""
    return [{"key": key, "value": value} for key, value in values.items()]


def _message(name: str, value: Mapping[str, Any], indent: int) -> str:
    pad = " " * indent
    return f"{pad}{name} {{\n{to_text(value, indent + 2)}{pad}}}\n" if value else f"{pad}{name} {{}}\n"


def _scalar(value: str | int) -> str:
    if isinstance(value, Symbol):
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return '"' + "".join(map(_escaped, value.encode())) + '"'


def _escaped(byte: int) -> str:
    """A byte of a quoted text; what is not printable ASCII becomes three octal digits."""
    character = chr(byte)
    if character in '"\\':
        return "\\" + character
    return character if 32 <= byte < 127 else f"\\{byte:03o}"
