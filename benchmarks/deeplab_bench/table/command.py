# SPDX-License-Identifier: Apache-2.0
"""``deeplab-bench table``: every row of the published table beside this machine, the reference's way and ours."""

from __future__ import annotations

import argparse
import functools
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deeplab_infer.commands.cli import make_console
from deeplab_infer.configs import ModelConfig, ReferenceRow, reference_rows
from deeplab_infer.errors import DeepLabError
from deeplab_infer.optimize.work import Count, count
from deeplab_infer.preprocess import Size

from ..measuring.campaign import Campaign, Task
from ..measuring.ceilings import floor_ms, measure_ceilings
from ..measuring.options import add_options, resolve_device
from ..measuring.processes import in_own_process
from ..records import Result, is_error
from ..running import protocol
from ..running.worker import REFERENCE, Job
from .paths import RunPath, choose_paths, why_not
from .rows import Workload, network_of, order_of_worth
from .text import notes, print_table
from .training_memory import training_memory

_CPU_SCALE = 0.25
_DEFAULT_BUDGET = {"cpu": 600.0, "cuda": None}
_WORKER = "deeplab_bench.running.worker"
# What one measurement takes besides its steps, seconds: starting Python and torch, weights, export, warm-up.
_OVERHEAD = {REFERENCE: 12.0, "": 10.0, "onnx": 20.0, "openvino": 25.0, "engine": 60.0}
_COMPILING = 90.0
_TRAINING_MEMORY = 30.0  # twice: in plain torch and through our kernels
_SHOWPIECES = 3  # networks whose first `_SHOWN_PATHS` paths come before the next network; of the others one does
_SHOWN_PATHS = 2


def add_parser(commands: Any) -> None:
    """The subcommand's options."""
    parser = commands.add_parser(
        "table",
        help="the published rows: printed V100 figures, the reference's protocol here, and our paths",
        description="Measure the rows of the published DeepLabV3+ table. Rows that differ in the schedule only share a "
        "measurement. On a CPU sizes are a quarter of the row's, and ratios are what counts.",
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help="part of a row's config name (default: all 37)")
    parser.add_argument("--published", action="store_true", help="print the published figures and measure nothing")
    parser.add_argument("--deeplabv3", action="store_true", help="the DeepLabV3 rows instead")
    parser.add_argument(
        "--path",
        action="append",
        default=[],
        metavar="NAME",
        dest="paths",
        help="of our paths those whose name contains this (repeatable; 'none' for none)",
    )
    parser.add_argument(
        "--scale", type=float, metavar="X", help="of image, window and limits (default: 1 on a GPU, 0.25 on a CPU)"
    )
    parser.add_argument("--checkpoints", metavar="DIR", help="folder with the official files (default: random weights)")
    parser.add_argument(
        "--train-memory",
        action="store_true",
        help="measure the memory column too: a training step at the config's batch and crop, plain and fused",
    )
    budget = "for everything; what matters most comes first (default: 600 on a CPU, none on a GPU)"
    add_options(parser, 3.0, "a measured step", budget)


def run(arguments: argparse.Namespace) -> int:
    """Measure and print."""
    published = _published(arguments)
    if arguments.published:
        print_table(published, [], arguments.markdown)
        return 0
    plan = _Plan.make(published, arguments)
    console = make_console(stderr=True, quiet=arguments.quiet)
    budget = arguments.budget if arguments.budget is not None else _DEFAULT_BUDGET[plan.device]
    campaign = Campaign("table", budget, arguments.json, plan.protocol())
    with console.status("measuring what this machine reaches"):
        campaign.ceilings = measure_ceilings(plan.device, min(1.0, plan.seconds), plan.threads)
    for path, reason in plan.unusable:
        campaign.leave_out(path.name, reason)
    with tempfile.TemporaryDirectory(prefix="deeplab-bench-") as folder:
        record = campaign.run(plan.tasks(Path(folder), campaign.ceilings), console)
    print_table(published, record.results, arguments.markdown)
    for line in notes(record):
        print(line)
    if not record.complete:
        return 130
    return 1 if any(map(is_error, record.results)) else 0


def _published(arguments: argparse.Namespace) -> list[ReferenceRow]:
    method = "DeepLabV3" if arguments.deeplabv3 else "DeepLabV3+"
    rows = [row for row in reference_rows() if row.method == method]
    for pattern in arguments.rows:
        if not any(pattern in row.name for row in rows):
            raise DeepLabError(
                f"no published row's name contains {pattern!r}; `deeplab-bench table --published` shows them"
            )
    return [row for row in rows if not arguments.rows or any(pattern in row.name for pattern in arguments.rows)]


