# SPDX-License-Identifier: Apache-2.0
"""Plots of a record as matplotlib figures: each function returns what draws one, or None where there is no data."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deeplab_infer.configs import reference_rows

from ..records import Record, Result, is_error, label
from .reading import Speed, clean, implementations, published, record_on_gpu, speeds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Draw = Callable[[], "Figure"]

# Okabe and Ito's colours without the yellow, which a white page swallows; markers say the same again.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK = "#404040"
_GRID = "#808080"
_WIDTH = 9.0
_MOST_BARS = 36
_MOST_BOXES = 24
_LONGEST = 44
_DATASETS = {
    "cityscapes": "Cityscapes", "ade20k": "ADE20K", "voc12aug": "Pascal VOC 2012", "pascal_context": "Pascal Context",
    "pascal_context_59": "Pascal Context 59", "loveda": "LoveDA", "potsdam": "Potsdam",
}  # fmt: skip


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Settings that every plot is drawn and saved with. Dollar signs of names are no formulas here."""
    import matplotlib

    settings: Any = {
        "text.parse_math": False, "font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
        "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
        "axes.grid": True, "axes.axisbelow": True, "grid.color": _GRID, "grid.alpha": 0.25, "grid.linewidth": 0.6,
        "legend.frameon": False, "svg.fonttype": "none", "svg.hashsalt": "deeplab-bench",
        "axes.formatter.use_mathtext": False, "axes.titlesize": 10,
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        yield


def accuracy(record: Record) -> Draw | None:
    """Images a second against the printed mIoU, a panel a dataset; a V100's printed points beside a GPU's."""
    told = [speed for speed in speeds(record) if published(speed.result, "miou") is not None]
    if not told:
        return None
    gpu = record_on_gpu(record)
    paths = _styles(_path(speed.result) for speed in told)
    panels: dict[str, list[Speed]] = {}
    for speed in told:
        panels.setdefault(_dataset(speed.result["name"]), []).append(speed)

    def draw() -> Figure:
        columns = min(2, len(panels))
        rows = math.ceil(len(panels) / columns)
        figure = _new_figure(0.9 + 2.9 * rows + 0.22 * math.ceil((len(paths) + 1) / 3))
        grid = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, (dataset, found) in zip(grid, panels.items(), strict=False):
            axes.set_title(dataset, loc="left")
            _accuracy_panel(axes, found, paths, printed=gpu)
            axes.set_xlabel("images a second" + ("" if gpu else " (this machine, not comparable)"))
            axes.set_ylabel("mIoU, % (printed)")
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        _legend_below(figure, paths, extra="V100, printed" if gpu else "")
        _label_points(figure)
        return figure

    return draw


def speed_up(record: Record) -> Draw | None:
    """How many times as fast as what each measurement is compared with: bars, or points where there are many."""
    told = [speed for speed in speeds(record) if speed.ratio is not None]
    # Rows of one network share a measurement: one of them is enough.
    ours = [speed for speed in told if speed.result is not speed.baseline]
    shown = [s for s in ours if s.result.get("measured_as", s.result["name"]) == s.result["name"]]
    if not shown:
        return None
    paths = _styles(_path(speed.result) for speed in shown)
    names = list(dict.fromkeys(_row_name(record, speed.result) for speed in shown))
    against = {"table": "the reference protocol", "peers": "eager fp32 of the other project", "train": "plain torch"}
    title = f"times as fast as {against.get(record.kind, 'the first measurement')}, same machine"

    def draw() -> Figure:
        bars = len(shown) <= _MOST_BARS
        height = 0.17 * len(shown) + 0.22 * len(names) if bars else 0.24 * len(names)
        figure = _new_figure(1.1 + height + 0.22 * math.ceil(len(paths) / 3))
        axes = figure.subplots()
        (_bars if bars else _points)(axes, record, shown, names, paths)
        axes.axvline(1, color=INK, linewidth=1, linestyle="--")
        axes.set_xlabel(title)
        axes.grid(visible=bars is False, axis="y")
        _legend_below(figure, paths)
        return figure

    return draw


def roofline(record: Record) -> Draw | None:
    """Achieved rate and measured ceilings, against arithmetic intensity; against work where traffic is not known."""
    points = _roofline_points(record)
    if not points:
        return None
    ceilings = record.ceilings or {}
    known = all(point.intensity is not None for point in points)
    groups = _styles(point.group for point in points)

    def draw() -> Figure:
        figure = _new_figure(4.8 + 0.22 * math.ceil(len(groups) / 3))
        axes = figure.subplots()
        for name, (colour, marker) in groups.items():
            mine = [point for point in points if point.group == name]
            x = [point.intensity if known and point.intensity is not None else point.gmacs for point in mine]
            sizes = [18 + 160 * point.weight for point in mine]
            y = [point.tflops for point in mine]
            axes.scatter(x, y, s=sizes, c=colour, marker=marker, alpha=0.75, linewidths=0)
        axes.set_xscale("log")
        axes.set_yscale("log")
        _draw_ceilings(axes, ceilings, known)
        axes.set_xlabel("arithmetic intensity, FLOP a byte" if known else "work, GMAC an image")
        axes.set_ylabel("achieved TFLOP/s (1 MAC = 2 FLOP)")
        _plain_ticks(axes)
        _legend_below(figure, groups)
        return figure

    return draw


def distribution(record: Record) -> Draw | None:
    """Samples of each measurement as boxes; many measurements, and a CPU's, relative to their medians."""
    told = speeds(record)
    if not told:
        return None
    relative = not record_on_gpu(record) or len(told) > _MOST_BOXES
    boxes: dict[str, list[float]] = {}
    for speed in told:
        timing = speed.result["steps"][speed.step]
        unit = timing["median_ms"] if relative else 1.0
        name = _path(speed.result) if len(told) > _MOST_BOXES else label(speed.result)
        boxes.setdefault(name, []).extend(sample / unit for sample in timing["samples_ms"])

    def draw() -> Figure:
        figure = _new_figure(1.1 + 0.34 * len(boxes))
        axes = figure.subplots()
        names = list(boxes)[::-1]
        axes.boxplot(
            [boxes[name] for name in names], orientation="horizontal", whis=(1, 99), showfliers=False, widths=0.55,
            patch_artist=True, boxprops={"facecolor": COLOURS[5], "edgecolor": INK, "linewidth": 0.8},
            medianprops={"color": COLOURS[1], "linewidth": 1.6},
            whiskerprops={"color": INK, "linewidth": 0.8}, capprops={"color": INK, "linewidth": 0.8},
        )  # fmt: skip
        axes.set_yticks(range(1, len(names) + 1), [_short(name) for name in names])
        axes.grid(visible=False, axis="y")
        drawn = [value for values in boxes.values() for value in values]
        if max(drawn) > 20 * min(drawn):
            axes.set_xscale("log")
            _plain_ticks(axes, "x")
        step = "time over the measurement's median" if relative else "ms a batch"
        axes.set_xlabel(f"{step}; box: quartiles, whiskers: 1 % and 99 %")
        return figure

    return draw


def operators(record: Record, peers: list[str]) -> Draw | None:
    """Fused operators: share of copy bandwidth, and how many times as long others take."""
    copy = record.extra.get("copy_gb_s")
    timed = [one for one in record.results if not is_error(one) and "median_ms" in (one.get("ours") or {})]
    if not timed or not copy:
        return None
    styles = _styles(peers)

    def draw() -> Figure:
        figure = _new_figure(1.3 + (0.16 * max(1, len(peers)) + 0.18) * len(timed))
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2, 3))
        positions = range(len(timed), 0, -1)
        times = [one["ours"]["median_ms"] for one in timed]
        shares = [100 * one["bytes"] / time / 1e6 / copy for one, time in zip(timed, times, strict=True)]
        left.barh(positions, shares, height=0.6, color=INK)
        left.set_xlabel(f"ours, % of copy bandwidth ({copy:.0f} GB/s)")
        left.set_yticks(positions, [_short(one["name"]) for one in timed])
        thickness = 0.8 / max(1, len(peers))
        for index, (name, (colour, _)) in enumerate(styles.items()):
            for position, one, time in zip(positions, timed, times, strict=True):
                other = implementations(one).get(name, {})
                if "median_ms" in other:
                    y = position + 0.4 - (index + 0.5) * thickness
                    right.barh(y, other["median_ms"] / time, height=thickness, color=colour)
        right.axvline(1, color=INK, linewidth=1, linestyle="--")
        right.set_xscale("log")
        _plain_ticks(right, "x")
        right.set_xlabel("time of others / our time")
        for axes in (left, right):
            axes.grid(visible=False, axis="y")
        _legend_below(figure, styles)
        return figure

    return draw


