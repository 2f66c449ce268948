# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime's GPU providers as an engine for `GpuRunner`: input and output stay in GPU memory (I/O binding)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from ..engine_manifest import Profile
from ..errors import BackendError, first_line
from ..manifest import Manifest

CUDA, TENSORRT, RTX = "CUDAExecutionProvider", "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider"
# backend -> providers in order of preference, without the CPU's, which takes what they leave
PROVIDERS = {
    "onnxruntime": (CUDA,),
    "onnxruntime-tensorrt": (TENSORRT, CUDA),
    "onnxruntime-rtx": (RTX,),
}


def provider_options(
    provider: str, manifest: Manifest, path: Path, device: int, profile: Profile | None
) -> dict[str, str]:
    """Options of a provider; those that build engines get one profile and keep what they built beside the file."""
    options = {"device_id": str(device)}
    if provider == TENSORRT:
        options |= {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(path.parent),
            "trt_engine_cache_prefix": path.stem,
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(path.parent),
        }
    prefix = {TENSORRT: "trt", RTX: "nv"}.get(provider)
    if prefix is not None and profile is not None:
        for name, shape in zip(("min", "opt", "max"), profile.input_shapes(manifest.input_kind), strict=True):
            options[f"{prefix}_profile_{name}_shapes"] = "image:" + "x".join(map(str, shape))
    return options


class OnnxRuntimeEngine:
    """A session whose tensors are memory that is given to it.

    Sessions work in a stream of their own and wait for it, so the caller's stream is waited for first; CUDA graphs
    cannot span the two.
    """

    workspace = 0

    def __init__(
        self, session: Any, manifest: Manifest, device: tuple[str, int], synchronise: Callable[[int], None]
    ) -> None:
        """Wrap a session.

        Args:
            session: `onnxruntime.InferenceSession`.
            manifest: of its model.
            device: where the memory is, e.g. ``("cuda", 0)``.
            synchronise: waits for a stream.
        """
        self.session, self.manifest, self.device, self.synchronise = session, manifest, device, synchronise

    def create_context(self) -> OnnxRuntimeContext:
        """The session at one shape."""
        return OnnxRuntimeContext(self)

    def close(self) -> None:
        """Drop the session."""
        self.session = None


class OnnxRuntimeContext:
    """See `deeplab_infer.runtime.gpu_runner.Context`."""

    def __init__(self, engine: OnnxRuntimeEngine) -> None:
        self._engine = engine
        self._shape: tuple[int, ...] = ()

    def prepare(self, profile: int, shape: tuple[int, ...], stream: int) -> None:
        """Remember the input's shape."""
        self._shape = shape

    def output_shape(self, name: str) -> tuple[int, ...]:
        """Every strided layer of these networks rounds up, so the whole does."""
        manifest = self._engine.manifest
        height, width = self._shape[1:3] if manifest.input_kind == "uint8" else self._shape[2:4]
        if name == "labels":
            return self._shape[0], height, width
        stride = manifest.config.logits_stride
        return self._shape[0], manifest.config.num_classes, -(-height // stride), -(-width // stride)

    def set_memory(self, address: int, size: int) -> None:
        """Sessions have their own."""

    def enqueue(self, addresses: dict[str, int], stream: int) -> None:
        """Run, and wait."""
        engine = self._engine
        engine.synchronise(stream)
        binding = engine.session.io_binding()
        inputs = np.uint8 if engine.manifest.input_kind == "uint8" else np.float32
        binding.bind_input("image", *engine.device, inputs, self._shape, addresses["image"])
        (output,) = set(addresses) - {"image"}
        kind = engine.manifest.label_dtype if output == "labels" else np.float32
        binding.bind_output(output, *engine.device, kind, self.output_shape(output), addresses[output])
        try:
            engine.session.run_with_iobinding(binding)
        except Exception as error:
            raise BackendError(f"ONNX Runtime could not run the model: {first_line(error)}") from error


def missing_provider(backend: str) -> str | None:
    """What a backend lacks in the installed ONNX Runtime."""
    available = onnxruntime.get_available_providers()
    return next((name for name in PROVIDERS[backend][:1] if name not in available), None)
