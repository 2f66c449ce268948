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

    ``export``: write the network in ``folder`` as ``backend`` takes it. ``measure``: time one way of running it.
    """
    return {"export": _export, "measure": _measure}[job["what"]](job)


_SUFFIXES = {"onnxruntime": ".onnx", "tensorrt": ".engine", "openvino": ".xml"}


def needs_file(backend: str, precision: str) -> bool:
    """Whether a way runs an exported file, and not the network itself: OpenVINO takes it in fp32 and bf16."""
    return backend != "torch" and (backend != "openvino" or precision == "int8")


def file_name(precision: str, backend: str) -> str:
    """Name of the exported file in a network's folder."""
    return f"ours_{precision}{_SUFFIXES[backend]}"


def _load(folder: str) -> DeepLab:
    """The peer's checkpoint, for images that already have the network's size."""
    from deeplab_infer import checkpoints

    model = checkpoints.load(Path(folder) / "checkpoint.pth")
    return checkpoints.with_config(model, model.config.replace(test_scale=None))


def _export(job: dict[str, Any]) -> dict[str, Any]:
    import torch
    from deeplab_export import build_engine, export_onnx

    torch.set_num_threads(job["threads"])
    folder, precision, backend = Path(job["folder"]), job["precision"], job["backend"]
    model = _load(job["folder"])
    path = folder / file_name(precision, backend)
    if backend == "openvino":
        _export_openvino(model, path, job)
        return {"file": path.name}
    height, width = job["view"]
    graph = folder / file_name(precision, "onnxruntime")
    export_onnx(model, graph, precision=precision, batch=_batch(model), height=height, width=width)
    if backend == "tensorrt":
        build_engine(graph, path)
    return {"file": path.name}


def _export_openvino(model: DeepLab, path: Path, job: dict[str, Any]) -> None:
    from deeplab_export import Calibration, Signature, TracedNetwork
    from deeplab_export.openvino_export import export_openvino
    from deeplab_export.precision import PRECISIONS

    height, width = ((side, side, side) for side in job["view"])
    batch = _batch(model)
    signature = Signature(batch=(batch,) * 3 if isinstance(batch, int) else batch, height=height, width=width)
    traced = TracedNetwork(model, signature, calibration=Calibration(count=job["calibration"]))
    export_openvino(traced, path, PRECISIONS[job["precision"]])


def _batch(model: DeepLab) -> int | tuple[int, int, int]:
    return _WINDOWS_AT_ONCE if model.config.test_mode == "slide" else 1


def _measure(job: dict[str, Any]) -> dict[str, Any]:
    with _segmenter(job) as segmenter:
        described = segmenter.describe()
        if described["precision"] != job["precision"]:
            raise BackendError(f"{job['path']} ran in {described['precision']}, not in {job['precision']}")
        if job.get("compiled") and not getattr(segmenter._open(), "compiled", False):
            raise BackendError(f"{job['path']} was not compiled")
        return {**measure_side(OwnSide(segmenter), job), "described": described}


def _segmenter(job: dict[str, Any]) -> Segmenter:
    backend, precision = job["backend"], job["precision"]
    options = {"backend": backend, "device": job["device"], "threads": job["threads"]}
    if needs_file(backend, precision):
        # What eight bits leave in floating point runs as fast as the CPU can.
        asked = "fastest" if backend == "openvino" else None
        return Segmenter(Path(job["folder"]) / file_name(precision, backend), **options, precision=asked)
    options |= {"fused": job["fused"], "compiled": job["compiled"]} if backend == "torch" else {}
    return Segmenter(_load(job["folder"]), **options, precision=precision)


if __name__ == "__main__":
    sys.exit(serve(run_job))
