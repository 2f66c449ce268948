# SPDX-License-Identifier: Apache-2.0
"""Measures one model on one backend, in a process of its own: runtimes in one process slow each other's threads.

Reads a `Job` as JSON from stdin and writes the result as JSON to stdout.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from deeplab_infer.errors import DeepLabError

from .timing import measure


@dataclass(frozen=True)
class Job:
    """What to measure.

    Attributes:
        model: an exported file, a checkpoint, a config's name, or ``random:NAME`` for random weights.
        backend, device, threads: as `Segmenter` takes them.
        height, width: of the image.
        batch: images a forward pass.
        seconds: for each of the three steps.
        fused: let the torch backend run on the fused kernels.
    """

    model: str
    backend: str
    device: str
    threads: int | None
    height: int
    width: int
    batch: int
    seconds: float
    fused: bool = True


def run_job(job: Job) -> dict[str, Any]:
    """Measure forward, forward + post-processing, and end to end; JSON-able.

    ``forward``: a batch in the backend's memory to logits. ``post``: the same and resize + argmax to labels.
    ``end_to_end``: `Segmenter.predict` from a uint8 image to a `Segmentation`, batch 1.
    """
    from deeplab_infer.data.synthetic_streets import generate_street
    from deeplab_infer.ops.functional import upsample_argmax
    from deeplab_infer.preprocess import normalise
    from deeplab_infer.segmenter import Segmenter

    before = _peak_mib()
    started = perf_counter()
    with Segmenter(
        _model(job.model), backend=job.backend, device=job.device, threads=job.threads, fused=job.fused
    ) as segmenter:
        load_s = perf_counter() - started
        runner = segmenter._open()
        config, manifest = segmenter.config, runner.manifest
        image, _ = generate_street(1, max(16, job.height), max(16, job.width))
        batch = np.ascontiguousarray(np.repeat(image[None, : job.height, : job.width], job.batch, axis=0))
        data = normalise(batch, config) if manifest.input_kind == "float" else batch

        def forward_and_post() -> None:
            if hasattr(runner, "segment") and manifest.input_kind == "uint8":  # resize and argmax where the logits are
                runner.segment(batch, (job.height, job.width), (job.height, job.width))
                return
            output = runner.run(data)
            if manifest.output_kind == "logits":
                upsample_argmax(
                    output, (job.height, job.width), align_corners=config.align_corners, threads=job.threads
                )

        result: dict[str, Any] = {
            **segmenter.describe(),
            "load_s": load_s,
            "forward": measure(lambda: runner.run(data), job.seconds).to_dict(),
            "post": measure(forward_and_post, job.seconds).to_dict(),
        }
        if job.batch == 1:
            result["end_to_end"] = measure(lambda: segmenter.predict(batch[0]), job.seconds).to_dict()
        result["host_peak_mib"] = _peak_mib()
        result["host_model_mib"] = _peak_mib() - before
        result["device_peak_mib"] = _device_peak_mib()
    return result


def _model(text: str) -> Any:
    if not text.startswith("random:"):
        return text
    import torch

    from deeplab_infer.models import build_model

    torch.manual_seed(0)
    return build_model(text.removeprefix("random:")).eval()


def _peak_mib() -> float:
    """Peak resident memory of this process. getrusage's ru_maxrss would start at the parent's peak."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return float("nan")


def _device_peak_mib() -> float | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return torch.cuda.max_memory_allocated() / 2**20


def main() -> int:
    """Entry point of the process."""
    job = Job(**json.load(sys.stdin))
    # What a backend prints must not end up in the JSON.
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        answer = run_job(job)
    except (DeepLabError, MemoryError, RuntimeError) as error:
        # One row that fails is a row that says so.
        answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    with contextlib.closing(output):
        json.dump(answer, output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
