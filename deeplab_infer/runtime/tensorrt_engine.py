# SPDX-License-Identifier: Apache-2.0
"""An engine in memory, and contexts that run it: TensorRT's calls, behind the few that the runner needs."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..engine_manifest import EngineManifest
from ..errors import BackendError, ModelFileError
from ..files import atomic_write, sha256_file
from ..manifest import Manifest, read_onnx_manifest
from .tensorrt_flavour import Flavour, find_plugins, gpu_is_missing, load_flavour

_log = logging.getLogger(__name__)
_OF_THE_WEIGHTS = frozenset({"name", "dataset", "checkpoint", "checkpoint_sha256"})  # what fine-tuning may change


class Context:
    """One execution context with its own shapes, in memory that its owner shares out."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def prepare(self, profile: int, shape: tuple[int, ...], stream: int) -> None:
        """Choose the profile and the input's shape.

        Raises:
            BackendError: TensorRT refuses them.
        """
        if not self._context.set_optimization_profile_async(profile, stream):
            raise BackendError(f"TensorRT refuses profile {profile} of this engine; build it again")
        if not self._context.set_input_shape("image", shape):
            raise BackendError(f"TensorRT refuses an input of {list(shape)}; build the engine for it")

    def output_shape(self, name: str) -> tuple[int, ...]:
        """Shape of an output at the chosen input."""
        return tuple(self._context.get_tensor_shape(name))

    def set_memory(self, address: int, size: int) -> None:
        """Temporary memory for the runs that follow."""
        self._context.set_device_memory(address, size)

    def enqueue(self, addresses: dict[str, int], stream: int) -> None:
        """Run in a stream.

        Raises:
            BackendError: TensorRT could not start it.
        """
        for name, address in addresses.items():
            self._context.set_tensor_address(name, address)
        if not self._context.execute_async_v3(stream):
            raise BackendError("TensorRT could not run the engine; deeplab-predict --verbose shows its messages")


class TensorRtEngine:
    """A deserialised engine.

    Attributes:
        workspace: bytes of temporary memory that a context needs.
    """

    def __init__(
        self, path: Path, manifest: EngineManifest, flavour: Flavour | None = None, weights: Path | None = None
    ) -> None:
        """Load a plan; stripped weights are read from the ONNX file beside it, or all of them from ``weights``.

        Raises:
            BackendError: TensorRT is missing, of another version, or cannot run this engine on this GPU.
            ModelFileError: stripped weights whose ONNX file is missing or another.
        """
        self._flavour = flavour = flavour or load_flavour(manifest.flavour)
        check_version(path, manifest, flavour)
        self._path, trt = path, flavour.trt
        for plugin in manifest.plugins:
            library = find_plugins(plugin, path.parent)
            if library is None:
                raise BackendError(f"{path} needs the plugin library {plugin}; copy it beside the engine")
            flavour.load_plugins(library)
        flavour.logger.errors.clear()
        self._runtime = trt.Runtime(flavour.logger)
        if manifest.version_compatible:
            self._runtime.engine_host_code_allowed = True
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise BackendError(explain_refusal(path, manifest, flavour))
        source = weights or (path.parent / manifest.onnx if manifest.weights == "stripped" else None)
        if source is not None:
            self._refit(source)
        self.workspace = int(self._engine.device_memory_size_v2)
        self._config = self._runtime_config()

    def create_context(self) -> Context:
        """A context without memory of its own."""
        strategy = self._flavour.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(self._config if self._config is not None else strategy)
        if context is None:
            raise BackendError(f"TensorRT could not create an execution context: {_last(self._flavour)}")
        return Context(context)

    def close(self) -> None:
        """Let the engine go; RTX's compiled kernels are kept beside it for the next start."""
        self._save_runtime_cache()
        self._config = self._engine = self._runtime = None

    def _refit(self, source: Path) -> None:
        trt = self._flavour.trt
        refitter = trt.Refitter(self._engine, self._flavour.logger)
        parser = trt.OnnxParserRefitter(refitter, self._flavour.logger)
        if not parser.refit_from_file(str(source)) or not refitter.refit_cuda_engine():
            raise BackendError(f"{self._path}: the weights could not be put in: {_last(self._flavour)}")

    def _runtime_cache_path(self) -> Path:
        return Path(f"{self._path}.runtime-cache")

    def _runtime_config(self) -> Any:
        """RTX compiles its kernels when they are first needed; the cache keeps them on disk."""
        if not self._flavour.supports("runtime cache"):
            return None
        trt, path = self._flavour.trt, self._runtime_cache_path()
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        # Compiled in the background, the kernels for a shape would come too late for its CUDA graph.
        config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        self._cache = config.create_runtime_cache()
        if path.is_file() and not self._cache.deserialize(path.read_bytes()):
            _log.warning("%s belongs to another GPU, driver or version: kernels are compiled again", path)
        config.set_runtime_cache(self._cache)
        return config

    def _save_runtime_cache(self) -> None:
        if self._config is None:
            return
        try:
            with atomic_write(self._runtime_cache_path()) as stream:
                stream.write(bytes(self._cache.serialize()))
        except OSError as error:
            _log.warning("the compiled kernels could not be kept (%s): the next start compiles them again", error)


