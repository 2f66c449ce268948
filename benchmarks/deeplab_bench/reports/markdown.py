# SPDX-License-Identifier: Apache-2.0
"""A report as Markdown (GitHub's kind)."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

from .markup import Block, Bullets, Code, Document, Inline, Link, Paragraph, Section, Table
from .reading import clean

_SPECIAL = re.compile(r"[\\`*\[\]<>~|]|&(?=#?\w+;)|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_FIRST = re.compile(r"^([#+\-=]|\d+[.)])")


def render_markdown(document: Document) -> str:
    """The whole report; charts are left out."""
    parts = [f"# {escape(document.title)}\n"]
    parts += [_section(section) for section in document.sections]
    return "\n".join(parts)


def render_blocks(blocks: Iterable[Block]) -> str:
    """Blocks, one empty line between them."""
    texts = [_block(block) for block in blocks]
    return "\n\n".join(text for text in texts if text) + "\n"


def escape(text: str) -> str:
    """One line of text that Markdown shows as it is."""
    return _SPECIAL.sub(r"\\\g<0>", clean(text))


def _section(section: Section) -> str:
    anchor = f'<a id="{section.anchor}"></a>\n\n' if section.anchor else ""
    return f"{anchor}{'#' * section.level} {escape(section.title)}\n\n{render_blocks(section.blocks)}"


def _block(block: Block) -> str:
    if isinstance(block, Paragraph):
        return _line(block.parts)
    if isinstance(block, Bullets):
        return "\n".join(f"- {_line(item)}" for item in block.items)
    return _table(block) if isinstance(block, Table) else ""


def _line(parts: tuple[Inline, ...]) -> str:
    # A mark that would begin a heading or a list does so only where a line begins.
    return _FIRST.sub(_escape_first, _inlines(parts))


def _escape_first(found: re.Match[str]) -> str:
    mark = found.group()
    return f"{mark[:-1]}\\{mark[-1]}"


def _inlines(parts: tuple[Inline, ...]) -> str:
    return "".join(_inline(part) for part in parts)


def _inline(part: Inline) -> str:
    if isinstance(part, Link):
        return f"[{escape(part.text)}]({part.address})"
    if isinstance(part, Code):
        return _code(clean(part.text))
    return escape(part)


def _code(text: str) -> str:
    """Between more backticks than stand together in the text."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {text} {fence}" if longest else f"{fence}{text}{fence}"


def _table(table: Table) -> str:
    marks = ["---" if title in table.left else "---:" for title in table.titles]
    rows = [[_cell(cell) for cell in row] for row in table.rows]
    lines = [[escape(title) for title in table.titles], marks, *rows]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    if not table.folded:
        return f"{escape(table.caption)}:\n\n{text}" if table.caption else text
    return f"<details><summary>{_html(table.caption)}</summary>\n\n{text}\n\n</details>"


def _cell(cell: Inline) -> str:
    text = _inline(cell)
    return text.replace("|", "\\|") if isinstance(cell, Code) else text


def _html(text: str) -> str:
    return html.escape(clean(text))
