# SPDX-License-Identifier: Apache-2.0
"""Eight-bit graphs: Q/DQ where TensorRT fuses them.

ONNX Runtime's own quantiser puts Q/DQ between a convolution and its ReLU when activations are symmetric, which keeps
TensorRT from fusing the two. Here they stand only at the inputs of dense convolutions, on the shortcut of a residual
addition (the other operand stays in the convolution's accumulator), and around a concat that feeds a convolution, with
one scale, so that it copies bytes. Depthwise convolutions stay in higher precision: they are bound by memory, and
TensorRT has slower or no eight-bit kernels for them (NVIDIA/TensorRT issues 4529, 4524).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from deeplab_infer.errors import ExportError

from .precision import replace_nodes

_LARGEST: dict[int, float] = {TensorProto.INT8: 127.0, TensorProto.FLOAT8E4M3FN: 448.0}
_SMALLEST_HALF_SCALE = float(np.finfo(np.float16).tiny)  # subnormal scales lose digits
_LARGEST_HALF = float(np.finfo(np.float16).max)


def layers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """The convolutions by the name of their module, in the order in which they run."""
    return {layer_name(node): node for node in model.graph.node if node.op_type == "Conv"}


def layer_name(node: onnx.NodeProto) -> str:
    """A convolution's module: the weight ``network.aspp.project.conv.weight`` is of layer aspp.project.conv."""
    return node.input[1].removesuffix(".weight").removeprefix("network.")


def require_layers(model: onnx.ModelProto, names: Collection[str]) -> None:
    """Refuse names that are not layers of a model.

    Raises:
        ExportError: an unknown name.
    """
    unknown = sorted(set(names) - set(layers(model)))
    if unknown:
        raise ExportError(f"no layer {unknown[0]!r} in this model; --list-layers shows them")


def quantisable(model: onnx.ModelProto) -> list[str]:
    """Layers that may run in eight bits: dense convolutions over a feature map."""
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    found = []
    for name, node in layers(model).items():
        groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
        producer = producers.get(node.input[0])
        pooled = producer is not None and producer.op_type in ("ReduceMean", "GlobalAveragePool")
        if groups == 1 and not pooled and node.input[1] in weights:
            found.append(name)
    return found


def quantise(
    model: onnx.ModelProto,
    magnitudes: Mapping[str, float],
    eight_bits: int,
    *,
    keep: Collection[str] = (),
    half_scales: bool = False,
) -> onnx.ModelProto:
    """A float32 graph with its dense convolutions in eight bits.

    Weights are symmetric with one scale an output channel, activations symmetric with one scale a tensor.

    Args:
        model: float32 graph.
        magnitudes: from `deeplab_export.calibration.calibrate`.
        eight_bits: `TensorProto.INT8` or `TensorProto.FLOAT8E4M3FN`.
        keep: layers (see `layers`) that stay in higher precision.
        half_scales: scales that float16 represents exactly, for a graph whose rest is float16.

    Raises:
        ExportError: an unknown layer in ``keep``, or nothing left to quantise.
    """
    candidates = quantisable(model)
    unknown = sorted(set(keep) - set(layers(model)))
    if unknown:
        raise ExportError(f"no layer {unknown[0]!r} in this model; there are {', '.join(list(layers(model))[:5])}, ...")
    chosen = [name for name in candidates if name not in keep]
    if not chosen:
        raise ExportError("every layer is kept in higher precision: nothing would run in eight bits")
    result = onnx.ModelProto()
    result.CopyFrom(model)
    _Quantise(result, magnitudes, eight_bits, half_scales).run(chosen)
    return result


