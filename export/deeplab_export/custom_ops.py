# SPDX-License-Identifier: Apache-2.0
"""ONNX files that keep the fused operators as nodes, for the TensorRT plugins, and still run everywhere.

The nodes are of the domain ``deeplab`` and named as the plugins are; ``docs/tensorrt_plugins.md`` has their inputs and
attributes. The same file carries each of them as an ONNX function of standard operators, so a runtime without the
plugins computes the same. `strip_functions` leaves the nodes alone, for a TensorRT that has the plugins.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import onnx
import onnxscript
import torch
from onnx.defs import OpSchema
from onnxscript import optimizer
from torch import Tensor, fx, nn

from deeplab_infer import fuse
from deeplab_infer.errors import ExportError
from deeplab_infer.ops import tensors

from .graph import MAX_UINT8_CLASSES, DeploymentGraph
from .onnx_export import _check, _check_signature, _quiet, _tidy, opset_of

DOMAIN = "deeplab"
DOMAIN_VERSION = 1
DEPTHWISE = "DeeplabDepthwise"
ASPP_DEPTHWISE = "DeeplabAsppDepthwise"
UPSAMPLE_CONCAT_DEPTHWISE = "DeeplabUpsampleConcatDepthwise"
UPSAMPLE_ARGMAX = "DeeplabUpsampleArgmax"

_CLAMPS = {"none": (-math.inf, math.inf), "relu": (0.0, math.inf), "relu6": (0.0, 6.0)}
# The kernels ask whether a map is one pixel; tracing answers "no" for good, so the traced sizes must not reach it.
_SMALLEST_TRACED = 65
_NO_LIMIT = 2**40
_CONVOLUTION_KINDS = {
    "kernel_shape": OpSchema.AttrType.INTS,
    "group": OpSchema.AttrType.INT,
    "min": OpSchema.AttrType.FLOAT,
    "max": OpSchema.AttrType.FLOAT,
}

_domain = onnxscript.values.Opset(DOMAIN, DOMAIN_VERSION)
_standard: Any = onnxscript.opset18

_library = torch.library.Library("deeplab_export", "DEF")
_library.define(
    "depthwise(Tensor x, Tensor weight, Tensor scale, Tensor shift, int stride, int[] rates, str activation)"
    " -> Tensor[]"
)


@torch.library.register_fake("deeplab_export::depthwise", lib=_library)
def _depthwise_shapes(
    x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, stride: int, rates: Sequence[int], activation: str
) -> list[Tensor]:
    stacked = torch.ops.deeplab.depthwise(x, weight, scale, shift, stride, rates, activation)
    return [torch.empty_like(stacked[0]) for _ in rates]


def to_onnx_with_custom_ops(graph: DeploymentGraph, opset: int) -> onnx.ModelProto:
    """Trace a deployment graph with its network on the fused operators; the graph itself stays as it is.

    Args:
        graph: network, normalisation and outputs; open dimensions stay open.
        opset: ONNX operator set of the standard operators, 18 or newer.

    Returns:
        A checked model whose fused operators are nodes of the domain ``deeplab`` version 1, each with its function.

    Raises:
        ExportError: the graph has no fused operator, or fails ONNX's own checks.
    """
    fused = _FusedGraph(graph)
    dynamic = _dynamic_shapes(graph)
    with _quiet():
        program = torch.export.export(fused.eval(), (graph.example(),), dynamic_shapes=dynamic)
        _separate_rates(program.graph)
        _drop_round_trips(program.graph)
        program.graph_module.recompile()
        exported = torch.onnx.export(
            program,
            dynamo=True,
            dynamic_shapes=dynamic,
            input_names=["image"],
            output_names=[graph.signature.output],
            opset_version=opset,
            custom_translation_table=_TRANSLATIONS,
            external_data=False,
            verbose=False,
        )
        assert exported is not None
        # Parameters of the fused operators are stacked and normalised in the graph: TensorRT wants them ready.
        optimizer.fold_constants(exported.model, input_size_limit=_NO_LIMIT, output_size_limit=_NO_LIMIT)
        optimizer.remove_unused_nodes(exported.model)
    model = exported.model_proto
    if not custom_nodes(model):
        raise ExportError(
            f"{graph.config.name} has nothing to fuse: no depthwise convolution; export it without custom operators, "
            "or with labels as output"
        )
    _tidy(model, graph)
    add_functions(model)
    _check(model)
    _check_signature(model, graph, opset)
    return model


def add_functions(model: onnx.ModelProto) -> None:
    """Give every fused operator of a model its function, in place, in the model's own operator set.

    Computed in float32, as the kernels do. Functions that are there are replaced: call it again after a change of the
    operator set.

    Raises:
        ExportError: two nodes whose attributes do not fit one function.
    """
    functions: dict[str, onnx.FunctionProto] = {}
    for node in custom_nodes(model):
        function = _function(node, opset_of(model))
        if functions.setdefault(node.op_type, function) != function:
            raise ExportError(f"{node.op_type} appears with different attributes; one function cannot hold both")
    others = [function for function in model.functions if function.domain != DOMAIN]
    del model.functions[:]
    model.functions.extend([*others, *functions.values()])
    if not any(entry.domain == DOMAIN for entry in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, DOMAIN_VERSION))


def strip_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without the functions of the fused operators: only a runtime with the plugins can run it.

    Args:
        model: from `to_onnx_with_custom_ops`, or read from such a file.

    Returns:
        The model for TensorRT with the plugin library loaded.

    Raises:
        ExportError: the model has no fused operators.
    """
    if not custom_nodes(model):
        raise ExportError(f"the model has no operators of the domain {DOMAIN!r}; export it with custom operators")
    stripped = onnx.ModelProto()
    stripped.CopyFrom(model)
    del stripped.functions[:]
    stripped.functions.extend(function for function in model.functions if function.domain != DOMAIN)
    return stripped


