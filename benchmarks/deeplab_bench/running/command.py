# SPDX-License-Identifier: Apache-2.0
"""``deeplab-bench run``: any exported file, checkpoint or config at any size, batch and mode."""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deeplab_infer.commands.cli import make_console, parse_size
from deeplab_infer.engine_manifest import ENGINE_SUFFIXES
from deeplab_infer.errors import DeepLabError
from deeplab_infer.runtime import BACKENDS, RUN_PRECISIONS, backends_for, read_manifest

from ..measuring.campaign import Campaign, Task
from ..measuring.options import add_options
from ..measuring.processes import in_own_process
from ..networks.load import RANDOM
from ..records import Record, Result, is_error
from .text import markdown, notes, table
from .worker import Job

_WORKER = "deeplab_bench.running.worker"
_SIZE = (512, 1024)
_OVERHEAD_S = 8.0
_COMPILING_S = 90.0
_EXPORTED = (".onnx", ".xml", *ENGINE_SUFFIXES)
_PROTOCOL = {
    "forward": "a batch in host memory through the network, logits back to host memory",
    "post": "the same batch to labels in host memory; on a GPU resize and argmax run there",
    "end_to_end": "Segmenter.predict: uint8 images in host memory to Segmentations, with every resize",
    "agreement": "share of pixels labelled as by the first model measured at that size",
}


def add_parser(commands: Any) -> None:
    """The subcommand's options."""
    parser = commands.add_parser("run", help="measure exported files, checkpoints or configs")
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", help="exported file, checkpoint, config's name, or random:NAME"
    )
    parser.add_argument(
        "--size",
        action="append",
        default=[],
        metavar="HxW",
        help="of the image (repeatable; default: what a file was exported for, else 512x1024)",
    )
    parser.add_argument(
        "--batch", type=int, action="append", default=[], metavar="N", help="images at once (repeatable; default: 1)"
    )
    parser.add_argument(
        "--backend",
        action="append",
        default=[],
        choices=BACKENDS,
        help="repeatable (default: every installed one that fits)",
    )
    parser.add_argument(
        "--precision",
        action="append",
        default=[],
        choices=RUN_PRECISIONS,
        help="of a network, or bf16 of an fp32 file on OpenVINO (repeatable; default: fp32, or the file's own)",
    )
    parser.add_argument("--compiled", action="store_true", help="torch backend: torch.compile")
    parser.add_argument(
        "--no-fused", action="store_true", help="torch backend: plain torch instead of the fused kernels"
    )
    parser.add_argument("--mode", choices=("whole", "slide"), help="default: the config's")
    parser.add_argument("--window", metavar="HxW", help="of slide mode (default: the config's)")
    parser.add_argument("--window-stride", metavar="HxW", help="of slide mode (default: the config's)")
    parser.add_argument("--window-batch", type=int, default=8, metavar="N", help="windows at once (default: 8)")
    add_options(
        parser, 3.0, "a measured step", "for everything; what does not fit is left out and said (default: no limit)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure and print."""
    if arguments.window_batch < 1 or any(batch < 1 for batch in arguments.batch):
        raise DeepLabError("--batch and --window-batch must be at least 1")
    campaign = Campaign("run", arguments.budget, arguments.json, _PROTOCOL)
    console = make_console(stderr=True, quiet=arguments.quiet)
    with tempfile.TemporaryDirectory(prefix="deeplab-bench-") as folder:
        tasks = [_task(case, Path(folder), arguments) for case in _cases(arguments)]
        record = campaign.run(tasks, console)
    _print(record, arguments.markdown)
    if not record.complete:
        return 130
    return 1 if any(map(is_error, record.results)) else 0


@dataclass(frozen=True)
class _Case:
    """One measurement asked for."""

    model: str
    backend: str
    precision: str | None
    height: int
    width: int
    batch: int

    @property
    def name(self) -> str:
        """Of the model, in tables."""
        return Path(self.model).name if "/" in self.model else self.model.removeprefix(RANDOM)


def _cases(arguments: argparse.Namespace) -> Iterator[_Case]:
    asked = [parse_size(text) for text in arguments.size]
    for model in arguments.models:
        sizes = asked or [_own_size(model)]
        backends = arguments.backend or backends_for(model) or ["auto"]
        exported = Path(model).suffix.lower() in _EXPORTED
        precisions = arguments.precision or [None]
        if exported and arguments.compiled:
            raise DeepLabError(f"{model}: an exported file has its own runtime; --compiled is torch's")
        for size, batch, backend, precision in itertools.product(sizes, arguments.batch or [1], backends, precisions):
            yield _Case(model, backend, precision, *size, batch)


def _task(case: _Case, folder: Path, arguments: argparse.Namespace) -> Task:
    labels = folder / f"labels_{case.height}x{case.width}.npz"

    def measure(limit: float | None) -> Result:
        job = Job(
            case.model,
            case.backend,
            arguments.device,
            arguments.threads,
            case.height,
            case.width,
            case.batch,
            arguments.seconds,
            not arguments.no_fused,
            case.precision,
            arguments.compiled,
            arguments.mode,
            parse_size(arguments.window) if arguments.window else None,
            parse_size(arguments.window_stride) if arguments.window_stride else None,
            arguments.window_batch,
            image=str(labels) if labels.exists() else None,
            labels_out=None if labels.exists() else str(labels),
        )
        return _result(case, in_own_process(_WORKER, asdict(job), limit_s=limit))

    seconds = _OVERHEAD_S + 3 * arguments.seconds + (_COMPILING_S if arguments.compiled else 0)
    return Task(f"{case.name} on {case.backend}, {case.batch} x {case.height} x {case.width}", seconds, measure)


def _result(case: _Case, answer: Result) -> Result:
    path = " ".join(str(answer.get(key, getattr(case, key))) for key in ("backend", "precision")).replace(" None", "")
    size = f"{case.batch}x{case.height}x{case.width}"
    asked = {"model": case.model, "batch": case.batch, "height": case.height, "width": case.width}
    result = {"name": case.name, "path": path, "backend": case.backend, **asked, **answer}
    result["key"] = f"{case.name}|{path}|{size}|{result.get('mode', '')}"
    if not is_error(result):
        result["gmacs_per_image"] = _gmacs(result)
        result["floor_ms"] = None
    return result


def _gmacs(result: Result) -> float | None:
    """Multiply-adds of an image, where torch is there to count them on the network."""
    if importlib.util.find_spec("torch") is None or not result.get("network_input"):
        return None
    from deeplab_infer.configs import list_configs
    from deeplab_infer.optimize.work import count

    if result["config"] not in list_configs() or result["mode"] == "slide":
        return None
    return count(result["config"], *result["network_input"]).dense / 1e9


def _own_size(model: str) -> tuple[int, int]:
    """The size that a file was exported for: fixed, or the one it prefers."""
    if Path(model).suffix.lower() not in _EXPORTED:
        return _SIZE
    try:
        manifest = read_manifest(model)
    except DeepLabError:
        return _SIZE  # the measuring process says what is wrong with the file, in its row
    low, high = (manifest.height[0], manifest.width[0]), (manifest.height[2], manifest.width[2])
    return min(max(_SIZE[0], low[0]), high[0]), min(max(_SIZE[1], low[1]), high[1])


def _print(record: Record, as_markdown: bool) -> None:
    if as_markdown:
        print(markdown(record.results))
    else:
        make_console().print(table(record.results, "speed"))
    for line in notes(record):
        print(line)
