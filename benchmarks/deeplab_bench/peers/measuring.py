# SPDX-License-Identifier: Apache-2.0
"""What both sides of ``deeplab-bench peers`` do alike: outputs compared first, then timed. Needs numpy only."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..measuring.others import OthersCpu, wait_for_quiet
from ..measuring.timing import measure

# Float32 against float32: what rounding in another order can do.
LEAST_AGREEMENT = 0.9999
MOST_DIFFERENCE = 1e-3


class Side(Protocol):
    """A network ready to be measured; pixels are uint8 [H, W, 3] in host memory, in ``channel_order``."""

    channel_order: str

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits [C, h, w] at the network's stride, in host memory."""
        ...

    def labels(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """Labels [H, W], in host memory."""
        ...


def measure_side(side: Side, job: dict[str, Any]) -> dict[str, Any]:
    """Compare a side with the reference outputs, then time it.

    Args:
        side: what to measure.
        job: ``folder`` with image.npy (RGB), labels.npy and logits.npy; ``view``: (height, width) that one pass sees;
            ``exact``: whether the outputs must equal the reference; ``seconds`` a step; ``steps``: names of those to
            time, both where there is none; ``wait_quiet_s``: seconds to wait for other processes to end, 0 where
            there is none.

    Returns:
        ``agreement``, ``logits_difference`` (of the logits' range), ``first_call_s`` (compilation included), and
        ``steps`` and ``memory``; or ``error`` where the outputs differ too much to be the same work.
    """
    folder = Path(job["folder"])
    pixels = np.load(folder / "image.npy")
    if side.channel_order == "bgr":
        pixels = np.ascontiguousarray(pixels[..., ::-1])
    view = np.ascontiguousarray(pixels[: job["view"][0], : job["view"][1]])
    started = perf_counter()
    labels = side.labels(pixels)
    answer: dict[str, Any] = {"first_call_s": perf_counter() - started}
    answer |= compare(labels, side.logits(view), np.load(folder / "labels.npy"), np.load(folder / "logits.npy"))
    if job["exact"] and not same_outputs(answer):
        return {**answer, "error": _disagreement(answer)}
    steps: dict[str, Callable[[], Any]] = {
        "forward": lambda: side.logits(view),
        "end_to_end": lambda: side.labels(pixels),
    }
    asked = job.get("steps") or list(steps)
    answer["steps"] = {name: _timed(steps[name], job) for name in asked}
    answer["memory"] = _memory()
    return answer


def _timed(step: Callable[[], Any], job: dict[str, Any]) -> dict[str, Any]:
    """One step, on a quiet machine where the job waits for one, and what others took of the processors meanwhile."""
    wait_for_quiet(job.get("wait_quiet_s", 0.0))
    others = OthersCpu()
    return {**measure(step, job["seconds"]).to_dict(), "others_cpu": others.share()}


def compare(
    labels: NDArray[Any], logits: NDArray[Any], their_labels: NDArray[Any], their_logits: NDArray[Any]
) -> dict[str, float]:
    """Share of equal labels, and the largest difference of the logits over the range of theirs.

    Raises:
        ValueError: outputs of other shapes.
    """
    if labels.shape != their_labels.shape or logits.shape != their_logits.shape:
        raise ValueError(
            f"labels {list(labels.shape)} and logits {list(logits.shape)} instead of {list(their_labels.shape)} and "
            f"{list(their_logits.shape)}"
        )
    theirs = their_logits.astype(np.float64)
    difference = np.abs(logits.astype(np.float64) - theirs).max() / max(float(theirs.max() - theirs.min()), 1e-30)
    return {"agreement": float((labels == their_labels).mean()), "logits_difference": float(difference)}


def same_outputs(compared: dict[str, Any]) -> bool:
    """Whether two float32 results differ by rounding at most. NaN differs."""
    return bool(compared["agreement"] >= LEAST_AGREEMENT and compared["logits_difference"] <= MOST_DIFFERENCE)


def serve(run_job: Callable[[dict[str, Any]], dict[str, Any]]) -> int:
    """Entry point of a measuring process: a job as JSON on stdin, the answer as JSON on stdout."""
    job = json.load(sys.stdin)
    output = os.fdopen(os.dup(1), "w")  # what a library prints must not end up in the JSON
    os.dup2(2, 1)
    try:
        answer = run_job(job)
    except Exception as error:  # noqa: BLE001  other projects, compilers and runtimes raise whatever they like
        lines = str(error).strip().splitlines() or ["no message"]
        answer = {"error": f"{type(error).__name__}: {lines[0]}"}
    with contextlib.closing(output):
        json.dump(answer, output)
    return 0


def _disagreement(compared: dict[str, Any]) -> str:
    return (
        f"not timed: {compared['agreement']:.4%} of the labels agree with the reference, logits differ by "
        f"{compared['logits_difference']:.1e} of their range, which is more than rounding"
    )


def _memory() -> dict[str, float | None]:
    """Peak of this process, and what torch allocated on a GPU; MiB."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    peak = next((int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM:")), None)
    torch = sys.modules.get("torch")
    device = torch.cuda.max_memory_allocated() / 2**20 if torch is not None and torch.cuda.is_available() else None
    unknown = {"host_model_mib": None, "weights_mib": None, "activations_mib": None}
    return {"host_peak_mib": peak, "device_peak_mib": device, **unknown}
