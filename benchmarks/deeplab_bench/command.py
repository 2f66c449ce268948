# SPDX-License-Identifier: Apache-2.0
"""``deeplab-bench``: fps, latency and memory of models, and the published table beside them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deeplab_infer.commands.cli import make_console, make_parser, run_command
from deeplab_infer.commands.train import parse_size
from deeplab_infer.configs import ReferenceRow, reference_rows
from deeplab_infer.engine_manifest import ENGINE_SUFFIXES
from deeplab_infer.errors import DeepLabError
from deeplab_infer.files import require_writable_dir
from deeplab_infer.runtime import BACKENDS, backends_for, read_manifest

from . import kernels
from .processes import in_own_process, now, write_results
from .report import markdown, markdown_table, notes, table
from .worker import Job

PROG = "deeplab-bench"
_WORKER = "deeplab_bench.worker"
_SIZE = (512, 1024)
_EPILOG = """\
examples:
  deeplab-bench run model.onnx model_fp16.onnx --size 512x1024
  deeplab-bench run model.onnx --backend onnxruntime --backend openvino --json result.json
  deeplab-bench table                                        the published table
  deeplab-bench table --measure r18-d8_4xb2-80k_cityscapes-512 --size 256x512

Each measurement runs in a process of its own. Figures from a shared or busy machine are ratios at best.
"""


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = make_parser(PROG, "Measure speed and memory of DeepLab models.", _EPILOG)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="measure exported files, checkpoints or configs")
    run.add_argument(
        "models", nargs="+", metavar="MODEL", help="exported file, checkpoint, config's name, or random:NAME"
    )
    run.add_argument("--batch", type=int, default=1, help="images a forward pass (default: 1)")
    list_rows = commands.add_parser("table", help="the published DeepLabV3+ rows, and any of them measured here")
    list_rows.add_argument(
        "--measure", action="append", default=[], metavar="PATTERN",
        help="measure the rows whose name contains this, with random weights (repeatable; 'all' for every row)",
    )  # fmt: skip
    list_rows.add_argument("--deeplabv3", action="store_true", help="the DeepLabV3 rows instead")
    for sub in (run, list_rows):
        sub.add_argument("--size", default=None if sub is run else "256x512", metavar="HxW",
                         help="of the image (default: " + ("what a file was exported for, else 512x1024)"
                                                           if sub is run else "%(default)s)"))  # fmt: skip
        sub.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
        sub.add_argument("--threads", type=int, help="CPU threads")
        sub.add_argument(
            "--no-fused", action="store_true", help="torch backend: plain torch instead of the fused kernels"
        )
        sub.add_argument("--seconds", type=float, default=3.0, help="a measured step (default: 3)")
        sub.add_argument("--json", metavar="FILE", help="write everything, raw samples included")
        sub.add_argument("--markdown", action="store_true", help="print Markdown instead of a table")
    run.add_argument("--backend", action="append", default=[], choices=BACKENDS,
                     help="repeatable (default: every installed one that fits)")  # fmt: skip
    kernels.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(PROG, build_parser(), _run, argv)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.command == "kernels":
        return kernels.run(arguments)
    if arguments.seconds <= 0:
        raise DeepLabError(f"--seconds must be positive, got {arguments.seconds}")
    return _run_models(arguments) if arguments.command == "run" else _run_table(arguments)


def _run_models(arguments: argparse.Namespace) -> int:
    if arguments.batch < 1:
        raise DeepLabError(f"--batch must be at least 1, got {arguments.batch}")
    sizes = {model: parse_size(arguments.size) if arguments.size else _own_size(model) for model in arguments.models}
    pairs = [(model, backend) for model in arguments.models for backend in _backends(model, arguments.backend)]
    jobs = [
        Job(
            model,
            backend,
            arguments.device,
            arguments.threads,
            *sizes[model],
            arguments.batch,
            arguments.seconds,
            not arguments.no_fused,
        )
        for model, backend in pairs
    ]
    results = _measure(jobs, arguments)
    _print(results, "speed", arguments)
    return _exit_code(results, jobs)


def _own_size(model: str) -> tuple[int, int]:
    """The size that a file was exported for: fixed, or the one it prefers."""
    if Path(model).suffix.lower() not in (".onnx", ".xml", *ENGINE_SUFFIXES):
        return _SIZE
    try:
        manifest = read_manifest(model)
    except DeepLabError:
        return _SIZE  # the measuring process says what is wrong with the file, in its row
    low, high = (manifest.height[0], manifest.width[0]), (manifest.height[2], manifest.width[2])
    return min(max(_SIZE[0], low[0]), high[0]), min(max(_SIZE[1], low[1]), high[1])


def _exit_code(results: list[dict[str, Any]], jobs: list[Job]) -> int:
    if len(results) < len(jobs):
        return 130
    return 0 if all("error" not in result for result in results) else 1


def _backends(model: str, asked: list[str]) -> list[str]:
    return asked or backends_for(model) or ["auto"]


def _run_table(arguments: argparse.Namespace) -> int:
    method = "DeepLabV3" if arguments.deeplabv3 else "DeepLabV3+"
    published = [row for row in reference_rows() if row.method == method]
    chosen = _choose(published, arguments.measure)
    height, width = parse_size(arguments.size)
    jobs = [
        Job(
            f"random:{row.name}",
            "torch",
            arguments.device,
            arguments.threads,
            height,
            width,
            1,
            arguments.seconds,
            not arguments.no_fused,
        )
        for row in chosen
    ]
    results = _measure(jobs, arguments)
    measured = {row.name: result for row, result in zip(chosen, results, strict=False)}
    _print_table(published, measured, arguments)
    return _exit_code(results, jobs)


def _choose(published: list[ReferenceRow], patterns: list[str]) -> list[ReferenceRow]:
    if "all" in patterns:
        return published
    for pattern in patterns:
        if not any(pattern in row.name for row in published):
            raise DeepLabError(f"no published row's name contains {pattern!r}; `deeplab-bench table` shows them")
    return [row for row in published if any(pattern in row.name for pattern in patterns)]


def _measure(jobs: Iterable[Job], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the jobs one after the other; Ctrl-C keeps what is measured."""
    console = make_console(stderr=True, quiet=arguments.quiet)
    if arguments.json:
        require_writable_dir(Path(arguments.json).parent)  # before minutes of measuring
    results: list[dict[str, Any]] = []
    started = now()
    try:
        for job in jobs:
            with console.status(f"measuring {job.model} on {job.backend}"):
                results.append({"job": asdict(job), **in_own_process(_WORKER, asdict(job))})
    except KeyboardInterrupt:
        console.print("interrupted: showing what was measured so far")
    if arguments.json:
        write_results(arguments.json, PROG, started, {"results": results})
    return results


