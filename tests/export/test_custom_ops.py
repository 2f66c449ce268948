# SPDX-License-Identifier: Apache-2.0
"""Files with the fused operators as nodes: they run without plugins, and say what the plugins need."""

import collections
import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from deeplab_export.custom_ops import (
    ASPP_DEPTHWISE,
    DEPTHWISE,
    DOMAIN,
    UPSAMPLE_ARGMAX,
    UPSAMPLE_CONCAT_DEPTHWISE,
    add_functions,
    custom_nodes,
    strip_functions,
    to_onnx_with_custom_ops,
)
from deeplab_export.graph import DeploymentGraph, Signature

from deeplab_infer.errors import ExportError

from ..networks import STREETS, make_network, random_images, reference_logits
from .conftest import FAMILIES

FUSABLE = ("v3plus-r18-align-corners", "smp-like", "xception41", "mobilenet")
SHAPES = ((1, 64, 96), (2, 33, 65), (1, 97, 50))


def export(model, opset=18, **signature):
    return to_onnx_with_custom_ops(DeploymentGraph(model, Signature(**signature)), opset)


def run(exported, images):
    session = onnxruntime.InferenceSession(exported.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": images})[0]


def count(exported):
    return collections.Counter(node.op_type for node in custom_nodes(exported))


def attributes(node):
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def relative_error(found, expected):
    return np.abs(found - expected).max() / (expected.max() - expected.min())


@pytest.fixture(scope="module")
def separable():
    """ASPP and decoder of depthwise-separable convolutions."""
    return make_network(*FAMILIES["v3plus-r18"])


@pytest.fixture(scope="module")
def exported(separable):
    return export(separable)


@pytest.mark.parametrize("family", FUSABLE)
def test_every_family_runs_without_plugins(family):
    model = make_network(*FAMILIES[family])
    exported = export(model)
    assert custom_nodes(exported)
    # fp32 sums in another order: some 1e-7 a layer, over a few dozen layers.
    for shape in SHAPES:
        images = random_images(*shape)
        assert relative_error(run(exported, images), reference_logits(model, images)) < 2e-5


def test_one_pixel_wide_images_run_too(separable, exported):
    # Traced sizes are larger; nothing of them may be left in the graph.
    for shape in ((1, 1, 1), (1, 8, 9), (3, 1, 70)):
        images = random_images(*shape)
        assert np.allclose(run(exported, images), reference_logits(separable, images), atol=1e-4)


def test_nodes_domains_and_attributes(separable, exported):
    assert count(exported) == {ASPP_DEPTHWISE: 1, UPSAMPLE_CONCAT_DEPTHWISE: 1, DEPTHWISE: 1}
    assert {entry.domain: entry.version for entry in exported.opset_import} == {"": 18, DOMAIN: 1}
    assert {(function.domain, function.name) for function in exported.functions} == {
        (DOMAIN, name) for name in count(exported)
    }
    aspp, concat, depthwise = (
        next(node for node in custom_nodes(exported) if node.op_type == name)
        for name in (ASPP_DEPTHWISE, UPSAMPLE_CONCAT_DEPTHWISE, DEPTHWISE)
    )
    channels = separable.aspp.branches[0].conv.in_channels
    assert len(aspp.output) == 3
    assert attributes(aspp) == {
        "rates": [12, 24, 36], "kernel_shape": [3, 3], "group": channels, "min": 0.0, "max": np.inf,
    }  # fmt: skip
    assert attributes(concat)["align_corners"] == 0
    assert attributes(concat)["group"] == separable.decoder.convs[0].depthwise.conv.in_channels
    assert attributes(depthwise)["dilations"] == [1, 1] and attributes(depthwise)["pads"] == [1, 1, 1, 1]
    types = {tensor.name: tensor for tensor in exported.graph.initializer}
    for node, first, rates in ((aspp, 1, 3), (concat, 2, 1), (depthwise, 1, 1)):
        weight, scale, shift = (types[name] for name in node.input[first:])
        group = attributes(node)["group"]
        assert list(weight.dims) == [rates, group, 3, 3]
        assert list(scale.dims) == list(shift.dims) == [rates, group]
        assert {tensor.data_type for tensor in (weight, scale, shift)} == {onnx.TensorProto.FLOAT}


def test_every_output_of_the_aspp_goes_straight_to_its_convolution(exported):
    (aspp,) = [node for node in custom_nodes(exported) if node.op_type == ASPP_DEPTHWISE]
    for name in aspp.output:
        assert [node.op_type for node in exported.graph.node if name in node.input] == ["Conv"]
    operators = collections.Counter(node.op_type for node in exported.graph.node)
    # Two gathers lay out the pooled branch's bias (optimize/fold_image_pooling.py); none takes the ASPP apart.
    assert operators["Gather"] == 2 and not operators["Split"]


def test_dimensions_stay_open_or_fixed_as_asked(separable, exported):
    dims = exported.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param for dim in dims[:3]] == ["batch", "height", "width"]
    fixed = export(separable, batch=(1, 1, 1), height=(64, 64, 64), width=(96, 96, 96))
    assert [dim.dim_value for dim in fixed.graph.input[0].type.tensor_type.shape.dim] == [1, 64, 96, 3]
    images = random_images(1, 64, 96)
    assert relative_error(run(fixed, images), reference_logits(separable, images)) < 2e-5


