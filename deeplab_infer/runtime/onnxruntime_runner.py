# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime, on the CPU or on a GPU through its CUDA, TensorRT or TensorRT-RTX provider."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ..engine_manifest import Profile
from ..errors import BackendError, ModelFileError, first_line
from ..manifest import Manifest, read_onnx_manifest
from .base import Runner, check_batch
from .onnxruntime_gpu import PROVIDERS, OnnxRuntimeEngine, missing_provider, provider_options
from .processors import compute_threads

_log = logging.getLogger(__name__)
_CPU = "CPUExecutionProvider"


class OnnxRuntimeRunner:
    """A session on the CPU; ONNX Runtime sessions are safe to call from several threads."""

    name = "onnxruntime"

    def __init__(self, session: Any, manifest: Manifest, device: str, threads: int | None = None) -> None:
        """``threads``: that the session runs on; None is its own choice."""
        self._session = session
        self.manifest = manifest
        self.device = device
        self.threads = threads

    def run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """See `Runner.run`."""
        check_batch(batch, self.manifest)
        return self._session.run(None, {"image": np.ascontiguousarray(batch)})[0]

    def close(self) -> None:
        """Drop the session."""
        self._session = None


def open_file(path: Path, device: str, threads: int | None, backend: str = "onnxruntime") -> Runner:
    """Load an exported file.

    Args:
        path: the .onnx file.
        device: ``"auto"`` (CUDA where it works, else the CPU), ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        threads: CPU threads.
        backend: ``"onnxruntime"``, or ``"onnxruntime-tensorrt"`` / ``"onnxruntime-rtx"``, which build an engine at the
            first run and keep it beside the file.
    """
    manifest = read_onnx_manifest(path)
    kind, index = _choose(device, backend)
    if kind == "cuda":
        try:
            return _open_on_gpu(path, manifest, index, threads, backend)
        except BackendError as error:
            if device != "auto" or backend != "onnxruntime":
                raise
            _log.warning("running on the CPU: %s", error)
    threads = threads or compute_threads()
    return OnnxRuntimeRunner(_session(str(path), manifest, str(path), threads, [_CPU]), manifest, "cpu", threads)


def open_bytes(data: bytes, manifest: Manifest) -> OnnxRuntimeRunner:
    """Load a serialised graph on the CPU."""
    return OnnxRuntimeRunner(_session(data, manifest, "the graph", None, [_CPU]), manifest, "cpu")


def _open_on_gpu(path: Path, manifest: Manifest, index: int, threads: int | None, backend: str) -> Runner:
    from .cuda import Cuda
    from .gpu_runner import GpuRunner

    cuda = Cuda(index)
    # Providers that build engines need limits; what the file allows is too much to plan memory for.
    profile = None
    if backend != "onnxruntime":
        typical = [(side[1], side[1], side[1]) for side in (manifest.batch, manifest.height, manifest.width)]
        profile = Profile(*typical)
        _log.warning("%s builds an engine for %s (batch x height x width) at the first run", backend, profile)
    wanted = [(name, provider_options(name, manifest, path, index, profile)) for name in PROVIDERS[backend]]
    session = _session(str(path), manifest, str(path), threads, [*wanted, _CPU])
    used = session.get_providers()[0]
    if used != PROVIDERS[backend][0]:
        raise BackendError(
            f"ONNX Runtime could not start its {PROVIDERS[backend][0]} (it fell back to {used}); check the CUDA and "
            "cuDNN versions with deeplab-doctor, or use --device cpu"
        )
    engine = OnnxRuntimeEngine(session, manifest, ("cuda", index), cuda.synchronise)
    profiles = () if profile is None else (profile,)
    return GpuRunner(engine, manifest, cuda, backend, profiles=profiles, contexts=1, cuda_graphs=False)


def _session(source: str | bytes, manifest: Manifest, label: str, threads: int | None, providers: list[Any]) -> Any:
    try:
        return onnxruntime.InferenceSession(source, _options(manifest, threads), providers=providers)
    except Exception as error:
        raise ModelFileError(f"{label}: ONNX Runtime cannot load it: {first_line(error)}") from error


def _options(manifest: Manifest, threads: int | None) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Its threads would spin on after a run, on the cores that the argmax of the logits then needs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    if manifest.precision in ("int8", "fp8"):
        # Our Q/DQ stand where TensorRT fuses them; ONNX Runtime's fusions make invalid graphs of some of them.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        _log.info("ONNX Runtime computes this %s model in floating point, with eight-bit values", manifest.precision)
    if manifest.precision == "fp8":
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _choose(device: str, backend: str) -> tuple[str, int]:
    missing = missing_provider(backend)
    if device == "auto" and backend == "onnxruntime":
        return ("cpu", 0) if missing else ("cuda", 0)
    kind, _, number = ("cuda", "", "") if device == "auto" else device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()) or (kind == "cpu" and backend != "onnxruntime"):
        raise BackendError(f"{backend} has no device {device!r}; use auto, cpu (onnxruntime only), cuda or cuda:N")
    if kind == "cuda" and missing:
        available = ", ".join(onnxruntime.get_available_providers())
        raise BackendError(
            f"this ONNX Runtime has no {missing} (it has {available}); run: pip install "
            "'deeplab-infer[onnxruntime-gpu]'"
        )
    return kind, int(number or 0)