def _print(results: list[dict[str, Any]], title: str, arguments: argparse.Namespace) -> None:
    if arguments.markdown:
        print(markdown(results))
    else:
        make_console().print(table(results, title))
    for line in notes(results):
        print(line)


def _print_table(
    published: list[ReferenceRow], measured: dict[str, dict[str, Any]], arguments: argparse.Namespace
) -> None:
    names = ["config", "input", "G MACs", "fps", "mIoU", "train mem GB"]
    names += [f"here, ms at {arguments.size}", "ratio"] if measured else []
    lines: list[list[str]] = []
    first: float | None = None
    for row in published:
        size = f"{row.network_input[0]} x {row.network_input[1]}" + (" windows" if row.test_mode == "slide" else "")
        cells = [row.name, size, f"{row.gmacs:.1f}", _cell(row.fps), _cell(row.miou), _cell(row.memory_gb)]
        if measured:
            result = measured.get(row.name)
            time = result["end_to_end"]["median_ms"] if result and "error" not in result else None
            first = first or time
            cells += [f"{time:.1f}" if time else result["error"] if result else "-"]
            cells += [f"{first / time:.2f}x" if first and time else "-"]
        lines.append(cells)
    if arguments.markdown:
        print(markdown_table(names, lines))
    else:
        _show_rows(names, lines)
    if measured:
        print(
            f"measured here: random weights, float32 in torch, one image of {arguments.size} end to end (resized and "
            "cut into windows as the config says); the published fps are a V100's, forward and post-processing only"
        )


def _show_rows(names: list[str], lines: list[list[str]]) -> None:
    from rich.table import Table

    made = Table(title="published figures (V100, batch 1)", title_justify="left")
    for name in names:
        made.add_column(name, justify="left" if name in ("config", "input") else "right", overflow="fold")
    for line in lines:
        made.add_row(*line)
    make_console().print(made)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


if __name__ == "__main__":
    sys.exit(main())
