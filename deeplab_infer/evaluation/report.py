# SPDX-License-Identifier: Apache-2.0
"""Scores as JSON, tables for the terminal, Markdown, and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .agreement import Comparison
from .boundary import TrimapScores
from .confusion import Scores

if TYPE_CHECKING:
    from rich.console import Group

SCHEMA_VERSION = 1
CSV_COLUMNS = ("model", "index", "class", "pixels", "iou", "accuracy")


@dataclass(frozen=True)
class ModelResult:
    """One model's evaluation.

    Attributes:
        name: what tables call it.
        scores: over all labelled pixels.
        trimap: in bands around boundaries, where asked for.
        images: evaluated.
        seconds: spent predicting them.
        unreadable: why the other images were left out.
        details: JSON-able: the model's file, backend, device, precision, mode, scales.
    """

    name: str
    scores: Scores
    images: int
    seconds: float
    trimap: TrimapScores | None = None
    unreadable: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able values; NaN becomes None."""
        return {
            **self.details,
            **self.scores.to_dict(),
            **({"boundary": self.trimap.to_dict()} if self.trimap else {}),
            "images": self.images,
            "unreadable": list(self.unreadable),
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True)
class Sheet:
    """A table as text.

    Attributes:
        title: above it.
        header: names of the columns.
        rows: cells.
        footer: a last row set apart; empty for none.
        notes: lines between title and table.
        words: how many columns, from the left, are words; the others are numbers.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    footer: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    words: int = 1


@dataclass(frozen=True)
class Report:
    """All models on one dataset.

    Attributes:
        title: what was evaluated on, for tables.
        models: at least one.
        comparisons: of the first model with each other one.
        context: JSON-able: dataset, split, command, versions.
    """

    title: str
    models: tuple[ModelResult, ...]
    comparisons: tuple[Comparison, ...] = ()
    context: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: of one model its keys beside the context's; of several a list ``models`` and ``comparisons``."""
        context = {**self.context, "schema_version": SCHEMA_VERSION}
        if len(self.models) == 1:
            return {**self.models[0].to_dict(), **context}
        return {
            **context,
            "models": [{"name": model.name, **model.to_dict()} for model in self.models],
            "comparisons": [comparison.to_dict() for comparison in self.comparisons],
        }

    def to_csv(self) -> str:
        """A row a model and class, full precision, shares in 0..1; empty where there is no value."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(CSV_COLUMNS)
        for model in self.models:
            scores = model.scores
            columns = zip(scores.classes, scores.pixels, scores.iou, scores.accuracy, strict=True)
            for index, (name, pixels, iou, accuracy) in enumerate(columns):
                values = ["" if np.isnan(value) else repr(float(value)) for value in (iou, accuracy)]
                writer.writerow([model.name, index, name, int(pixels), *values])
        return stream.getvalue()

    def sheets(self) -> list[Sheet]:
        """The tables, in reading order."""
        classes = _one_model(self) if len(self.models) == 1 else _several_models(self)
        bands = [_bands(self.models)] if self.models[0].trimap else []
        letters = [_letter(index) for index in range(1, len(self.models))]
        pairs = zip(letters, self.comparisons, strict=False)
        return [classes, *bands, *(sheet for letter, one in pairs for sheet in _comparison(one, letter))]

    def to_markdown(self) -> str:
        """The tables as Markdown."""
        return "\n".join(_markdown(sheet) for sheet in self.sheets())

    def tables(self) -> list[Group]:
        """The tables for a rich console."""
        return [_rich(sheet) for sheet in self.sheets()]


def _one_model(report: Report) -> Sheet:
    scores = report.models[0].scores
    rows = zip(scores.classes, scores.iou, scores.accuracy, scores.pixels, strict=True)
    return Sheet(
        report.title,
        ("class", "IoU", "accuracy", "pixels"),
        tuple((name, _percent(iou), _percent(accuracy), f"{pixels:,}") for name, iou, accuracy, pixels in rows),
        ("mean", _percent(scores.miou), _percent(scores.macc), f"all pixels {_percent(scores.aacc)}"),
    )


def _several_models(report: Report) -> Sheet:
    """IoU side by side; differences are to the first model, in points. Letters stand for names, which are long."""
    first, *others = [model.scores for model in report.models]
    header = ["class", "pixels", "IoU A"]
    for letter in map(_letter, range(1, len(report.models))):
        header += [f"IoU {letter}", f"{letter} - A"]

    def cells(values: Sequence[float]) -> list[str]:
        row = [_percent(values[0])]
        for value in values[1:]:
            row += [_percent(value), _points(value - values[0])]
        return row

    rows = [
        (name, f"{first.pixels[index]:,}", *cells([first.iou[index], *(other.iou[index] for other in others)]))
        for index, name in enumerate(first.classes)
    ]
    footer = ("mean", f"{int(first.pixels.sum()):,}", *cells([first.miou, *(other.miou for other in others)]))
    notes = tuple(f"{_letter(index)}: {model.name}" for index, model in enumerate(report.models))
    return Sheet(report.title, tuple(header), tuple(rows), footer, notes)


def _bands(models: Sequence[ModelResult]) -> Sheet:
    curves = [model.trimap for model in models if model.trimap]
    whole = [_percent(model.scores.miou) for model in models]
    names = [f"mIoU {_letter(index)}" for index in range(len(models))] if len(models) > 1 else ["mIoU"]
    rows = [
        (f"{width} px", _percent(curves[0].share[index]), *(_percent(curve.miou[index]) for curve in curves))
        for index, width in enumerate(curves[0].widths)
    ]
    where = {"void": "of void regions", "classes": "between classes", "both": "between classes and of void regions"}
    return Sheet(
        f"in bands around the edges {where[curves[0].edges]}",
        ("band", "pixels in it", *names),
        tuple(rows),
        ("all pixels", _percent(1.0), *whole),
    )


def _comparison(comparison: Comparison, letter: str) -> Iterator[Sheet]:
    """The first model is A, the second has a letter."""
    yield Sheet(
        f"{letter} against A: {_close(comparison.agreement)} of all pixels have one label, mIoU "
        f"{_points(comparison.miou_difference)}",
        ("class", "agreement", "accuracy A", f"accuracy {letter}"),
        tuple(
            (name, _close(agreement), _percent(a), _percent(b))
            for name, agreement, a, b in zip(
                comparison.classes,
                comparison.class_agreement,
                comparison.first.accuracy,
                comparison.second.accuracy,
                strict=True,
            )
        ),
    )
    if pairs := comparison.disagreements():
        yield Sheet(
            "what is most often called differently",
            ("A says", f"{letter} says", "of all pixels"),
            tuple((a, b, _small(share)) for a, b, share in pairs),
            words=2,
        )
    worst = [image for image in comparison.worst if image.agreement < 1]
    if worst:
        yield Sheet(
            "images with the least agreement",
            ("image", "agreement", "mIoU A", f"mIoU {letter}"),
            tuple((i.name, _close(i.agreement), _percent(i.miou[0]), _percent(i.miou[1])) for i in worst),
        )


def _letter(index: int) -> str:
    return chr(ord("A") + index) if index < 26 else f"M{index + 1}"


def _percent(share: float) -> str:
    return "-" if np.isnan(share) else f"{share:.2%}"


def _close(share: float) -> str:
    """Shares close to 1, of which a rounded 100 % must mean all."""
    if np.isnan(share):
        return "-"
    return "100 %" if share == 1 else f"{min(100 * share, 99.9999):.4f} %"


def _small(share: float) -> str:
    return f"{100 * share:.2g} %"


def _points(difference: float) -> str:
    return "-" if np.isnan(difference) else f"{100 * difference:+.2f}"


def _markdown(sheet: Sheet) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    ruler = ["---"] * sheet.words + ["---:"] * (len(sheet.header) - sheet.words)
    footer = [line([f"**{cell}**" for cell in sheet.footer])] if sheet.footer else []
    rows = [line(row) for row in sheet.rows]
    notes = [*(f"- {note}" for note in sheet.notes), ""] if sheet.notes else []
    return "\n".join([f"**{sheet.title}**", "", *notes, line(sheet.header), line(ruler), *rows, *footer]) + "\n"


def _rich(sheet: Sheet) -> Group:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for index, name in enumerate(sheet.header):
        table.add_column(Text(name), justify="left" if index < sheet.words else "right")
    for row in sheet.rows:
        table.add_row(*(Text(cell) for cell in row))
    if sheet.footer:
        table.add_section()
        table.add_row(*(Text(cell) for cell in sheet.footer))
    # Not the table's own title, which wraps at the table's width.
    return Group(Text("\n".join([sheet.title, *sheet.notes]), style="italic"), table)
