# SPDX-License-Identifier: Apache-2.0
"""OpenVINO, which reads the ONNX file itself."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from ..errors import BackendError, ModelFileError
from ..manifest import Manifest, read_onnx_manifest
from .base import check_batch


class OpenVinoRunner:
    """A compiled model with one inference request a thread."""

    name = "openvino"

    def __init__(self, compiled: Any, manifest: Manifest, device: str) -> None:
        self._compiled = compiled
        self._requests = threading.local()
        self.manifest = manifest
        self.device = device

    def run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """See `Runner.run`."""
        check_batch(batch, self.manifest)
        if not hasattr(self._requests, "request"):
            self._requests.request = self._compiled.create_infer_request()
        result = self._requests.request.infer({0: np.ascontiguousarray(batch)})
        # The request owns its output buffer and writes the next result into it.
        return np.array(result[0], copy=True)

    def close(self) -> None:
        """Drop the compiled model."""
        self._compiled = None
        self._requests = threading.local()


def open_file(path: Path, device: str, threads: int | None) -> OpenVinoRunner:
    """Load an exported file; ``device`` is ``"auto"`` (the CPU), ``"cpu"``, ``"gpu"`` or ``"npu"``."""
    manifest = read_onnx_manifest(path)
    core = openvino.Core()
    wanted = "CPU" if device == "auto" else device.upper()
    if wanted not in {name.partition(".")[0] for name in core.available_devices}:
        raise BackendError(
            f"OpenVINO has no device {device!r} on this machine; it has {', '.join(core.available_devices)}"
        )
    # Without the hint OpenVINO computes in bf16 where the CPU can, whatever the file says.
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    try:
        compiled = core.compile_model(core.read_model(str(path)), wanted, settings)
    except RuntimeError as error:
        lines = str(error).strip().splitlines()
        raise ModelFileError(f"{path}: OpenVINO cannot load it: {lines[-1] if lines else error}") from error
    return OpenVinoRunner(compiled, manifest, wanted.lower())
