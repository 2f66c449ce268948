# SPDX-License-Identifier: Apache-2.0
"""Times of an OpenVINO model's nodes, from its performance counters."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import openvino

from deeplab_infer.errors import BackendError
from deeplab_infer.manifest import Manifest
from deeplab_infer.runtime import openvino_runner
from deeplab_infer.runtime.openvino_core import shared_core

from ..measuring.timing import measure
from .inputs import make_batch
from .times import CountedConvolutions, LayerTime, Profile, median_of_runs

# Name, type and milliseconds of a node; None for one that did not run.
Counter = tuple[str, str, "float | None"]
_CONVOLUTIONS = ("Convolution", "GroupConvolution")
_MAX_STEPS = 6  # from a convolution back to its weights: reshape, convert, dequantisation


def profile(job: dict[str, Any]) -> Profile:
    """Run a file for ``job["seconds"]`` without and with performance counters.

    Raises:
        BackendError: a device other than the CPU.
        ModelFileError: not a file of ours, or one that cannot be loaded.
    """
    if job["device"] not in ("auto", "cpu"):
        raise BackendError("layers of OpenVINO models are profiled on the CPU; use --device cpu")
    path = Path(job["model"])
    runner = openvino_runner.open_file(path, "cpu", job["threads"], job["precision"])
    manifest: Manifest = runner.manifest
    batch, size = make_batch(manifest, job)
    total = measure(lambda: runner.run(batch), job["seconds"])
    compute = runner.compute
    runner.close()
    core = shared_core()
    compiled = openvino_runner.compile_model(
        core, core.read_model(str(path)), "CPU", compute, job["threads"], PERF_COUNT=True
    )
    request = compiled.create_infer_request()
    counters: list[list[Counter]] = []

    def once() -> None:
        request.infer({0: batch})
        counters.append([_counter(info) for info in request.get_profiling_info()])

    measure(once, job["seconds"])
    graph = core.read_model(str(path))
    graph.reshape({0: list(batch.shape)})
    counted = CountedConvolutions(manifest.config, job["batch"], *size)
    layers, notes = read_counters(
        counters, fused_names(compiled), own_traffic(compiled), Graph(graph, counted), counted
    )
    precision = manifest.precision if manifest.precision == "int8" else {"f32": "fp32", "bf16": "bf16"}[compute]
    return Profile(layers, list(total.samples_ms), precision, "cpu", size, notes)


def fused_names(compiled: Any) -> dict[str, list[str]]:
    """Nodes of the model as it runs, and the nodes of the file that each stands for."""
    nodes = compiled.get_runtime_model().get_ordered_ops()
    return {node.get_friendly_name(): _info(node, "originalLayersNames").split(",") for node in nodes}


def own_traffic(compiled: Any) -> dict[str, int]:
    """Bytes in and out of every node as it runs, where its shapes are fixed: also of nodes that the file lacks."""
    moved: dict[str, int] = {}
    for node in compiled.get_runtime_model().get_ordered_ops():
        ports = [one.get_source_output() for one in node.inputs()] + node.outputs()
        if all(port.get_partial_shape().is_static for port in ports):
            moved[node.get_friendly_name()] = sum(map(_runtime_bytes, ports))
    return moved


class Graph:
    """A file's nodes at one input size: what convolutions they are and what goes in and out."""

    def __init__(self, model: Any, counted: CountedConvolutions) -> None:
        """Read a model whose shapes are fixed."""
        self._nodes = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
        self._counted = counted

    def paths(self, names: list[str]) -> set[str]:
        """Modules of the convolutions among these nodes."""
        nodes = [self._nodes[name] for name in names if name in self._nodes]
        found = {self._module(node) for node in nodes if node.get_type_name() in _CONVOLUTIONS}
        return {path for path in found if path is not None}

    def moved(self, names: list[str]) -> int | None:
        """Bytes that enter these nodes and leave them; None where none of them is the file's."""
        inside = {name: self._nodes[name] for name in names if name in self._nodes}
        if not inside:
            return None
        total = 0
        for node in inside.values():
            sources = [one.get_source_output() for one in node.inputs()]
            total += sum(_bytes(port) for port in sources if port.get_node().get_friendly_name() not in inside)
            total += sum(
                _bytes(port)
                for port in node.outputs()
                if any(one.get_node().get_friendly_name() not in inside for one in port.get_target_inputs())
            )
        return total

    def _module(self, convolution: Any) -> str | None:
        """By the weights' name, or the bias's where compressed weights have lost theirs."""
        users = [one.get_node() for one in convolution.output(0).get_target_inputs()]
        biases = [user.input_value(1).get_node() for user in users if user.get_type_name() == "Add"]
        for node in (convolution.input_value(1).get_node(), *biases):
            for _ in range(_MAX_STEPS):
                path = self._counted.path(node.get_friendly_name())
                if path is not None:
                    return path
                if not node.inputs():
                    break
                node = node.input_value(0).get_node()
        return None


def read_counters(
    runs: list[list[Counter]],
    names: dict[str, list[str]],
    own: dict[str, int],
    graph: Any,
    counted: CountedConvolutions,
) -> tuple[list[LayerTime], list[str]]:
    """Layers of an inference request's counters, and notes.

    Args:
        runs: every node in the order of execution, a run each.
        names: from `fused_names`.
        own: from `own_traffic`.
        graph: the file's nodes, as `Graph`.
        counted: the network's convolutions at the size that ran.
    """
    # A convolution that does not run itself is in the one before it: a depthwise one behind its 1x1.
    groups: list[tuple[str, str, list[str]]] = []
    for name, kind, ms in runs[0]:
        originals = [original for original in names.get(name, [name]) if original]
        if ms is not None:
            groups.append((name, kind, originals))
        elif groups and graph.paths(originals):
            groups[-1][2].extend(originals)
    layers: dict[str, LayerTime] = {}
    found: set[str] = set()
    for name, kind, originals in groups:
        paths = graph.paths(originals)
        found |= paths
        # A node of the plugin's own, such as a reorder, has no multiply-adds, and no shape in the file.
        macs = None if not paths and "Convolution" in kind else counted.macs(paths)
        moved = own.get(name, graph.moved(originals))
        layers[name] = LayerTime(" + ".join(sorted(paths)) or name, kind, 0, macs, moved, counted.grouped(paths))
    timed = [[replace(layers[name], ms=ms) for name, _, ms in run if ms is not None and name in layers] for run in runs]
    notes = ["nodes as OpenVINO runs them; in a file of any size MB are those of its nodes, without reorders"]
    missing = counted.missing(found)
    if missing:
        notes.append(f"{missing} of the network's convolutions could not be told apart: no GMAC for them")
    return median_of_runs(timed[1:] or timed), notes


def _counter(info: Any) -> Counter:
    executed = info.status == openvino.ProfilingInfo.Status.EXECUTED
    ms = info.real_time.total_seconds() * 1e3 if executed else None
    return info.node_name, f"{info.node_type} {info.exec_type}", ms


def _info(node: Any, name: str) -> str:
    value = node.get_rt_info()[name]
    return str(getattr(value, "value", value))


def _runtime_bytes(port: Any) -> int:
    kind = _info(port.get_node(), "outputPrecisions").split(",")[0]
    if kind == "dynamic":  # of a node that did not have to run
        return 0
    return prod(port.get_shape()) * max(8, int(kind.lstrip("abfiuolen") or 8)) // 8


def _bytes(port: Any) -> int:
    return prod(port.get_shape()) * int(port.get_element_type().size)
