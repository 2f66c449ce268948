# SPDX-License-Identifier: Apache-2.0
"""What a report says: a front summary, then a section a record."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..records import STEPS, Record, Result, is_error, label
from . import charts, training
from .markup import Block, Bullets, Chart, Code, Document, Inline, Link, Paragraph, Section, Table
from .reading import (
    NO_VALUE,
    Source,
    Speed,
    clean,
    geometric_mean,
    implementations,
    input_text,
    on_gpu,
    published,
    record_on_gpu,
    speeds,
    steps_of,
)
from .wording import figure, mebibytes, ratio_text, share

_KINDS = {
    "run": "Models",
    "table": "Published table",
    "peers": "Other projects",
    "kernels": "Fused operators",
    "layers": "Layers",
    "macs": "Multiply-adds",
    "train": "Training",
}
_NOT_COMPARABLE = "this machine, not comparable"
_TOP_LAYERS = 20


def make_document(sources: list[Source], title: str, folder: Path) -> Document:
    """A report on records, the oldest first.

    Args:
        sources: what to report on.
        title: of the report.
        folder: where it will lie; links to the records are relative to it.
    """
    ordered = sorted(sources, key=lambda source: source.record.started)
    sections = [_summary(ordered, folder)]
    for number, source in enumerate(ordered, 1):
        sections += _record_sections(number, source, folder)
    return Document(title, sections)


def _summary(sources: list[Source], folder: Path) -> Section:
    rows: list[list[Inline]] = []
    for number, source in enumerate(sources, 1):
        record = source.record
        state = "" if record.complete else " (interrupted)"
        rows.append(
            [
                Link(f"{number}. {_KINDS[record.kind]}", f"#record-{number}"),
                _where(record),
                _day(record.started) + state,
                _headline(record),
                _file_link(source, folder),
            ]
        )
    titles = ["what", "machine", "date", "in short", "file"]
    blocks: list[Block] = [
        Paragraph(
            (
                "Made by ",
                Code("deeplab-bench report"),
                " from the result files below, the oldest first.",
            )
        ),
        Table(titles, rows, left=tuple(titles)),
    ]
    if not all(record_on_gpu(source.record) for source in sources if source.record.kind != "macs"):
        blocks.append(
            Paragraph(("Times of a CPU or of a shared machine hold for that machine only: read the ratios.",))
        )
    return Section("Summary", blocks)


def _record_sections(number: int, source: Source, folder: Path) -> list[Section]:
    record = source.record
    heading = f"{number}. {_KINDS[record.kind]}: {_where(record)}, {_day(record.started)}"
    facts = Section(heading, [_facts(source, folder)], anchor=f"record-{number}")
    bodies = {
        "run": _run_blocks, "peers": _run_blocks, "table": _table_blocks,
        "kernels": _kernel_blocks, "layers": _layer_blocks, "macs": _macs_blocks, "train": _train_blocks,
    }  # fmt: skip
    blocks = facts.blocks + bodies[record.kind](record) + _failures(record) + _remarks(record)
    return [Section(heading, blocks, anchor=facts.anchor)]


# What was measured, where and how.


def _facts(source: Source, folder: Path) -> Bullets:
    record, machine = source.record, source.record.machine
    versions = machine.get("versions") or {}
    said = [
        ("file", (_file_link(source, folder),)),
        ("command", (Code(" ".join(map(str, record.command))),) if record.command else ()),
        ("measured", (_period(record),) if record.started else ()),
        ("machine", (_machine(machine),) if machine else ()),
        ("commit", (Code(str(machine["commit"])),) if machine.get("commit") else ()),
        ("versions", (", ".join(f"{name} {version}" for name, version in versions.items()),) if versions else ()),
        ("ceilings", (_ceilings(record),) if record.ceilings else ()),
        ("protocol", (_protocol(record),) if _protocol(record) else ()),
    ]
    items: list[tuple[Inline, ...]] = [(f"{name}: ", *parts) for name, parts in said if parts]
    return Bullets(tuple(items))


def _file_link(source: Source, folder: Path) -> Link:
    return Link(source.path.name, os.path.relpath(source.path.resolve(), folder.resolve()).replace(os.sep, "/"))


def _where(record: Record) -> str:
    """GPU without its driver, or the CPU."""
    machine = record.machine
    if record.kind == "macs":
        return "no machine"
    if record_on_gpu(record) and machine.get("gpu"):
        return clean(str(machine["gpu"]).split(",")[0])
    return clean(f"{machine.get('cpu') or 'unknown CPU'}, CPU")


def _machine(machine: dict[str, Any]) -> str:
    special = ("cpu", "cpus", "memory_gib", "gpu", "commit", "versions")
    said = [f"{machine.get('cpu', 'unknown CPU')}, {machine.get('cpus', '?')} logical cores"]
    said += [f"{machine['memory_gib']} GiB"] if "memory_gib" in machine else []
    said += [f"GPU {machine['gpu']}"] if machine.get("gpu") else ["no GPU"]
    rest = {name: value for name, value in machine.items() if name not in special and value not in (None, "")}
    return ", ".join([*said, *(f"{name} {_plain(value)}" for name, value in rest.items())])


def _ceilings(record: Record) -> str:
    ceilings = record.ceilings or {}
    said = [f"copy {figure(ceilings['copy_gb_s'])} GB/s"] if ceilings.get("copy_gb_s") else []
    rates = ceilings.get("matmul_tflops") or {}
    said += [f"{precision} {figure(rate)} TFLOP/s" for precision, rate in rates.items()]
    return "measured on " + ", ".join([str(ceilings.get("device", "this machine")), *said])


def _protocol(record: Record) -> str:
    job = record.extra.get("job")
    how = {**(job if isinstance(job, dict) else {}), **record.protocol}
    return "; ".join(f"{name}: {_plain(value)}" for name, value in how.items() if value not in (None, {}, []))


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={_plain(one)}" for name, one in value.items())
    return ", ".join(map(_plain, value)) if isinstance(value, list) else str(value)


def _period(record: Record) -> str:
    until = f" to {record.finished}" if record.finished and record.finished != record.started else ""
    return f"{record.started}{until}" + ("" if record.complete else ", interrupted")


def _day(started: str) -> str:
    return started[:10] or "no date"


def _failures(record: Record) -> list[Block]:
    failed = [(label(result), str(result["error"])) for result in record.results if is_error(result)]
    for result in record.results if record.kind == "kernels" else []:
        parts = implementations(result).items()
        failed += [(f"{result['name']}, {name}", str(one["error"])) for name, one in parts if "error" in one]
    blocks: list[Block] = []
    if failed:
        blocks.append(
            Table(["failed", "what was said"], [list(one) for one in failed], left=("failed", "what was said"))
        )
    if record.left_out:
        rows = [[str(one.get("name", "?")), str(one.get("reason", "?"))] for one in record.left_out]
        blocks.append(Table(["left out", "why"], rows, left=("left out", "why")))
    return blocks


def _remarks(record: Record) -> list[Block]:
    said = [f"{label(result)}: {note}" for result in record.results for note in result.get("notes") or []]
    restless = [text for result in record.results if not is_error(result) for text in _unsteady(result)]
    if restless:
        shown = ", ".join(restless[:8]) + (f" and {len(restless) - 8} more" if len(restless) > 8 else "")
        said.append(f"unsteady (samples spread by more than 5 %, small differences mean nothing): {shown}")
    return [Bullets(tuple((one,) for one in said))] if said else []


def _unsteady(result: Result) -> list[str]:
    if "ours" in result:
        return [result["name"]] if result["ours"].get("unsteady") else []
    steps = [step for step in steps_of(result) if result["steps"][step].get("unsteady")]
    return [f"{label(result)} ({', '.join(STEPS[step] for step in steps)})"] if steps else []


# Headlines of the summary.


def _headline(record: Record) -> str:
    failed = sum(map(is_error, record.results))
    made = _HEADLINES[record.kind](record) if len(record.results) > failed else "nothing was measured"
    return f"{made}; {failed} failed" if failed else made


def _speed_headline(record: Record) -> str:
    told = [(speed.ratio, speed) for speed in speeds(record) if speed.ratio and speed.result is not speed.baseline]
    names = len({result["name"] for result in record.results})
    what = {"run": "model", "table": "row", "peers": "network"}[record.kind]
    count = f"{names} {what}{'s' if names > 1 else ''}"
    if not told:
        return count
    if record.kind == "run":
        ratio, best = max(told, key=lambda pair: pair[0])
        return f"{count}; fastest: {label(best.result)}, {ratio_text(ratio)} the first" if ratio > 1 else count
    by_path = _by_path([speed for _, speed in told])
    means = {path: geometric_mean([s.ratio for s in found if s.ratio]) for path, found in by_path.items()}
    path = max(means, key=lambda name: means[name])
    against = "the reference protocol" if record.kind == "table" else "eager fp32 of the other project"
    return f"{count}; {path}: {ratio_text(means[path])} {against} (geometric mean)"


def _kernel_headline(record: Record) -> str:
    said = [f"{len(record.results)} operators"]
    for peer in ("eager", "compile"):
        ratios = [r for r in (_kernel_ratio(result, peer) for result in record.results) if r]
        said += [f"{ratio_text(statistics.median(ratios))} the speed of {peer} torch"] if ratios else []
    return ", ".join(said) + (" (medians)" if len(said) > 1 else "")


def _layer_headline(record: Record) -> str:
    result = next(result for result in record.results if not is_error(result))
    top = max(result["layers"], key=lambda layer: layer["ms"], default=None)
    slowest = f"; {top['name']} takes {share(top['ms'] / _layer_sum(result), 0)}" if top and _layer_sum(result) else ""
    return f"{result['name']}, {len(result['layers'])} layers{slowest}"


def _macs_headline(record: Record) -> str:
    counted = [result for result in record.results if not is_error(result)]
    deviations = [abs(result["deviation"]) for result in counted if result.get("deviation") is not None]
    said = f"{len(counted)} networks" if len(counted) > 1 else counted[0]["name"]
    return f"{said}; deviation from printed figures: {figure(max(deviations))} G at most" if deviations else said


_HEADLINES: dict[str, Callable[[Record], str]] = {
    "run": _speed_headline, "table": _speed_headline, "peers": _speed_headline,
    "kernels": _kernel_headline, "layers": _layer_headline, "macs": _macs_headline, "train": training.headline,
}  # fmt: skip


# Kinds run and peers: one line a measurement.


def _run_blocks(record: Record) -> list[Block]:
    told = speeds(record)
    if not told:
        return []
    gpu = record_on_gpu(record)
    here = "" if gpu else " here"
    against = "the first" if record.kind == "run" else "eager fp32"
    columns: dict[str, Callable[[Speed], str]] = {
        "model" if record.kind == "run" else "network": lambda s: clean(s.result["name"]),
        "path": lambda s: clean(s.result.get("path") or NO_VALUE),
        "device": lambda s: clean(s.result.get("device") or NO_VALUE),
        "precision": lambda s: clean(s.result.get("precision") or NO_VALUE),
        "input": lambda s: input_text(s.result),
        f"speed over {against}": lambda s: ratio_text(s.ratio),
        "of roofline": lambda s: share(s.roofline, 0),
        "agreement": lambda s: share(s.result.get("agreement")),
        f"fps{here}": lambda s: figure(s.fps),
        **{f"{title}, ms{here}": _step_cell(step) for step, title in STEPS.items()},
        f"p90, ms{here}": lambda s: figure(s.result["steps"][s.step]["p90_ms"]),
        f"p99, ms{here}": lambda s: figure(s.result["steps"][s.step]["p99_ms"]),
        **{title: _memory_cell(name) for title, name in _MEMORY.items()},
        "J an image": lambda s: figure(s.result.get("energy_j_per_image")),
    }
    left = ("model", "network", "path", "device", "precision", "input")
    rows = [[cell(speed) for cell in columns.values()] for speed in told]
    caption = "" if gpu else f"Ratios first; fps and ms: {_NOT_COMPARABLE}"
    table = Table(list(columns), rows, left, caption).without_empty_columns()
    return [table, Paragraph((_step_words(told),)), *_speed_charts(record)]


_MEMORY = {
    "host MiB": "host_peak_mib",
    "model, host MiB": "host_model_mib",
    "device MiB": "device_peak_mib",
    "weights MiB": "weights_mib",
    "activations MiB": "activations_mib",
}


def _step_cell(step: str) -> Callable[[Speed], str]:
    return lambda speed: figure(speed.result["steps"].get(step, {}).get("median_ms"))


def _memory_cell(name: str) -> Callable[[Speed], str]:
    return lambda speed: mebibytes((speed.result.get("memory") or {}).get(name))


def _step_words(told: list[Speed]) -> str:
    if any(speed.step != speed.baseline_step for speed in told):
        return (
            "Times are medians of an image: the reference's of forward and post-processing, as its protocol has them, "
            "ours end to end, with the resize and normalisation of the image."
        )
    steps = list(dict.fromkeys(STEPS[speed.step] for speed in told))
    return (
        f"Times are medians of a batch. Speed, fps and percentiles are of {' or '.join(steps)}: "
        "the last step that a measurement and what it is compared with both have."
    )


def _speed_charts(record: Record) -> list[Block]:
    where = _where(record)
    named = {
        f"Speed and accuracy, {where}": charts.accuracy(record),
        f"Speed-up, {where}": charts.speed_up(record),
        f"Achieved arithmetic rate, {where}": charts.roofline(record),
        f"Distribution of times, {where}": charts.distribution(record),
    }
    return [Chart(title, draw) for title, draw in named.items() if draw]


# Kind table: a row of the published table by the ways it ran here.


def _table_blocks(record: Record) -> list[Block]:
    told = speeds(record)
    if not told:
        return []
    gpu = record_on_gpu(record)
    over = Pivot("Speed-up over the reference protocol on this machine", lambda s: ratio_text(s.ratio), skip=_is_base)
    here = Pivot(f"fps{'' if gpu else f' ({_NOT_COMPARABLE})'}", lambda s: figure(s.fps), printed=gpu)
    tables = [here, over] if gpu else [over, here]
    tables += [Pivot("Speed-up over the printed V100 figure", lambda s: ratio_text(s.over_published))] if gpu else []
    tables += [
        Pivot("Share of this machine's roofline", lambda s: share(s.roofline, 0)),
        Pivot("Pixels labelled like the float32 reference", lambda s: share(s.result.get("agreement"))),
        *(Pivot(f"Memory, {title}", _memory_cell(name)) for title, name in _MEMORY.items()),
    ]
    made = [pivot.table(record, told) for pivot in tables]
    blocks: list[Block] = [_path_summary(told)]
    blocks += [table for table in made if len(table.titles) > 1 + ("input" in table.titles)]
    words = _step_words(told)
    if gpu:
        words += " Printed figures: mmsegmentation's model zoo, a V100, forward and post-processing, batch 1."
    else:
        words += " Printed V100 figures are left out: a CPU's times stand beside no GPU's."
    return [*blocks, Paragraph((words,)), *_speed_charts(record)]


class Pivot:
    """One figure of every table row, a column a path."""

    def __init__(
        self,
        caption: str,
        cell: Callable[[Speed], str],
        *,
        skip: Callable[[Speed], bool] = lambda speed: False,
        printed: bool = False,
    ) -> None:
        self.caption, self.cell, self.skip, self.printed = caption, cell, skip, printed

    def table(self, record: Record, told: list[Speed]) -> Table:
        """Rows in the record's order; ``failed`` where a path failed, ``-`` where it was not measured."""
        shown = [speed for speed in told if not self.skip(speed)]
        has_value = [path for path, found in _by_path(shown).items() if any(self.cell(s) != NO_VALUE for s in found)]
        cells = {(speed.result["name"], _path(speed.result)): self.cell(speed) for speed in shown}
        cells |= {(r["name"], _path(r)): "failed" for r in record.results if is_error(r)}
        rows = []
        for name, result in _first_by_name(record.results).items():
            published_cells = [figure(published(result, "fps"))] if self.printed else []
            values = [cells.get((name, path), NO_VALUE) for path in has_value]
            rows.append([clean(name), input_text(result), *published_cells, *values])
        titles = ["row", "input", *(["V100, printed"] if self.printed else []), *map(clean, has_value)]
        caption = self.caption if has_value else ""
        table = Table(titles, rows, ("row", "input"), caption)
        return table if has_value else Table(["row"], [])


