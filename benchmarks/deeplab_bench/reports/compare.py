# SPDX-License-Identifier: Apache-2.0
"""``deeplab-bench compare``: what changed from one result file to another, and whether it is more than noise."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from deeplab_infer.errors import DeepLabError
from deeplab_infer.files import atomic_write, require_writable_dir

from ..records import STEPS
from .comparison import FASTER, SAME, SLOWER, Comparison, Row, compare_records
from .markdown import render_blocks
from .markup import Bullets, Paragraph, Table
from .reading import NO_VALUE, Source, clean, geometric_mean, read_source, record_on_gpu
from .terminal import show_table
from .wording import milliseconds, ratio_text, share

_SCHEMA_VERSION = 1


def add_parser(commands: Any) -> None:
    """The subcommand's options."""
    parser = commands.add_parser("compare", help="two result files: what became faster, slower or stayed the same")
    parser.add_argument("before", metavar="A.json", help="result file to compare with")
    parser.add_argument("after", metavar="B.json", help="result file to judge")
    parser.add_argument("--step", choices=STEPS, help="step to compare (default: the last one that both measured)")
    parser.add_argument("--json", metavar="FILE", help="write the comparison")
    parser.add_argument("--markdown", action="store_true", help="print Markdown instead of a table")
    parser.add_argument(
        "--fail-below", type=float, metavar="RATIO",
        help="exit code 1 when B is certainly slower than this many times A's speed in any row, or fails where A did "
             "not (1 allows no loss; 0.95 allows 5 %%)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Read, compare, print, write."""
    limit = arguments.fail_below
    if limit is not None and not 0 < limit < float("inf"):
        raise DeepLabError(f"--fail-below must be a positive ratio such as 0.95, got {limit}")
    if arguments.json:
        require_writable_dir(Path(arguments.json).parent)
    before, after = read_source(arguments.before), read_source(arguments.after)
    found = compare_records(before, after, arguments.step)
    if arguments.markdown:
        print(_markdown(found, before, after), end="")
    else:
        _print(found, before, after)
    if arguments.json:
        _write(arguments.json, found, before, after)
    return _judge(found, limit, markdown=arguments.markdown)


def _judge(found: Comparison, limit: float | None, *, markdown: bool) -> int:
    if limit is None:
        return 0
    broken = [f"{name}: fails now" for name in found.errors_appeared]
    slow = [f"{row.label}: at most {row.speed.high:.3f} times as fast" for row in found.too_slow(limit)]
    for line in (*slow, *broken):
        print(_bullet(f"below {limit:g}: {line}", markdown=markdown))
    return 1 if slow or broken else 0


def _titles(gpu: bool) -> list[str]:
    times = ["A, ms", "B, ms"] if gpu else ["A, ms here", "B, ms here"]
    return ["measurement", "step", "speed B / A", "95 % interval", "verdict", *times, "memory", "agreement", "note"]


def _cells(row: Row) -> list[str]:
    speed = row.speed
    return [
        clean(row.label),
        STEPS.get(row.step, row.step),
        ratio_text(speed.ratio),
        f"{ratio_text(speed.low)} to {ratio_text(speed.high)}",
        speed.verdict,
        milliseconds(row.before_ms),
        milliseconds(row.after_ms),
        "; ".join(_memory_text(name, *values) for name, values in row.memory.items()) or NO_VALUE,
        _agreement_text(row.agreement),
        "unsteady" if row.unsteady else NO_VALUE,
    ]


def _memory_text(name: str, before: float, after: float) -> str:
    where, unit = name.partition("_")[0], "MiB" if name.endswith("_mib") else "MB"
    change = f" ({after / before - 1:+.1%})" if before > 0 else ""
    return f"{where} {before:.0f} to {after:.0f} {unit}{change}"


def _agreement_text(agreement: tuple[float, float] | None) -> str:
    if agreement is None:
        return NO_VALUE
    before, after = agreement
    return share(after) if before == after else f"{share(before)} to {share(after)}"


def _table(found: Comparison, before: Source, after: Source) -> Table:
    gpu = record_on_gpu(before.record) and record_on_gpu(after.record)
    titles, rows = _titles(gpu), [_cells(row) for row in found.rows]
    return Table(titles, rows, left=("measurement", "step", "verdict", "memory", "note")).without_empty_columns()


def _lines(found: Comparison, before: Source, after: Source) -> list[str]:
    """All that is not in the table, the most important first."""
    lines = [f"not the same: {clean(d.what)}: {clean(d.before)}, now {clean(d.after)}" for d in found.differences]
    lines += [f"fails now: {clean(name)}: {clean(error)}" for name, error in found.errors_appeared.items()]
    lines += [f"failed before, works now: {clean(name)} ({clean(e)})" for name, e in found.errors_gone.items()]
    lines += [f"fails in both: {clean(name)}" for name in found.failed_in_both]
    lines += [f"not measured in both: the step asked for of {clean(name)}" for name in found.no_common_step]
    lines += [f"only in {before.path}: {clean(name)}" for name in found.only_before]
    lines += [f"only in {after.path}: {clean(name)}" for name in found.only_after]
    return lines


def _summary(found: Comparison) -> str:
    if not found.rows:
        return "no row was timed in both files"
    verdicts = [row.speed.verdict for row in found.rows]
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in (FASTER, SLOWER, SAME))
    mean = geometric_mean([row.speed.ratio for row in found.rows])
    return f"{counts}; geometric mean of B's speed over A's: {ratio_text(mean)}"


def _explanation(found: Comparison, gpu: bool) -> list[str]:
    if not found.rows:
        return []
    said = [
        "speed B / A: ratio of the median times, above 1 where B is faster; interval: bootstrap of the medians; "
        "faster or slower: the whole interval is, and by more than 1 %"
    ]
    if any(row.unsteady for row in found.rows):
        said.append("unsteady: the samples of A or B spread by more than 5 %; measure again on a quiet machine")
    if not gpu:
        said.append("times of this machine's CPU are not comparable with other machines': read the ratios")
    said.append("an interval holds what varied within the two runs, not what varies from one run to the next")
    return said


def _markdown(found: Comparison, before: Source, after: Source) -> str:
    gpu = record_on_gpu(before.record) and record_on_gpu(after.record)
    blocks: list[Any] = [Paragraph((f"A: {before.path}; B: {after.path}. {_summary(found)}.",))]
    if found.rows:
        blocks.append(_table(found, before, after))
    lines = [*_lines(found, before, after), *_explanation(found, gpu)]
    blocks.append(Bullets(tuple((line,) for line in lines)))
    return render_blocks(blocks)


def _bullet(line: str, *, markdown: bool) -> str:
    return render_blocks([Bullets(((line,),))]).rstrip("\n") if markdown else clean(line)


def _print(found: Comparison, before: Source, after: Source) -> None:
    gpu = record_on_gpu(before.record) and record_on_gpu(after.record)
    if found.rows:
        table = _table(found, before, after)
        show_table(replace(table, caption=f"{before.path} (A), {after.path} (B)"))
    for line in (_summary(found), *_lines(found, before, after), *_explanation(found, gpu)):
        print(line)


def _write(path: str, found: Comparison, before: Source, after: Source) -> None:
    content = {
        "schema_version": _SCHEMA_VERSION,
        "kind": "comparison",
        "before": str(before.path),
        "after": str(after.path),
        **asdict(found),
        "rows": [{**asdict(row), "verdict": row.speed.verdict} for row in found.rows],
    }
    with atomic_write(path, "w") as stream:
        json.dump(content, stream, indent=1)
        stream.write("\n")
