# SPDX-License-Identifier: Apache-2.0
"""The choice between the backends."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from pathlib import Path
from typing import Any

from ..engine_manifest import ENGINE_SUFFIXES, read_engine_manifest
from ..errors import BackendError, ModelFileError
from ..manifest import Manifest, read_onnx_manifest
from .base import Runner
from .tensorrt_flavour import FLAVOURS

_log = logging.getLogger(__name__)

# backend -> (module with `open_file`, package it needs, extra to install), in order of preference for a file.
_FILE_BACKENDS = {
    "onnxruntime": (".onnxruntime_runner", "onnxruntime", "onnxruntime"),
    "openvino": (".openvino_runner", "openvino", "openvino"),
}
# ONNX Runtime's providers that build engines by themselves: never chosen unless asked for.
_PROVIDERS = ("onnxruntime-tensorrt", "onnxruntime-rtx")
BACKENDS = ("auto", *_FILE_BACKENDS, *_PROVIDERS, "tensorrt", "torch")
# What the torch backend computes in; named here because commands offer them where torch is not installed.
TORCH_PRECISIONS = ("fp32", "tf32", "fp16", "bf16")


def available_backends() -> list[str]:
    """Backends whose package is installed."""
    packages = {name: [package] for name, (_, package, _) in _FILE_BACKENDS.items()}
    packages |= {"tensorrt": list(FLAVOURS), "torch": ["torch"]}
    return [name for name, any_of in packages.items() if any(importlib.util.find_spec(one) for one in any_of)]


def backends_for(model: Any) -> list[str]:
    """Installed backends that run a model by themselves, in order of preference."""
    suffix = Path(model).suffix.lower() if isinstance(model, (str, os.PathLike)) else ""
    if suffix in ENGINE_SUFFIXES:
        able = ["tensorrt"]
    else:
        able = {".onnx": list(_FILE_BACKENDS), ".xml": ["openvino"]}.get(suffix, ["torch"])
    return [name for name in able if name in available_backends()]


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """The manifest of an exported file: ONNX, OpenVINO's .xml, or an engine.

    Raises:
        ModelFileError: missing, damaged, or not written by deeplab-export.
    """
    suffix = Path(path).suffix.lower()
    if suffix in ENGINE_SUFFIXES:
        return read_engine_manifest(path, check_plan=False).manifest
    if suffix == ".xml":
        from .openvino_runner import read_ir_manifest

        return read_ir_manifest(Path(path))
    return read_onnx_manifest(path)


def open_runner(
    model: Any,
    *,
    backend: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    fused: bool = True,
    precision: str | None = None,
    compiled: bool = False,
    contexts: int = 2,
    cuda_graphs: bool = True,
    weights: str | os.PathLike[str] | None = None,
) -> Runner:
    """Load a model on a backend.

    Args:
        model: an exported ``.onnx`` file, OpenVINO ``.xml`` or TensorRT ``.engine``; or, for torch, a `DeepLab`
            network, a checkpoint, or a config's name.
        backend: ``"auto"`` takes tensorrt for an engine, the first installed of onnxruntime, openvino for an ONNX file,
            torch for a network.
        device: ``"auto"``, ``"cpu"``, or ``"cuda"`` where the backend offers it.
        threads: CPU threads; None leaves the choice to the backend.
        fused: let the torch backend run on the fused kernels; the other backends have their own.
        precision, compiled: of the torch backend, see `Segmenter`; exported files carry their own precision.
        contexts: calls that may run at once on an engine; each takes GPU memory.
        cuda_graphs: replay captured CUDA graphs, in engines and in torch on a GPU.
        weights: an ONNX file whose weights replace those of an engine built with ``--refit``.

    Raises:
        BackendError: unknown or missing backend, or a device it does not have.
        ModelFileError: the file is missing, damaged, or was not exported by this toolkit.
    """
    if backend not in BACKENDS:
        raise BackendError(f"unknown backend {backend!r}; there are {', '.join(BACKENDS)}")
    if threads is not None and threads < 1:
        raise BackendError(f"threads must be at least 1, got {threads}")
    is_file = isinstance(model, (str, os.PathLike))
    suffix = Path(model).suffix.lower() if is_file else ""
    if suffix in (".onnx", ".xml", *ENGINE_SUFFIXES) and (precision is not None or compiled):
        raise BackendError(
            f"{model}: an exported file has its own precision and runtime; precision and compiled are torch's alone"
        )
    if suffix in ENGINE_SUFFIXES:
        return _open_engine(Path(model), backend, device, contexts, cuda_graphs, weights)
    if weights is not None:
        raise BackendError(f"weights are replaced in TensorRT engines only; open {os.fspath(weights)!r} itself")
    if backend == "tensorrt":
        raise BackendError(
            f"backend 'tensorrt' needs an engine ({', '.join(ENGINE_SUFFIXES)}), got {_describe(model)}; build one: "
            "deeplab-export --format engine"
        )
    if not is_file or suffix not in (".onnx", ".xml"):
        if backend not in ("auto", "torch"):
            raise BackendError(f"backend {backend!r} needs an exported .onnx file, got {_describe(model)}")
        return _open_torch(model, device, threads, fused, precision, compiled, cuda_graphs)
    if suffix == ".xml" and backend not in ("auto", "openvino"):
        raise BackendError(f"{model}: only openvino runs OpenVINO files, not {backend}; give it the .onnx file")
    if backend == "torch":
        raise BackendError(f"{model}: the torch backend runs checkpoints, not .onnx files; give the checkpoint")
    if not Path(model).exists():
        raise ModelFileError(f"{model}: no such file")
    return _open_file(Path(model), "openvino" if suffix == ".xml" else backend, device, threads)


def _open_file(path: Path, backend: str, device: str, threads: int | None) -> Runner:
    installed = available_backends()
    if backend == "auto":
        candidates = [name for name in _FILE_BACKENDS if name in installed]
        if not candidates:
            raise BackendError("no runtime for .onnx files is installed; run: pip install 'deeplab-infer[onnxruntime]'")
        backend = candidates[0]
    family = backend.partition("-")[0]
    module, package, extra = _FILE_BACKENDS[family]
    if family not in installed:
        raise BackendError(f"backend {backend!r} needs {package}; run: pip install 'deeplab-infer[{extra}]'")
    options = {"backend": backend} if backend in _PROVIDERS else {}
    runner: Runner = importlib.import_module(module, __package__).open_file(path, device, threads, **options)
    _log.info("%s: %s on %s", path.name, runner.name, runner.device)
    return runner


def _open_engine(
    path: Path,
    backend: str,
    device: str,
    contexts: int,
    cuda_graphs: bool,
    weights: str | os.PathLike[str] | None,
) -> Runner:
    if backend not in ("auto", "tensorrt"):
        raise BackendError(f"{path}: backend {backend!r} does not run TensorRT engines; give it the .onnx file")
    from .tensorrt_runner import open_file

    other = None if weights is None else Path(weights)
    return open_file(path, device, contexts=contexts, cuda_graphs=cuda_graphs, weights=other)


def _open_torch(
    model: Any,
    device: str,
    threads: int | None,
    fused: bool,
    precision: str | None,
    compiled: bool,
    cuda_graphs: bool,
) -> Runner:
    if "torch" not in available_backends():
        raise BackendError(
            f"{_describe(model)} needs torch to run; export it where torch is (deeplab-export) and give the .onnx "
            "file, or run: pip install 'deeplab-infer[train]'"
        )
    module = importlib.import_module(".torch_runner", __package__)
    runner: Runner = module.open_model(
        model, device, threads, fused, precision=precision, compiled=compiled, cuda_graphs=cuda_graphs
    )
    return runner


def _describe(model: Any) -> str:
    return repr(os.fspath(model)) if isinstance(model, (str, os.PathLike)) else f"a {type(model).__name__}"
