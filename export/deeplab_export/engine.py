# SPDX-License-Identifier: Apache-2.0
"""TensorRT engines from exported ONNX files, with `tensorrt` 10 and 11 and `tensorrt_rtx`."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from deeplab_infer.engine_manifest import EngineManifest, Profile, write_engine_manifest
from deeplab_infer.errors import BackendError, ExportError
from deeplab_infer.files import atomic_write, sha256_file
from deeplab_infer.manifest import Manifest, Range, read_onnx_manifest
from deeplab_infer.runtime.cuda import Cuda
from deeplab_infer.runtime.tensorrt_flavour import (
    PLUGIN_LIBRARY,
    Flavour,
    find_plugins,
    gpu_is_missing,
    load_flavour,
)
from deeplab_infer.signals import handling

from .engine_layers import Layer, engine_layers, network_layers, types_of
from .precision import PRECISIONS, choose_precision

_log = logging.getLogger(__name__)
HARDWARE = {"none": "NONE", "ampere+": "AMPERE_PLUS", "same": "SAME_COMPUTE_CAPABILITY"}
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is built.

    Attributes:
        flavour: ``"auto"``, ``"tensorrt"`` or ``"tensorrt_rtx"``.
        profiles: sizes to optimise for; empty: one made by `default_profile`.
        workspace: limit of the temporary memory, in GiB; None leaves it to TensorRT.
        optimisation_level: 0 (quick) to 5 (thorough); None leaves it to TensorRT.
        hardware_compatibility: ``"none"``, ``"ampere+"`` or ``"same"`` (compute capability).
        version_compatible: let later TensorRT versions run the engine.
        strip_weights: leave the weights out; the engine takes them from the ONNX file when it is opened.
        refit: let the weights be replaced later.
        compute_capabilities: to build for, e.g. ``("8.9", "12.0")``; RTX only, which then needs no GPU at all.
        timing_cache: keep measured kernel times beside the engine, for the next build.
        plugins: plugin libraries to load.
    """

    flavour: str = "auto"
    profiles: tuple[Profile, ...] = ()
    workspace: float | None = None
    optimisation_level: int | None = None
    hardware_compatibility: str = "none"
    version_compatible: bool = False
    strip_weights: bool = False
    refit: bool = False
    compute_capabilities: tuple[str, ...] = ()
    timing_cache: bool = True
    plugins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.hardware_compatibility not in HARDWARE:
            raise ExportError(
                f"hardware compatibility {self.hardware_compatibility!r} is not one of {', '.join(HARDWARE)}"
            )
        if self.workspace is not None and self.workspace <= 0:
            raise ExportError(f"the workspace limit must be above 0 GiB, got {self.workspace}")
        if self.optimisation_level is not None and not 0 <= self.optimisation_level <= 5:
            raise ExportError(f"the optimisation level is 0 to 5, got {self.optimisation_level}")


@dataclass(frozen=True)
class Engine:
    """A built engine: its manifest and its layers."""

    manifest: EngineManifest
    layers: list[Layer]