@dataclass(frozen=True)
class _Plan:
    """What is to be measured, and how."""

    published: list[ReferenceRow]
    device: str
    scale: float
    paths: list[RunPath]
    unusable: list[tuple[RunPath, str]]
    checkpoints: Path | None
    train_memory: bool
    threads: int | None
    seconds: float

    @classmethod
    def make(cls, published: list[ReferenceRow], arguments: argparse.Namespace) -> _Plan:
        device = resolve_device(arguments.device)
        scale = arguments.scale if arguments.scale is not None else 1.0 if device == "cuda" else _CPU_SCALE
        if not 0 < scale <= 1:
            raise DeepLabError(f"--scale must be above 0 and at most 1, got {scale:g}")
        if arguments.checkpoints and not Path(arguments.checkpoints).is_dir():
            raise DeepLabError(f"--checkpoints {arguments.checkpoints}: no such folder")
        wanted = [] if arguments.paths == ["none"] else choose_paths(device, arguments.paths)
        reasons = [(path, why_not(path)) for path in wanted]
        return cls(
            published,
            device,
            scale,
            [path for path, reason in reasons if reason is None],
            [(path, reason) for path, reason in reasons if reason is not None],
            Path(arguments.checkpoints) if arguments.checkpoints else None,
            arguments.train_memory,
            arguments.threads,
            arguments.seconds,
        )

    def protocol(self) -> dict[str, Any]:
        """For the record."""
        return {
            "reference": protocol.DESCRIPTION,
            "ours": "end_to_end: Segmenter.predict from a uint8 image in host memory to labels there, with the resize "
            "and normalisation that the reference does not time",
            "agreement": "share of pixels labelled as by the reference protocol in float32",
            "weights": "official checkpoints" if self.checkpoints else "random, with settled statistics",
            "scale": self.scale,
        }

    def tasks(self, folder: Path, ceilings: dict[str, Any]) -> Iterator[Task]:
        """In the order of their worth: the showpieces, then every network once, then all other paths."""
        networks = [
            _Network(self, Workload(row, self.scale, folder / str(index), self.checkpoints), ceilings)
            for index, row in enumerate(order_of_worth(self.published))
        ]
        first = {id(network): _SHOWN_PATHS if index < _SHOWPIECES else 1 for index, network in enumerate(networks)}
        for network in networks:
            yield network.reference_task()
            yield from map(network.path_task, self.paths[: first[id(network)]])
        for network in networks:
            yield from map(network.path_task, self.paths[first[id(network)] :])


@dataclass(frozen=True)
class _Network:
    """One network of the table: its measurements, given to every row that shares it."""

    plan: _Plan
    workload: Workload
    ceilings: dict[str, Any]

    def reference_task(self) -> Task:
        """The published table's own protocol, and the training step's memory where asked for."""
        row = self.workload.row

        def run(limit: float | None) -> list[Result]:
            half = row.fp16 and self.plan.device == "cuda"
            answer = self._measure(REFERENCE, limit, half=half, steps=("forward", "post"), labels=True)
            if row.fp16 and not half:
                answer.setdefault("notes", []).append("in float32: a CPU would only emulate the row's float16")
            if self.plan.train_memory and "error" not in answer:
                answer["training"] = self._training(limit)
            return self._results(REFERENCE, answer)

        seconds = _OVERHEAD[REFERENCE] + 2 * self.plan.seconds + (_TRAINING_MEMORY if self.plan.train_memory else 0)
        return Task(f"{row.name}: reference", seconds, run)

    def path_task(self, path: RunPath) -> Task:
        """One of our paths."""

        def run(limit: float | None) -> list[Result]:
            try:
                model = self.workload.exported(path)
            except DeepLabError as error:
                return self._results(path.name, {"error": str(error), "backend": path.backend, "device": path.device})
            precision = None if path.file else path.precision
            answer = self._measure(
                path.backend,
                limit,
                model=model,
                precision=precision,
                compiled=path.compiled,
                steps=("end_to_end",),
            )
            if path.file:  # a table's worth of them would fill a disk
                model.unlink(missing_ok=True)
            return self._results(path.name, answer)

        seconds = _OVERHEAD[path.file] + self.plan.seconds + (_COMPILING if path.compiled else 0)
        return Task(f"{self.workload.row.name}: {path.name}", seconds, run)

    def _measure(
        self, backend: str, limit: float | None, *, model: Path | None = None, labels: bool = False, **options: Any
    ) -> Result:
        height, width = self.workload.image_size
        image = self.workload.labels_file
        try:
            job = Job(
                str(model or self.workload.weights()),
                backend,
                self.plan.device,
                self.plan.threads,
                height,
                width,
                seconds=self.plan.seconds,
                image=str(image) if image.exists() and not labels else None,
                labels_out=str(image) if labels else None,
                **options,
            )
        except DeepLabError as error:
            return {"error": str(error)}
        return in_own_process(_WORKER, asdict(job), limit_s=limit)

    def _training(self, limit: float | None) -> Result:
        return training_memory(self.workload.row, self.plan.scale, self.plan.device, self.plan.threads, limit)

    def _results(self, path: str, answer: Result) -> list[Result]:
        """The same measurement for every row that shares the network."""
        row, (height, width) = self.workload.row, self.workload.image_size
        rows = [other for other in self.plan.published if network_of(other) == network_of(row)]
        size = f"1x{height}x{width}"
        floor = floor_ms(self._count(answer), self.ceilings, answer["precision"]) if "steps" in answer else None
        common = {
            "path": path,
            "batch": 1,
            "height": height,
            "width": width,
            "gmacs_per_image": self._count(answer).dense * self.workload.windows / 1e9,
            "mb_per_image": self._count(answer).bytes_fused * self.workload.windows / 1e6,
            "floor_ms": None if floor is None else floor * self.workload.windows,
            **answer,
        }
        return [
            {
                "key": f"{other.name}|{path}|{size}",
                "name": other.name,
                **common,
                "published": {
                    "fps": other.fps,
                    "miou": other.miou,
                    "miou_ms_flip": other.miou_ms_flip,
                    "memory_gb": other.memory_gb,
                },
                "measured_as": row.name,
            }
            for other in rows
        ]

    def _count(self, answer: Result) -> Count:
        element_bytes = {"fp32": 4, "tf32": 4, "int8": 1, "fp8": 1}.get(answer.get("precision", "fp32"), 2)
        return _count_network(self.workload.config, self.workload.input_size, element_bytes)


@functools.cache
def _count_network(config: ModelConfig, size: Size, element_bytes: int) -> Count:
    return count(config, *size, element_bytes=element_bytes)
