# SPDX-License-Identifier: Apache-2.0
"""Precisions, and the half-precision rewrite of a float32 graph.

Precision is explicit in the file, as a strongly typed TensorRT wants it: casts and typed weights, Q/DQ for eight bits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from deeplab_infer.errors import ExportError


@dataclass(frozen=True)
class Precision:
    """How a graph computes.

    Attributes:
        name: as on the command line.
        half: ONNX type of the activations and weights that are not quantised, or None for float32.
        eight_bits: ONNX type of quantised convolutions, or None.
        opset: the first operator set that has what it needs.
        tf32: whether a GPU may round the factors of float32 products to 10 bits (a switch of the builder, not of
            the graph).
    """

    name: str
    half: int | None = None
    eight_bits: int | None = None
    opset: int = 18
    tf32: bool = False

    @property
    def rest(self) -> str | None:
        """Type of what an eight-bit graph does not quantise; None for other precisions."""
        if self.eight_bits is None:
            return None
        return next(name for name, half in REST.items() if half == self.half)


# The rest of an eight-bit graph is fp16 in an engine and float32 on CPUs: see `choose_precision`.
PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("fp32"),
        Precision("tf32", tf32=True),
        Precision("fp16", half=TensorProto.FLOAT16),
        Precision("bf16", half=TensorProto.BFLOAT16, opset=22),
        Precision("int8", eight_bits=TensorProto.INT8),
        Precision("fp8", eight_bits=TensorProto.FLOAT8E4M3FN, opset=19),
    )
}
REST = {"fp32": None, "fp16": TensorProto.FLOAT16}

# Long sums and the choice between near-equal logits: 11 significant bits are not enough for them.
FLOAT32_OPERATORS = frozenset({"ReduceMean", "GlobalAveragePool", "Softmax", "ArgMax"})
_SUFFIXES: dict[int, str] = {TensorProto.FLOAT: "float", TensorProto.FLOAT16: "half", TensorProto.BFLOAT16: "bfloat"}
_FLOATING = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
# Quantised tensors are half at both ends: a cast between DQ and convolution would keep TensorRT from fusing them.
# A shape is integers: what is only sized by the image is not near it.
_BORDERS = frozenset({"Conv", "QuantizeLinear", "DequantizeLinear", "Shape"})
# Inputs that are float32 whatever the data's type: ONNX's region of interest and scales, our operators' parameters.
_FLOAT32_INPUTS = {
    "Resize": frozenset({1, 2}),
    "DeeplabDepthwise": frozenset({1, 2, 3}),
    "DeeplabAsppDepthwise": frozenset({1, 2, 3}),
    "DeeplabUpsampleConcatDepthwise": frozenset({2, 3, 4}),
}


def choose_precision(name: str, rest: str = "fp32") -> Precision:
    """A precision by name; ``rest`` (``"fp32"`` or ``"fp16"``) is the type of what eight bits leave over.

    Raises:
        ExportError: an unknown name.
    """
    if name not in PRECISIONS:
        raise ExportError(f"precision {name!r} is not one of {', '.join(PRECISIONS)}")
    if rest not in REST:
        raise ExportError(f"the rest of an eight-bit graph is fp32 or fp16, not {rest!r}")
    precision = PRECISIONS[name]
    if precision.eight_bits is None or REST[rest] is None:
        return precision
    # Q/DQ take float16 since opset 19.
    return replace(precision, half=REST[rest], opset=max(precision.opset, 19))


def kept_in_float32(model: onnx.ModelProto) -> set[str]:
    """Nodes that stay float32 in every half-precision graph.

    These are the normalisation of the 0..255 pixels before the first convolution, what follows the logits (resize,
    argmax), and the image pooling's mean over all pixels.
    """
    producers = {name: node for node in model.graph.node for name in node.output}
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    before = _reach([value.name for value in model.graph.input], consumers, forward=True)
    after = _reach(
        [value.name for value in model.graph.output], {name: [node] for name, node in producers.items()}, forward=False
    )
    return before | after | {node.name for node in model.graph.node if node.op_type in FLOAT32_OPERATORS}


def _reach(names: Iterable[str], edges: dict[str, list[onnx.NodeProto]], *, forward: bool) -> set[str]:
    """Nodes that can be reached from tensors without passing a convolution, a change to eight bits or a shape."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        for node in edges.get(waiting.pop(), ()):
            if node.name in found or node.op_type in _BORDERS or node.domain not in ("", "ai.onnx"):
                continue
            found.add(node.name)
            waiting.extend(node.output if forward else node.input)
    return found


