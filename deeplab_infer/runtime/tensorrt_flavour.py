# SPDX-License-Identifier: Apache-2.0
"""`tensorrt` 10 and 11 and `tensorrt_rtx`: one API, and here is all that differs."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import logging
import sys
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import BackendError, first_line

_log = logging.getLogger(__name__)
PLUGIN_LIBRARY = "libdeeplab_tensorrt.so"
_rtx_names: tempfile.TemporaryDirectory[str] | None = None

# name -> what to install; in order of preference.
FLAVOURS = {"tensorrt": "deeplab-infer[tensorrt]", "tensorrt_rtx": "deeplab-infer[tensorrt-rtx]"}
MIN_VERSION = {"tensorrt": (10, 3), "tensorrt_rtx": (1, 1)}

# Builder options and the flavours that have them (read in the bindings and tried with RTX 1.7 on a machine without a
# GPU: its timing cache does nothing, and it looks for a lean runtime that it does not ship).
_SUPPORT = {
    "timing cache": ("tensorrt",),
    "hardware compatibility": ("tensorrt",),
    "version compatibility": ("tensorrt",),
    "compute capabilities": ("tensorrt_rtx",),
    "runtime cache": ("tensorrt_rtx",),
    "building without a GPU": ("tensorrt_rtx",),
    "stripping without a GPU": (),
}


@dataclass(frozen=True)
class Flavour:
    """One of the TensorRT packages, imported.

    Attributes:
        name: ``"tensorrt"`` or ``"tensorrt_rtx"``.
        trt: the module.
        logger: the process's one logger for it; more than one makes TensorRT complain.
    """

    name: str
    trt: Any
    logger: Any

    @property
    def version(self) -> str:
        """The package's version."""
        return str(self.trt.__version__)

    def supports(self, option: str) -> bool:
        """Whether a builder or runtime option does anything here."""
        return self.name in _SUPPORT[option]

    def network_flags(self) -> int:
        """Strong typing: said to version 10, the only kind elsewhere."""
        flag = getattr(self.trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        return 0 if flag is None else 1 << int(flag)

    def load_plugins(self, library: Path) -> None:
        """Load a plugin library into the process.

        Raises:
            BackendError: missing, or not one for this TensorRT.
        """
        if not library.is_file():
            raise BackendError(f"{library}: no such plugin library")
        if self.name == "tensorrt_rtx" and _rtx_names is None:
            raise BackendError(
                "tensorrt_rtx was imported before deeplab_infer loaded it: plugins fail; leave its import away"
            )
        self.logger.errors.clear()
        if self.trt.get_plugin_registry().load_library(str(library)) is None:
            reason = self.logger.errors[-1].strip() if self.logger.errors else "no reason given"
            raise BackendError(f"{library}: {self.name} {self.version} cannot load this plugin library: {reason}")

    def command(self) -> str:
        """The flavour's own command-line builder."""
        return "trtexec" if self.name == "tensorrt" else "tensorrt_rtx"


def installed_flavours() -> list[str]:
    """Flavours whose package is there; nothing is imported."""
    return [name for name in FLAVOURS if importlib.util.find_spec(name) is not None]


def load_flavour(name: str = "auto") -> Flavour:
    """Import a flavour.

    Args:
        name: ``"auto"`` (the first installed), ``"tensorrt"`` or ``"tensorrt_rtx"``.

    Raises:
        BackendError: unknown, not installed, too old, or broken.
    """
    if name != "auto" and name not in FLAVOURS:
        raise BackendError(f"unknown TensorRT flavour {name!r}; there are {', '.join(FLAVOURS)}")
    installed = installed_flavours()
    wanted = installed if name == "auto" else [name]
    if not wanted or (name != "auto" and name not in installed):
        extra = FLAVOURS["tensorrt" if name == "auto" else name]
        what = "TensorRT" if name == "auto" else name
        raise BackendError(f"{what} is not installed; run: pip install '{extra}' (deeplab-doctor shows what is there)")
    if len(wanted) == 1:
        return _import(wanted[0])
    try:
        return _import(wanted[0])
    except BackendError as error:
        _log.warning("%s; taking %s", error, wanted[1])
        return _import(wanted[1])


def find_plugins(name: str, folder: Path) -> Path | None:
    """A plugin library in a folder, or the one that this build made."""
    from .. import _C

    candidates = (folder / name, Path(_C.__file__).parent / name)
    return next((path for path in candidates if path.is_file()), None)


def _name_rtx_libraries() -> None:
    """Load RTX's libraries under names without their version.

    At the first plugin its parser opens ``libtensorrt_rtx.so``, which the wheel (1.7.1) does not have, and the process
    is terminated; a library that was loaded under that name is found. The links must outlive the process's last use.
    """
    global _rtx_names
    spec = importlib.util.find_spec("tensorrt_rtx_libs")
    if spec is None or spec.origin is None or _rtx_names is not None or "tensorrt_rtx" in sys.modules:
        return
    names = tempfile.TemporaryDirectory(prefix="deeplab-rtx-")
    for library in Path(spec.origin).parent.glob("libtensorrt*.so.*"):
        for name in (library.name, library.name.partition(".so")[0] + ".so"):
            Path(names.name, name).symlink_to(library)
    for name in ("libtensorrt_rtx.so", "libtensorrt_onnxparser_rtx.so"):
        if Path(names.name, name).exists():
            ctypes.CDLL(f"{names.name}/{name}")
    _rtx_names = names


@lru_cache
def _import(name: str) -> Flavour:
    try:
        if name == "tensorrt_rtx":
            _name_rtx_libraries()
        trt = importlib.import_module(name)
        version = tuple(int(part) for part in trt.__version__.split(".")[:2])
    except Exception as error:
        # A package without its libraries raises whatever its loader does.
        raise BackendError(f"{name} is installed but cannot be loaded: {first_line(error)}") from error
    if version < MIN_VERSION[name]:
        least = ".".join(map(str, MIN_VERSION[name]))
        raise BackendError(f"{name} {trt.__version__} is too old; {least} or newer is needed: pip install -U {name}")
    return Flavour(name, trt, _make_logger(trt))


def _make_logger(trt: Any) -> Any:
    levels = {
        trt.ILogger.Severity.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.Severity.ERROR: logging.ERROR,
        # Warnings are about TensorRT's own choices (scales converted to float32, weights rounded): many and harmless.
        trt.ILogger.Severity.WARNING: logging.DEBUG,
        trt.ILogger.Severity.INFO: logging.DEBUG,
        trt.ILogger.Severity.VERBOSE: logging.NOTSET,
    }

    class TensorRTLog(trt.ILogger):
        """TensorRT's messages in Python's log; the last errors are kept for our own messages."""

        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            level = levels.get(severity, logging.DEBUG)
            if level == logging.ERROR:
                self.errors.append(message)
                del self.errors[:-20]
                level = logging.DEBUG  # raised by us, with what to do
            if level:
                _log.log(level, "%s", message)

    return TensorRTLog()


def gpu_is_missing(errors: list[str]) -> bool:
    """Whether TensorRT failed because there is no usable CUDA driver."""
    signs = (
        "cudaError 35",
        "cudaErrorInsufficientDriver",
        "cudaErrorNoDevice",
        "no CUDA-capable device",
        "Cuda failure: 35",
    )
    return any(sign in message for message in errors for sign in signs)
