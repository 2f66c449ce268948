# SPDX-License-Identifier: Apache-2.0
"""Times of an ONNX Runtime session's nodes, from its own profile."""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from math import prod
from pathlib import Path
from typing import Any

import onnxruntime

from deeplab_infer.errors import BackendError
from deeplab_infer.manifest import read_onnx_manifest
from deeplab_infer.runtime import onnxruntime_runner

from ..measuring.timing import measure
from .inputs import make_batch
from .times import CountedConvolutions, LayerTime, Profile, median_of_runs, onnx_paths

_SUFFIX = "_kernel_time"
_ADDED = re.compile(
    r"^InsertedPrecisionFreeCast_|_(nchwc|token_\d+|quant)$"
)  # to a node's name by ONNX Runtime's optimisations
_BITS = {"double": 64, "int64": 64, "uint64": 64, "float": 32, "int32": 32, "uint32": 32, "float16": 16, "bfloat16": 16}
_BYTE = 8  # bool, int8, uint8, float8e4m3fn, ...


def profile(job: dict[str, Any]) -> Profile:
    """Run a file for ``job["seconds"]`` without and with a profile.

    Raises:
        BackendError: a GPU, of whose nodes ONNX Runtime only tells when they were launched.
        ModelFileError: not a file of ours, or one that cannot be loaded.
    """
    if job["device"] not in ("auto", "cpu"):
        raise BackendError(
            "ONNX Runtime's profile of a GPU holds launches, not kernels; use --device cpu, or an engine"
        )
    path = Path(job["model"])
    manifest = read_onnx_manifest(path)
    batch, size = make_batch(manifest, job)
    runner = onnxruntime_runner.open_file(path, "cpu", job["threads"])
    total = measure(lambda: runner.run(batch), job["seconds"])
    runner.close()
    with tempfile.TemporaryDirectory(prefix="deeplab-layers-") as folder:
        optimised = Path(folder, "optimised.onnx")
        options = onnxruntime_runner._options(manifest, job["threads"])
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder, "profile"))
        options.optimized_model_filepath = str(optimised)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        measure(lambda: session.run(None, {"image": batch}), job["seconds"])
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        counted = CountedConvolutions(manifest.config, job["batch"], *size)
        paths = {**onnx_paths(path, counted), **optimised_paths(optimised, counted)}
    layers, notes = read_profile(events, paths, counted)
    return Profile(layers, list(total.samples_ms), manifest.precision, "cpu", size, notes)


def optimised_paths(path: Path, counted: CountedConvolutions) -> dict[str, str]:
    """Modules of the nodes of an optimised graph that still have a parameter under its own name."""
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    found = {(node.name, counted.path(name)) for node in graph.node for name in node.input}
    return {node: module for node, module in found if module is not None}


def read_profile(
    events: list[dict[str, Any]], paths: dict[str, str], counted: CountedConvolutions
) -> tuple[list[LayerTime], list[str]]:
    """Layers of a session's profile, and notes.

    Args:
        events: ONNX Runtime's JSON.
        paths: modules of convolutions by the names of nodes, in the file or the optimised graph.
        counted: the network's convolutions at the size that ran.
    """
    runs: dict[int, list[LayerTime]] = defaultdict(list)
    seen: dict[str, int] = defaultdict(int)
    found: set[str] = set()
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith(_SUFFIX):
            continue
        arguments = event["args"]
        node = event["name"].removesuffix(_SUFFIX)
        layer = _layer(node, arguments, event["dur"] / 1e3, paths, counted)
        found.add(layer.name)
        index = str(arguments.get("node_index", node))
        runs[seen[index]].append(layer)
        seen[index] += 1
    notes = ["profiled nodes; where channels are padded for vector units, MB are those that really move"]
    missing = counted.missing(found)
    if missing:
        notes.append(f"{missing} of the network's convolutions could not be told apart in the optimised graph: no GMAC")
    # The first run prepares memory and kernels.
    return median_of_runs(list(runs.values())[1:] or list(runs.values())), notes


def _layer(
    node: str, arguments: dict[str, Any], ms: float, paths: dict[str, str], counted: CountedConvolutions
) -> LayerTime:
    moved = _bytes(arguments.get("input_type_shape", [])) + _bytes(arguments.get("output_type_shape", []))
    op = str(arguments["op_name"])
    if "Conv" not in op:
        return LayerTime(node, op, ms, 0, moved)
    module = paths.get(node) or paths.get(_ADDED.sub("", node))
    if module is None:
        return LayerTime(node, op, ms, None, moved)
    return LayerTime(module, op, ms, counted.macs([module]), moved, counted.grouped([module]))


def _bytes(tensors: list[dict[str, list[int]]]) -> int:
    return sum(prod(shape) * _BITS.get(kind, _BYTE) // 8 for tensor in tensors for kind, shape in tensor.items())
