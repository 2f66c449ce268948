# SPDX-License-Identifier: Apache-2.0
"""The published table's memory column: the peak of one GPU's training step, measured in a process of its own.

The reference: ``torch.cuda.max_memory_allocated`` with the config's images a GPU at its crop, SGD with momentum,
auxiliary head, ``cudnn.benchmark`` off. SyncBN is plain batch normalisation here: one GPU has nothing to synchronise,
and the statistics that it exchanges are a few kilobytes. The fp16 row trains under autocast, as today's recipe does.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from time import perf_counter
from typing import Any

import torch

from deeplab_infer.configs import load_config
from deeplab_infer.models import build_model
from deeplab_infer.optimize import fuse
from deeplab_infer.training.loop import segmentation_loss

from ..measuring.processes import answer_job
from ..running.protocol import reference_settings

_STEPS = 3  # the second has the optimiser's state too; the third shows that it is all


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """Train for a few steps on random images.

    Args:
        job: ``name`` of a config, ``batch``, ``crop`` (height, width), ``device``, ``half``, ``fused``.

    Returns:
        ``peak_gb`` (1e9 bytes; of torch's allocator on a GPU), ``step_ms`` of the last step, ``batch``, ``crop``.
    """
    device = torch.device(job["device"])
    torch.manual_seed(0)
    model = build_model(load_config(job["name"])).to(device).train()
    if job["fused"]:
        fuse(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    before = _resident_bytes()
    elapsed = 0.0
    with reference_settings():
        for _ in range(_STEPS):
            started = perf_counter()
            _step(model, optimizer, job, device)
            elapsed = perf_counter() - started
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _peak_bytes() - before
    return {"peak_gb": peak / 1e9, "step_ms": elapsed * 1e3, "batch": job["batch"], "crop": list(job["crop"])}


def _step(model: Any, optimizer: torch.optim.Optimizer, job: dict[str, Any], device: torch.device) -> None:
    config = model.config
    x = torch.randn(job["batch"], 3, *job["crop"], device=device)
    labels = torch.randint(config.num_classes, (job["batch"], *job["crop"]), device=device)
    half = torch.autocast(device.type, torch.float16 if device.type == "cuda" else torch.bfloat16)
    with half if job["half"] else nullcontext():
        loss = segmentation_loss(model(x), labels, config.align_corners, config.dataset.ignore_index)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _resident_bytes() -> float:
    from ..running.worker import status_mib

    return status_mib("VmRSS") * 2**20


def _peak_bytes() -> float:
    from ..running.worker import status_mib

    return status_mib("VmHWM") * 2**20


if __name__ == "__main__":
    sys.exit(answer_job(run_job))
