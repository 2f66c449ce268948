# SPDX-License-Identifier: Apache-2.0
"""Tables on a terminal."""

from __future__ import annotations

from deeplab_infer.commands.cli import make_console

from .markup import Table


def show_table(table: Table) -> None:
    """Print a table, its caption above it."""
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(title=Text(table.caption), title_justify="left")
    for title in table.titles:
        shown.add_column(title, justify="left" if title in table.left else "right", overflow="fold")
    for cells in table.rows:
        shown.add_row(*(Text(str(cell)) for cell in cells))  # a name must not be read as rich's markup
    make_console().print(shown)