def _path_summary(told: list[Speed]) -> Table:
    titles = ["path", "rows", "speed-up (geometric mean)", "least", "most", "of roofline (median)", "lowest agreement"]
    rows = []
    for path, found in _by_path(told).items():
        ratios = [speed.ratio for speed in found if speed.ratio]
        rooflines = [speed.roofline for speed in found if speed.roofline is not None]
        agreements = [s.result["agreement"] for s in found if s.result.get("agreement") is not None]
        rows.append(
            [
                clean(path),
                str(len(found)),
                *([ratio_text(f(ratios)) for f in (geometric_mean, min, max)] if ratios else [NO_VALUE] * 3),
                share(statistics.median(rooflines), 0) if rooflines else NO_VALUE,
                share(min(agreements)) if agreements else NO_VALUE,
            ]
        )
    caption = "Every path over its rows, against the reference protocol on this machine"
    return Table(titles, rows, ("path",), caption).without_empty_columns()


def _first_by_name(results: Iterable[Result]) -> dict[str, Result]:
    """The result that says most of a row: one that did not fail, where there is one."""
    found: dict[str, Result] = {}
    for result in results:
        known = found.get(result["name"])
        if known is None or (is_error(known) and not is_error(result)):
            found[result["name"]] = result
    order = dict.fromkeys(result["name"] for result in results)
    return {name: found[name] for name in order}


