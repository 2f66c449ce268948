# SPDX-License-Identifier: Apache-2.0
"""``deeplab-bench layers``: where the time of a model goes, layer by layer, beside what the machine could do."""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from deeplab_infer.commands.cli import make_console, parse_size
from deeplab_infer.engine_manifest import ENGINE_SUFFIXES
from deeplab_infer.errors import DeepLabError
from deeplab_infer.files import require_writable_dir
from deeplab_infer.runtime import available_backends

from ..measuring.ceilings import measure_ceilings, operation_floor_ms
from ..measuring.options import add_options
from ..measuring.processes import KEEP_MEMORY, in_own_process
from ..records import make_record, now, write_record
from ..running.text import markdown_table

_WORKER = "deeplab_bench.layers.worker"
_SIZE = (512, 1024)
# Backends that profile a kind of file, the first by default; everything else is torch's.
_BACKENDS = {
    ".onnx": ("onnxruntime", "openvino"),
    ".xml": ("openvino",),
    **dict.fromkeys(ENGINE_SUFFIXES, ("tensorrt",)),
}
_EXTRAS = {"torch": "bench", "onnxruntime": "onnxruntime", "openvino": "openvino", "tensorrt": "tensorrt"}
_CEILING_SECONDS = 1.0
_NOTE = (
    "share: of the sum of the layers; of floor: the time that a layer needs at this machine's measured rates over its "
    "own;\nGMAC: 1e9 multiply-adds; MB: read and written"
)


def add_parser(commands: Any) -> None:
    """The subcommand's options."""
    parser = commands.add_parser("layers", help="the time of every layer, and what it could be")
    parser.add_argument("model", metavar="MODEL", help="exported file, checkpoint, config's name, or random:NAME")
    parser.add_argument("--backend", choices=("torch", "onnxruntime", "openvino", "tensorrt"),
                        help="default: the first that profiles such a model")  # fmt: skip
    parser.add_argument("--size", metavar="HxW", help="(default: what a file was exported for, else 512x1024)")
    parser.add_argument("--batch", type=int, default=1, help="images a pass (default: 1)")
    parser.add_argument("--precision", help="torch: fp32, tf32, fp16 or bf16 (default: fp32); OpenVINO: bf16, fastest")
    parser.add_argument("--no-fused", action="store_true", help="torch: plain torch instead of the fused kernels")
    parser.add_argument("--top", type=int, default=20, metavar="N", help="layers to show (default: 20)")
    add_options(parser, 3.0, "with, and without the profiler")


def run(arguments: argparse.Namespace) -> int:
    """Profile, print, write; 1 where the model could not be profiled."""
    job = _job(arguments)
    if arguments.json:
        require_writable_dir(Path(arguments.json).parent)
    console = make_console(stderr=True, quiet=arguments.quiet)
    started = now()
    with console.status(f"profiling {job['model']} on {job['backend']}"):
        answer = in_own_process(_WORKER, job, KEEP_MEMORY)
    if "refused" in answer:
        raise DeepLabError(answer["refused"])
    if "error" in answer:
        print(f"{job['model']} on {job['backend']} failed: {answer['error']}")
        return 1
    with console.status("measuring what this machine reaches"):
        ceilings = measure_ceilings(answer["device"].partition(":")[0], _CEILING_SECONDS, job["threads"])
    result = make_result(job, answer, ceilings)
    _print(result, ceilings, arguments)
    if arguments.json:
        protocol = {name: job[name] for name in ("seconds", "threads", "fused")}
        write_record(arguments.json, make_record("layers", [result], started, ceilings=ceilings, protocol=protocol))
    return 0


def make_result(job: dict[str, Any], answer: dict[str, Any], ceilings: dict[str, Any]) -> dict[str, Any]:
    """A result of kind ``layers``: the worker's answer with the floors of its layers."""
    precision, size = answer["precision"], (answer["height"], answer["width"])
    total = sum(layer["ms"] for layer in answer["layers"])
    notes = list(answer["notes"])
    if precision not in ceilings["matmul_tflops"]:
        notes.append(f"the rate of {precision} products is not measured on this machine: no floors of convolutions")
    return {
        "key": "|".join([job["model"], job["backend"], precision, f"{job['batch']}x{size[0]}x{size[1]}", "layers"]),
        "name": _name(job["model"]),
        "path": f"{job['backend']} {precision}",
        "backend": job["backend"],
        "device": answer["device"],
        "precision": precision,
        "batch": job["batch"],
        "height": size[0],
        "width": size[1],
        "layers": [_layer(layer, total, precision, ceilings) for layer in answer["layers"]],
        "layers_ms": total,
        "total_ms": statistics.median(answer["total_ms"]),
        "notes": notes,
    }