@dataclass(frozen=True)
class _Point:
    group: str
    tflops: float
    gmacs: float
    intensity: float | None
    weight: float  # share of the whole time; the area of the mark


def _roofline_points(record: Record) -> list[_Point]:
    if not (record.ceilings or {}).get("matmul_tflops"):
        return []
    if record.kind == "layers":
        return [point for result in record.results if not is_error(result) for point in _layer_points(result)]
    points = []
    for speed in speeds(record):
        gmacs, megabytes = speed.result.get("gmacs_per_image"), speed.result.get("mb_per_image")
        if gmacs:
            intensity = 2e3 * gmacs / megabytes if megabytes else None
            points.append(_Point(_path(speed.result), 2e-3 * gmacs * speed.fps, gmacs, intensity, 0.1))
    return points


def _layer_points(result: Result) -> Iterator[_Point]:
    total = sum(layer["ms"] for layer in result["layers"]) or 1.0
    common = {str(layer.get("op") or "other") for layer in sorted(result["layers"], key=lambda layer: -layer["ms"])}
    kinds = _largest_kinds(result["layers"]) if len(common) > len(COLOURS) else common
    for layer in result["layers"]:
        kind = str(layer.get("op") or "other")
        if layer.get("gmacs") and layer.get("mb") and layer["ms"] > 0:
            tflops = 2 * layer["gmacs"] / layer["ms"]
            intensity = 2e3 * layer["gmacs"] / layer["mb"]
            group = kind if kind in kinds else "other operations"
            yield _Point(group, tflops, layer["gmacs"], intensity, layer["ms"] / total)


