# SPDX-License-Identifier: Apache-2.0
"""Profiles one model on one backend, in a process of its own; a job as JSON on stdin, the layers on stdout."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from deeplab_infer.errors import DeepLabError

from ..measuring.processes import answer_job

# Backend -> the module with its `profile`.
BACKENDS = {
    "torch": ".from_torch",
    "onnxruntime": ".from_onnxruntime",
    "openvino": ".from_openvino",
    "tensorrt": ".from_tensorrt",
}


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """Profile.

    Args:
        job: ``model``, ``backend`` (of `BACKENDS`), ``device``, ``threads``, ``height`` and ``width`` (None: the file's
            own), ``batch``, ``seconds`` for each of the two measurements, ``precision`` and ``fused`` (torch).

    Returns:
        ``layers`` in their order, ``total_ms`` samples without a profiler, ``precision``, ``device``, ``height``,
        ``width``, ``notes``; JSON-able.
    """
    profile = importlib.import_module(BACKENDS[job["backend"]], __package__).profile(job)
    return {
        "layers": [layer.to_dict() for layer in profile.layers],
        "total_ms": profile.total_ms,
        "precision": profile.precision,
        "device": profile.device,
        "height": profile.size[0],
        "width": profile.size[1],
        "notes": profile.notes,
    }


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """`run_job`, or ``{"refused": why}`` where the job cannot be done as asked."""
    try:
        return run_job(job)
    except DeepLabError as error:
        return {"refused": str(error)}


def main() -> int:
    """Entry point of the process."""
    return answer_job(answer)


if __name__ == "__main__":
    sys.exit(main())
