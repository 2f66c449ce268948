# SPDX-License-Identifier: Apache-2.0
"""Times of an engine's layers, from TensorRT's profiler, and what its inspector tells of them.

The profiler and `IExecutionContext.report_to_profiler` are documented in NVIDIA's Python API; a fused layer bears the
names of the ONNX nodes in it, joined in its own name or listed in the inspector's metadata.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from deeplab_export.engine_layers import Layer, parse_inspector

from deeplab_infer.engine_manifest import EngineManifest, read_engine_manifest
from deeplab_infer.errors import BackendError
from deeplab_infer.runtime.cuda import Cuda
from deeplab_infer.runtime.tensorrt_engine import TensorRtEngine
from deeplab_infer.runtime.tensorrt_flavour import load_flavour

from ..measuring.timing import measure
from .inputs import make_batch
from .times import CountedConvolutions, LayerTime, Profile, median_of_runs, onnx_paths

_ONNX_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_TYPE_BYTES = {"float": 4, "int32": 4, "int64": 8, "half": 2, "bf16": 2, "int8": 1, "uint8": 1, "fp8": 1, "bool": 1}


def profile(job: dict[str, Any]) -> Profile:
    """Run an engine for ``job["seconds"]`` without and with a profiler.

    Raises:
        BackendError: no GPU, no TensorRT of that version, or a size that the engine was not built for.
        ModelFileError: engine or manifest missing.
    """
    path = Path(job["model"])
    manifest = read_engine_manifest(path)
    kind, _, number = job["device"].partition(":")
    if kind not in ("auto", "cuda") or (number and not number.isdigit()):
        raise BackendError(f"TensorRT engines run on cuda or cuda:N, not on {job['device']!r}")
    batch, size = make_batch(manifest.manifest, job)
    cuda = Cuda(int(number or 0))
    engine = TensorRtEngine(path, manifest)
    session = Session(engine, manifest, cuda, batch)
    try:
        total = measure(session.run, job["seconds"])
        runs = session.profiled(job["seconds"], make_profiler(load_flavour(manifest.flavour).trt))
        text = session.inspect(engine)
    finally:
        session.close()
        engine.close()
    counted = CountedConvolutions(manifest.manifest.config, job["batch"], *size)
    layers, notes = read_layers(runs, text, _paths(path.parent / manifest.onnx, counted), counted)
    precision = manifest.manifest.precision
    if precision == "fp32" and manifest.tf32:
        precision = "tf32"
    return Profile(layers, list(total.samples_ms), precision, f"cuda:{cuda.index}", size, notes)


def make_profiler(trt: Any) -> Any:
    """An ``IProfiler`` that keeps what it is told, in ``times``."""

    class Times(trt.IProfiler):
        """Milliseconds of each layer of the pass that was reported last."""

        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.times: list[tuple[str, float]] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.times.append((layer_name, ms))

    return Times()


class Session:
    """An engine with memory for one input, run in a stream of its own."""

    def __init__(self, engine: Any, manifest: EngineManifest, cuda: Any, batch: Any) -> None:
        """Allocate and copy the input.

        Raises:
            BackendError: no memory, or a size that no profile takes.
        """
        promises = manifest.manifest
        axes = batch.shape[1:3] if promises.input_kind == "uint8" else batch.shape[2:4]
        accepted = (i for i, one in enumerate(manifest.profiles) if one.accepts(batch.shape[0], *axes))
        profile = next(accepted, None)
        if profile is None:
            listed, wanted = "; ".join(map(str, manifest.profiles)), f"{batch.shape[0]} x {axes[0]} x {axes[1]}"
            raise BackendError(f"the engine was built for {listed}, not for {wanted}; build it for that size")
        cuda.use()
        self._cuda, self._stream = cuda, cuda.create_stream()
        self._context = engine.create_context()
        self._raw = self._context._context
        self._memory = [cuda.malloc(max(1, engine.workspace))]
        self._context.set_memory(self._memory[0], engine.workspace)
        self._context.prepare(profile, batch.shape, self._stream)
        output_type = np.float32 if promises.output_kind == "logits" else np.dtype(promises.label_dtype)
        shape = self._context.output_shape(promises.output_kind)
        self._memory += [cuda.malloc(batch.nbytes), cuda.malloc(prod(shape) * np.dtype(output_type).itemsize)]
        self._addresses = {"image": self._memory[1], promises.output_kind: self._memory[2]}
        self._batch = np.ascontiguousarray(batch)
        cuda.copy(self._memory[1], self._batch.ctypes.data, batch.nbytes, self._stream)
        cuda.synchronise(self._stream)

    def run(self) -> None:
        """One pass, to its end."""
        self._context.enqueue(self._addresses, self._stream)
        self._cuda.synchronise(self._stream)

    def profiled(self, seconds: float, profiler: Any) -> list[list[tuple[str, float]]]:
        """Names and milliseconds of the layers, a run each.

        Raises:
            BackendError: TensorRT reports nothing.
        """
        self._raw.profiler = profiler
        self._raw.enqueue_emits_profile = False
        runs: list[list[tuple[str, float]]] = []

        def once() -> None:
            profiler.times = []
            self.run()
            if not self._raw.report_to_profiler() or not profiler.times:
                raise BackendError("TensorRT's profiler reports no layers of this engine")
            runs.append(profiler.times)

        measure(once, seconds)
        return runs

    def inspect(self, engine: Any) -> str:
        """What the inspector tells of the engine at this input's shape: JSON."""
        trt = engine._flavour.trt
        inspector = engine._engine.create_engine_inspector()
        inspector.execution_context = self._raw
        return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))

    def close(self) -> None:
        """Free everything."""
        self._cuda.synchronise(self._stream)
        self._raw = self._context = None
        for address in self._memory:
            self._cuda.free(address)
        self._cuda.destroy_stream(self._stream)


