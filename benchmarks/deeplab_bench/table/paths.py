# SPDX-License-Identifier: Apache-2.0
"""Our ways of running a network, as a table: what is exported, what runs it, and what a machine must have."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deeplab_infer.errors import DeepLabError


@dataclass(frozen=True)
class RunPath:
    """One way from a checkpoint to labels.

    Attributes:
        name: in tables.
        device: ``"cuda"`` or ``"cpu"``.
        backend, precision, compiled: as `Segmenter` takes them; precision of an exported file is the file's.
        file: ``--format`` of deeplab-export, or empty to run the checkpoint itself.
    """

    name: str
    device: str
    backend: str
    precision: str
    file: str = ""
    compiled: bool = False


# In the order of their worth: what a small budget should measure first.
PATHS = (
    RunPath("tensorrt fp16", "cuda", "tensorrt", "fp16", "engine"),
    RunPath("torch fp16", "cuda", "torch", "fp16"),
    RunPath("torch fp32", "cuda", "torch", "fp32"),
    RunPath("tensorrt int8", "cuda", "tensorrt", "int8", "engine"),
    RunPath("torch compiled fp16", "cuda", "torch", "fp16", compiled=True),
    RunPath("torch bf16", "cuda", "torch", "bf16"),
    RunPath("onnxruntime fp16", "cuda", "onnxruntime", "fp16", "onnx"),
    RunPath("tensorrt fp32", "cuda", "tensorrt", "fp32", "engine"),
    RunPath("onnxruntime fp32", "cuda", "onnxruntime", "fp32", "onnx"),
    RunPath("openvino fp32", "cpu", "openvino", "fp32", "openvino"),
    RunPath("onnxruntime fp32", "cpu", "onnxruntime", "fp32", "onnx"),
    RunPath("openvino int8", "cpu", "openvino", "int8", "openvino"),
    RunPath("onnxruntime int8", "cpu", "onnxruntime", "int8", "onnx"),
    RunPath("torch fp32", "cpu", "torch", "fp32"),
    RunPath("openvino bf16", "cpu", "openvino", "bf16", "openvino"),
    RunPath("torch compiled fp32", "cpu", "torch", "fp32", compiled=True),
)


def choose_paths(device: str, asked: list[str]) -> list[RunPath]:
    """The paths of a device, or those asked for by (part of) their names.

    Raises:
        DeepLabError: no such path on this device.
    """
    mine = [path for path in PATHS if path.device == device]
    for text in asked:
        if not any(text in path.name for path in mine):
            names = ", ".join(path.name for path in mine)
            raise DeepLabError(f"no path {text!r} on {device}; there are {names}")
    return [path for path in mine if not asked or any(text in path.name for text in asked)]


def why_not(path: RunPath) -> str | None:
    """Why this machine cannot take a path, or None."""
    return next((reason for check, reason in _requirements(path) if not check()), None)


def _requirements(path: RunPath) -> list[tuple[Callable[[], bool], str]]:
    needed = []
    if path.file:
        needed.append((_has("onnxscript"), "exporting needs pip install 'deeplab-infer[export]'"))
    if path.backend == "openvino":
        needed.append((_has("openvino"), "needs pip install 'deeplab-infer[openvino]'"))
        if path.precision == "int8":
            needed.append((_has("nncf"), "needs pip install 'deeplab-infer[openvino-int8]'"))
        if path.precision == "bf16":
            needed.append((_cpu_has_bf16, "this CPU has no bf16 instructions, so the file would run in float32"))
    if path.backend == "onnxruntime":
        package = "onnxruntime-gpu" if path.device == "cuda" else "onnxruntime"
        needed.append((_has("onnxruntime"), f"needs pip install 'deeplab-infer[{package}]'"))
        if path.device == "cuda":
            needed.append(
                (_onnxruntime_has_cuda, "the installed onnxruntime has no CUDA provider: install onnxruntime-gpu")
            )
    if path.backend == "tensorrt":
        reason = "needs pip install 'deeplab-infer[tensorrt]' or 'deeplab-infer[tensorrt-rtx]'"
        needed.append((lambda: _has("tensorrt")() or _has("tensorrt_rtx")(), reason))
    return needed


def _has(package: str) -> Callable[[], bool]:
    return lambda: importlib.util.find_spec(package) is not None


def _cpu_has_bf16() -> bool:
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _onnxruntime_has_cuda() -> bool:
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()