def _by_path(told: Iterable[Speed]) -> dict[str, list[Speed]]:
    found: dict[str, list[Speed]] = {}
    for speed in told:
        found.setdefault(_path(speed.result), []).append(speed)
    return found


def _path(result: Result) -> str:
    """How it ran; the batch where it is not one image."""
    path = str(result.get("path") or NO_VALUE)
    batch = result.get("batch", 1)
    return path if batch == 1 or f"batch {batch}" in path else f"{path}, batch {batch}"


def _is_base(speed: Speed) -> bool:
    return speed.result is speed.baseline


# Kind kernels: our operators beside other implementations.


def _kernel_blocks(record: Record) -> list[Block]:
    job, copy = record.extra.get("job") or {}, record.extra.get("copy_gb_s")
    gpu = on_gpu(job)
    timed = [
        result for result in record.results if not is_error(result) and "error" not in result.get("ours", {"error": 0})
    ]
    peers = list(dict.fromkeys(name for result in timed for name in implementations(result) if name != "ours"))
    time = ["time, us"] if gpu else []
    titles = ["operator", *(f"x {peer}" for peer in peers), "of copy", "GB/s", *time, "MB", "error to eager"]
    rows = []
    for result in timed:
        ours = result["ours"]["median_ms"]
        rate = result["bytes"] / ours / 1e6
        ratios = [_kernel_cell(result, peer) for peer in peers]
        times = [figure(ours * 1e3)] if gpu else []
        error = result.get("error_to_eager")
        rows.append(
            [clean(result["name"]), *ratios, share(rate / copy, 0) if copy else NO_VALUE, figure(rate), *times,
             f"{result['bytes'] / 1e6:.1f}", NO_VALUE if error is None else f"{error:.1e}"]
        )  # fmt: skip
    words = (
        "x NAME: how many times as long NAME takes as ours. MB: inputs and outputs once each; of copy: of a plain "
        f"copy's {figure(copy)} GB/s, read and written. Error: norm of the difference to eager (labels: share that "
        "differs)."
    )
    chart = charts.operators(record, peers)
    blocks: list[Block] = (
        [Table(titles, rows, ("operator",)).without_empty_columns(), Paragraph((words,))] if rows else []
    )
    return blocks + ([Chart(f"Fused operators, {_where(record)}", chart)] if chart else [])


