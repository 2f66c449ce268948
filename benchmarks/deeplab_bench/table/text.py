# SPDX-License-Identifier: Apache-2.0
"""The published table and what was measured beside it, for a terminal or as Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from deeplab_infer.commands.cli import make_console
from deeplab_infer.configs import ReferenceRow

from ..records import Record, Result, fps, is_error, quoted
from ..running.text import markdown_table
from ..running.worker import REFERENCE

_MOST_NOTES = 12
_EIGHT_BITS = ("int8", "fp8")


def print_table(published: list[ReferenceRow], results: list[Result], markdown: bool) -> None:
    """Print one line a row; on a CPU ratios alone, because its times compare with nothing."""
    found = {(result["name"], result["path"]): result for result in results}
    paths = list(dict.fromkeys(result["path"] for result in results if result["path"] != REFERENCE))
    on_gpu = any(str(result.get("device", "")).startswith("cuda") for result in results)
    with_memory = any("training" in result for result in results)
    titles = ["config", "input", "G MACs", "V100 fps", "mIoU", "V100 train GB"]
    titles += ["train GB plain / fused"] * with_memory
    titles += (["reference fps"] if on_gpu else ["reference"]) if results else []
    titles += paths
    titles += ["best fps", "x printed"] * (on_gpu and bool(results)) + ["of floor", "agreement"] * bool(paths)
    lines = [_line(row, found, paths, on_gpu, with_memory, bool(results)) for row in published]
    if markdown:
        print(markdown_table(titles, lines))
        return
    from rich.table import Table

    made = Table(title="published figures: one V100, batch 1 (mmsegmentation)", title_justify="left")
    for title in titles:
        made.add_column(title, justify="left" if title in ("config", "input") else "right", overflow="fold")
    for line in lines:
        made.add_row(*line)
    make_console().print(made)


def notes(record: Record) -> Iterable[str]:
    """What a reader must know beside the table."""
    paths = {result["path"] for result in record.results} - {REFERENCE}
    yield (
        "reference: the published table's protocol in plain torch on this machine"
        + ("; NAME: our path, end to end, as a multiple of the reference's speed" if paths else "")
    )
    if paths:
        yield (
            "best, of floor, agreement: of the fastest path that is not in eight bits; floor: this machine's measured "
            "copy and matrix rates"
        )
    if record.protocol.get("weights", "").startswith("random") and paths:
        yield "agreement with random weights is a lower bound: their labels are closer to ties than trained ones"
    if record.protocol.get("scale", 1) != 1:
        yield f"sizes: {record.protocol['scale']:g} of the rows' own; only ratios between columns mean anything"
    said = [f"{one['name']}, {one['path']}: {one['error']}" for one in record.results if is_error(one)]
    said += [f"left out: {one['name']}: {one['reason']}" for one in record.left_out]
    said += [f"{one['name']}, {one['path']}: {text}" for one in record.results for text in one.get("notes", [])]
    said += [f"training {one['name']}, {text}" for one in record.results for text in _training_errors(one)]
    unique = list(dict.fromkeys(said))
    yield from unique[:_MOST_NOTES]
    if len(unique) > _MOST_NOTES:
        yield f"and {len(unique) - _MOST_NOTES} more; --json FILE has them all"


def _line(
    row: ReferenceRow,
    found: dict[tuple[str, str], Result],
    paths: list[str],
    on_gpu: bool,
    with_memory: bool,
    measured: bool,
) -> list[str]:
    size = f"{row.network_input[0]} x {row.network_input[1]}" + (" windows" if row.test_mode == "slide" else "")
    cells = [row.name, size, f"{row.gmacs:.1f}", _number(row.fps), _number(row.miou), _number(row.memory_gb)]
    if not measured:
        return cells
    reference = found.get((row.name, REFERENCE))
    if with_memory:
        cells.append(_training((reference or {}).get("training")))
    good = reference if reference is not None and not is_error(reference) else None
    base = quoted(good)["median_ms"] if good else None
    failed = "failed" if reference is not None else "-"
    cells.append(failed if good is None else f"{fps(good):.2f}" if on_gpu else "1.00x")
    ours = [found.get((row.name, path)) for path in paths]
    cells += [_ratio(result, base) for result in ours]
    done = [
        result
        for result in ours
        if result is not None and not is_error(result) and result["precision"] not in _EIGHT_BITS
    ]
    best = max(done, key=fps, default=None)
    if on_gpu:
        cells += [f"{fps(best):.1f}", f"{fps(best) / row.fps:.1f}x" if row.fps else "-"] if best else ["-", "-"]
    if paths:
        cells += [_of_floor(best), _agreement(best)] if best else ["-", "-"]
    return cells


def _training_errors(result: Result) -> list[str]:
    training = result.get("training", {})
    ways = {"plain": training, "fused": training.get("fused", {})}
    return [f"{way}: {one['error']}" for way, one in ways.items() if "error" in one]


def _training(found: Result | None) -> str:
    """Peak of a training step, plain and fused; files of before that was measured have the first alone."""
    if found is None:
        return "-"
    return " / ".join(_peak(one) for one in (found, found.get("fused")) if one is not None)


def _peak(found: Result) -> str:
    return "failed" if "error" in found else f"{found['peak_gb']:.2f}"


def _ratio(result: Result | None, base: float | None) -> str:
    if result is None:
        return "-"
    if is_error(result):
        return "failed"
    return f"{base / quoted(result)['median_ms']:.2f}x" if base else f"{fps(result):.2f} fps"


def _of_floor(result: Result) -> str:
    floor = result.get("floor_ms")
    return "-" if floor is None else f"{floor / quoted(result)['median_ms']:.0%}"


def _agreement(result: Result) -> str:
    share = result.get("agreement")
    return "-" if share is None else f"{share:.3%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
