# SPDX-License-Identifier: Apache-2.0
"""Eight-bit graphs: where Q/DQ stand, what the scales and weights are, what a quantised layer computes."""

import math

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from deeplab_export.onnx_export import opset_of
from deeplab_export.precision import choose_precision
from deeplab_export.quantize import layers, quantisable, quantise
from onnx import TensorProto, numpy_helper

from deeplab_infer.errors import ExportError

from ..networks import random_images
from .tiny import DENSE, SIZE, SPARED, constants, consumers, producers, run, types

LARGEST = {"int8": 127.0, "fp8": 448.0}
KINDS = {"int8": TensorProto.INT8, "fp8": TensorProto.FLOAT8E4M3FN}
STORED = {"int8": np.int8, "fp8": ml_dtypes.float8_e4m3fn}


@pytest.fixture(scope="session")
def magnitudes(tiny):
    return tiny.magnitudes()


def quantised(tiny, magnitudes, kind="int8", **options):
    model = quantise(tiny.graph, magnitudes, KINDS[kind], **options)
    opset = next(entry for entry in model.opset_import if entry.domain == "")
    opset.version = 19  # float8 is of this one
    return model


def convolutions(model):
    """Nodes by layer; a quantised weight's name is longer than the original's."""
    nodes = (node for node in model.graph.node if node.op_type == "Conv")
    return {node.input[1].removeprefix("network.").partition(".weight")[0]: node for node in nodes}


def pairs(model):
    """(tensor, scale) of every activation that passes through eight bits."""
    known = constants(model)
    made_by = producers(model)
    found = []
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in made_by:
            quantise_node = made_by[node.input[0]]
            assert quantise_node.op_type == "QuantizeLinear"
            assert quantise_node.input[1:] == node.input[1:]
            found.append((quantise_node.input[0], float(known[node.input[1]])))
    return found


def comes_from(model, name):
    """Whether a tensor is behind DQ, and the tensor before Q."""
    made_by = producers(model)
    if name not in made_by or made_by[name].op_type != "DequantizeLinear":
        return False, name
    source = made_by[name].input[0]
    return True, made_by[source].input[0] if source in made_by else source


@pytest.mark.parametrize("kind", KINDS)
def test_dense_convolutions_are_quantised_and_nothing_else(tiny, magnitudes, kind):
    assert quantisable(tiny.graph) == list(DENSE)
    model = quantised(tiny, magnitudes, kind)
    onnx.checker.check_model(model, full_check=True)
    original = layers(tiny.graph)
    for name, node in convolutions(model).items():
        sides = [comes_from(model, source) for source in node.input[:2]]
        assert [side[0] for side in sides] == [name in DENSE] * 2, name
        assert sides[0][1] == original[name].input[0]
        assert node.input[2:] == original[name].input[2:]  # the bias is added in the accumulator
        assert node.attribute == original[name].attribute
    assert set(convolutions(model)) == set(DENSE) | set(SPARED)
    # Every DQ feeds what it was made for.
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            users = {user.op_type for user in consumers(model, node.output[0])}
            assert users
            assert users <= {"Conv", "Add", "Concat"}


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_stands_between_a_convolution_and_its_activation(tiny, magnitudes, kind):
    model = quantised(tiny, magnitudes, kind)
    behind = {
        name: {user.op_type for user in consumers(model, node.output[0])} for name, node in convolutions(model).items()
    }
    assert behind == {
        "stem": {"Relu"},
        "depthwise": {"Clip"},
        "narrow": {"QuantizeLinear"},  # linear: of the next convolution and, the same bytes, of the shortcut
        "block.first": {"Relu"},
        "block.second": {"Add"},
        "twin.main": {"QuantizeLinear"},  # an addition's other operand
        "twin.shortcut": {"Add"},
        "pool": {"Relu"},
        "branch": {"Relu"},
        "project": {"Relu"},
        "classifier": set(),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("keep", "quantised_operand"),
    [
        ((), ["conv2d_2", "conv2d_5"]),
        # The last one has to wait for the other and cannot be fused with the addition.
        (("twin.shortcut",), ["conv2d_2", None]),
        (("twin.main",), ["conv2d_2", "conv2d_5"]),
        (("twin.main", "twin.shortcut"), ["conv2d_2", None]),
        # Nothing fuses with a convolution in floating point.
        (("block.second",), [None, "conv2d_5"]),
    ],
)
def test_one_operand_of_a_residual_addition_is_quantised(tiny, magnitudes, keep, quantised_operand):
    model = quantised(tiny, magnitudes, keep=keep)
    found = []
    for node in model.graph.node:
        if node.op_type == "Add":
            sides = [comes_from(model, name) for name in node.input]
            assert sum(side[0] for side in sides) <= 1
            found.append(next((tensor for is_quantised, tensor in sides if is_quantised), None))
    assert found == quantised_operand


