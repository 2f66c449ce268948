# SPDX-License-Identifier: Apache-2.0
"""A report before it is Markdown or HTML: sections of paragraphs, lists, tables and charts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from .reading import NO_VALUE


@dataclass(frozen=True)
class Link:
    """A text that leads to a file, relative to the report, or to an anchor (``#name``)."""

    text: str
    target: str

    @property
    def address(self) -> str:
        """The target as an address: a name of a file may hold any character."""
        return self.target if self.target.startswith("#") else quote(self.target, errors="surrogateescape")


@dataclass(frozen=True)
class Code:
    """Something to type or a name of one."""

    text: str


Inline = str | Link | Code


@dataclass(frozen=True)
class Paragraph:
    """Texts in a row."""

    parts: tuple[Inline, ...]


@dataclass(frozen=True)
class Bullets:
    """A list; an item is texts in a row."""

    items: tuple[tuple[Inline, ...], ...]


@dataclass(frozen=True)
class Table:
    """Cells below titles.

    Attributes:
        titles, rows: texts.
        left: titles of the columns with words; the others hold figures and stand to the right.
        caption: what the table shows, or empty.
        folded: shown only on demand, below its caption.
    """

    titles: list[str]
    rows: list[list[Inline]] | list[list[str]]
    left: tuple[str, ...] = ()
    caption: str = ""
    folded: bool = False

    def without_empty_columns(self) -> Table:
        """The same without columns that hold no value in any row."""
        kept = [i for i in range(len(self.titles)) if any(row[i] != NO_VALUE for row in self.rows)]
        rows: Any = [[row[i] for i in kept] for row in self.rows]
        return replace(self, titles=[self.titles[i] for i in kept], rows=rows)


@dataclass(frozen=True)
class Chart:
    """A plot, drawn only where the report's format can show it.

    Attributes:
        title: what it shows, in words.
        draw: makes the matplotlib figure.
    """

    title: str
    draw: Callable[[], Any]


Block = Paragraph | Bullets | Table | Chart


@dataclass(frozen=True)
class Section:
    """Blocks below a heading.

    Attributes:
        title: the heading.
        blocks: what stands below it.
        level: of the heading, 2 or 3.
        anchor: name for links, or empty.
    """

    title: str
    blocks: list[Block]
    level: int = 2
    anchor: str = ""


@dataclass(frozen=True)
class Document:
    """A whole report."""

    title: str
    sections: list[Section]
