# SPDX-License-Identifier: Apache-2.0
"""A traced float32 graph in the precision that was asked for."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from deeplab_infer.errors import ExportError

from .precision import Precision, replace_nodes, to_half
from .quantize import layer_name, quantise, require_layers


def convert(
    model: onnx.ModelProto,
    precision: Precision,
    *,
    magnitudes: Mapping[str, float] | None = None,
    keep: Collection[str] = (),
) -> onnx.ModelProto:
    """Give a float32 graph a precision; inputs and outputs keep their types.

    Args:
        model: float32, as `deeplab_export.onnx_export.to_onnx` traces it.
        precision: one of `deeplab_export.precision.PRECISIONS`.
        magnitudes: of the activations, from `deeplab_export.calibration.calibrate`; eight bits need them.
        keep: layers (`deeplab_export.quantize.layers`) in higher precision: float32 in a half-precision graph, the
            rest's type in an eight-bit graph.

    Raises:
        ExportError: eight bits without magnitudes, an unknown layer, or weights beyond the type's range.
    """
    require_layers(model, keep)
    result = model
    if precision.eight_bits is not None:
        if magnitudes is None:
            raise ExportError(f"precision {precision.name} needs calibration images")
        result = quantise(model, magnitudes, precision.eight_bits, keep=keep, half_scales=precision.half is not None)
    if precision.half is not None:
        result = to_half(result, precision.half, () if precision.eight_bits else float32_nodes(model, keep))
    if result is model:
        result = onnx.ModelProto()
        result.CopyFrom(model)
    opset = next(entry for entry in result.opset_import if entry.domain in ("", "ai.onnx"))
    opset.version = max(opset.version, precision.opset)
    if any(node.domain == "deeplab" for node in result.graph.node):
        from .custom_ops import add_functions

        add_functions(result)  # a function says which operator set its body is of
    return result


def float32_nodes(model: onnx.ModelProto, keep: Collection[str]) -> set[str]:
    """The convolutions of layers and the activations right behind them."""
    found = set()
    for node in model.graph.node:
        if node.op_type == "Conv" and layer_name(node) in keep:
            found.add(node.name)
            users = [other for other in model.graph.node if node.output[0] in other.input]
            found |= {other.name for other in users if other.op_type in ("Relu", "Clip")}
    return found


def emulate_bfloat16(model: onnx.ModelProto) -> onnx.ModelProto:
    """`emulate_half` of a bf16 graph."""
    return emulate_half(model, TensorProto.BFLOAT16)


def emulate_half(model: onnx.ModelProto, kind: int) -> onnx.ModelProto:
    """A graph whose tensors of a half type are float32 with that type's values.

    ONNX Runtime on CPUs has no bfloat16 convolutions, and computes neighbouring fp16 operators in float32 without
    rounding between them, so that it does not show what overflows elsewhere. Products and sums inside an operator are
    float32, as on hardware that computes in these types.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    half = {tensor.name for tensor in result.graph.initializer if tensor.data_type == kind}
    for value in onnx.shape_inference.infer_shapes(result).graph.value_info:
        if value.type.tensor_type.elem_type == kind:
            half.add(value.name)
    for tensor in result.graph.initializer:
        if tensor.name in half:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    nodes: list[onnx.NodeProto] = []
    for node in result.graph.node:
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        nodes.append(copy)
        for index, name in enumerate(node.output):
            if name not in half:
                continue
            if node.op_type == "Cast":
                copy.output[index] = f"{name}_rounded"
            else:
                copy.output[index] = f"{name}_exact"
                nodes.append(_cast(f"{name}_exact", f"{name}_rounded", kind))
            nodes.append(_cast(f"{name}_rounded", name, TensorProto.FLOAT))
    replace_nodes(result.graph, nodes, result.graph.initializer)
    return result


def _cast(source: str, target: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"round_{target}", to=to)
