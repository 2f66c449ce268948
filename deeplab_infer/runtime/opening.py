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
from .base import FASTEST, Runner
from .cpu_choice import Choice, Wanted, choose_for_network, choose_for_onnx
from .tensorrt_flavour import FLAVOURS

_log = logging.getLogger(__name__)

# backend -> (module with `open_file`, package it needs, extra to install).
_FILE_BACKENDS = {
    "onnxruntime": (".onnxruntime_runner", "onnxruntime", "onnxruntime"),
    "openvino": (".openvino_runner", "openvino", "openvino"),
}
# ONNX Runtime's providers that build engines by themselves: never chosen unless asked for.
_PROVIDERS = ("onnxruntime-tensorrt", "onnxruntime-rtx")
BACKENDS = ("auto", *_FILE_BACKENDS, *_PROVIDERS, "tensorrt", "torch")
# What the torch backend computes in; named here because commands offer them where torch is not installed.
TORCH_PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
# What may be asked for: the same, and what a CPU runs fastest.
RUN_PRECISIONS = (*TORCH_PRECISIONS, FASTEST)


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
        backend: ``"auto"`` takes tensorrt for an engine, torch for a network on a GPU, and on a CPU what `cpu_choice`
            says of what is installed: openvino for a network, else torch; openvino or onnxruntime for an ONNX file.
        device: ``"auto"``, ``"cpu"``, or ``"cuda"`` where the backend offers it.
        threads: CPU threads; None leaves the choice to the backend.
        fused: let the torch backend run on the fused kernels, and OpenVINO on Winograd's convolutions.
        precision: see `Segmenter`; exported files carry their own, but OpenVINO computes float32 ones in ``"bf16"``
            where that is asked for.
        compiled: of the torch backend, see `Segmenter`.
        contexts: calls that may run at once on an engine; each takes GPU memory.
        cuda_graphs: replay captured CUDA graphs, in engines and in torch on a GPU.
        weights: an ONNX file whose weights replace those of an engine built with ``--refit``.

    Raises:
        BackendError: unknown or missing backend, or a device or precision it does not have.
        ModelFileError: the file is missing, damaged, or was not exported by this toolkit.
    """
    if backend not in BACKENDS:
        raise BackendError(f"unknown backend {backend!r}; there are {', '.join(BACKENDS)}")
    if threads is not None and threads < 1:
        raise BackendError(f"threads must be at least 1, got {threads}")
    wanted = Wanted(precision, compiled, fused)
    is_file = isinstance(model, (str, os.PathLike))
    suffix = Path(model).suffix.lower() if is_file else ""
    if suffix in (".onnx", ".xml", *ENGINE_SUFFIXES) and compiled:
        raise BackendError(f"{model}: an exported file has its own runtime; compiled is torch's alone")
    if suffix in ENGINE_SUFFIXES:
        if precision not in (None, FASTEST):
            raise BackendError(f"{model}: an engine has its own precision; build one in {precision}")
        return _open_engine(Path(model), backend, device, contexts, cuda_graphs, weights)
    if weights is not None:
        raise BackendError(f"weights are replaced in TensorRT engines only; open {os.fspath(weights)!r} itself")
    if backend == "tensorrt":
        raise BackendError(
            f"backend 'tensorrt' needs an engine ({', '.join(ENGINE_SUFFIXES)}), got {_describe(model)}; build one: "
            "deeplab-export --format engine"
        )
    if not is_file or suffix not in (".onnx", ".xml"):
        return _open_network(model, backend, device, threads, wanted, cuda_graphs)
    if suffix == ".xml" and backend not in ("auto", "openvino"):
        raise BackendError(f"{model}: only openvino runs OpenVINO files, not {backend}; give it the .onnx file")
    if backend == "torch":
        raise BackendError(f"{model}: the torch backend runs checkpoints, not .onnx files; give the checkpoint")
    if not Path(model).exists():
        raise ModelFileError(f"{model}: no such file")
    return _open_file(Path(model), "openvino" if suffix == ".xml" else backend, device, threads, wanted)


def _open_file(path: Path, backend: str, device: str, threads: int | None, wanted: Wanted) -> Runner:
    installed = available_backends()
    why = "the only runtime for .xml files" if path.suffix == ".xml" else "asked for"
    if backend == "auto":
        choice = _choose_for_file(path, device, wanted.precision, installed)
        backend, why = choice.backend, choice.why
    family = backend.partition("-")[0]
    module, package, extra = _FILE_BACKENDS[family]
    if family not in installed:
        raise BackendError(f"backend {backend!r} needs {package}; run: pip install 'deeplab-infer[{extra}]'")
    options: dict[str, Any] = {"backend": backend} if backend in _PROVIDERS else {}
    if family == "openvino":
        options |= {"precision": wanted.precision, "fused": wanted.fused}
    else:
        _refuse_precision(path, wanted.precision)
    runner: Runner = importlib.import_module(module, __package__).open_file(path, device, threads, **options)
    _log.info("%s: %s on %s (%s)", path.name, runner.name, runner.device, why)
    return runner


def _choose_for_file(path: Path, device: str, precision: str | None, installed: list[str]) -> Choice:
    """For devices other than the CPU: ONNX Runtime where it is installed, which has CUDA."""
    if device not in ("auto", "cpu") or (device == "auto" and _onnxruntime_has_cuda(installed)):
        choice = next((Choice(name, "for this device") for name in _FILE_BACKENDS if name in installed), None)
    else:
        choice = choose_for_onnx(read_onnx_manifest(path).precision, precision, installed)
    if choice is None:
        raise BackendError("no runtime for .onnx files is installed; run: pip install 'deeplab-infer[onnxruntime]'")
    return choice


def _onnxruntime_has_cuda(installed: list[str]) -> bool:
    if "onnxruntime" not in installed:
        return False
    from .onnxruntime_gpu import missing_provider

    return not missing_provider("onnxruntime")


def _refuse_precision(path: Path, precision: str | None) -> None:
    """ONNX Runtime computes in what the file holds."""
    if precision is None:
        return
    held = read_onnx_manifest(path).precision
    if precision == FASTEST:
        _log.info("%s: %s, as the file says; OpenVINO computes float32 files in bfloat16", path.name, held)
    elif precision != held:
        raise BackendError(
            f"{path}: holds a {held} model, and ONNX Runtime computes in what the file holds; OpenVINO computes "
            "float32 files in bf16: pip install 'deeplab-infer[openvino]', backend 'openvino'"
        )


def _open_network(
    model: Any, backend: str, device: str, threads: int | None, wanted: Wanted, cuda_graphs: bool
) -> Runner:
    installed = available_backends()
    if backend not in ("auto", "torch", "openvino"):
        raise BackendError(f"backend {backend!r} needs an exported .onnx file, got {_describe(model)}")
    if "torch" not in installed:
        raise BackendError(
            f"{_describe(model)} needs torch to run; export it where torch is (deeplab-export) and give the .onnx "
            "file, or run: pip install 'deeplab-infer[train]'"
        )
    choice = Choice(backend, "asked for")
    if backend == "auto":
        on_cpu = device == "cpu" or (device == "auto" and not _torch_has_gpu())
        choice = choose_for_network(wanted, installed) if on_cpu else Choice("torch", "for this device")
    if choice.backend == "torch":
        runner = _open_torch(model, device, threads, wanted, cuda_graphs)
    else:
        runner = _open_in_openvino(model, device, threads, wanted, installed)
    _log.info("%s: %s on %s (%s)", runner.manifest.config.name, runner.name, runner.device, choice.why)
    return runner


def _torch_has_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())


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


def _open_torch(model: Any, device: str, threads: int | None, wanted: Wanted, cuda_graphs: bool) -> Runner:
    if wanted.precision == FASTEST:
        _log.info("float32: precision %r chooses for OpenVINO on a CPU, not for torch", FASTEST)
    module = importlib.import_module(".torch_runner", __package__)
    runner: Runner = module.open_model(
        model,
        device,
        threads,
        wanted.fused,
        precision="fp32" if wanted.precision == FASTEST else wanted.precision,
        compiled=wanted.compiled,
        cuda_graphs=cuda_graphs,
    )
    return runner


def _open_in_openvino(model: Any, device: str, threads: int | None, wanted: Wanted, installed: list[str]) -> Runner:
    if "openvino" not in installed:
        raise BackendError("backend 'openvino' needs openvino; run: pip install 'deeplab-infer[openvino]'")
    if wanted.compiled:
        raise BackendError("compiled is torch's alone; OpenVINO always compiles")
    module = importlib.import_module(".openvino_network", __package__)
    runner: Runner = module.open_model(model, device, threads, wanted.precision, wanted.fused)
    return runner


def _describe(model: Any) -> str:
    return repr(os.fspath(model)) if isinstance(model, (str, os.PathLike)) else f"a {type(model).__name__}"
