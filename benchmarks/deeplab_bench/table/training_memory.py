# SPDX-License-Identifier: Apache-2.0
"""The published table's memory column: the peak of one GPU's training step, in plain torch and through our kernels.

The reference: ``torch.cuda.max_memory_allocated`` with the config's images a GPU at its crop, SGD with momentum 0.9,
auxiliary head, ``cudnn.benchmark`` off. SyncBN is plain batch normalisation here: one GPU has nothing to synchronise,
and the statistics that it exchanges are a few kilobytes. The fp16 row trains under autocast, as today's recipe does.
"""

from __future__ import annotations

from typing import Any

from deeplab_infer.configs import ReferenceRow

from ..measuring.processes import in_own_process
from ..training.command import WORKER
from ..training.variants import BASELINE

_OURS = "fused"
_LEAST_SIDE = 64


def training_memory(
    row: ReferenceRow, scale: float, device: str, threads: int | None, limit_s: float | None
) -> dict[str, Any]:
    """A few steps of each way, in a process of its own.

    Args:
        row: of the published table.
        scale: of its crop.
        device: ``"cpu"`` or ``"cuda"``.
        threads: CPU threads; None for torch's default.
        limit_s: seconds after which a process is ended.

    Returns:
        ``peak_gb`` (1e9 bytes, see `worker.run_job`), ``step_ms``, ``batch``, ``crop`` in plain torch, or ``error``;
        ``fused``: ``peak_gb`` and ``step_ms``, or ``error``, through our kernels and loss.
    """
    half = "fp16" if device == "cuda" else "bf16"
    job = {
        "name": row.name,
        "batch": row.images_per_gpu,
        "crop": [max(_LEAST_SIDE, round(side * scale)) for side in row.crop],
        "device": device,
        "threads": threads,
        "amp": half if row.fp16 else "off",
        "batchnorm": "train",
        "seconds": None,
        "reference": True,
        "saved": False,
        "count_only": False,
    }
    plain, fused = (
        _peak(in_own_process(WORKER, {**job, "variant": name}, limit_s=limit_s)) for name in (BASELINE, _OURS)
    )
    return {**plain, "batch": job["batch"], "crop": job["crop"], "fused": fused}


def _peak(answer: dict[str, Any]) -> dict[str, Any]:
    if "error" in answer:
        return {"error": answer["error"]}
    return {"peak_gb": answer["peak_mb"] / 1e3, "step_ms": answer["steps"]["train"]["median_ms"]}
