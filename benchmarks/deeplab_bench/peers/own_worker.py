# SPDX-License-Identifier: Apache-2.0
"""Our side of ``deeplab-bench peers``: the peer's checkpoint in our network, run by `Segmenter`.

A job as JSON on stdin, the answer as JSON on stdout; see `run_job`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deeplab_infer.errors import BackendError
from deeplab_infer.segmenter import Segmenter

from .measuring import measure_side, serve

if TYPE_CHECKING:
    from deeplab_infer.models import DeepLab

_WINDOWS_AT_ONCE = (1, 4, 8)


class OwnSide:
    """A `Segmenter` as `Side`."""

    channel_order = "rgb"

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter
        self._runner = segmenter._open()

    def labels(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """See `Side`."""
        found: NDArray[Any] = self._segmenter.predict(pixels).labels
        return found

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Side`; the files that are measured here take uint8."""
        found: NDArray[np.float32] = self._runner.run(pixels[None])[0]
        return found


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """Do what ``job["what"]`` says.

    ``export``: write the network in ``folder`` as ONNX, and as an engine where ``engine`` says so. ``measure``: time
    one way of running it.
    """
    return {"export": _export, "measure": _measure}[job["what"]](job)


def file_name(precision: str, engine: bool) -> str:
    """Name of the exported file in a network's folder."""
    return f"ours_{precision}{'.engine' if engine else '.onnx'}"


def _load(folder: str) -> DeepLab:
    """The peer's checkpoint, for images that already have the network's size."""
    from deeplab_infer import checkpoints

    model = checkpoints.load(Path(folder) / "checkpoint.pth")
    return checkpoints.with_config(model, model.config.replace(test_scale=None))


def _export(job: dict[str, Any]) -> dict[str, Any]:
    import torch
    from deeplab_export import build_engine, export_onnx

    torch.set_num_threads(job["threads"])
    folder, precision = Path(job["folder"]), job["precision"]
    model = _load(job["folder"])
    height, width = job["view"]
    batch = _WINDOWS_AT_ONCE if model.config.test_mode == "slide" else 1
    path = folder / file_name(precision, engine=False)
    export_onnx(model, path, precision=precision, batch=batch, height=height, width=width)
    if job["engine"]:
        path = folder / file_name(precision, engine=True)
        build_engine(folder / file_name(precision, engine=False), path)
    return {"file": path.name}


def _measure(job: dict[str, Any]) -> dict[str, Any]:
    with _segmenter(job) as segmenter:
        described = segmenter.describe()
        if described["precision"] != job["precision"]:
            raise BackendError(f"{job['path']} ran in {described['precision']}, not in {job['precision']}")
        if job.get("compiled") and not getattr(segmenter._open(), "compiled", False):
            raise BackendError(f"{job['path']} was not compiled")
        return {**measure_side(OwnSide(segmenter), job), "described": described}


def _segmenter(job: dict[str, Any]) -> Segmenter:
    options = {"backend": job["backend"], "device": job["device"], "threads": job["threads"]}
    if job["backend"] != "torch":
        engine = job["backend"] == "tensorrt"
        return Segmenter(Path(job["folder"]) / file_name(job["precision"], engine), **options)
    return Segmenter(
        _load(job["folder"]),
        **options,
        fused=job["fused"],
        precision=job["precision"],
        compiled=job["compiled"],
    )


if __name__ == "__main__":
    sys.exit(serve(run_job))
