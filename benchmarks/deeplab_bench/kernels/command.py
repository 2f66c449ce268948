# SPDX-License-Identifier: Apache-2.0
"""``deeplab-bench kernels``: every operator against the memory it must move and against other implementations."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from deeplab_infer.commands.cli import make_console
from deeplab_infer.errors import DeepLabError
from deeplab_infer.files import atomic_path, require_writable_dir

from ..measuring.options import add_options, resolve_device
from ..measuring.processes import KEEP_MEMORY, in_own_process
from ..records import make_record, now, write_record
from ..running.text import markdown_table

_WORKER = "deeplab_bench.kernels.worker"
_PEERS = ("eager", "compile", "onnxruntime", "openvino")
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def add_parser(commands: Any) -> None:
    """The subcommand's options."""
    parser = commands.add_parser("kernels", help="the fused operators: share of copy bandwidth, ratio to others")
    parser.add_argument("--suite", help="shapes: full, small or tiny (default: full on a GPU, small on a CPU)")
    parser.add_argument("--dtype", help="float32, float16 or bfloat16 (default: float16 on a GPU, float32 on a CPU)")
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="cases whose name contains this")
    add_options(parser, 1.0, "a measured implementation")
    parser.add_argument("--rounds", type=int, default=2, help="alternating rounds (default: 2)")
    parser.add_argument("--plot", metavar="FILE", help="write the table as a picture (.png, .svg, .pdf)")


def run(arguments: argparse.Namespace) -> int:
    """Measure, print, write."""
    job, cases = _plan(arguments)
    for path in (arguments.json, arguments.plot):
        if path:
            require_writable_dir(Path(path).parent)
    console = make_console(stderr=True, quiet=arguments.quiet)
    started, results = now(), []
    copies: list[float] = []
    try:
        for case in cases:
            with console.status("measuring the copy bandwidth"):
                copies.append(_copy(job))
            with console.status(f"measuring {case.name}"):
                results.append(_measure(case, job))
    except KeyboardInterrupt:
        console.print("interrupted: showing what was measured so far")
    copy = max(copies, default=0.0)
    rows = [_row(result, copy) for result in results]
    _print(rows, copy, job, arguments)
    if arguments.json:
        extra = {"job": job, "copy_gb_s": copy or None, "copy_rounds_gb_s": copies}
        complete = len(results) == len(cases)
        write_record(arguments.json, make_record("kernels", results, started, complete=complete, extra=extra))
    if arguments.plot:
        _plot(results, copy, job, arguments.plot)
    return 0 if len(results) == len(cases) else 130


def _plan(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[Any]]:
    device = resolve_device(arguments.device)
    from .cases import SUITES

    suite = arguments.suite or ("full" if device == "cuda" else "small")
    if suite not in SUITES:
        raise DeepLabError(f"--suite {suite!r} is not one of {', '.join(SUITES)}")
    dtype = arguments.dtype or ("float16" if device == "cuda" else "float32")
    if dtype not in _BYTES:
        raise DeepLabError(f"--dtype {dtype!r} is not one of {', '.join(_BYTES)}")
    if arguments.seconds <= 0 or arguments.rounds < 1:
        raise DeepLabError("--seconds must be positive and --rounds at least 1")
    cases = [c for c in SUITES[suite] if not arguments.only or any(text in c.name for text in arguments.only)]
    if not cases:
        raise DeepLabError(f"no case of suite {suite!r} has a name with {' or '.join(map(repr, arguments.only))}")
    threads = arguments.threads or len(os.sched_getaffinity(0))
    job = {
        "suite": suite,
        "device": device,
        "dtype": dtype,
        "threads": threads,
        "seconds": arguments.seconds,
        "rounds": arguments.rounds,
        "environment": KEEP_MEMORY,
    }
    return job, cases


def _copy(job: dict[str, Any]) -> float:
    answer = in_own_process(_WORKER, {**job, "case": None, "seconds": min(job["seconds"], 1.0)}, KEEP_MEMORY)
    if "error" in answer:
        raise DeepLabError(f"cannot measure the copy bandwidth: {answer['error']}")
    return float(answer["copy_gb_s"])