def _largest_kinds(layers: list[dict[str, Any]]) -> set[str]:
    """The operations that take most time: one colour is left for all others."""
    times: dict[str, float] = {}
    for layer in layers:
        kind = str(layer.get("op") or "other")
        times[kind] = times.get(kind, 0) + layer["ms"]
    return set(sorted(times, key=lambda kind: -times[kind])[: len(COLOURS) - 1])


def _draw_ceilings(axes: Axes, ceilings: dict[str, Any], intensity_known: bool) -> None:
    rates = sorted(ceilings["matmul_tflops"].items(), key=lambda pair: pair[1])
    left, right = axes.get_xlim()
    slope = (ceilings.get("copy_gb_s") or 0) / 1e3 if intensity_known else 0
    if slope:
        ridge = rates[-1][1] / slope
        left, right = min(left, ridge / 8), max(right, ridge * 8)
        axes.plot([left, ridge], [left * slope, rates[-1][1]], color=INK, linewidth=1.2)
        at = math.sqrt(left * ridge)
        axes.annotate(
            f"copy {ceilings['copy_gb_s']:.0f} GB/s", (at, at * slope), (-4, 4), textcoords="offset points",
            ha="right", va="bottom",
        )  # fmt: skip
    drawn: list[tuple[list[str], float]] = []
    for precision, rate in rates:
        start = rate / slope if slope else left
        axes.plot([start, right], [rate, rate], color=INK, linewidth=1.2)
        if drawn and rate < 1.25 * drawn[-1][1]:
            drawn[-1] = ([*drawn[-1][0], f"{precision} {rate:.3g}"], rate)  # two words on one line would overlap
        else:
            drawn.append(([f"{precision} {rate:.3g}"], rate))
    for words, rate in drawn:
        text = f"{', '.join(words)} TFLOP/s"
        axes.annotate(text, (right, rate), (-2, 3), textcoords="offset points", ha="right", va="bottom")
    axes.set_xlim(left, right)
    axes.set_ylim(top=max(axes.get_ylim()[1], 2 * rates[-1][1]))