class _Quantise:
    def __init__(
        self, model: onnx.ModelProto, magnitudes: Mapping[str, float], eight_bits: int, half_scales: bool
    ) -> None:
        self._graph = model.graph
        self._magnitudes = magnitudes
        self._type = eight_bits
        self._half_scales = half_scales
        self._weights = {tensor.name: tensor for tensor in self._graph.initializer}
        self._producers = {name: node for node in self._graph.node for name in node.output}
        self._order = {node.name: index for index, node in enumerate(self._graph.node)}
        self._consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in self._graph.node:
            for name in node.input:
                self._consumers.setdefault(name, []).append(node)
        self._before: dict[str, list[onnx.NodeProto]] = {}  # new nodes, by the node that they precede
        self._pairs: dict[tuple[str, float], str] = {}

    def run(self, chosen: Collection[str]) -> None:
        convolutions = [node for node in self._graph.node if node.op_type == "Conv" and layer_name(node) in chosen]
        names = {node.name for node in convolutions}
        for node in convolutions:
            self._quantise_weight(node)
            producer = self._producers.get(node.input[0])
            if producer is not None and producer.op_type == "Concat":
                self._around_concat(producer, node.input[0])
            node.input[0] = self._pair(node.input[0], self._scale(node.input[0]), node)
        for node in self._graph.node:
            if node.op_type == "Add":
                self._shortcut(node, names)
        ordered = []
        for node in self._graph.node:
            ordered += [*self._before.get(node.name, ()), node]
        replace_nodes(self._graph, ordered, self._weights.values())

    def _around_concat(self, concat: onnx.NodeProto, output: str) -> None:
        """The concat's inputs get its output's scale, so that quantising before or after is the same."""
        scale = self._scale(output)
        for index, name in enumerate(concat.input):
            if name in self._producers and self._producers[name].op_type != "DequantizeLinear":
                concat.input[index] = self._pair(name, scale, concat)

    def _shortcut(self, add: onnx.NodeProto, quantised: Collection[str]) -> None:
        """Q/DQ on the operand of a residual addition that is not the convolution it is fused with."""
        inputs = [self._producers.get(name) for name in add.input]
        if any(node is None for node in inputs):
            return
        found = [index for index, node in enumerate(inputs) if node is not None and node.op_type == "Conv"]
        if not found:
            return
        # Of two convolutions, the one that runs last can add the other's result.
        main = max(found, key=lambda index: self._order[inputs[index].name])  # type: ignore[union-attr]
        if inputs[main].name not in quantised:  # type: ignore[union-attr]
            return
        other = 1 - main
        name = add.input[other]
        if name in self._magnitudes:
            add.input[other] = self._pair(name, self._scale(name), add)

    def _scale(self, tensor: str) -> float:
        if tensor not in self._magnitudes:
            raise ExportError(f"tensor {tensor} was not calibrated; calibrate the same graph that is quantised")
        return self._round_scale(np.asarray(self._magnitudes[tensor] / _LARGEST[self._type]), tensor).item()

    def _round_scale(self, scale: NDArray[np.float64], tensor: str) -> NDArray[np.float32]:
        if not self._half_scales:
            return scale.astype(np.float32)
        if scale.max() > _LARGEST_HALF:
            raise ExportError(f"the scale of {tensor} is {scale.max():g}, more than float16 holds; use --rest fp32")
        return np.maximum(scale, _SMALLEST_HALF_SCALE).astype(np.float16).astype(np.float32)

    def _pair(self, name: str, scale: float, before: onnx.NodeProto) -> str:
        """The tensor after Q and DQ; one pair a tensor and scale, before the first that needs it."""
        key = (name, scale)
        if key in self._pairs:
            return self._pairs[key]
        stem = name if all(other != name for other, _ in self._pairs) else f"{name}_{len(self._pairs)}"
        scale_name, zero = f"{stem}_scale", self._zero_point()
        self._weights[scale_name] = numpy_helper.from_array(np.asarray(scale, np.float32), scale_name)
        quantised, restored = f"{stem}_quantised", f"{stem}_restored"
        first = min((self._consumers.get(name) or [before]), key=lambda node: self._order[node.name])
        self._before.setdefault(first.name, []).extend(
            (
                helper.make_node("QuantizeLinear", [name, scale_name, zero], [quantised], name=f"quantise_{stem}"),
                helper.make_node("DequantizeLinear", [quantised, scale_name, zero], [restored], name=f"restore_{stem}"),
            )
        )
        self._pairs[key] = restored
        return restored

    def _quantise_weight(self, node: onnx.NodeProto) -> None:
        name = node.input[1]
        restored = f"{name}_restored"
        if name in self._weights and f"{name}_quantised" not in self._weights:
            values = numpy_helper.to_array(self._weights[name]).astype(np.float64)
            peaks = np.maximum(np.abs(values).reshape(len(values), -1).max(1), 1e-12)
            scales = self._round_scale(peaks / _LARGEST[self._type], name)
            scaled = values / scales.reshape(-1, 1, 1, 1)
            self._weights[f"{name}_quantised"] = self._tensor(scaled, f"{name}_quantised")
            self._weights[f"{name}_scales"] = numpy_helper.from_array(scales, f"{name}_scales")
            zeros = f"{name}_zeros"
            self._weights[zeros] = self._tensor(np.zeros(len(values)), zeros)
            inputs = [f"{name}_quantised", f"{name}_scales", zeros]
            self._before.setdefault(node.name, []).append(
                helper.make_node("DequantizeLinear", inputs, [restored], name=f"restore_{name}", axis=0)
            )
        node.input[1] = restored

    def _tensor(self, scaled: NDArray[np.float64], name: str) -> TensorProto:
        largest = _LARGEST[self._type]
        clipped = np.clip(scaled, -largest, largest)
        if self._type == TensorProto.INT8:
            return numpy_helper.from_array(np.rint(clipped).astype(np.int8), name)
        tensor: TensorProto = numpy_helper.from_array(clipped.astype(ml_dtypes.float8_e4m3fn), name)
        return tensor

    def _zero_point(self) -> str:
        name = "quantised_zero"
        if name not in self._weights:
            self._weights[name] = self._tensor(np.zeros(()), name)
        return name
