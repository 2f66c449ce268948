# SPDX-License-Identifier: Apache-2.0
"""Exported graphs: what they compute, what is in them, what is refused."""

import collections
import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from deeplab_export import export_onnx

from deeplab_infer import fuse
from deeplab_infer.errors import ExportError
from deeplab_infer.manifest import read_onnx_manifest

from ..networks import make_network, random_images, reference_logits
from .conftest import FAMILIES


def run(path, images):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": images})[0]


def operators(path):
    return collections.Counter(node.op_type for node in onnx.load(str(path)).graph.node)


def relative_error(found, expected):
    return np.abs(found - expected).max() / (expected.max() - expected.min())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_at_several_sizes(tmp_path, family):
    model = make_network(*FAMILIES[family])
    export_onnx(model, tmp_path / "model.onnx")
    # fp32 sums in another order: some 1e-7 a layer, over a few dozen layers.
    for shape in ((1, 64, 96), (2, 33, 65), (1, 97, 50)):
        images = random_images(*shape)
        assert relative_error(run(tmp_path / "model.onnx", images), reference_logits(model, images)) < 2e-5


def test_a_fused_network_is_exported_as_plain_convolutions(tmp_path, streets):
    fused = copy.deepcopy(streets)
    assert fuse(fused).fused
    export_onnx(fused, tmp_path / "model.onnx", height=64, width=96)
    assert "Conv" in operators(tmp_path / "model.onnx")
    images = random_images(1, 64, 96)
    assert relative_error(run(tmp_path / "model.onnx", images), reference_logits(streets, images)) < 2e-5
    assert fused.aspp.fused  # the caller's network stays as it was


def test_fp16_is_explicit_with_float32_islands(tmp_path, streets):
    export_onnx(streets, tmp_path / "half.onnx", precision="fp16")
    graph = onnx.load(str(tmp_path / "half.onnx")).graph
    types = collections.Counter(i.data_type for i in graph.initializer if len(i.dims) == 4)
    assert set(types) == {onnx.TensorProto.FLOAT16}
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    known = {
        v.name: v.type.tensor_type.elem_type
        for v in onnx.shape_inference.infer_shapes(onnx.load(str(tmp_path / "half.onnx"))).graph.value_info
    }
    mean = next(node for node in graph.node if node.op_type == "ReduceMean")
    assert known[mean.input[0]] == known[mean.output[0]] == onnx.TensorProto.FLOAT
    images = random_images(1, 64, 96)
    # 11 significant bits through about sixty layers.
    assert relative_error(run(tmp_path / "half.onnx", images), reference_logits(streets, images)) < 2e-2


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_labels_are_the_argmax_of_full_size_logits(tmp_path, align_corners, precision):
    model = make_network("deeplabv3plus_mobilenetv2_streets", [f"align_corners={str(align_corners).lower()}"])
    export_onnx(model, tmp_path / "labels.onnx", output="labels", precision=precision)
    images = random_images(2, 50, 67)
    labels = run(tmp_path / "labels.onnx", images)
    assert labels.dtype == np.uint8
    assert labels.shape == (2, 50, 67)
    full = F.interpolate(
        torch.from_numpy(reference_logits(model, images)), size=(50, 67), mode="bilinear", align_corners=align_corners
    )
    top = full.topk(2, 1).values
    clear = ((top[:, 0] - top[:, 1]) > (2e-2 if precision == "fp16" else 1e-4) * (full.max() - full.min())).numpy()
    assert (labels == full.argmax(1).numpy())[clear].all()
    assert clear.mean() > 0.5


def test_more_than_256_classes_give_int32(tmp_path):
    model = make_network("deeplabv3plus_mobilenetv2_streets", ["num_classes=300"])
    with torch.no_grad():
        model.classifier.bias[299] = 1000
    export_onnx(model, tmp_path / "many.onnx", output="labels", batch=1, height=32, width=32)
    labels = run(tmp_path / "many.onnx", random_images(1, 32, 32))
    assert labels.dtype == np.int32
    assert (labels == 299).all()


