# SPDX-License-Identifier: Apache-2.0
"""OpenVINO, which reads the ONNX file itself, or its own IR."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BackendError, ModelFileError
from ..manifest import METADATA_KEY, Manifest, read_onnx_manifest
from .base import FASTEST, check_batch
from .openvino_core import shared_core
from .openvino_sizes import Shape, SizedModels
from .processors import compute_threads

_log = logging.getLogger(__name__)
# From our names of what a float32 network is computed in to OpenVINO's.
COMPUTE = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoRunner:
    """A network on OpenVINO.

    Attributes:
        compute: type that the device computes in, e.g. ``"f32"`` or ``"bf16"``.
        threads: CPU threads; None on other devices.
    """

    name = "openvino"

    def __init__(
        self,
        models: SizedModels,
        manifest: Manifest,
        device: str,
        compute: str,
        *,
        threads: int | None = None,
        prepare: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
    ) -> None:
        """Take compiled models.

        Args:
            models: of the network.
            manifest: what the runner promises.
            device: e.g. ``"cpu"``.
            compute, threads: see the attributes.
            prepare: from what the manifest promises to what the models read; None where that is the same.
        """
        self.models = models
        self._prepare = prepare
        self.manifest = manifest
        self.device = device
        self.compute = compute
        self.threads = threads

    def run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """See `Runner.run`."""
        check_batch(batch, self.manifest)
        ready = batch if self._prepare is None else self._prepare(batch)
        return self.models.run(np.ascontiguousarray(ready))

    def close(self) -> None:
        """Drop the compiled models."""
        self.models.close()


def open_file(
    path: Path, device: str, threads: int | None, precision: str | None = None, fused: bool = True
) -> OpenVinoRunner:
    """Load an exported file.

    Args:
        path: the .onnx or .xml.
        device: ``"auto"`` (the CPU), ``"cpu"``, ``"gpu"`` or ``"npu"``.
        threads: CPU threads; None is one a physical core.
        precision: None: the file's own. ``"bf16"``: compute a float32 file in bfloat16. ``"fastest"``: the same where
            the device can, and what eight bits leave in floating point too; else the file's own.
        fused: compute wide float32 convolutions as `openvino_winograd` does.

    Raises:
        BackendError: no such device, or one that does not compute in bfloat16; a precision that the file does not have.
        ModelFileError: missing, damaged, or not written by deeplab-export.
    """
    core = shared_core()
    manifest = _read_ir(core, path)[1] if path.suffix == ".xml" else read_onnx_manifest(path)
    wanted = device_of(core, device)
    manifest, compute = _precision(core, wanted, manifest, precision, path)

    def compile_for(shape: Shape | None) -> Any:
        model = core.read_model(str(path))
        if shape is not None:
            model.reshape({0: list(shape)})
        rewritten = rewrite_for_size(model, wanted, compute) if fused else []
        return compile_model(core, model, wanted, compute, threads) if rewritten or shape is None else None

    try:
        models = SizedModels(compile_for, by_size=wanted == "CPU" and _has_open_size(manifest))
    except RuntimeError as error:
        raise ModelFileError(f"{path}: OpenVINO cannot load it: {_last_line(error)}") from error
    return OpenVinoRunner(models, manifest, wanted.lower(), compute, threads=threads_of(models.compiled, wanted))


def device_of(core: Any, device: str) -> str:
    """OpenVINO's name of a device; ``"auto"`` is the CPU.

    Raises:
        BackendError: this machine has none.
    """
    wanted = "CPU" if device == "auto" else device.upper()
    if wanted not in {name.partition(".")[0] for name in core.available_devices}:
        raise BackendError(
            f"OpenVINO has no device {device!r} on this machine; it has {', '.join(core.available_devices)}"
        )
    return wanted


def rewrite_for_size(model: Any, device: str, compute: str) -> list[str]:
    """Rewrite what a fixed size and this device allow, in place.

    Returns:
        Names of the layers that were rewritten.
    """
    if device != "CPU" or compute != "f32" or model.is_dynamic():
        return []
    from .openvino_winograd import rewrite

    return rewrite(model)


def compile_model(core: Any, model: Any, device: str, compute: str, threads: int | None, **settings: Any) -> Any:
    """Compile for one image after the other, in exactly that type.

    Args:
        core, model: OpenVINO's.
        device: e.g. ``"CPU"``.
        compute: ``"f32"`` or ``"bf16"``. Without the hint OpenVINO computes in bf16 where the CPU can.
        threads: of the CPU; None is one a physical core that this process may use.
        settings: further ones.
    """
    settings |= {"INFERENCE_PRECISION_HINT": compute, "PERFORMANCE_HINT": "LATENCY"}
    if device == "CPU":
        settings["INFERENCE_NUM_THREADS"] = threads or compute_threads()
    return core.compile_model(model, device, settings)


def threads_of(compiled: Any, device: str) -> int | None:
    """What a compiled model runs on."""
    return int(compiled.get_property("INFERENCE_NUM_THREADS")) if device == "CPU" else None


def computes_in_bf16(core: Any, device: str) -> bool:
    """Whether a device has bfloat16 arithmetic of its own."""
    return "BF16" in core.get_property(device, "OPTIMIZATION_CAPABILITIES")


def resolve_precision(core: Any, device: str, precision: str | None, label: str) -> str:
    """The precision of a float32 network here: ``"fp32"`` or ``"bf16"``.

    Args:
        core: OpenVINO's.
        device: e.g. ``"CPU"``.
        precision: None (fp32), ``"fp32"``, ``"bf16"`` or ``"fastest"``.
        label: of the network, for messages.

    Raises:
        BackendError: another precision, or bf16 on a device without it.
    """
    able = computes_in_bf16(core, device)
    if precision not in (None, FASTEST, *COMPUTE):
        raise BackendError(
            f"OpenVINO computes in {', '.join(COMPUTE)} or {FASTEST}, not in {precision!r}; int8 comes from an "
            "exported .xml: deeplab-export --int8 --format openvino"
        )
    if precision == "bf16" and not able:
        raise BackendError(
            f"this {device} has no bfloat16 arithmetic; use fp32, or {FASTEST!r}, which takes bf16 where it is"
        )
    if precision == FASTEST and not able:
        _log.info("%s: float32, the fastest precision here: this %s has no bfloat16 arithmetic", label, device)
    if precision is None and able:
        _log.info("%s: float32; this %s also computes in bfloat16: precision 'bf16', faster, rounded", label, device)
    return "bf16" if precision == "bf16" or (precision == FASTEST and able) else "fp32"


def _precision(core: Any, device: str, manifest: Manifest, precision: str | None, path: Path) -> tuple[Manifest, str]:
    """The manifest with what is computed in, and OpenVINO's name of it."""
    if manifest.precision == "fp32":
        chosen = resolve_precision(core, device, precision, path.name)
        return replace(manifest, precision=chosen), COMPUTE[chosen]
    if precision not in (None, FASTEST, manifest.precision):
        raise BackendError(
            f"{path}: holds a {manifest.precision} model; OpenVINO computes float32 files in {precision}: export one "
            "with --fp32"
        )
    if manifest.precision == "int8" and precision == FASTEST:
        return manifest, "bf16" if computes_in_bf16(core, device) else "f32"
    if manifest.precision != "bf16" or path.suffix != ".xml":
        return manifest, "f32"
    if computes_in_bf16(core, device):
        return manifest, "bf16"
    _log.warning("this %s has no bfloat16 arithmetic: %s runs in float32, slower and more exact", device, path.name)
    return manifest, "f32"


def _has_open_size(manifest: Manifest) -> bool:
    return any(side[0] != side[2] for side in (manifest.batch, manifest.height, manifest.width))


def read_ir_manifest(path: Path) -> Manifest:
    """The manifest inside an IR.

    Raises:
        ModelFileError: missing, damaged, or not written by deeplab-export.
    """
    return _read_ir(shared_core(), path)[1]


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
