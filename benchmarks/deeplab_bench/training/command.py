# SPDX-License-Identifier: Apache-2.0
"""``deeplab-bench train``: a training step through our kernels beside plain torch: time, peak and saved memory."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from deeplab_infer.commands.cli import make_console, parse_size
from deeplab_infer.configs import load_config
from deeplab_infer.errors import DeepLabError
from deeplab_infer.preprocess import Size

from ..measuring.campaign import Campaign, Task
from ..measuring.options import add_options, resolve_device
from ..measuring.processes import in_own_process
from ..measuring.rounds import combine_rounds, spread_of_rounds
from ..records import Record, Result, is_error, label
from ..reports.markdown import render_blocks
from ..reports.reading import is_timed
from ..reports.terminal import show_table
from ..reports.training import explanation, tables
from .variants import VARIANTS

WORKER = "deeplab_bench.training.worker"
_UNSTEADY = 0.1  # rounds further apart than this are worth a note
_OVERHEAD = 12.0  # seconds of a process besides its timed steps: Python, torch, the network, the first steps
_COMPILING = 120.0
_PRECISIONS = {"off": "fp32", "bf16": "bf16", "fp16": "fp16"}
_COUNTED = "counted"


@dataclass(frozen=True)
class _Default:
    """What is trained where nothing is said."""

    config: str
    crop: Size | None  # None: the config's
    batches: tuple[int, ...]
    amp: str
    budget: float | None


_LARGE, _SMALL = (f"deeplabv3plus_{name}_cityscapes-512x1024" for name in ("r50-d8_4xb2-40k", "r18-d8_4xb2-80k"))
_DEFAULTS = {
    # bf16 rather than the recipes' fp16: it needs no loss scaling, and the same memory and matrix rate.
    "cuda": _Default(_LARGE, None, (2, 4, 8, 16), "bf16", None),
    "cpu": _Default(_SMALL, (128, 256), (2,), "off", 600.0),
    _COUNTED: _Default(_LARGE, None, (2,), "bf16", None),
}


def add_parser(commands: Any) -> None:
    """The subcommand's options."""
    parser = commands.add_parser(
        "train",
        help="a training step through our kernels beside plain torch: time, peak memory, saved bytes",
        description="Measure a step of training (forward, loss, gradient, SGD) in plain torch and our ways of it, in "
        "alternating rounds, each in a process of its own. Ratios to plain torch are what counts.",
    )
    parser.add_argument("names", nargs="*", metavar="CONFIG", help="networks (default: R-50 on a GPU, R-18 on a CPU)")
    parser.add_argument(
        "--batch", type=int, action="append", default=[], metavar="N",
        help="crops at once (repeatable; default: 2, 4, 8, 16 on a GPU, else 2)",
    )  # fmt: skip
    parser.add_argument(
        "--crop", metavar="HxW", help="size of a crop (default: the config's on a GPU, 128x256 on a CPU)"
    )
    parser.add_argument("--amp", choices=list(_PRECISIONS), help="autocast (default: bf16 on a GPU, off on a CPU)")
    parser.add_argument(
        "--bn", choices=("train", "statistics", "frozen"), default="train",
        help="batch normalisation as deeplab-train has it (default: train)",
    )  # fmt: skip
    parser.add_argument(
        "--variant", action="append", default=[], choices=list(VARIANTS), dest="variants",
        help="only these (repeatable; default: those that are not compiled)",
    )  # fmt: skip
    parser.add_argument("--compile", action="store_true", help="with torch.compile too")
    parser.add_argument("--rounds", type=int, default=2, help="alternating rounds (default: 2)")
    parser.add_argument(
        "--count", action="store_true",
        help="only count the bytes kept for the backward pass, as on a GPU: at any size, without one, in seconds",
    )  # fmt: skip
    add_options(parser, 3.0, "a way in a round", "of time; what does not fit is left out (default: 600 on a CPU)")


def run(arguments: argparse.Namespace) -> int:
    """Measure, print, write."""
    plan = _Plan.make(arguments)
    campaign = Campaign("train", plan.budget, arguments.json, plan.protocol())
    campaign.run(plan.tasks(), make_console(stderr=True, quiet=arguments.quiet))
    if not plan.count:
        campaign.results = combine_rounds(campaign.results, largest=("peak_mb",))
    record = campaign.record()
    _print(record, arguments.markdown)
    if not record.complete:
        return 130
    return 1 if any(is_error(result) and not result.get("out_of_memory") for result in record.results) else 0