@pytest.mark.parametrize("kind", KINDS)
def test_a_concat_copies_bytes_of_one_scale(tiny, magnitudes, kind):
    reach = {**magnitudes, "cat": magnitudes["cat"] * 3}  # so that no two scales are equal by chance
    model = quantised(tiny, reach, kind)
    concat = next(node for node in model.graph.node if node.op_type == "Concat")
    known, made_by = constants(model), producers(model)
    restored = [made_by[name] for name in (*concat.input, convolutions(model)["project"].input[0])]
    assert {node.op_type for node in restored} == {"DequantizeLinear"}
    assert {float(known[node.input[1]]) for node in restored} == {float(np.float32(reach["cat"] / LARGEST[kind]))}
    # A tensor that is also quantised for a convolution of its own keeps its finer scale there.
    own = made_by[convolutions(model)["branch"].input[0]]
    assert comes_from(model, own.output[0])[1] == comes_from(model, concat.input[0])[1] == "relu_2"
    assert float(known[own.input[1]]) == float(np.float32(reach["relu_2"] / LARGEST[kind]))
    # Where the concat's user stays in floating point, its inputs do.
    kept = quantised(tiny, reach, kind, keep=["project"])
    concat = next(node for node in kept.graph.node if node.op_type == "Concat")
    assert not any(comes_from(kept, name)[0] for name in concat.input)


@pytest.mark.parametrize("half_scales", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_activation_scales_are_the_magnitude_over_the_largest_value(tiny, magnitudes, kind, half_scales):
    model = quantised(tiny, magnitudes, kind, half_scales=half_scales)
    found = pairs(model)
    assert len(found) == len(set(found))  # one pair a tensor and scale
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)
    around_concat = {("expand", magnitudes["cat"]), ("relu_2", magnitudes["cat"]), ("relu_4", magnitudes["cat"])}
    # float32's or float16's rounding of the scale.
    roundoff = 2.0**-11 if half_scales else 2.0**-24
    for tensor, scale in found:
        wanted = {magnitudes[tensor]} | {magnitude for name, magnitude in around_concat if name == tensor}
        assert any(scale == pytest.approx(one / LARGEST[kind], rel=roundoff) for one in wanted), tensor
        if half_scales:
            assert float(np.float16(scale)) == scale
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = constants(model)[node.input[2]]
            assert zero.dtype == STORED[kind]
            assert not zero.astype(np.float32).any()


