# SPDX-License-Identifier: Apache-2.0
"""Trains one network one way, in a process of its own: another one's memory must not be in the peak.

Reads a job as JSON from stdin and writes the result as JSON to stdout.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

from deeplab_infer.errors import first_line
from deeplab_infer.training.failures import is_out_of_memory
from deeplab_infer.training.step import TrainingStep

from ..measuring.meters import unsteadiness
from ..measuring.processes import answer_job
from ..measuring.timing import Timing, measure, measure_counted
from ..running.protocol import reference_settings
from ..running.worker import meter_for, status_mib
from .saved import count_saved, saved_by_part
from .steps import make_step, random_batch
from .variants import VARIANTS

_SETTLING = 2  # the first step makes gradients and momentum (and compiles), the second has the memory of all others
_FEW = 2  # timed steps where time is not what is asked for


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """Train on one random batch again and again.

    Args:
        job: ``name`` of a config, ``variant`` of `VARIANTS`, ``batch``, ``crop`` [height, width], ``device``,
            ``threads`` or None, ``amp`` and ``batchnorm`` as in `TrainOptions`, ``seconds`` (None: two steps),
            ``reference``: torch's switches as the published table has them, else torch's own defaults; ``saved``:
            count what an eager step keeps for the gradient; ``count_only``: only that, without arithmetic.

    Returns:
        ``steps`` {"train": timing}, ``peak_mb`` (1e6 bytes: of torch's allocator with the network in it on a GPU, of
        resident memory beyond that before the network on a CPU), ``first_loss``, ``notes``, and where asked for
        ``saved_mb`` with ``saved_parts_mb``; or ``error``, with ``out_of_memory`` where that is what it is.
    """
    if job["threads"]:
        torch.set_num_threads(job["threads"])
    try:
        if job["count_only"]:
            return _in_megabytes(count_saved(job))
        with reference_settings() if job["reference"] else nullcontext():
            return _train(job)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return {"error": f"out of memory: {first_line(error)}", "out_of_memory": True}


def _train(job: dict[str, Any]) -> dict[str, Any]:
    notes: list[str] = []
    meter = meter_for(job["device"], notes)
    peak = _Peak(job["device"])
    step, batch = make_step(job), random_batch(job)
    run = _synchronised(step, batch, job["device"])
    first_loss = run()
    for _ in range(1, _SETTLING):
        run()
    before = meter.state()
    peak.forget()
    timing = _time(run, job["seconds"])
    answer = {"steps": {"train": timing.to_dict()}, "peak_mb": peak.megabytes(), "first_loss": first_loss}
    notes += unsteadiness(before, meter.state(), len(os.sched_getaffinity(0)))
    if job["saved"] and not VARIANTS[job["variant"]].compiled:
        answer |= _in_megabytes(saved_by_part(step, batch))
    return {**answer, "notes": notes}


def _synchronised(step: TrainingStep, batch: Any, device: str) -> Callable[[], float]:
    """A whole step, done when it returns; gives its loss."""

    def run() -> float:
        loss = step([batch], 0).loss
        if device != "cpu":
            torch.cuda.synchronize()
        return loss

    return run


def _time(run: Callable[[], object], seconds: float | None) -> Timing:
    return measure_counted(run, 1, _FEW, 0.0) if seconds is None else measure(run, seconds)


def _in_megabytes(parts: dict[str, int]) -> dict[str, Any]:
    return {"saved_mb": sum(parts.values()) / 1e6, "saved_parts_mb": {name: size / 1e6 for name, size in parts.items()}}


class _Peak:
    """Most memory at once since `forget`; on a CPU, whose kernel has one figure a process, since the process began."""

    def __init__(self, device: str) -> None:
        self._on_gpu = device != "cpu"
        self._before_mib = 0.0 if self._on_gpu else status_mib("VmRSS")

    def forget(self) -> None:
        """Leave out what was before: compilation, and algorithms that were tried."""
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()

    def megabytes(self) -> float:
        """1e6 bytes."""
        if self._on_gpu:
            return torch.cuda.max_memory_allocated() / 1e6
        return (status_mib("VmHWM") - self._before_mib) * 2**20 / 1e6


if __name__ == "__main__":
    sys.exit(answer_job(run_job))