def _job(arguments: argparse.Namespace) -> dict[str, Any]:
    suffix = Path(arguments.model).suffix.lower()
    able = _BACKENDS.get(suffix, ("torch",))
    backend = arguments.backend or able[0]
    if backend not in able:
        raise DeepLabError(f"layers of {arguments.model} are profiled on {' or '.join(able)}, not on {backend}")
    if backend not in available_backends():
        raise DeepLabError(f"{backend} is not installed; run: pip install 'deeplab-infer[{_EXTRAS[backend]}]'")
    for option, value in (("--batch", arguments.batch), ("--top", arguments.top)):
        if value < 1:
            raise DeepLabError(f"{option} must be at least 1, got {value}")
    if arguments.seconds <= 0:
        raise DeepLabError(f"--seconds must be positive, got {arguments.seconds}")
    if (backend not in ("torch", "openvino") and arguments.precision) or (backend != "torch" and arguments.no_fused):
        raise DeepLabError(
            "--precision is torch's and OpenVINO's, --no-fused torch's; an exported file has its own precision"
        )
    size = parse_size(arguments.size) if arguments.size else _SIZE if backend == "torch" else (None, None)
    return {
        "model": arguments.model,
        "backend": backend,
        "device": arguments.device,
        "threads": arguments.threads,
        "height": size[0],
        "width": size[1],
        "batch": arguments.batch,
        "seconds": arguments.seconds,
        "precision": arguments.precision,
        "fused": not arguments.no_fused,
    }


def _layer(layer: dict[str, Any], total: float, precision: str, ceilings: dict[str, Any]) -> dict[str, Any]:
    macs, moved = layer["macs"], layer["moved"]
    floor = None
    if macs is not None and moved is not None:
        floor = operation_floor_ms(macs, moved, ceilings, precision, layer["grouped"])
    return {
        "name": layer["name"],
        "op": layer["op"],
        "ms": layer["ms"],
        "gmacs": None if macs is None else macs / 1e9,
        "mb": None if moved is None else moved / 1e6,
        "floor_ms": floor,
        "share": layer["ms"] / total,
    }


def _print(result: dict[str, Any], ceilings: dict[str, Any], arguments: argparse.Namespace) -> None:
    ordered = sorted(result["layers"], key=lambda layer: -layer["ms"])
    shown, others = ordered[: arguments.top], ordered[arguments.top :]
    cells = [_cells(layer, layer["name"] or "(network)", layer["op"]) for layer in shown]
    if others:
        cells.append(_cells(_sum(others), f"{len(others)} others", ""))
    cells.append(_cells(_sum(ordered), "all layers", ""))
    titles = ["layer", "operation", "share", "of floor", "GMAC", "MB", "ms", "floor ms"]
    size = f"{result['batch']} x {result['height']} x {result['width']}"
    title = f"{result['name']}, {result['path']}, {result['device']}, {size}"
    if arguments.markdown:
        print(f"{title}\n\n{markdown_table(titles, cells)}\n")
    else:
        print(title)  # as the table's own title it would be broken to the table's width
        _show(titles, cells)
    rates = ", ".join(f"{name} {rate:.3g}" for name, rate in ceilings["matmul_tflops"].items())
    print(
        f"without the profiler: {result['total_ms']:.3g} ms, {result['total_ms'] / result['layers_ms']:.0%} of the sum "
        f"of the layers\n{_NOTE}\nthis machine: copies {ceilings['copy_gb_s']:.4g} GB/s, products in TFLOP/s: {rates}"
    )
    for note in result["notes"]:
        print(note)


def _show(titles: list[str], cells: list[list[str]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    for name in titles:
        table.add_column(name, justify="left" if name in titles[:2] else "right", overflow="fold")
    for line in cells:
        table.add_row(*map(escape, line))
    make_console().print(table)


def _sum(layers: list[dict[str, Any]]) -> dict[str, Any]:
    """Sums; a figure that one layer lacks is lacking."""
    summed: dict[str, Any] = {}
    for name in ("share", "gmacs", "mb", "ms", "floor_ms"):
        values = [layer[name] for layer in layers]
        summed[name] = None if None in values else sum(values)
    return summed


def _cells(layer: dict[str, Any], name: str, op: str) -> list[str]:
    floor = layer["floor_ms"]
    return [
        name,
        op,
        f"{layer['share']:.1%}",
        "-" if floor is None else f"{floor / layer['ms']:.0%}",
        "-" if layer["gmacs"] is None else f"{layer['gmacs']:.3f}",
        "-" if layer["mb"] is None else f"{layer['mb']:.2f}",
        f"{layer['ms']:.3f}",
        "-" if floor is None else f"{floor:.3f}",
    ]


def _name(model: str) -> str:
    return Path(model).name if "/" in model else model.removeprefix("random:")