def custom_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The fused operators of a model, in order."""
    return [node for node in model.graph.node if node.domain == DOMAIN]


class _FusedGraph(nn.Module):
    """A deployment graph on the fused operators, the resize and argmax of its labels among them."""

    def __init__(self, graph: DeploymentGraph) -> None:
        super().__init__()
        self.signature = graph.signature
        self.deployed = copy.deepcopy(graph)
        self.deployed.signature = dataclasses.replace(graph.signature, output="logits")
        fuse(self.deployed.network)

    def forward(self, image: Tensor) -> Tensor:
        logits = self.deployed(image)
        if self.signature.output == "logits":
            return logits
        size = image.shape[1:3] if self.signature.input == "uint8" else image.shape[2:4]
        return tensors.upsample_argmax(logits, (size[0], size[1]), self.deployed.config.align_corners)


def _dynamic_shapes(graph: DeploymentGraph) -> tuple[dict[int, Any]] | None:
    axes = (0, 1, 2) if graph.signature.input == "uint8" else (0, 2, 3)
    dims = {"batch": None, "height": _SMALLEST_TRACED, "width": _SMALLEST_TRACED}
    dynamic = {
        axis: torch.export.Dim(name, min=smallest)
        for axis, (name, smallest) in zip(axes, dims.items(), strict=True)
        if graph.signature.dynamic[name]
    }
    return (dynamic,) if dynamic else None


def _separate_rates(graph: fx.Graph) -> None:
    """One tensor a rate instead of all stacked in one, which TensorRT would copy apart again."""
    for node in graph.find_nodes(op="call_function", target=torch.ops.deeplab.depthwise.default):
        value = node.meta["val"]
        with graph.inserting_after(node):
            separate = graph.call_function(torch.ops.deeplab_export.depthwise.default, node.args, node.kwargs)
        separate.meta["val"] = [value[index] for index in range(value.shape[0])]
        for user in list(node.users):
            _take_from(graph, user, separate)
        graph.erase_node(node)


def _take_from(graph: fx.Graph, user: fx.Node, separate: fx.Node) -> None:
    """Let a user of the stacked tensor, which takes it apart along the rates, take from the list of tensors."""
    aten = torch.ops.aten
    axis = user.args[1] if len(user.args) > 1 else user.kwargs.get("dim", 0)
    if axis == 0 and user.target is aten.select.int:
        with graph.inserting_before(user):
            user.replace_all_uses_with(_item(graph, separate, user.args[2]))
    elif axis == 0 and user.target is aten.unbind.int:
        user.replace_all_uses_with(separate)
    else:
        raise ExportError(f"cannot take the rates of a fused convolution apart: {user.format_node()}")
    graph.erase_node(user)


def _item(graph: fx.Graph, separate: fx.Node, index: Any) -> fx.Node:
    item = graph.call_function(operator.getitem, (separate, index))
    item.meta["val"] = separate.meta["val"][index]
    return item


def _drop_round_trips(graph: fx.Graph) -> None:
    """``x.unsqueeze(0)[0]`` is x: the blocks stack the one rate of a single convolution and take it out again."""
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.select.int):
        source = node.args[0]
        if source.target is torch.ops.aten.unsqueeze.default and source.args[1] == node.args[1] == node.args[2] == 0:
            node.replace_all_uses_with(source.args[0])
            graph.erase_node(node)
            if not source.users:
                graph.erase_node(source)


def _schema(name: str, inputs: int, outputs: int, **attributes: OpSchema.AttrType) -> onnxscript.values.Op:
    """An operator as the exporter's recorder wants it described."""
    schema = OpSchema(
        name,
        DOMAIN,
        DOMAIN_VERSION,
        inputs=[OpSchema.FormalParameter(f"input{i}", f"T{i}") for i in range(inputs)],
        outputs=[OpSchema.FormalParameter(f"output{i}", f"U{i}") for i in range(outputs)],
        type_constraints=[
            (
                f"{letter}{i}",
                ["tensor(float)", "tensor(float16)", "tensor(bfloat16)", "tensor(int32)", "tensor(int64)"],
                "",
            )
            for letter, count in (("T", inputs), ("U", outputs))
            for i in range(count)
        ],
        attributes=[OpSchema.Attribute(key, kind) for key, kind in attributes.items()],
    )
    return onnxscript.values.Op(_domain, name, schema)


