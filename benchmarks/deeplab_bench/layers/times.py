# SPDX-License-Identifier: Apache-2.0
"""The time of each layer, as every backend's profile is turned into it."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from deeplab_infer.configs import ModelConfig
from deeplab_infer.optimize.work import count

_FUSED = ("Relu", "Clip", "Add")  # into the convolution before them
_PARAMETER = re.compile(r"(?P<path>.+)\.(weight|bias)(_\w+)?$")  # with what conversions add: _half, _quantised


@dataclass(frozen=True)
class LayerTime:
    """One layer of one pass, or the median of several passes.

    Attributes:
        name: path of the module where it is known, else the runtime's name.
        op: what it does, in the runtime's words.
        ms: time.
        macs: multiply-adds; None where they are not known.
        moved: bytes read and written; None where they are not known.
        grouped: depthwise.
    """

    name: str
    op: str
    ms: float
    macs: int | None = None
    moved: int | None = None
    grouped: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


@dataclass(frozen=True)
class Profile:
    """What profiling a model gave.

    Attributes:
        layers: in the order in which they run.
        total_ms: samples of the same pass without a profiler.
        precision: that the model computes in.
        device: ``"cpu"`` or ``"cuda:N"``.
        size: (height, width) that the network ran at.
        notes: what a reader must know.
    """

    layers: list[LayerTime]
    total_ms: list[float]
    precision: str
    device: str
    size: tuple[int, int]
    notes: list[str]


def median_of_runs(runs: Sequence[Sequence[LayerTime]]) -> list[LayerTime]:
    """Layers by name and operation: sums within a run, then the median of the runs."""
    times: dict[tuple[str, str], list[float]] = {}
    first: dict[tuple[str, str], LayerTime] = {}
    for index, run in enumerate(runs):
        for key, layer in _summed(run).items():
            times.setdefault(key, [0.0] * index).append(layer.ms)
            first.setdefault(key, layer)
    return [replace(first[key], ms=statistics.median(values)) for key, values in times.items()]


def _summed(run: Iterable[LayerTime]) -> dict[tuple[str, str], LayerTime]:
    summed: dict[tuple[str, str], LayerTime] = {}
    for layer in run:
        key = (layer.name, layer.op)
        before = summed.get(key)
        if before is not None:
            macs, moved = _add(before.macs, layer.macs), _add(before.moved, layer.moved)
            layer = replace(before, ms=before.ms + layer.ms, macs=macs, moved=moved)
        summed[key] = layer
    return summed


def _add(first: int | None, second: int | None) -> int | None:
    return None if first is None or second is None else first + second


class CountedConvolutions:
    """Multiply-adds of a config's convolutions by the path of their module, for runtimes that only know names."""

    def __init__(self, config: ModelConfig, batch: int, height: int, width: int) -> None:
        """Count one pass."""
        operations = count(config, height, width, batch=batch).operations
        self._by_path = {op.name: op for op in operations if op.kind == "convolution"}

    def path(self, parameter: str) -> str | None:
        """The module that a weight or bias belongs to, whatever an exporter put before its name; None: none of ours."""
        match = _PARAMETER.match(parameter)
        path = match["path"] if match else ""
        while path and path not in self._by_path:
            path = path.partition(".")[2]
        return path or None

    def macs(self, paths: Iterable[str]) -> int:
        """Of these modules."""
        return sum(self._by_path[path].dense for path in paths)

    def grouped(self, paths: Iterable[str]) -> bool:
        """Whether they are depthwise, all of them."""
        found = [self._by_path[path].grouped for path in paths]
        return bool(found) and all(found)

    def missing(self, paths: Iterable[str]) -> int:
        """How many of the network's convolutions are not among these."""
        return len(set(self._by_path) - set(paths))


def onnx_paths(path: Path, counted: CountedConvolutions) -> dict[str, str]:
    """Modules of a file's convolutions, by the names of the nodes: of the convolution and of what is fused into it.

    Args:
        path: of an ONNX file that `deeplab-export` wrote.
        counted: the network's convolutions.
    """
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    made_by = {output: node for node in graph.node for output in node.output}
    used_by: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            used_by.setdefault(name, []).append(node)
    paths: dict[str, str] = {}
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        weights = node.input[1]
        while weights in made_by:  # dequantisation and casts
            weights = made_by[weights].input[0]
        module = counted.path(weights)
        while module is not None:
            paths.update(dict.fromkeys((node.name, node.output[0]), module))
            users = used_by.get(node.output[0], [])
            if len(users) != 1 or users[0].op_type not in _FUSED:
                break
            node = users[0]
    return paths