def read_layers(
    runs: list[list[tuple[str, float]]], inspector: str, paths: dict[str, str] | None, counted: CountedConvolutions
) -> tuple[list[LayerTime], list[str]]:
    """Layers of a profiled engine, and notes.

    Args:
        runs: names and milliseconds, from `Session.profiled`.
        inspector: JSON of ``EngineInspector.get_engine_information``.
        paths: from `onnx_paths`; None where there is no such file.
        counted: the network's convolutions at the size that ran.
    """
    entries = [entry for entry in json.loads(inspector).get("Layers", []) if isinstance(entry, dict)]
    described = {entry.get("Name", ""): (_parse(entry), entry) for entry in entries}
    found: set[str] = set()

    def describe(name: str) -> Callable[[float], LayerTime]:
        layer, entry = described.get(name, (Layer(name, "", "", (), ()), {}))
        nodes = _ONNX_NODE.findall(str(entry.get("Metadata", ""))) or [part.strip() for part in name.split(" + ")]
        modules = {paths[node] for node in nodes if node in paths} if paths else set()
        found.update(modules)
        unknown = paths is None or (not modules and "conv" in layer.kind.lower())
        macs = None if unknown else counted.macs(modules)
        label = " + ".join(sorted(modules)) or name
        moved = _moved(layer, entry)
        return lambda ms: LayerTime(label, layer.kind, ms, macs, moved, counted.grouped(modules))

    makers = {name: describe(name) for name in {name: None for run in runs for name, _ in run}}
    layers = median_of_runs([[makers[name](ms) for name, ms in run] for run in runs])
    return layers, _notes(bool(entries), paths, counted.missing(found))


def _paths(path: Path, counted: CountedConvolutions) -> dict[str, str] | None:
    return onnx_paths(path, counted) if path.is_file() else None


def _parse(entry: dict[str, Any]) -> Layer:
    return parse_inspector(json.dumps({"Layers": [entry]}))[0]


def _moved(layer: Layer, entry: dict[str, Any]) -> int | None:
    """Bytes of inputs, outputs and weights; None where the inspector says no shapes."""
    if not layer.outputs:
        return None
    weights = entry.get("Weights") or {}
    total = 0
    for tensor in (*layer.inputs, *layer.outputs, f"{str(weights.get('Type', '')).lower()} {weights.get('Count', 0)}"):
        kind, _, shape = tensor.partition(" ")
        size = prod(int(side) for side in shape.split("x") if side)
        total += size * _TYPE_BYTES.get(kind, 4)
    return total


def _notes(detailed: bool, paths: dict[str, str] | None, missing: int) -> list[str]:
    notes = ["unprofiled: enqueued without a CUDA graph; the profiler's events make the sum of the layers longer"]
    if not detailed:
        notes.append("the engine was built without detailed profiling verbosity: no MB")
    if paths is None:
        notes.append("the ONNX file that the engine was built from is not beside it: no GMAC")
    elif missing:
        notes.append(f"{missing} of the network's convolutions are in layers that do not say so: no GMAC for them")
    return notes
