# SPDX-License-Identifier: Apache-2.0
"""The peers' side of ``deeplab-bench peers``, in the interpreter that has them; it does not import `deeplab_infer`.

A job as JSON on stdin, the answer as JSON on stdout; see `run_job`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np

from .measuring import measure_side, serve
from .models import PEERS

_VERSIONS = ("torch", "mmengine", "mmcv-lite", "mmcv", "timm", "numpy", "torch-tensorrt")


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """Do what ``job["what"]`` says.

    ``look``: which of ``peers`` can be imported, and all versions. ``prepare``: build ``network`` of ``peer``, write
    its checkpoint, labels and logits of the image into ``folder``. ``trace``: write it as TorchScript there, for
    `by_hand`. ``measure``: time one way of running it.
    """
    return {"look": _look, "prepare": _prepare, "trace": _trace, "measure": _measure}[job["what"]](job)


def _look(job: dict[str, Any]) -> dict[str, Any]:
    missing = {}
    for peer in job["peers"]:
        distribution, module = PEERS[peer]
        if importlib.util.find_spec(module) is None:
            missing[peer] = f"{distribution} is not installed in {sys.executable}"
    wanted = {*_VERSIONS, *(distribution for distribution, _ in PEERS.values())}
    installed = {found.name: found.version for found in importlib.metadata.distributions() if found.name in wanted}
    return {
        "missing": missing,
        "python": sys.version.split()[0],
        "versions": dict(sorted(installed.items())),
        "torch_tensorrt": importlib.util.find_spec("torch_tensorrt") is not None,
    }


def _prepare(job: dict[str, Any]) -> dict[str, Any]:
    model = _build(job)
    folder = Path(job["folder"])
    image, scene = np.load(folder / "image.npy"), np.load(folder / "scene.npy")
    if model.channel_order == "bgr":
        image = np.ascontiguousarray(image[..., ::-1])
    model.make_lifelike(image, scene)
    model.save(folder / "checkpoint.pth")
    labels = model.labels(image)
    np.save(folder / "labels.npy", labels)
    view = model.in_view(image)
    np.save(folder / "logits.npy", model.logits(view))
    return {
        "view": list(view.shape[:2]),
        "window": None if model.window is None else list(model.window),
        "classes_found": len(np.unique(labels)),
    }


def _trace(job: dict[str, Any]) -> dict[str, Any]:
    model = _build(job)
    folder = Path(job["folder"])
    model.load(folder / "checkpoint.pth")
    image = np.load(folder / "image.npy")
    if model.channel_order == "bgr":
        image = np.ascontiguousarray(image[..., ::-1])
    model.trace(folder / "by_hand.pt", image)
    return {"normalisation": {**model.normalisation(), "channel_order": model.channel_order}}


def _measure(job: dict[str, Any]) -> dict[str, Any]:
    model = _build(job)
    model.load(Path(job["folder"]) / "checkpoint.pth")
    if job["precision"] != "fp32":
        model.use_precision(job["precision"])
    if job["compile"] is not None:
        if job["compile"].get("backend") == "torch_tensorrt":
            importlib.import_module("torch_tensorrt")  # registers its backend
        model.compile(**_compile_options(job))
    return measure_side(model, job)


def _compile_options(job: dict[str, Any]) -> dict[str, Any]:
    import torch

    options = dict(job["compile"])
    if options.get("backend") == "torch_tensorrt":
        dtype = {"fp32": torch.float32, "fp16": torch.float16}[job["precision"]]
        options["options"] = {"enabled_precisions": {dtype}, "disable_tf32": True}
    return options


def _build(job: dict[str, Any]) -> Any:
    import torch

    from .models import build

    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    # Some builds round float32 factors to 10 bits unless told otherwise.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return build(job["peer"], job["network"], job["device"])


if __name__ == "__main__":
    sys.exit(serve(run_job))