def weights_manifest(path: Path, manifest: EngineManifest, weights: Path | None) -> Manifest:
    """What an engine promises with the weights that it will run: its own, those left in its ONNX file, or others.

    Args:
        path: the engine.
        manifest: beside it.
        weights: an ONNX file of the same network, exported in the same way, or None.

    Raises:
        BackendError: other weights for an engine that was not built with ``--refit``.
        ModelFileError: a file that is missing, or of another network.
    """
    if weights is None:
        source = path.parent / manifest.onnx
        if manifest.weights == "stripped" and not source.is_file():
            raise ModelFileError(f"{path} was built without its weights and needs {source}; copy it there")
        if manifest.weights == "stripped" and sha256_file(source) != manifest.onnx_sha256:
            raise ModelFileError(f"{source} is not the file that {path} was built from; build the engine again")
        return manifest.manifest
    if not manifest.refittable:
        raise BackendError(f"{path}: its weights cannot be replaced; build it with --refit{_command(manifest)}")
    own, other = manifest.manifest, read_onnx_manifest(weights)
    sizes = {name: getattr(own, name) for name in ("batch", "height", "width")}
    alike = ("input_kind", "output_kind", "precision", "rest", "kept_layers", "rewrites")
    own_config, other_config = (
        {key: value for key, value in one.config.to_dict().items() if key not in _OF_THE_WEIGHTS}
        for one in (own, other)
    )
    if own_config != other_config or any(getattr(own, name) != getattr(other, name) for name in alike):
        raise ModelFileError(
            f"{weights}: is not the network of {path} exported in the same way; only the weights may differ"
        )
    return replace(other, **sizes)


def check_version(path: Path, manifest: EngineManifest, flavour: Flavour) -> None:
    """Refuse an engine of another TensorRT before TensorRT itself does, in plainer words.

    Raises:
        BackendError: built by a version that this one cannot run.
    """
    built, here = (
        [int(part) for part in version.split(".")[:3] if part.isdigit()]
        for version in (manifest.version, flavour.version)
    )
    same = built == here or (manifest.version_compatible and built[0] == here[0] and built <= here)
    if not same:
        raise BackendError(
            f"{path} was built with {manifest.flavour} {manifest.version}, this machine has {flavour.version}; "
            f"install that version, or build the engine again{_command(manifest)}"
        )


def explain_refusal(path: Path, manifest: EngineManifest, flavour: Flavour) -> str:
    """Why an engine could not be opened, and what to do."""
    reason = _last(flavour)
    if gpu_is_missing(flavour.logger.errors):
        return (
            f"{path}: TensorRT engines run on NVIDIA GPUs, and no usable driver was found ({reason}); use the .onnx "
            "file on this machine"
        )
    if "compute capability" in reason.lower() or "does not support" in reason.lower():
        return f"{path}: {flavour.name} does not support this GPU ({reason}); build the engine with --flavour tensorrt"
    built = f"it was built on {manifest.gpu}" if manifest.gpu else "it was built without a GPU"
    return f"{path}: cannot be used on this GPU ({reason}); {built}: build it again here{_command(manifest)}"


def _command(manifest: EngineManifest) -> str:
    return f": {manifest.command}" if manifest.command else ""


def _last(flavour: Flavour) -> str:
    return flavour.logger.errors[-1].strip() if flavour.logger.errors else "no reason given"