@pytest.mark.parametrize("half_scales", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_have_one_symmetric_scale_a_channel(tiny, magnitudes, kind, half_scales):
    model = quantised(tiny, magnitudes, kind, half_scales=half_scales)
    known, made_by, state = constants(model), producers(model), tiny.model.state_dict()
    for name, node in convolutions(model).items():
        if name in SPARED:
            continue
        restore = made_by[node.input[1]]
        assert [(attribute.name, attribute.i) for attribute in restore.attribute] == [("axis", 0)]
        stored, scales, zeros = (known[source] for source in restore.input)
        original = state[f"{name}.weight"].numpy().astype(np.float64)
        assert stored.dtype == zeros.dtype == STORED[kind]
        assert stored.shape == original.shape
        assert scales.shape == zeros.shape == original.shape[:1]
        peaks = np.abs(original).reshape(len(original), -1).max(1)
        np.testing.assert_allclose(scales, peaks / LARGEST[kind], rtol=2.0**-11 if half_scales else 2.0**-24)
        if half_scales:
            assert np.array_equal(scales.astype(np.float16).astype(np.float32), scales)
        values = stored.astype(np.float64)
        assert np.abs(values).max() <= LARGEST[kind]
        error = np.abs(values * scales[:, None, None, None] - original)
        # Half a step: of an integer 1, of float8 with its 4 significant bits 2**-4 of the value, 2**-10 near zero. A
        # scale rounded down clips the peak by no more than the scale was rounded.
        magnitude = np.abs(original) / scales[:, None, None, None]
        step = np.ones_like(magnitude) if kind == "int8" else np.maximum(2.0**-3 * magnitude, 2.0**-9)
        assert (error <= (0.5 + 1e-6) * step * scales[:, None, None, None]).all(), name


def test_hostile_channels_do_not_touch_the_others(tiny, magnitudes):
    """One dead and one huge output channel."""
    graph = onnx.ModelProto()
    graph.CopyFrom(tiny.graph)
    name = layers(graph)["branch"].input[1]
    tensor = next(tensor for tensor in graph.graph.initializer if tensor.name == name)
    values = numpy_helper.to_array(tensor).copy()
    values[0], values[1] = 0, values[1] * 1e4
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    for half_scales in (False, True):
        model = quantise(graph, magnitudes, TensorProto.INT8, half_scales=half_scales)
        known = constants(model)
        stored, scales = known[f"{name}_quantised"], known[f"{name}_scales"]
        assert (scales > 0).all() and np.isfinite(scales).all()
        assert not stored[0].any()
        assert (np.abs(stored[2:].astype(int)).reshape(len(stored) - 2, -1).max(1) == 127).all()


def test_scales_beyond_float16_raise_instead_of_overflowing(tiny, magnitudes):
    reach = {**magnitudes, "relu_5": 127 * 70000.0}
    quantise(tiny.graph, reach, TensorProto.INT8)
    with pytest.raises(ExportError, match=r"relu_5 .*float16.*fp32"):
        quantise(tiny.graph, reach, TensorProto.INT8, half_scales=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", ["stem", "block.second", "branch", "classifier"])
def test_a_quantised_layer_computes_what_a_simulation_does(tiny, magnitudes, layer, kind):
    model = quantised(tiny, magnitudes, kind)
    node = convolutions(model)[layer]
    source = comes_from(model, node.input[0])[1]
    x, found = run(model, random_images(1, *SIZE), source, node.output[0])
    scale = np.float32(magnitudes[source] / LARGEST[kind])

    def eight_bits(values):
        values = np.clip(values, -128 if kind == "int8" else -448, LARGEST[kind])
        return (np.rint(values) if kind == "int8" else values.astype(ml_dtypes.float8_e4m3fn)).astype(np.float64)

    module = tiny.model.get_submodule(layer)
    weight = module.weight.detach().numpy().astype(np.float64)
    scales = (np.abs(weight).reshape(len(weight), -1).max(1) / LARGEST[kind]).astype(np.float32)[:, None, None, None]
    weight = eight_bits(weight / scales) * scales.astype(np.float64)
    x = eight_bits(x / scale) * np.float64(scale)
    arguments = (torch.from_numpy(x), torch.from_numpy(weight))
    options = {"stride": module.stride, "padding": module.padding}
    expected = torch.nn.functional.conv2d(*arguments, module.bias.detach().double(), **options).numpy()
    # Only the float32 products and sums differ: one roundoff each of the sum of magnitudes.
    reach = torch.nn.functional.conv2d(
        *(value.abs() for value in arguments), module.bias.detach().double().abs(), **options
    )
    terms = weight[0].size + 3
    assert (np.abs(found - expected) <= terms * 2.0**-24 * reach.numpy()).all()


@pytest.mark.parametrize(("kind", "bits"), [("int8", 8), ("fp8", 4)])
def test_the_whole_graph_is_as_far_off_as_its_bits_say(tiny, magnitudes, kind, bits):
    images = random_images(1, *SIZE)
    exact = run(tiny.graph, images)
    found = run(quantised(tiny, magnitudes, kind), images)
    # A random image is within the reach of the streets (pixels are 0..255) but activations may be clipped: the bound
    # only says that the graph still computes the same function. int8 steps are 1/127 of the peak, some 4 standard
    # deviations; float8 has 4 significant bits. Both sides of each layer are rounded, once each.
    step = {"int8": 4 / 127, "fp8": 2.0**-bits}[kind]
    bound = 2 * step * math.sqrt(2 * len(DENSE))
    assert np.sqrt(np.mean((found - exact) ** 2) / np.mean(exact**2)) < bound
    assert not np.array_equal(found, exact)


def test_kept_layers_are_as_they_were(tiny, magnitudes):
    keep = ("stem", "branch", "depthwise")
    model = quantised(tiny, magnitudes, keep=keep)
    original = layers(tiny.graph)
    for name, node in convolutions(model).items():
        if name in keep:
            assert node.input[1] == original[name].input[1]
            assert not comes_from(model, node.input[0])[0]
    # The first layer's input is of nobody else: it is not quantised at all.
    assert "permute" not in {tensor for tensor, _ in pairs(model)}
    assert opset_of(model) == 19


def test_one_layer_alone(tiny, magnitudes):
    model = quantised(tiny, magnitudes, keep=[name for name in DENSE if name != "classifier"])
    assert [tensor for tensor, _ in pairs(model)] == ["relu_5"]
    assert types(model)["logits"] == TensorProto.FLOAT


def test_no_weight_is_left_over_and_the_given_graph_is_left_alone(tiny, magnitudes):
    before = tiny.graph.SerializeToString()
    model = quantised(tiny, magnitudes)
    used = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= used
    assert len({tensor.name for tensor in model.graph.initializer}) == len(model.graph.initializer)
    assert tiny.graph.SerializeToString() == before
    # The dense weights take a quarter of their bytes, scales and zero points of every channel aside.
    assert model.ByteSize() < tiny.graph.ByteSize()


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (("classifer",), "no layer 'classifer' in this model; there are stem, depthwise, narrow"),
        (DENSE, "every layer is kept in higher precision"),
        ((*DENSE, *SPARED), "every layer is kept in higher precision"),
    ],
)
def test_layers_to_keep_that_make_no_sense(tiny, magnitudes, keep, message):
    with pytest.raises(ExportError, match=message):
        quantise(tiny.graph, magnitudes, TensorProto.INT8, keep=keep)


def test_magnitudes_of_another_graph_are_refused(tiny, magnitudes):
    missing = {name: value for name, value in magnitudes.items() if name != "relu_1"}
    with pytest.raises(ExportError, match="tensor relu_1 was not calibrated; calibrate the same graph"):
        quantise(tiny.graph, missing, TensorProto.INT8)
    with pytest.raises(ExportError, match="was not calibrated"):
        quantise(tiny.graph, {}, TensorProto.INT8)
    # What nothing quantised needs may be missing.
    quantise(tiny.graph, missing, TensorProto.INT8, keep=["block.second"])


@pytest.mark.parametrize("rest", ["fp32", "fp16"])
@pytest.mark.parametrize("kind", KINDS)
def test_through_the_converter_the_graph_is_whole(tiny, kind, rest):
    model = tiny.convert(choose_precision(kind, rest))
    onnx.checker.check_model(model, full_check=True)
    scales = [values for name, values in constants(model).items() if "_scale" in name]
    assert {values.dtype.name for values in scales} == {{"fp32": "float32", "fp16": "float16"}[rest]}
    assert all((values > 0).all() and np.isfinite(values).all() for values in scales)