def test_bgr_networks_take_rgb_pixels(tmp_path):
    model = make_network("deeplabv3plus_mobilenetv2_streets", ["channel_order=bgr", "mean=[10, 100, 200]"])
    export_onnx(model, tmp_path / "bgr.onnx")
    images = random_images(1, 64, 64)
    assert relative_error(run(tmp_path / "bgr.onnx", images), reference_logits(model, images)) < 2e-5


def test_float_input_is_normalised_outside(tmp_path, streets):
    export_onnx(streets, tmp_path / "float.onnx", input="float")
    x = np.random.default_rng(0).standard_normal((2, 3, 40, 56)).astype(np.float32)
    with torch.inference_mode():
        expected = streets(torch.from_numpy(x)).numpy()
    assert relative_error(run(tmp_path / "float.onnx", x), expected) < 2e-5


def test_fixed_shapes_leave_no_shape_arithmetic(tmp_path, streets):
    export_onnx(streets, tmp_path / "fixed.onnx", batch=1, height=64, width=96, output="labels")
    found = operators(tmp_path / "fixed.onnx")
    assert not {"Shape", "Gather", "Slice", "ConstantOfShape", "Range", "Constant"} & set(found)
    assert found["Unsqueeze"] == 1  # the pooled branch's bias, [N, C] to [N, C, 1, 1]
    dims = onnx.load(str(tmp_path / "fixed.onnx")).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in dims] == [1, 64, 96, 3]


def test_graphs_are_clean(tmp_path, streets):
    export_onnx(streets, tmp_path / "model.onnx")
    model = onnx.load(str(tmp_path / "model.onnx"))
    assert not {"BatchNormalization", "Dropout", "Identity", "Constant"} & set(operators(tmp_path / "model.onnx"))
    used = {name for node in model.graph.node for name in node.input}
    assert all(initializer.name in used for initializer in model.graph.initializer)
    assert not any("auxiliary" in name for name in used)
    # No paths of the machine that exported it.
    assert b"site-packages" not in model.SerializeToString()
    assert [d.dim_param for d in model.graph.input[0].type.tensor_type.shape.dim][:3] == ["batch", "height", "width"]


@pytest.mark.parametrize("opset", [18, 19, 20, 21])
def test_opsets(tmp_path, streets, opset):
    manifest = export_onnx(streets, tmp_path / "model.onnx", opset=opset)
    assert manifest.opset == opset
    model = onnx.load(str(tmp_path / "model.onnx"))
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [opset]
    images = random_images(1, 48, 64)
    assert relative_error(run(tmp_path / "model.onnx", images), reference_logits(streets, images)) < 2e-5


def test_manifest_is_in_the_file(tmp_path, streets):
    manifest = export_onnx(streets, tmp_path / "model.onnx", batch=2, height=(32, 64, 128), width=64)
    found = read_onnx_manifest(tmp_path / "model.onnx")
    assert found == manifest
    assert (found.batch, found.height, found.width) == ((2, 2, 2), (32, 64, 128), (64, 64, 64))
    assert found.config == streets.config
    assert found.checkpoint_sha256 is None
    assert found.checkpoint_source == "random weights"
    flat = {p.key: p.value for p in onnx.load(str(tmp_path / "model.onnx")).metadata_props}
    assert flat["names"].startswith("sky,building")
    assert flat["stride"] == "4"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int4"}, "precision 'int4' is not one of"),
        ({"output": "masks"}, "output 'masks' is not one of"),
        ({"input": "bgr"}, "input 'bgr' is not one of"),
        ({"opset": 11}, "opset 11 is not one of"),
        ({"height": 0}, "height 0:0:0 is not"),
        ({"width": (64, 32, 128)}, "width 64:32:128 is not"),
    ],
)
def test_wrong_options(tmp_path, streets, options, message):
    with pytest.raises(ExportError, match=message):
        export_onnx(streets, tmp_path / "model.onnx", **options)
    assert list(tmp_path.iterdir()) == []


def test_the_network_itself_is_left_alone(tmp_path, streets):
    before = {key: value.clone() for key, value in streets.state_dict().items()}
    export_onnx(streets, tmp_path / "model.onnx", precision="fp16")
    assert all(torch.equal(value, before[key]) for key, value in streets.state_dict().items())
    assert any(isinstance(layer, torch.nn.BatchNorm2d) for layer in streets.modules())