def _accuracy_panel(axes: Axes, told: list[Speed], paths: dict[str, tuple[str, str]], *, printed: bool) -> None:
    axes.set_xscale("log")
    axes.margins(x=0.14, y=0.16)
    for name, (colour, marker) in paths.items():
        mine = [speed for speed in told if _path(speed.result) == name]
        y = [published(speed.result, "miou") or math.nan for speed in mine]
        axes.scatter([speed.fps for speed in mine], y, s=26, c=colour, marker=marker, alpha=0.85, linewidths=0)
    rows = {speed.result["name"]: speed.result for speed in told}.values()
    pairs = [(published(row, "fps"), published(row, "miou") or math.nan, row["name"]) for row in rows]
    shown = [(fps, miou) for fps, miou, _ in pairs if fps is not None] if printed else []
    x, y = [fps for fps, _ in shown], [miou for _, miou in shown]
    axes.scatter(x, y, s=34, c="none", marker="o", edgecolors=INK, linewidths=1.2)
    fastest = {row["name"]: max(s.fps for s in told if s.result["name"] == row["name"]) for row in rows}
    for fps, miou, name in pairs:
        axes.annotate(_backbone(name), (fps if fps and printed else fastest[name], miou), fontsize=7.5, gid="label")
    _plain_ticks(axes, "x")


def _label_points(figure: Figure) -> None:
    """Put each label beside its point where nothing is; leave it out where there is no such place."""
    figure.draw_without_rendering()
    for axes in figure.axes:
        marks = [
            axes.transData.transform(point) for drawn in axes.collections for point in np.asarray(drawn.get_offsets())
        ]
        taken: list[Any] = []
        for text in [text for text in axes.texts if text.get_gid() == "label"]:
            text.set_gid(None)
            _place(text, axes, marks, taken)


def _place(text: Any, axes: Axes, marks: list[Any], taken: list[Any]) -> None:
    inside = axes.get_window_extent()
    for (dx, dy), across, up in (
        ((6, 0), "left", "center"), ((-6, 0), "right", "center"), ((0, 6), "center", "bottom"),
        ((0, -6), "center", "top"), ((5, 5), "left", "bottom"), ((5, -5), "left", "top"),
        ((-5, 5), "right", "bottom"), ((-5, -5), "right", "top"),
    ):  # fmt: skip
        text.set(position=(dx, dy), ha=across, va=up)
        text.set_anncoords("offset points")
        box = text.get_window_extent()
        free = not any(box.overlaps(other) for other in taken) and not any(_near(box, mark) for mark in marks)
        if free and inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1:
            taken.append(box)
            return
    text.remove()


def _near(box: Any, mark: Any) -> bool:
    return bool(box.x0 - 3 <= mark[0] <= box.x1 + 3 and box.y0 - 3 <= mark[1] <= box.y1 + 3)


def _bars(axes: Axes, record: Record, shown: list[Speed], names: list[str], paths: dict[str, tuple[str, str]]) -> None:
    position, ticks = 0.0, []
    longest = max(speed.ratio or 0 for speed in shown)
    for name in names:
        mine = [speed for speed in shown if _row_name(record, speed.result) == name]
        for index, speed in enumerate(mine):
            ratio = speed.ratio or 0
            axes.barh(position - index, ratio, height=0.86, color=paths[_path(speed.result)][0])
            axes.annotate(
                f"{ratio:.2f}x",
                (ratio, position - index),
                (3, 0),
                textcoords="offset points",
                va="center",
                fontsize=7.5,
            )
        ticks.append(position - (len(mine) - 1) / 2)
        position -= len(mine) + 0.8
    axes.set_yticks(ticks, [_short(name) for name in names])
    axes.set_xlim(0, 1.1 * max(1.0, longest))
    axes.set_ylim(position + 1, 0.8)