def default_profile(manifest: Manifest) -> Profile:
    """Sizes for an engine where none were given.

    Fixed dimensions stay. Open ones: in slide mode the window, in batches of up to 8; else batch 1, from a quarter of
    the typical size up to its long side, so that portrait images fit too.
    """
    config = manifest.config
    typical = (manifest.height[1], manifest.width[1])
    if config.test_mode == "slide" and config.window is not None:
        batch, ranges = (1, 8, 8), [(side, side, side) for side in config.window]
    else:
        batch = (1, 1, 1)
        if config.test_scale is not None:
            typical = (min(config.test_scale), max(config.test_scale))
        ranges = [(max(1, side // 4), side, max(typical)) for side in typical]
    sides = (
        _clip((low, typical_side, high), limits)
        for (low, typical_side, high), limits in zip(ranges, (manifest.height, manifest.width), strict=True)
    )
    return Profile(_clip(batch, manifest.batch), *sides)


def build_engine(
    onnx_path: str | os.PathLike[str],
    engine_path: str | os.PathLike[str],
    options: EngineOptions | None = None,
    *,
    command: str = "",
    cache_folder: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Engine:
    """Build an engine, whole or not at all, with its manifest as ``<engine>.json`` beside it.

    Args:
        onnx_path: file written by `export_onnx`; a stripped engine looks for it beside itself.
        engine_path: the plan to write; only TensorRT's own bytes, so that NVIDIA's tools read it.
        options: see `EngineOptions`.
        command: that makes the engine again, for messages.
        cache_folder: of the timing cache; by default the engine's.
        progress: called with (phase, steps done, steps).

    Raises:
        BackendError: TensorRT is missing, or has no GPU where it needs one.
        ExportError: an operator that it does not have, sizes that the file does not accept, an option that this
            flavour lacks, or a precision that differs from the file's.
        KeyboardInterrupt: Ctrl-C; the build is cancelled and nothing is written.
    """
    options = options or EngineOptions()
    manifest = read_onnx_manifest(onnx_path)
    flavour = require_builder(options)
    options = resolve_options(options, manifest, flavour)
    builder = _Build(flavour, Path(onnx_path), Path(cache_folder or Path(engine_path).parent), manifest, options)
    plan, layers, source = builder.run(progress)
    _check_precision(manifest, layers)
    with atomic_write(engine_path) as stream:
        stream.write(plan)
    found = EngineManifest(
        manifest=_joined(manifest, options.profiles),
        plan_sha256=sha256_file(engine_path),
        flavour=flavour.name,
        version=flavour.version,
        profiles=options.profiles,
        gpu=builder.gpu,
        compute_capabilities=options.compute_capabilities,
        hardware_compatibility=options.hardware_compatibility,
        version_compatible=options.version_compatible,
        weights="stripped" if options.strip_weights else "inside",
        refittable=options.refit or options.strip_weights,
        tf32=PRECISIONS[manifest.precision].tf32,
        onnx=Path(onnx_path).name,
        onnx_sha256=sha256_file(onnx_path),
        layers=types_of(layers),
        layers_from=source,
        plugins=tuple(Path(plugin).name for plugin in options.plugins),
        command=command,
    )
    write_engine_manifest(engine_path, found)
    return Engine(found, layers)


def require_builder(options: EngineOptions) -> Flavour:
    """The TensorRT that these options need, before minutes are spent on anything else.

    Raises:
        BackendError: it is missing, or has no GPU where it needs one.
        ExportError: an option that it does not have.
    """
    flavour, gpu = load_flavour(options.flavour), gpu_name()
    check_options(options, flavour)
    if gpu is None and not flavour.supports("building without a GPU"):
        raise BackendError(
            f"{flavour.name} measures kernels while it builds and needs an NVIDIA GPU; none was found. Build on "
            "the machine that will run the engine, or install tensorrt-rtx, which builds without one"
        )
    if options.strip_weights and gpu is None and not flavour.supports("stripping without a GPU"):
        raise BackendError(f"{flavour.name} needs an NVIDIA GPU to build an engine without its weights")
    if options.refit and gpu is None:
        raise BackendError(f"{flavour.name} needs an NVIDIA GPU to build an engine that can be refitted")
    missing = next((plugin for plugin in options.plugins if not Path(plugin).is_file()), None)
    if missing is not None:
        raise BackendError(f"{missing}: no such plugin library")
    return flavour


def resolve_options(options: EngineOptions, manifest: Manifest, flavour: Flavour) -> EngineOptions:
    """The options with their profiles, refused where the flavour would ignore one.

    Raises:
        ExportError: an option that the flavour does not have, or a profile beyond the file's sizes.
    """
    check_options(options, flavour)
    return _with_profiles(options, manifest)


def check_options(options: EngineOptions, flavour: Flavour) -> None:
    """Refuse what a flavour would ignore.

    Raises:
        ExportError: an option that the flavour does not have.
    """
    asked = {
        "hardware compatibility": options.hardware_compatibility != "none",
        "version compatibility": options.version_compatible,
        "compute capabilities": bool(options.compute_capabilities),
    }
    for option, given in asked.items():
        if given and not flavour.supports(option):
            raise ExportError(f"{flavour.name} {flavour.version} has no {option}; leave the option away")


def _clip(wanted: Range, limits: Range) -> Range:
    low, typical, high = (min(max(side, limits[0]), limits[2]) for side in wanted)
    return low, typical, high


def _with_profiles(options: EngineOptions, manifest: Manifest) -> EngineOptions:
    profiles = options.profiles or (default_profile(manifest),)
    for profile in profiles:
        for name in ("batch", "height", "width"):
            (low, typical, high), limits = getattr(profile, name), getattr(manifest, name)
            if not limits[0] <= low <= typical <= high <= limits[2]:
                raise ExportError(
                    f"profile {profile}: {name} {low}:{typical}:{high} is not within the {limits[0]}..{limits[2]} of "
                    f"the ONNX file; export it with --{name} {min(low, limits[0])}:{typical}:{max(high, limits[2])}"
                )
    return replace(options, profiles=profiles)


def _joined(manifest: Manifest, profiles: Sequence[Profile]) -> Manifest:
    """The file's manifest with the limits of all profiles and the typical sizes of the first."""

    def limits(name: str) -> Range:
        ranges = [getattr(profile, name) for profile in profiles]
        return min(r[0] for r in ranges), ranges[0][1], max(r[2] for r in ranges)

    return replace(manifest, batch=limits("batch"), height=limits("height"), width=limits("width"))


class _Build:
    """One build; TensorRT's objects live as long as this."""

    def __init__(
        self, flavour: Flavour, onnx_path: Path, cache_folder: Path, manifest: Manifest, options: EngineOptions
    ) -> None:
        self._flavour, self._trt = flavour, flavour.trt
        self._onnx_path, self._cache_folder = onnx_path, cache_folder
        self._manifest, self._options = manifest, options
        self.gpu = gpu_name()
        flavour.logger.errors.clear()

    def run(self, progress: Progress | None) -> tuple[bytes, list[Layer], str]:
        trt, logger = self._trt, self._flavour.logger
        for plugin in self._options.plugins:
            self._flavour.load_plugins(Path(plugin))
        try:
            builder = trt.Builder(logger)
        except (TypeError, RuntimeError) as error:
            raise self._failure("cannot start its builder") from error
        network = builder.create_network(self._flavour.network_flags())
        parser = trt.OnnxParser(network, logger)
        self._parse(parser)
        config = self._config(builder, network)
        cache = self._open_timing_cache(config)
        with _cancellable(trt, config, progress) as cancelled:
            plan = builder.build_serialized_network(network, config)
        if cancelled():
            raise KeyboardInterrupt
        if plan is None:
            raise self._failure("could not build the engine")
        self._save_timing_cache(config, cache)
        data = bytes(plan)
        layers = engine_layers(self._flavour, data) if self.gpu is not None else None
        if layers:
            return data, layers, "engine inspector"
        return data, network_layers(trt, network), "network definition"

    def _parse(self, parser: Any) -> None:
        # Bytes, not a path: TensorRT's own reader does not know names that are not ASCII on every platform.
        model = onnx.load(self._onnx_path)
        if self._options.plugins:
            from .custom_ops import strip_functions

            model = strip_functions(model)
        if parser.parse(model.SerializeToString()):
            return
        problems = [describe_parser_error(parser.get_error(index)) for index in range(parser.num_errors)]
        raise ExportError(f"{self._onnx_path}: " + "; ".join(dict.fromkeys(problems)))

    def _config(self, builder: Any, network: Any) -> Any:
        trt, options = self._trt, self._options
        config = builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        flags = {
            "TF32": PRECISIONS[self._manifest.precision].tf32,
            "VERSION_COMPATIBLE": options.version_compatible,
            "STRIP_PLAN": options.strip_weights,
            "REFIT": options.refit or options.strip_weights,
        }
        for name, wanted in flags.items():
            (config.set_flag if wanted else config.clear_flag)(getattr(trt.BuilderFlag, name))
        if options.workspace is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(options.workspace * (1 << 30)))
        if options.optimisation_level is not None:
            config.builder_optimization_level = options.optimisation_level
        if options.hardware_compatibility != "none":
            config.hardware_compatibility_level = getattr(
                trt.HardwareCompatibilityLevel, HARDWARE[options.hardware_compatibility]
            )
        self._set_capabilities(config)
        image = network.get_input(0)
        for profile in options.profiles:
            shapes = profile.input_shapes(self._manifest.input_kind)
            entry = builder.create_optimization_profile()
            entry.set_shape(image.name, *shapes)
            if config.add_optimization_profile(entry) < 0:
                raise ExportError(f"TensorRT refuses the profile {profile}: {self._errors()}")
        return config

    def _set_capabilities(self, config: Any) -> None:
        wanted = self._options.compute_capabilities
        if not wanted:
            return
        known = self._trt.ComputeCapability
        config.num_compute_capabilities = len(wanted)
        for index, capability in enumerate(wanted):
            name = "SM" + capability.replace(".", "")
            if not hasattr(known, name):
                there = sorted(n[2:-1] + "." + n[-1] for n in dir(known) if n.startswith("SM"))
                raise ExportError(
                    f"{self._flavour.name} {self._flavour.version} does not build for compute capability {capability}; "
                    f"it knows {', '.join(there)}"
                )
            if not config.set_compute_capability(getattr(known, name), index):
                raise ExportError(f"{self._flavour.name} refuses compute capability {capability}: {self._errors()}")

    def _timing_cache_path(self) -> Path:
        gpu = "".join(c if c.isalnum() else "-" for c in self.gpu or "no-gpu").lower()
        return self._cache_folder / f"{self._flavour.name}-{self._flavour.version}-{gpu}.timing-cache"

    def _open_timing_cache(self, config: Any) -> Any:
        if not self._options.timing_cache or not self._flavour.supports("timing cache"):
            return None
        path = self._timing_cache_path()
        cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
        if cache is None or not config.set_timing_cache(cache, False):
            _log.warning("%s belongs to another TensorRT or GPU: starting a new one", path)
            cache = config.create_timing_cache(b"")
            config.set_timing_cache(cache, False)
        return cache

    def _save_timing_cache(self, config: Any, cache: Any) -> None:
        if cache is None:
            return
        with atomic_write(self._timing_cache_path()) as stream:
            stream.write(bytes(config.get_timing_cache().serialize()))

    def _errors(self) -> str:
        errors = self._flavour.logger.errors
        return errors[-1].strip() if errors else "no reason given"

    def _failure(self, what: str) -> BackendError | ExportError:
        if gpu_is_missing(self._flavour.logger.errors):
            return BackendError(f"{self._flavour.name} {what}: it found no usable NVIDIA driver ({self._errors()})")
        advice = ""
        if "memory" in self._errors().lower():
            advice = "; lower the profile's largest sizes or raise --workspace"
        return ExportError(f"{self._flavour.name} {what}: {self._errors()}{advice}")


def describe_parser_error(error: Any) -> str:
    """A parser's error with the node it is about and what to do."""
    operator, name = error.node_operator(), error.node_name()
    where = f"node {name!r} ({operator})" if name or operator else "the graph"
    text = error.desc().strip() or "not supported"
    advice = (
        "this operator comes from a plugin: give its library with --plugin"
        if "plugin" in text.lower()
        else "export without the option that brings this operator, or update TensorRT"
    )
    return f"TensorRT does not accept {where}: {text}; {advice}"


def _check_precision(manifest: Manifest, layers: list[Layer]) -> None:
    """Fail when an engine computes in another precision than its file says.

    Strongly typed networks cannot do that; weakly typed ones have, with exit code 0.
    """
    precision = choose_precision(manifest.precision, manifest.rest or "fp32")
    wanted = {"fp16": "half", "bf16": "bf16", "int8": "int8", "fp8": "fp8"}.get(precision.name)
    found = types_of([layer for layer in layers if "conv" in layer.kind.lower()] or layers)
    if wanted is not None and not found.get(wanted):
        raise ExportError(
            f"the file is {precision.name}, but no convolution of the engine is ({found}); TensorRT ignored the types"
        )


def plugin_library() -> Path:
    """Our own plugin library.

    Raises:
        BackendError: this build has none.
    """
    found = find_plugins(PLUGIN_LIBRARY, Path.cwd())
    if found is None:
        raise BackendError(
            "this build of deeplab-infer has no TensorRT plugin library; build it with TensorRT's headers (see "
            "docs/tensorrt_plugins.md), or export without --custom-ops"
        )
    return found


def gpu_name() -> str | None:
    """Name of the first GPU, or None without a usable one."""
    try:
        return Cuda().name
    except BackendError:
        return None


@contextlib.contextmanager
def _cancellable(trt: Any, config: Any, progress: Progress | None) -> Iterator[Callable[[], bool]]:
    """Progress of a build, and Ctrl-C that cancels it: an exception cannot pass through the builder."""
    stop = threading.Event()

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            super().__init__()
            self._steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self._steps[phase] = steps
            if progress is not None:
                progress(phase, 0, steps)

        def step_complete(self, phase: str, step: int) -> bool:
            if progress is not None:
                progress(phase, step + 1, self._steps.get(phase, 0))
            return not stop.is_set()

        def phase_finish(self, phase: str) -> None:
            steps = self._steps.pop(phase, 0)
            if progress is not None:
                progress(phase, steps, steps)

    monitor = Monitor()
    config.progress_monitor = monitor
    in_main = threading.current_thread() is threading.main_thread()
    with handling(lambda *_: stop.set(), signal.SIGINT) if in_main else contextlib.nullcontext():
        yield stop.is_set