def _kernel_cell(result: Result, peer: str) -> str:
    if "error" in result.get(peer, {}):
        return "failed"
    return figure(_kernel_ratio(result, peer))


def _kernel_ratio(result: Result, peer: str) -> float | None:
    ours, other = result.get("ours") or {}, result.get(peer) or {}
    if "median_ms" not in ours or "median_ms" not in other:
        return None
    return float(other["median_ms"] / ours["median_ms"])


# Kind layers: where the time of one network goes.


def _layer_blocks(record: Record) -> list[Block]:
    gpu = record_on_gpu(record)
    blocks: list[Block] = []
    for result in record.results:
        if not is_error(result):
            blocks.append(_layer_table(result, gpu))
    chart = charts.roofline(record)
    return blocks + ([Chart(f"Roofline of the layers, {_where(record)}", chart)] if chart else [])


def _layer_table(result: Result, gpu: bool) -> Table:
    layers = sorted(result["layers"], key=lambda layer: -layer["ms"])
    total = _layer_sum(result)
    here = "" if gpu else " here"
    titles = ["layer", "operation", "of all", "of floor", f"ms{here}", f"floor, ms{here}", "GMAC", "MB"]
    rows = [
        _layer_cells(layer["name"], str(layer.get("op") or NO_VALUE), [layer], total) for layer in layers[:_TOP_LAYERS]
    ]
    rest = layers[_TOP_LAYERS:]
    if rest:
        rows.append(_layer_cells(f"{len(rest)} others", NO_VALUE, rest, total))
    rows.append(_layer_cells("all layers", NO_VALUE, layers, total))
    how = ", ".join(str(result[name]) for name in ("path", "device", "precision") if result.get(name))
    times = f"{figure(result['total_ms'])} ms in one piece without measuring layers, {figure(total)} ms their sum"
    caption = f"{result['name']}, {how}, {input_text(result)}: {times}" + ("" if gpu else f" ({_NOT_COMPARABLE})")
    return Table(titles, rows, ("layer", "operation"), caption).without_empty_columns()


