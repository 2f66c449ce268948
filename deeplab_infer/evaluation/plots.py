# SPDX-License-Identifier: Apache-2.0
"""Pictures of scores: the confusion matrix, and mIoU over the width of the band around boundaries."""

from __future__ import annotations

import importlib.util
import os
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..files import atomic_path
from .boundary import TrimapScores
from .confusion import Scores

SUFFIXES = (".png", ".svg", ".pdf")
# Most classes -> inches a cell, points of the names, points of the numbers (0: they would not fit).
_CELLS = ((12, 0.55, 10, 9), (25, 0.42, 9, 7), (70, 0.2, 7.5, 0), (1 << 30, 0.12, 5.5, 0))
_SMALLEST = 2.8  # inches a side, or the words around a matrix of two classes have no room
_LETTERS_AN_INCH = 10
_TICKS = (0, 1, 5, 10, 25, 50, 75, 100)
_DPI = 150
# Colours that stay apart for colour-blind eyes and in grey (Okabe and Ito), and markers for the next round.
_LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
_MARKERS = "os^Dv*X"


def require_plotting(path: str | os.PathLike[str]) -> None:
    """Check before a long measurement that a picture can be written at its end.

    Raises:
        DataError: a suffix that is no picture's, a folder that is not there, or matplotlib is missing.
    """
    target = Path(path)
    if target.suffix.lower() not in SUFFIXES:
        raise DataError(
            f"{target}: a plot is written as {', '.join(SUFFIXES)}, not {target.suffix or 'a file without suffix'}"
        )
    if not target.parent.is_dir():
        raise DataError(f"{target}: there is no folder {str(target.parent)!r}; make it first")
    if importlib.util.find_spec("matplotlib") is None:
        raise DataError("plots need matplotlib; run: pip install 'matplotlib>=3.10'")


def plot_confusion(scores: Scores, path: str | os.PathLike[str], title: str = "") -> Path:
    """Draw a confusion matrix: each row is a true class and adds up to 100 %.

    Numbers are written where they fit (up to 25 classes); the row of a class that is not labelled is grey.

    Args:
        scores: of any number of classes.
        path: ``.png``, ``.svg`` or ``.pdf``; written whole or not at all.
        title: above the picture.

    Raises:
        DataError: see `require_plotting`.
    """
    require_plotting(path)
    count = len(scores.classes)
    cell, names, numbers = next(sizes[1:] for sizes in _CELLS if count <= sizes[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = scores.confusion / scores.confusion.sum(1, keepdims=True)
    side = max(count * cell, _SMALLEST)
    figure = _figure(side, side)
    axes = figure.add_axes((0, 0, 1, 1))
    # Square roots of the shares: 1 % already shows, which is what many classes are confused by.
    picture = axes.imshow(np.sqrt(shares), cmap=_color_map("Blues"), vmin=0, vmax=1, interpolation="nearest")
    for axis, rotation in ((axes.xaxis, 90), (axes.yaxis, 0)):
        axis.set_ticks(range(count), scores.classes, fontsize=names, rotation=rotation, parse_math=False)
    axes.tick_params(length=0, pad=3)
    if count > 25:  # the eye loses the row on the way: faint lines after each tenth class
        lines = np.arange(9.5, count - 1, 10)
        axes.set_xticks(lines, minor=True)
        axes.set_yticks(lines, minor=True)
        axes.grid(which="minor", color="#d0d4da", linewidth=0.5)
        axes.tick_params(which="minor", length=0)
    words = max(11.0, names)
    axes.set_xlabel("predicted class", fontsize=words, labelpad=8)
    axes.set_ylabel("true class", fontsize=words, labelpad=8)
    heading = "\n".join(textwrap.wrap(title, int(side * _LETTERS_AN_INCH), break_long_words=False))
    axes.set_title(heading, fontsize=words + 1, loc="left", pad=10, parse_math=False)
    if numbers:
        _write_numbers(axes, 100 * shares, numbers)
    # A bar of fixed width beside the matrix, whatever its size.
    inch = 1 / side
    bar = figure.add_axes((1 + 0.15 * inch, 0, 0.16 * inch, 1))
    label = figure.colorbar(picture, cax=bar)
    label.set_ticks([np.sqrt(tick / 100) for tick in _TICKS], labels=[str(tick) for tick in _TICKS])
    label.set_label("% of the true class's pixels", fontsize=words - 1)
    label.outline.set_linewidth(0.5)
    return _save(figure, path)


def plot_trimap(curves: Mapping[str, tuple[TrimapScores, Scores]], path: str | os.PathLike[str]) -> Path:
    """Draw mIoU over the width of the band, a line a model; dashed: its mIoU over all pixels.

    Args:
        curves: model's name -> scores in bands, scores over all pixels.
        path: ``.png``, ``.svg`` or ``.pdf``; written whole or not at all.

    Raises:
        DataError: no curve, or see `require_plotting`.
    """
    require_plotting(path)
    if not curves:
        raise DataError("there is no curve to draw; measure at least one model with --boundary")
    figure = _figure(7.2, 4.4, layout="constrained")
    axes = figure.subplots()
    for index, (name, (bands, whole)) in enumerate(curves.items()):
        color = _LINES[index % len(_LINES)]
        marker = _MARKERS[index % len(_MARKERS)]
        values = [100 * value for value in bands.miou]
        size = max(4, 9 - 2 * index)  # curves that coincide show below one another
        axes.plot(bands.widths, values, color=color, marker=marker, markersize=size, linewidth=1.8, label=name)
        axes.axhline(100 * whole.miou, color=color, linestyle=(0, (4, 3)), linewidth=1, alpha=0.8)
    first = next(iter(curves.values()))[0]
    widths = sorted({width for bands, _ in curves.values() for width in bands.widths})
    axes.set_xscale("log")
    axes.set_xticks(widths, [str(width) for width in widths])
    axes.set_xticks([], minor=True)
    where = {"void": "of void regions", "classes": "between classes", "both": "between classes and of void regions"}
    axes.set_xlabel(f"width of the band around the edges {where[first.edges]}, pixels")
    axes.set_ylabel("mIoU in the band, %")
    axes.grid(color="#e3e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.plot([], [], color="#555555", linestyle=(0, (4, 3)), linewidth=1, label="over all pixels")
    legend = axes.legend(loc="lower right", frameon=True, edgecolor="none", fontsize=9)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return _save(figure, path)


def _figure(width: float, height: float, **options: Any) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), **options)
    FigureCanvasAgg(figure)
    return figure


def _color_map(name: str) -> Any:
    import matplotlib

    return matplotlib.colormaps[name].with_extremes(bad="#ececec")


def _write_numbers(axes: Any, percent: np.ndarray, size: float) -> None:
    """Whole percents; shares that would read 0 stay empty."""
    for row, column in zip(*np.nonzero(np.nan_to_num(percent) >= 0.5), strict=True):
        value = percent[row, column]
        color = "white" if value > 35 else "#20242a"
        axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=size, color=color)


def _save(figure: Any, path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    with atomic_path(target) as temporary:
        suffix = target.suffix.lower().removeprefix(".")
        figure.savefig(temporary, format=suffix, dpi=_DPI, bbox_inches="tight", pad_inches=0.15)
    return target