def _points(
    axes: Axes, record: Record, shown: list[Speed], names: list[str], paths: dict[str, tuple[str, str]]
) -> None:
    places = {name: -index for index, name in enumerate(names)}
    for path, (colour, marker) in paths.items():
        mine = [speed for speed in shown if _path(speed.result) == path]
        y = [places[_row_name(record, speed.result)] for speed in mine]
        x = [speed.ratio or 0 for speed in mine]
        axes.scatter(x, y, s=26, c=colour, marker=marker, alpha=0.9, linewidths=0)
    axes.set_yticks([-index for index in range(len(names))], [_short(name) for name in names])
    axes.set_ylim(-len(names) + 0.4, 0.6)
    axes.set_xscale("log")
    _plain_ticks(axes, "x")


def _row_name(record: Record, result: Result) -> str:
    """What a bar's group is called: the network; in a run, where each has its own baseline, the measurement."""
    if record.kind == "run":
        return label(result)
    row = _reference(result["name"]) if record.kind == "table" else None
    return f"{_dataset(row.name)}, {_backbone(row.name)}, {row.schedule // 1000}k" if row else str(result["name"])


def _path(result: Result) -> str:
    path = str(result.get("path") or result.get("backend") or "-")
    batch = result.get("batch", 1)
    return path if batch == 1 or f"batch {batch}" in path else f"{path}, batch {batch}"


def _dataset(name: str) -> str:
    row = _reference(name)
    return _DATASETS.get(row.dataset, row.dataset) if row else "other rows"


def _backbone(name: str) -> str:
    row = _reference(name)
    if row is None:
        return _short(name, 16)
    return f"{row.backbone} {row.crop[0]}" + (" MG" if row.multi_grid else "") + (" fp16" if row.fp16 else "")


def _reference(name: str) -> Any:
    return next((row for row in reference_rows() if name in (row.name, row.legacy_name)), None)


def _styles(names: Any) -> dict[str, tuple[str, str]]:
    """Colour and marker of each name; after seven the colours come again with other markers."""
    unique = list(dict.fromkeys(names))
    count = len(COLOURS)
    return {
        name: (COLOURS[index % count], MARKERS[(index + index // count) % count]) for index, name in enumerate(unique)
    }


def _new_figure(height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained", facecolor="none")
    FigureCanvasAgg(figure)
    return figure


def _legend_below(figure: Figure, styles: dict[str, tuple[str, str]], extra: str = "") -> None:
    from matplotlib.lines import Line2D

    marks = [
        Line2D([], [], color=colour, marker=marker, linestyle="", label=_short(name, 40))
        for name, (colour, marker) in styles.items()
    ]
    if extra:
        marks.append(Line2D([], [], color=INK, marker="o", markerfacecolor="none", linestyle="", label=extra))
    if len(marks) > 1:
        figure.legend(handles=marks, loc="outside lower center", ncols=3)


def _plain_ticks(axes: Axes, which: str = "both") -> None:
    """Numbers as they are spoken, not as powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for name in ("x", "y") if which == "both" else (which,):
        axis = getattr(axes, f"{name}axis")
        low, high = sorted(axis.get_view_interval())
        wide = low > 0 and high / low > 40
        axis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.10g}"))
        axis.set_minor_formatter(NullFormatter())


def _short(text: str, longest: int = _LONGEST) -> str:
    text = clean(text)
    if len(text) <= longest:
        return text
    half = (longest - 1) // 2
    return f"{text[:half]}\N{HORIZONTAL ELLIPSIS}{text[-half:]}"
