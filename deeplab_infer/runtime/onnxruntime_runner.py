# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime, on its CPU or CUDA provider."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ..errors import BackendError, ModelFileError
from ..manifest import Manifest, read_onnx_manifest
from .base import check_batch

_log = logging.getLogger(__name__)
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntimeRunner:
    """An inference session; ONNX Runtime sessions are safe to call from several threads."""

    name = "onnxruntime"

    def __init__(self, session: Any, manifest: Manifest, device: str) -> None:
        self._session = session
        self.manifest = manifest
        self.device = device

    def run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """See `Runner.run`."""
        check_batch(batch, self.manifest)
        return self._session.run(None, {"image": np.ascontiguousarray(batch)})[0]

    def close(self) -> None:
        """Drop the session."""
        self._session = None


def open_file(path: Path, device: str, threads: int | None) -> OnnxRuntimeRunner:
    """Load an exported file; ``device`` is ``"auto"`` (CUDA where it works, else the CPU), ``"cpu"`` or ``"cuda"``."""
    return _open(str(path), read_onnx_manifest(path), str(path), device, threads)


def open_bytes(data: bytes, manifest: Manifest) -> OnnxRuntimeRunner:
    """Load a serialised graph on the CPU."""
    return _open(data, manifest, "the graph", "cpu", None)


def _open(source: str | bytes, manifest: Manifest, label: str, device: str, threads: int | None) -> OnnxRuntimeRunner:
    kind = _choose(device)
    providers = [_PROVIDERS[kind]] if kind == "cpu" else [_PROVIDERS["cuda"], _PROVIDERS["cpu"]]
    try:
        session = onnxruntime.InferenceSession(source, _options(manifest, threads), providers=providers)
    except Exception as error:
        raise ModelFileError(f"{label}: ONNX Runtime cannot load it: {_first_line(error)}") from error
    used = session.get_providers()[0]
    if used != _PROVIDERS[kind]:
        if device != "auto":
            raise BackendError(
                f"ONNX Runtime could not start its {_PROVIDERS[kind]} (it fell back to {used}); check the CUDA and "
                "cuDNN versions with deeplab-doctor, or use --device cpu"
            )
        _log.warning("ONNX Runtime could not start its CUDA provider and runs on the CPU")
        kind = "cpu"
    return OnnxRuntimeRunner(session, manifest, kind if kind == "cpu" else "cuda:0")


def _options(manifest: Manifest, threads: int | None) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    if manifest.precision in ("int8", "fp8"):
        # Our Q/DQ stand where TensorRT fuses them; ONNX Runtime's fusions make invalid graphs of some of them.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        _log.info("ONNX Runtime computes this %s model in floating point, with eight-bit values", manifest.precision)
    if manifest.precision == "fp8":
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _choose(device: str) -> str:
    available = onnxruntime.get_available_providers()
    if device == "auto":
        return "cuda" if _PROVIDERS["cuda"] in available else "cpu"
    kind = device.partition(":")[0]
    if kind not in _PROVIDERS:
        raise BackendError(f"ONNX Runtime has no device {device!r}; use auto, cpu or cuda")
    if _PROVIDERS[kind] not in available:
        raise BackendError(
            f"this ONNX Runtime has no {_PROVIDERS[kind]} (it has {', '.join(available)}); "
            "run: pip install 'deeplab-infer[onnxruntime-gpu]'"
        )
    return kind


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