def _layer_cells(name: str, operation: str, layers: list[dict[str, Any]], total: float) -> list[str]:
    time = sum(layer["ms"] for layer in layers)
    floor, gmacs, megabytes = (_sum_of_known(layers, name) for name in ("floor_ms", "gmacs", "mb"))
    known = sum(layer["ms"] for layer in layers if layer.get("floor_ms") is not None)
    return [
        clean(name), clean(operation), share(time / total, 1) if total else NO_VALUE,
        share(floor / known, 0) if floor is not None and known else NO_VALUE,
        figure(time), figure(floor), figure(gmacs), figure(megabytes),
    ]  # fmt: skip


def _sum_of_known(entries: list[dict[str, Any]], name: str) -> float | None:
    values = [entry[name] for entry in entries if entry.get(name) is not None]
    return sum(values) if values else None


def _layer_sum(result: Result) -> float:
    return float(sum(layer["ms"] for layer in result["layers"]))


# Kind train: the ways of training.


def _train_blocks(record: Record) -> list[Block]:
    words: list[Block] = [Paragraph((line,)) for line in training.explanation(record)]
    chart = charts.speed_up(record)
    drawn: list[Block] = [Chart(f"Speed of training, {_where(record)}", chart)] if chart else []
    return [*training.tables(record), *words, *drawn]