@pytest.mark.parametrize("align_corners", [False, True])
def test_labels_are_one_operator(align_corners):
    model = make_network(STREETS, [f"align_corners={str(align_corners).lower()}"])
    exported = export(model, output="labels")
    assert count(exported)[UPSAMPLE_ARGMAX] == 1
    (node,) = [node for node in custom_nodes(exported) if node.op_type == UPSAMPLE_ARGMAX]
    assert attributes(node) == {"align_corners": int(align_corners), "tensorrt_plugin_shape_input_indices": [1]}
    assert not [node for node in exported.graph.node if node.op_type in ("Resize", "ArgMax")]
    for shape in SHAPES:
        images = random_images(*shape)
        labels = run(exported, images)
        assert labels.dtype == np.uint8
        assert labels.shape == shape
        full = F.interpolate(
            torch.from_numpy(reference_logits(model, images)),
            size=shape[1:],
            mode="bilinear",
            align_corners=align_corners,
        )
        top = full.topk(2, 1).values
        clear = ((top[:, 0] - top[:, 1]) > 1e-4 * (full.max() - full.min())).numpy()
        assert (labels == full.argmax(1).numpy())[clear].all()
        assert clear.mean() > 0.5


def test_a_dense_decoder_keeps_standard_operators():
    model = make_network(STREETS, ["decoder_separable=false", "align_corners=true"])
    exported = export(model)
    assert set(count(exported)) == {DEPTHWISE, ASPP_DEPTHWISE}
    for shape in SHAPES:
        images = random_images(*shape)
        assert relative_error(run(exported, images), reference_logits(model, images)) < 2e-5


def test_labels_with_one_open_side(streets):
    exported = export(streets, output="labels", height=(40, 40, 40))
    assert run(exported, random_images(1, 40, 53)).shape == (1, 40, 53)


def test_labels_of_fixed_and_float_inputs(streets):
    exported = export(streets, input="float", output="labels", height=(40, 40, 40), width=(50, 50, 50))
    pixels = np.random.default_rng(0).standard_normal((2, 3, 40, 50)).astype(np.float32)
    with torch.inference_mode():
        logits = streets(torch.from_numpy(pixels))
    full = F.interpolate(logits, size=(40, 50), mode="bilinear", align_corners=streets.config.align_corners)
    assert (run(exported, pixels) == full.argmax(1).numpy()).mean() > 0.999


def test_more_than_256_classes_give_int32():
    model = make_network(STREETS, ["num_classes=300"])
    with torch.no_grad():
        model.classifier.bias[299] = 1000
    exported = export(model, output="labels", batch=(1, 1, 1), height=(32, 32, 32), width=(32, 32, 32))
    labels = run(exported, random_images(1, 32, 32))
    assert labels.dtype == np.int32
    assert (labels == 299).all()


def test_stripped_models_keep_the_nodes_only(exported):
    before = exported.SerializeToString()
    stripped = strip_functions(exported)
    assert exported.SerializeToString() == before
    assert not stripped.functions
    assert stripped.graph == exported.graph
    onnx.checker.check_model(stripped)
    with pytest.raises(Exception, match=f"{DOMAIN}.*Deeplab|Deeplab.*not a registered"):
        run(stripped, random_images(1, 32, 32))