def _measure(case: Any, job: dict[str, Any]) -> dict[str, Any]:
    """On a GPU all in one process, in alternating rounds; on a CPU each in its own: thread pools slow each other."""
    from .cases import implementations
    from .worker import best_of

    names = implementations(case, job["device"])
    result = {"name": case.name, "operator": case.operator, "bytes": case.bytes_moved(_BYTES[job["dtype"]])}
    if job["device"] == "cuda":
        return {
            **result,
            **in_own_process(_WORKER, {**job, "case": case.name, "implementations": names, "check": True}, KEEP_MEMORY),
        }
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for index in range(job["rounds"]):
        for name in names:
            one = {**job, "rounds": 1, "seconds": job["seconds"] / job["rounds"], "case": case.name}
            check = name == "ours" and index == 0
            answer = in_own_process(_WORKER, {**one, "implementations": [name], "check": check}, KEEP_MEMORY)
            rounds[name].append(answer.get(name, answer))
            if "error_to_eager" in answer:
                result["error_to_eager"] = answer["error_to_eager"]
    return {**result, **{name: best_of(answers) for name, answers in rounds.items()}}


def _headers(job: dict[str, Any]) -> list[str]:
    time = ["time, us"] if job["device"] == "cuda" else []
    return ["operator", "MB", *time, "GB/s", "of copy", *(f"x {peer}" for peer in _PEERS), "error"]


def _row(result: dict[str, Any], copy: float) -> dict[str, Any]:
    ours = result.get("ours", {"error": result.get("error", "not measured")})
    row: dict[str, Any] = {"name": result["name"], "bytes": result["bytes"], "error": result.get("error_to_eager")}
    if "error" in ours:
        return {**row, "failed": ours["error"]}
    row["ms"] = ours["median_ms"]
    row["gb_s"] = result["bytes"] / ours["median_ms"] / 1e6
    row["of_copy"] = row["gb_s"] / copy
    for peer in _PEERS:
        other = result.get(peer)
        row[peer] = other["median_ms"] / ours["median_ms"] if other and "error" not in other else None
        row[f"{peer} failed"] = other.get("error") if other else None
    return row


def _cells(row: dict[str, Any], job: dict[str, Any]) -> list[str]:
    cells = [row["name"], f"{row['bytes'] / 1e6:.1f}"]
    if "failed" in row:
        return [*cells, f"failed: {row['failed']}", *["-"] * (len(_headers(job)) - 3)]
    if job["device"] == "cuda":
        cells.append(f"{row['ms'] * 1e3:.1f}")
    cells += [f"{row['gb_s']:.1f}", f"{row['of_copy']:.0%}"]
    cells += ["failed" if row[f"{p} failed"] else "-" if row[p] is None else f"{row[p]:.1f}" for p in _PEERS]
    return [*cells, "-" if row["error"] is None else f"{row['error']:.1e}"]


def _print(rows: list[dict[str, Any]], copy: float, job: dict[str, Any], arguments: argparse.Namespace) -> None:
    headers, cells = _headers(job), [_cells(row, job) for row in rows]
    if arguments.markdown:
        print(markdown_table(headers, cells))
    else:
        from rich.table import Table

        table = Table(title=f"fused operators, {job['device']}, {job['dtype']}", title_justify="left")
        for name in headers:
            table.add_column(name, justify="left" if name == "operator" else "right", overflow="fold")
        for line in cells:
            table.add_row(*line)
        make_console().print(table)
    print(
        f"MB: inputs and outputs once each; of copy: of a plain copy's {copy:.1f} GB/s (read + written);\n"
        "x NAME: how many times as long NAME takes; error: norm of the difference to eager (labels: share that differs)"
    )
    for row in rows:
        for peer in _PEERS:
            if row.get(f"{peer} failed"):
                print(f"{row['name']}: {peer} failed: {row[f'{peer} failed']}")


def _plot(results: list[dict[str, Any]], copy: float, job: dict[str, Any], path: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in (_row(result, copy) for result in results) if "failed" not in row][::-1]
    figure = Figure(figsize=(13, 1.2 + 0.36 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2, 3))
    positions = range(len(rows))
    left.barh(positions, [100 * row["of_copy"] for row in rows], color="#3b6ea5")
    left.axvline(85, color="black", linewidth=0.8, linestyle="--")
    left.set_xlabel(f"% of copy bandwidth ({copy:.0f} GB/s)")
    left.set_yticks(positions, [row["name"] for row in rows])
    height = 0.8 / len(_PEERS)
    for index, peer in enumerate(_PEERS):
        offsets = [p + 0.4 - (index + 0.5) * height for p in positions]
        right.barh(offsets, [row[peer] or 0 for row in rows], height=height, label=peer)
    right.axvline(1, color="black", linewidth=0.8)
    right.set_xscale("log")
    right.set_xlabel("time of others / our time")
    right.legend(loc="lower right")
    figure.suptitle(f"fused operators, {job['device']}, {job['dtype']}")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=Path(path).suffix.removeprefix(".") or "png", dpi=110)