# Kind macs: what was counted.


_COUNTS = ("dense_gmacs", "space_to_batch_gmacs", "profiler_gmacs", "published_gmacs")


def _macs_blocks(record: Record) -> list[Block]:
    counted = [result for result in record.results if not is_error(result)]
    titles = ["network", "input", "windows", "G MACs", "space to batch", "profiler", "printed", "deviation"]
    rows = [[clean(result["name"]), f"{result['height']} x {result['width']}", str(result.get("windows", 1)),
             *(figure(result.get(name)) for name in _COUNTS),
             NO_VALUE if result.get("deviation") is None else f"{result['deviation']:+.3f}"]
            for result in counted]  # fmt: skip
    words = (
        "G MACs: 1e9 multiply-adds of an image's convolutions. Space to batch: as TensorFlow ran dilated convolutions; "
        "profiler: as its profiler counted them, which the papers print; deviation: profiler's from the printed figure."
    )
    blocks: list[Block] = (
        [Table(titles, rows, ("network", "input")).without_empty_columns(), Paragraph((words,))] if rows else []
    )
    return blocks + [_stage_table(result, folded=len(counted) > 1) for result in counted if result["stages"]]


def _stage_table(result: Result, *, folded: bool) -> Table:
    titles = ["stage", "GMAC", "of all", "MB, separate kernels", "MB, fused", "weights, M"]
    total = sum(stage["gmacs"] for stage in result["stages"])
    rows = [
        [clean(stage["name"]), figure(stage["gmacs"]), share(stage["gmacs"] / total, 1) if total else NO_VALUE,
         *(figure(stage.get(name)) for name in ("mb_eager", "mb_fused", "weights_m"))]
        for stage in result["stages"]
    ]  # fmt: skip
    caption = f"Stages of {result['name']}, {result['height']} x {result['width']}"
    return Table(titles, rows, ("stage",), caption, folded).without_empty_columns()