def to_half(model: onnx.ModelProto, half: int, keep: Collection[str] = ()) -> onnx.ModelProto:
    """A float32 graph with its weights and activations in a half type; inputs and outputs keep their types.

    Args:
        model: float32 graph without subgraphs.
        half: `TensorProto.FLOAT16` or `TensorProto.BFLOAT16`.
        keep: names of further nodes that compute in float32, beside those of `kept_in_float32`.

    Raises:
        ExportError: a weight exceeds the half type's range.
    """
    float32_nodes = kept_in_float32(model) | set(keep)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    _HalfRewrite(result, half, float32_nodes).run()
    return result


def replace_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto], weights: Iterable[TensorProto]) -> None:
    """Give a graph other nodes, and of the weights those that they use; inferred types are forgotten."""
    # Copies: what is in the graph now dies when its list is cleared.
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    used = {name for node in nodes for name in node.input}
    weights = [tensor for tensor in weights if tensor.name in used]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(weights)


class _HalfRewrite:
    """One pass over a topologically ordered graph; casts appear where types meet, once a tensor."""

    def __init__(self, model: onnx.ModelProto, half: int, float32_nodes: Collection[str]) -> None:
        self._graph = model.graph
        self._half = half
        self._float32_nodes = float32_nodes
        self._weights = {tensor.name: tensor for tensor in self._graph.initializer}
        inferred = onnx.shape_inference.infer_shapes(model).graph
        self._types = {tensor.name: tensor.data_type for tensor in self._graph.initializer}
        for value in (*inferred.input, *inferred.value_info, *inferred.output):
            self._types[value.name] = value.type.tensor_type.elem_type
        self._casts: dict[tuple[str, int], str] = {}
        self._nodes: list[onnx.NodeProto] = []

    def run(self) -> None:
        outputs = {value.name for value in self._graph.output}
        for node in list(self._graph.node):
            self._rewrite(node, outputs)
        replace_nodes(self._graph, self._nodes, self._weights.values())

    def _rewrite(self, node: onnx.NodeProto, outputs: set[str]) -> None:
        floating = [name for name in node.output if self._types.get(name) in _FLOATING]
        wanted = TensorProto.FLOAT if node.name in self._float32_nodes else self._half
        if node.op_type in ("Cast", "Constant", "ConstantOfShape"):
            wanted = TensorProto.FLOAT  # their type is an attribute of theirs
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        fixed = _FLOAT32_INPUTS.get(node.op_type, frozenset())
        if node.op_type != "Cast":
            for index, name in enumerate(node.input):
                if self._types.get(name) in _FLOATING:
                    copy.input[index] = self._as(name, TensorProto.FLOAT if index in fixed else wanted)
        self._nodes.append(copy)
        for index, name in enumerate(node.output):
            if name not in floating:
                continue
            self._types[name] = wanted
            if name in outputs and wanted != TensorProto.FLOAT:
                copy.output[index] = f"{name}_half"
                self._types[copy.output[index]] = wanted
                self._casts[name, wanted] = copy.output[index]
                self._cast(copy.output[index], name, TensorProto.FLOAT)

    def _as(self, name: str, wanted: int) -> str:
        """The name under which a tensor or weight has the wanted type."""
        if self._types[name] == wanted:
            return name
        if (name, wanted) not in self._casts:
            other = f"{name}_{_SUFFIXES[wanted]}"
            if name in self._weights:
                self._weights[other] = _convert(self._weights[name], other, wanted)
                self._types[other] = wanted
            else:
                self._cast(name, other, wanted)
            self._casts[name, wanted] = other
        return self._casts[name, wanted]

    def _cast(self, source: str, target: str, wanted: int) -> None:
        self._nodes.append(helper.make_node("Cast", [source], [target], name=f"cast_{target}", to=wanted))
        self._types[target] = wanted


def _convert(tensor: TensorProto, name: str, wanted: int) -> TensorProto:
    values = numpy_helper.to_array(tensor).astype(np.float32)
    limit = 65504.0 if wanted == TensorProto.FLOAT16 else 3.3e38
    peak = float(np.abs(values).max(initial=0))
    if not peak <= limit:
        raise ExportError(
            f"weight {tensor.name} reaches {peak:g}, beyond the {limit:g} of half precision; use bf16 or fp32"
        )
    converted = numpy_helper.from_array(values.astype(helper.tensor_dtype_to_np_dtype(wanted)), name)
    converted.data_type = wanted
    return converted