@dataclass(frozen=True)
class _Plan:
    """What is to be measured, and how."""

    jobs: list[dict[str, Any]]
    device: str
    rounds: int
    seconds: float
    budget: float | None
    count: bool

    @classmethod
    def make(cls, arguments: argparse.Namespace) -> _Plan:
        device = resolve_device(arguments.device)
        default = _DEFAULTS[_COUNTED if arguments.count else device]
        if arguments.rounds < 1:
            raise DeepLabError(f"--rounds must be at least 1, got {arguments.rounds}")
        if arguments.threads is not None and arguments.threads < 1:
            raise DeepLabError(f"--threads must be at least 1, got {arguments.threads}")
        common = {
            "device": device,
            "threads": arguments.threads or len(os.sched_getaffinity(0)),
            "amp": arguments.amp or default.amp,
            "batchnorm": arguments.bn,
            "seconds": arguments.seconds,
            "reference": False,
            "count_only": arguments.count,
        }
        crop = parse_size(arguments.crop) if arguments.crop else None
        variants = _variants(arguments)
        jobs = [
            {**common, "name": name, "variant": variant, "batch": batch, "crop": _crop(name, crop or default.crop)}
            for name in dict.fromkeys(arguments.names or [default.config])
            for batch in dict.fromkeys(arguments.batch or default.batches)
            for variant in variants
        ]
        _check(jobs)
        budget = default.budget if arguments.budget is None else arguments.budget
        return cls(jobs, device, 1 if arguments.count else arguments.rounds, arguments.seconds, budget, arguments.count)

    def tasks(self) -> Iterator[Task]:
        """Every way once, then the next round."""
        for number in range(self.rounds):
            for job in self.jobs:
                yield _task({**job, "saved": number == 0}, number)

    def protocol(self) -> dict[str, Any]:
        """For the record."""
        first = self.jobs[0]
        saved = (
            "bytes that are alive after the forward pass for the backward pass, counted once a storage; without "
            "parameters, buffers and the float32 input; of networks that are not compiled"
        )
        batch = "the same random pixels and labels at every step, none ignored, on the device; no loader"
        plain = (
            "network unfused, channels last, under autocast; logits of the whole batch resized by F.interpolate, "
            "F.cross_entropy"
        )
        step = "deeplab-train's: forward, loss, gradient, SGD with momentum 0.9 and weight decay, auxiliary head"
        common = {"batch": batch, "step": step, "plain": plain, "saved": saved}
        if self.count:
            return {**common, "counted": "on tensors without data, fused as on a GPU; nothing was measured"}
        return {
            **common,
            "fused": "our kernels and a loss made image by image; on a CPU kernels of the head alone",
            "compiled": "torch.compile of the network, in plain torch also of the loss",
            "peak": "torch.cuda.max_memory_allocated from the third step on; on a CPU the resident peak less what was "
            "resident before the network",
            "processes": "every way in a process of its own, in alternating rounds; time is the best round's, peak the "
            "largest",
            "switches": "torch's defaults: cudnn.benchmark off, TF32 in float32 convolutions of a GPU",
            "malloc": "as it is",
            "threads": first["threads"],
            "rounds": self.rounds,
            "seconds": self.seconds,
        }


def _variants(arguments: argparse.Namespace) -> list[str]:
    asked = list(dict.fromkeys(arguments.variants))
    compiled = [name for name in asked if VARIANTS[name].compiled]
    if arguments.count and (arguments.compile or compiled):
        raise DeepLabError(
            "--count knows what eager networks save; of a compiled one the peak can be measured: leave out --count"
        )
    return asked or [name for name, variant in VARIANTS.items() if arguments.compile or not variant.compiled]


def _crop(name: str, crop: Size | None) -> list[int]:
    crop = crop or load_config(name).crop_size
    if crop is None:
        raise DeepLabError(f"{name} has no crop size of its own; give --crop HxW")
    return list(crop)


def _check(jobs: list[dict[str, Any]]) -> None:
    """Unknown networks and impossible sizes are known before anything runs."""
    from .steps import make_options

    for job in jobs:
        load_config(job["name"])
        make_options(job)


def _task(job: dict[str, Any], number: int) -> Task:
    variant = VARIANTS[job["variant"]]
    height, width = job["crop"]
    name = f"{job['name']}, batch {job['batch']}: {job['variant']}, round {number + 1}"
    seconds = _OVERHEAD + (0.0 if job["count_only"] else 1.2 * job["seconds"]) + _COMPILING * variant.compiled
    precision = _PRECISIONS[job["amp"]]
    size = f"{job['batch']}x{height}x{width}"

    def run(limit: float | None) -> Result:
        answer = in_own_process(WORKER, job, limit_s=limit)
        return {
            "key": f"{job['name']}|{job['variant']}|{precision}|{size}|bn {job['batchnorm']}",
            "name": job["name"],
            "path": job["variant"],
            "backend": "torch",
            "device": _COUNTED if job["count_only"] else job["device"],
            "precision": precision,
            "batch": job["batch"],
            "height": height,
            "width": width,
            "batchnorm": job["batchnorm"],
            **answer,
        }

    return Task(name, seconds, run)


def _print(record: Record, markdown: bool) -> None:
    if markdown:
        print(render_blocks(tables(record)), end="")
    else:
        for table in tables(record):
            show_table(table)
    for line in (*explanation(record), *_notes(record)):
        print(line)


def _notes(record: Record) -> Iterator[str]:
    for result in record.results:
        where = f"{label(result)}, batch {result['batch']}"
        if is_error(result):
            yield f"{where}: {result['error']}"
        for note in result.get("notes", []):
            yield f"{where}: {note}"
        if is_timed(result) and spread_of_rounds(result) > _UNSTEADY:
            yield f"{where}: rounds differ by {spread_of_rounds(result):.0%}, the machine was restless"
    for one in record.left_out:
        yield f"left out: {one['name']}: {one['reason']}"