def _depthwise(x: Any, weight: Any, scale: Any, shift: Any, stride: int, rates: Sequence[int], activation: str) -> Any:
    kinds, common = OpSchema.AttrType, _convolution_attributes(weight, activation)
    if len(rates) > 1:
        if stride != 1:
            raise ExportError(f"several atrous rates with a stride of {stride} have no operator")
        op = _schema(ASPP_DEPTHWISE, 4, len(rates), rates=kinds.INTS, **_CONVOLUTION_KINDS)
        return op(x, weight, scale, shift, rates=list(rates), **common)
    op = _schema(DEPTHWISE, 4, 1, dilations=kinds.INTS, strides=kinds.INTS, pads=kinds.INTS, **_CONVOLUTION_KINDS)
    (rate,) = rates
    pads = [rate * (weight.shape[-1] // 2)] * 4
    return [op(x, weight, scale, shift, dilations=[rate, rate], strides=[stride, stride], pads=pads, **common)]


def _upsample_concat_depthwise(
    x: Any, low: Any, weight: Any, scale: Any, shift: Any, align_corners: bool, rate: int, activation: str
) -> Any:
    kinds, common = OpSchema.AttrType, _convolution_attributes(weight, activation)
    op = _schema(UPSAMPLE_CONCAT_DEPTHWISE, 5, 1, align_corners=kinds.INT, rate=kinds.INT, **_CONVOLUTION_KINDS)
    return op(x, low, weight, scale, shift, align_corners=int(align_corners), rate=rate, **common)


def _convolution_attributes(weight: Any, activation: str) -> dict[str, Any]:
    """Attributes that the operators with a convolution share; weight [R, C, k, k]."""
    low, high = _CLAMPS[activation]
    return {"kernel_shape": [weight.shape[2], weight.shape[3]], "group": weight.shape[1], "min": low, "max": high}


def _upsample_concat(x: Any, low: Any, align_corners: bool) -> Any:
    """Without a depthwise convolution behind it there is nothing to gain over what TensorRT does by itself."""
    size = _standard.Concat(_standard.Shape(x, start=0, end=2), _standard.Shape(low, start=2, end=4), axis=0)
    mode = "align_corners" if align_corners else "half_pixel"
    resized = _standard.Resize(x, None, None, size, mode="linear", coordinate_transformation_mode=mode)
    return _standard.Concat(resized, low, axis=1)


def _upsample_argmax(logits: Any, size: Any, via: Sequence[int], align_corners: bool) -> Any:
    if via:
        raise ExportError("labels over two resizes have no operator")
    kinds = OpSchema.AttrType
    op = _schema(UPSAMPLE_ARGMAX, 2, 1, align_corners=kinds.INT, tensorrt_plugin_shape_input_indices=kinds.INTS)
    labels = op(logits, _size_tensor(size), align_corners=int(align_corners), tensorrt_plugin_shape_input_indices=[1])
    if logits.shape[1] > MAX_UINT8_CLASSES:
        return labels
    # Plugins cannot give uint8, and TensorRT makes it only from floating point.
    return _standard.Cast(_standard.Cast(labels, to=onnx.TensorProto.FLOAT), to=onnx.TensorProto.UINT8)


def _size_tensor(size: Sequence[Any]) -> Any:
    """(H, W), each a number or a scalar in the graph, as one int64 tensor."""
    if all(isinstance(side, int) for side in size):
        return _standard.Constant(value_ints=list(size))
    sides = [
        _standard.Constant(value_ints=[side])
        if isinstance(side, int)
        else _standard.Reshape(side, _standard.Constant(value_ints=[1]))
        for side in size
    ]
    return _standard.Concat(*sides, axis=0)


_TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.deeplab_export.depthwise.default: _depthwise,
    torch.ops.deeplab.upsample_concat_depthwise.default: _upsample_concat_depthwise,
    torch.ops.deeplab.upsample_concat.default: _upsample_concat,
    torch.ops.deeplab.upsample_argmax.default: _upsample_argmax,
}


def _function(node: onnx.NodeProto, opset: int) -> onnx.FunctionProto:
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    signature, body = _BODIES[node.op_type](attributes)
    header = f'<opset_import: ["" : {opset}], domain: "{DOMAIN}">'
    text = f"{header} {node.op_type} <{', '.join(attributes)}> {signature} {{ {body} }}"
    return onnx.parser.parse_function(text)


def _depthwise_body(attributes: dict[str, Any]) -> tuple[str, str]:
    conv = "dilations: ints = @dilations, strides: ints = @strides, pads: ints = @pads, group: int = @group"
    body = f"images = Cast<to = 1>(x) {_convolution('images', '', conv)} y = CastLike(clamped, x)"
    return "(x, weight, scale, shift) => (y)", body


def _aspp_body(attributes: dict[str, Any]) -> tuple[str, str]:
    lines = ["images = Cast<to = 1>(x)"]
    for index, rate in enumerate(attributes["rates"]):
        here = f"_{index}"
        lines.append(f"at{here} = Constant<value_ints = [{index}]>()")
        lines += [f"{name}{here} = Gather<axis = 0>({name}, at{here})" for name in ("weight", "scale", "shift")]
        lines.append(_convolution("images", here, _same_size(attributes, rate)))
        lines.append(f"y{here} = CastLike(clamped{here}, x)")
    outputs = ", ".join(f"y_{index}" for index in range(len(attributes["rates"])))
    return f"(x, weight, scale, shift) => ({outputs})", " ".join(lines)


def _upsample_concat_body(attributes: dict[str, Any]) -> tuple[str, str]:
    resize = _resize("x", "size", attributes["align_corners"])
    body = f"""
        batch_channels = Shape<start = 0, end = 2>(x)
        height_width = Shape<start = 2, end = 4>(low)
        size = Concat<axis = 0>(batch_channels, height_width)
        {resize}
        low32 = Cast<to = 1>(low)
        images = Concat<axis = 1>(resized, low32)
        {_convolution("images", "", _same_size(attributes, attributes["rate"]))}
        y = CastLike(clamped, x)
    """
    return "(x, low, weight, scale, shift) => (y)", body


def _upsample_argmax_body(attributes: dict[str, Any]) -> tuple[str, str]:
    body = f"""
        batch_channels = Shape<start = 0, end = 2>(logits)
        height_width = Cast<to = 7>(size)
        whole_size = Concat<axis = 0>(batch_channels, height_width)
        {_resize("logits", "whole_size", attributes["align_corners"])}
        classes = ArgMax<axis = 1, keepdims = 0>(resized)
        labels = Cast<to = 6>(classes)
    """
    return "(logits, size) => (labels)", body


def _convolution(images: str, here: str, attributes: str) -> str:
    """Clamped scale * conv + shift of one rate; weight [1, C, k, k], scale and shift [1, C]."""
    return f"""
        kernels{here} = Transpose<perm = [1, 0, 2, 3]>(weight{here})
        sums{here} = Conv<{attributes}>({images}, kernels{here})
        per_channel{here} = Constant<value_ints = [1, -1, 1, 1]>()
        scales{here} = Reshape(scale{here}, per_channel{here})
        shifts{here} = Reshape(shift{here}, per_channel{here})
        scaled{here} = Mul(sums{here}, scales{here})
        shifted{here} = Add(scaled{here}, shifts{here})
        smallest{here} = Constant<value_float: float = @min>()
        largest{here} = Constant<value_float: float = @max>()
        clamped{here} = Clip(shifted{here}, smallest{here}, largest{here})
    """


def _same_size(attributes: dict[str, Any], rate: int) -> str:
    pad = rate * (attributes["kernel_shape"][0] // 2)
    return f"dilations = [{rate}, {rate}], pads = [{pad}, {pad}, {pad}, {pad}], group: int = @group"


def _resize(images: str, size: str, align_corners: int) -> str:
    mode = "align_corners" if align_corners else "half_pixel"
    return f"""
        {images}32 = Cast<to = 1>({images})
        resized = Resize<mode = "linear", coordinate_transformation_mode = "{mode}">({images}32, , , {size})
    """


_BODIES: dict[str, Callable[[dict[str, Any]], tuple[str, str]]] = {
    DEPTHWISE: _depthwise_body,
    ASPP_DEPTHWISE: _aspp_body,
    UPSAMPLE_CONCAT_DEPTHWISE: _upsample_concat_body,
    UPSAMPLE_ARGMAX: _upsample_argmax_body,
}
