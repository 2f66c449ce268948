# SPDX-License-Identifier: Apache-2.0
"""OpenVINO, which reads the ONNX file itself, or its own IR."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from ..errors import BackendError, ModelFileError
from ..manifest import METADATA_KEY, Manifest, read_onnx_manifest
from .base import check_batch

_log = logging.getLogger(__name__)


class OpenVinoRunner:
    """A compiled model with one inference request a thread.

    Attributes:
        compute: type that the device computes in, e.g. ``"f32"`` or ``"bf16"``.
    """

    name = "openvino"

    def __init__(self, compiled: Any, manifest: Manifest, device: str, compute: str) -> None:
        self._compiled = compiled
        self._requests = threading.local()
        self.manifest = manifest
        self.device = device
        self.compute = compute

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
    core = openvino.Core()
    if path.suffix == ".xml":
        model, manifest = _read_ir(core, path)
    else:
        model, manifest = None, read_onnx_manifest(path)
    wanted = "CPU" if device == "auto" else device.upper()
    if wanted not in {name.partition(".")[0] for name in core.available_devices}:
        raise BackendError(
            f"OpenVINO has no device {device!r} on this machine; it has {', '.join(core.available_devices)}"
        )
    compute = _compute_type(core, wanted, manifest, path)
    # Without the hint OpenVINO computes in bf16 where the CPU can, whatever the file says.
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": compute, "PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    try:
        compiled = core.compile_model(model if model is not None else core.read_model(str(path)), wanted, settings)
    except RuntimeError as error:
        raise ModelFileError(f"{path}: OpenVINO cannot load it: {_last_line(error)}") from error
    return OpenVinoRunner(compiled, manifest, wanted.lower(), compute)


def _compute_type(core: Any, device: str, manifest: Manifest, path: Path) -> str:
    if manifest.precision != "bf16" or path.suffix != ".xml":
        return "f32"
    if "BF16" in core.get_property(device, "OPTIMIZATION_CAPABILITIES"):
        return "bf16"
    _log.warning("this %s has no bfloat16 arithmetic: %s runs in float32, slower and more exact", device, path.name)
    return "f32"


def read_ir_manifest(path: Path) -> Manifest:
    """The manifest inside an IR.

    Raises:
        ModelFileError: missing, damaged, or not written by deeplab-export.
    """
    return _read_ir(openvino.Core(), path)[1]


def _read_ir(core: Any, path: Path) -> tuple[Any, Manifest]:
    for part in (path, path.with_suffix(".bin")):
        if not part.is_file():
            raise ModelFileError(f"{part}: no such file; an OpenVINO model is a .xml and a .bin side by side")
    try:
        model = core.read_model(str(path))
    except RuntimeError as error:
        raise ModelFileError(f"{path}: OpenVINO cannot read it: {_last_line(error)}") from error
    if not model.has_rt_info([METADATA_KEY]):
        raise ModelFileError(f"{path}: an OpenVINO file without our manifest; write it with deeplab-export")
    try:
        return model, Manifest.from_json(str(model.get_rt_info([METADATA_KEY]).value))
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
