# SPDX-License-Identifier: Apache-2.0
"""TensorRT engines on a GPU."""

from __future__ import annotations

from pathlib import Path

from ..engine_manifest import read_engine_manifest
from ..errors import BackendError
from .cuda import Cuda
from .gpu_runner import GpuRunner
from .tensorrt_engine import TensorRtEngine, weights_manifest


def open_file(
    path: Path, device: str, *, contexts: int = 2, cuda_graphs: bool = True, weights: Path | None = None
) -> GpuRunner:
    """Open an engine that `deeplab-export` built; ``device`` is ``"auto"``, ``"cuda"`` or ``"cuda:N"``.

    ``weights`` is an ONNX file of the same network whose weights replace those of an engine built with ``--refit``.

    Raises:
        ModelFileError: engine or manifest missing, or not belonging together.
        BackendError: no TensorRT of that version, no GPU, or an engine for another one.
    """
    manifest = read_engine_manifest(path)
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cuda") or (number and not number.isdigit()):
        raise BackendError(f"TensorRT engines run on cuda or cuda:N, not on {device!r}; use the .onnx file for CPUs")
    promises = weights_manifest(path, manifest, weights)
    cuda = Cuda(int(number or 0))
    engine = TensorRtEngine(path, manifest, weights=weights)
    try:
        return GpuRunner(
            engine,
            promises,
            cuda,
            manifest.flavour,
            profiles=manifest.profiles,
            command=manifest.command,
            contexts=contexts,
            cuda_graphs=cuda_graphs,
        )
    except BackendError:
        engine.close()
        raise