def test_functions_can_be_given_back_in_another_operator_set(separable, exported):
    stripped = strip_functions(exported)
    next(entry for entry in stripped.opset_import if not entry.domain).version = 20
    add_functions(stripped)
    assert {entry.version for function in stripped.functions for entry in function.opset_import} == {20}
    images = random_images(1, 40, 40)
    assert relative_error(run(stripped, images), reference_logits(separable, images)) < 2e-5


@pytest.mark.parametrize("opset", [19, 21])
def test_later_operator_sets(separable, opset):
    exported = export(separable, opset)
    assert {entry.domain: entry.version for entry in exported.opset_import} == {"": opset, DOMAIN: 1}
    images = random_images(1, 40, 40)
    assert relative_error(run(exported, images), reference_logits(separable, images)) < 2e-5


def test_functions_compute_half_precision_maps_in_float32():
    """As the kernels do: parameters and sums in float32, one rounding at the end."""
    nodes = [
        onnx.helper.make_node(
            DEPTHWISE, ["x", "weight", "scale", "shift"], ["y"], domain=DOMAIN, dilations=[2, 2], strides=[1, 1],
            pads=[2, 2, 2, 2], kernel_shape=[3, 3], group=4, min=0.0, max=6.0,
        )
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    values = {
        "weight": rng.standard_normal((1, 4, 3, 3)),
        "scale": rng.standard_normal((1, 4)),
        "shift": rng.standard_normal((1, 4)),
    }
    values = {name: value.astype(np.float32) for name, value in values.items()}
    half, shape = onnx.TensorProto.FLOAT16, ["n", 4, "h", "w"]
    graph = onnx.helper.make_graph(
        nodes,
        "half",
        [onnx.helper.make_tensor_value_info("x", half, shape)],
        [onnx.helper.make_tensor_value_info("y", half, shape)],
        [onnx.numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    add_functions(model)
    onnx.checker.check_model(model, full_check=True)
    x = rng.standard_normal((1, 4, 9, 11)).astype(np.float16)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    tensors = {name: torch.from_numpy(value).double() for name, value in values.items()}
    conv = F.conv2d(torch.from_numpy(x).double(), tensors["weight"][0][:, None], padding=2, dilation=2, groups=4)
    exact = (conv * tensors["scale"].view(1, 4, 1, 1) + tensors["shift"].view(1, 4, 1, 1)).clamp(0, 6).numpy()
    assert y.dtype == np.float16
    # Half a unit in the last place of 11 bits, and what float32 sums differ.
    assert (np.abs(y - exact) <= np.maximum(exact, 2**-14) * 2**-11 * 1.01 + 1e-5).all()


def test_the_callers_network_stays_as_it_is(separable):
    graph = DeploymentGraph(separable, Signature())
    before = copy.deepcopy(graph.state_dict())
    to_onnx_with_custom_ops(graph, 18)
    assert not any(getattr(module, "fused", False) is True for module in graph.network.modules())
    assert all(torch.equal(value, before[name]) for name, value in graph.state_dict().items())


def test_a_network_without_anything_to_fuse_is_refused_unless_labels_are_wanted():
    model = make_network(*FAMILIES["v3-r18"])
    with pytest.raises(ExportError, match="nothing to fuse"):
        export(model)
    assert count(export(model, output="labels")) == {UPSAMPLE_ARGMAX: 1}


def test_stripping_a_plain_model_is_refused():
    model = onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], []))
    with pytest.raises(ExportError, match="no operators of the domain 'deeplab'"):
        strip_functions(model)


def test_two_different_bodies_for_one_name_are_refused(exported):
    twice = copy.deepcopy(exported)
    (aspp,) = [node for node in custom_nodes(twice) if node.op_type == ASPP_DEPTHWISE]
    other = copy.deepcopy(aspp)
    next(attribute for attribute in other.attribute if attribute.name == "rates").ints[:] = [1, 2, 3]
    twice.graph.node.append(other)
    with pytest.raises(ExportError, match="different attributes"):
        add_functions(twice)
