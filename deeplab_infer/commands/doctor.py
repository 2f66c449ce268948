# SPDX-License-Identifier: Apache-2.0
"""``deeplab-doctor``: what this machine can do, and what to install for the rest."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from .. import __version__
from .cli import make_console, make_parser, run_command

PROG = "deeplab-doctor"


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = make_parser(
        PROG, "Report what this machine can run and what to install for the rest; for bug reports too."
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(PROG, build_parser(), _run, argv)


def _run(arguments: argparse.Namespace) -> int:
    report = examine()
    if arguments.json:
        print(json.dumps(report, indent=1))
    else:
        _show(report)
    return 0


# package -> (import name, what it is for, what pip installs it with, what to ask it)
_PACKAGES: dict[str, tuple[str, str, str, str]] = {
    "numpy": ("numpy", "everything", "deeplab-infer", "_loads"),
    "opencv": ("cv2", "everything", "deeplab-infer", "_loads"),
    "pillow": ("PIL.Image", "image files, legends", "deeplab-infer", "_loads"),
    "torch": ("torch", "checkpoints, training, export", "deeplab-infer[export]", "_torch"),
    "safetensors": ("safetensors", "checkpoints", "deeplab-infer[export]", "_loads"),
    "onnx": ("onnx", "export", "deeplab-infer[export]", "_loads"),
    "onnxscript": ("onnxscript", "export", "deeplab-infer[export]", ""),
    "nvidia-ml-py": ("pynvml", "energy, clocks and GPU memory in deeplab-bench", "deeplab-infer[bench]", ""),
    "onnxruntime": ("onnxruntime", "runs .onnx files", "deeplab-infer[onnxruntime]", "_onnxruntime"),
    "openvino": ("openvino", "runs .onnx files on Intel and other CPUs", "deeplab-infer[openvino]", "_openvino"),
    "nncf": ("nncf", "int8 files for OpenVINO", "deeplab-infer[openvino-int8]", ""),
    "tensorrt": ("tensorrt", "engines for NVIDIA GPUs", "deeplab-infer[tensorrt]", "_tensorrt"),
    "tensorrt-rtx": ("tensorrt_rtx", "engines for NVIDIA RTX GPUs", "deeplab-infer[tensorrt-rtx]", "_tensorrt"),
    "cuda-python": ("cuda.bindings.runtime", "engines for NVIDIA GPUs", "deeplab-infer[tensorrt]", "_cuda"),
    "fastapi": ("fastapi", "deeplab-serve", "deeplab-infer[serve]", "_loads"),
    "uvicorn": ("uvicorn", "deeplab-serve", "deeplab-infer[serve]", "_loads"),
    "python-multipart": ("python_multipart", "deeplab-serve", "deeplab-infer[serve]", "_loads"),
    "prometheus-client": ("prometheus_client", "deeplab-serve", "deeplab-infer[serve]", "_loads"),
    "av": ("av", "videos and cameras", "deeplab-infer[video]", "_av"),
    "rasterio": ("rasterio", "GeoTIFFs", "deeplab-infer[geo]", "_loads"),
    "ray": ("ray", "deeplab-predict --ray", "deeplab-infer[ray]", ""),
}
_DISTRIBUTIONS = {
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime"),
    "opencv": ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python"),
}


def examine() -> dict[str, Any]:
    """Everything the report says, JSON-able. A package that is broken is reported, never raised."""
    return {
        "deeplab-infer": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "native module": _guard(_native),
        "gpu": _guard(_gpu),
        "nvcc": _guard(_nvcc),
        "packages": {name: _package(name) for name in _PACKAGES},
    }


def _package(name: str) -> dict[str, str]:
    module, purpose, install, ask = _PACKAGES[name]
    try:
        version = importlib.metadata.version(_distribution(name))
    except importlib.metadata.PackageNotFoundError:
        return {"for": purpose, "missing": f"pip install '{install}'"}
    except Exception as error:  # noqa: BLE001  damaged metadata raises whatever its parser does
        return {"for": purpose, "broken": f"broken: {type(error).__name__}: {error}"}
    found = {"for": purpose, "version": version}
    if ask:
        detail = _guard(lambda: globals()[ask](_import(module)))
        found["broken" if detail.startswith("broken:") else "detail"] = detail
    return found


def _import(module: str) -> Any:
    from ..runtime.tensorrt_flavour import FLAVOURS, load_flavour

    # A TensorRT that something else imported cannot load plugins any more.
    return load_flavour(module).trt if module in FLAVOURS else importlib.import_module(module)


def _distribution(name: str) -> str:
    """Several distributions can bring one package."""
    for candidate in _DISTRIBUTIONS.get(name, ()):
        try:
            importlib.metadata.version(candidate)
        except importlib.metadata.PackageNotFoundError:
            continue
        return candidate
    return name


def _loads(module: Any) -> str:
    return "ok"


def _guard(question: Callable[[], str]) -> str:
    try:
        return question()
    except Exception as error:  # noqa: BLE001  a broken installation can raise anything, and saying so is the job
        return f"broken: {type(error).__name__}: {error}"


def _native() -> str:
    from .. import _C

    info = _C.build_info()
    sets = ", ".join(info["instruction_sets"])
    architectures = info["cuda_architectures"].replace("-real", "")
    cuda = f"CUDA {info['cuda_version']} kernels for sm {architectures}" if info["cuda"] else "CUDA off"
    return f"{info['compiler']}, {info['build_type']}, CPU kernels for {sets}, {cuda}"


def _torch(torch: Any) -> str:
    if not torch.cuda.is_available():
        return "CPU only"
    return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))


def _onnxruntime(onnxruntime: Any) -> str:
    return ", ".join(name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers())


def _openvino(openvino: Any) -> str:
    from ..runtime.openvino_core import shared_core

    core = shared_core()
    names = [f"{name} ({core.get_property(name, 'FULL_DEVICE_NAME')})" for name in core.available_devices]
    return ", ".join(names) or "no device"


def _av(av: Any) -> str:
    from ..streaming.video_writer import ENCODERS

    encoders = [name for name, _ in ENCODERS if name in av.codecs_available]
    return f"FFmpeg {av.ffmpeg_version_info}, writes {', '.join(encoders) or 'no video'}"


def _tensorrt(module: Any) -> str:
    from ..runtime.tensorrt_flavour import load_flavour

    flavour = load_flavour(module.__name__)
    anywhere = "builds engines without a GPU" if flavour.supports("building without a GPU") else "needs a GPU to build"
    known = getattr(module, "ComputeCapability", None)
    targets = sorted(n[2:-1] + "." + n[-1] for n in dir(known) if n.startswith("SM")) if known else []
    return anywhere + (f", for compute capability {', '.join(targets)}" if targets else "")


def _cuda(runtime: Any) -> str:
    status, count = runtime.cudaGetDeviceCount()
    if int(status) != 0:
        return f"no usable GPU ({status.name})"
    from ..runtime.cuda import Cuda

    gpus = [Cuda(index) for index in range(count)]
    return ", ".join(f"{gpu.name} (compute capability {gpu.compute_capability})" for gpu in gpus)


def _gpu() -> str:
    if shutil.which("nvidia-smi") is None:
        return "none found (no nvidia-smi)"
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    return "; ".join((answer.stdout or answer.stderr).strip().splitlines()) or "nvidia-smi gave no answer"


def _nvcc() -> str:
    if shutil.which("nvcc") is None:
        return "not found (only needed to build CUDA kernels)"
    answer = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, timeout=20, check=False)
    return next((line for line in answer.stdout.splitlines() if "release" in line), answer.stdout).strip()


def _show(report: dict[str, Any]) -> None:
    from rich.table import Table

    console = make_console()
    table = Table(title="this machine", title_justify="left", show_header=False)
    for name, value in report.items():
        if name != "packages":
            table.add_row(name, str(value))
    console.print(table)
    packages = Table("package", "version", "for", "state", title="packages", title_justify="left")
    for name, entry in report["packages"].items():
        state = entry.get("broken") or entry.get("detail", "ok")
        if "missing" in entry:
            state = f"missing: {entry['missing']}"
        style = "yellow" if "missing" in entry else "red" if "broken" in entry else None
        packages.add_row(name, entry.get("version", "-"), entry["for"], state.replace("[", "\\["), style=style)
    console.print(packages)


if __name__ == "__main__":
    sys.exit(main())
