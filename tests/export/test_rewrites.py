# SPDX-License-Identifier: Apache-2.0
"""Exact rewrites in exported files: open and fixed sizes, every precision, and their switch."""

import numpy as np
import onnx
import pytest
from deeplab_export.calibration import Calibration
from deeplab_export.graph import Signature
from deeplab_export.onnx_export import TracedNetwork, export_onnx
from deeplab_export.precision import PRECISIONS
from deeplab_export.quantize import layers

from deeplab_infer.manifest import read_onnx_manifest
from deeplab_infer.optimize import REWRITES
from deeplab_infer.runtime import open_runner

from ..networks import STREETS, make_network, random_images, reference_logits

NARROW = ["aspp_channels=16", "decoder_channels=16", "low_level_channels=8", "auxiliary_channels=8"]
V3 = ("deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024", NARROW)
POOLED_3X3 = (STREETS, [*NARROW, "projection_kernel=3"])


def relative_error(path, model, shape):
    images = random_images(*shape)
    expected = reference_logits(model, images)
    return np.abs(open_runner(path).run(images) - expected).max() / np.ptp(expected)


@pytest.mark.parametrize("kernel", [1, 3])
def test_the_pooled_branch_leaves_the_concat_at_open_sizes(tmp_path, kernel):
    model = make_network(STREETS, [*NARROW, f"projection_kernel={kernel}"])
    manifest = export_onnx(model, tmp_path / "model.onnx")
    assert manifest.rewrites == ("remove_training_parts", "fold_batchnorm", "fold_image_pooling")
    assert read_onnx_manifest(tmp_path / "model.onnx").rewrites == manifest.rewrites
    found = layers(onnx.load(str(tmp_path / "model.onnx")))
    assert {"aspp.project.conv", "aspp.image_pool.conv"} <= set(found)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in onnx.load(str(tmp_path / "model.onnx")).graph.initializer}
    branches = 1 + len(model.config.aspp_rates)
    assert shapes["network.aspp.project.conv.weight"] == (16, 16 * branches, kernel, kernel)
    for shape in ((1, 64, 96), (2, 33, 65), (1, 16, 16), (1, 1, 40)):  # the last two: maps of one pixel and one row
        assert relative_error(tmp_path / "model.onnx", model, shape) < 2e-5


def test_open_sizes_leave_no_feature_map_in_float32(tmp_path):
    export_onnx(make_network(*POOLED_3X3), tmp_path / "half.onnx", precision="fp16")
    graph = onnx.shape_inference.infer_shapes(onnx.load(str(tmp_path / "half.onnx"))).graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    wide = [node for node in graph.node if node.op_type in ("Concat", "Resize", "Gather", "Conv")]
    floats = [types[node.output[0]] for node in wide if types.get(node.output[0]) in (1, 10)]
    assert set(floats) == {onnx.TensorProto.FLOAT16}


def test_fixed_sizes_drop_the_taps_that_only_see_padding(tmp_path):
    model = make_network(*V3)
    manifest = export_onnx(model, tmp_path / "model.onnx", batch=2, height=104, width=200)
    assert manifest.rewrites == tuple(rewrite.name for rewrite in REWRITES)
    # A map of 13 x 25 and rates 12, 24, 36.
    shapes = {tensor.name: tuple(tensor.dims) for tensor in onnx.load(str(tmp_path / "model.onnx")).graph.initializer}
    kernels = [shapes[f"network.aspp.branches.{branch}.conv.weight"][2:] for branch in (1, 2, 3)]
    assert kernels == [(3, 3), (1, 3), (1, 1)]
    assert relative_error(tmp_path / "model.onnx", model, (2, 104, 200)) < 2e-5


def test_the_switch_leaves_what_precisions_need(tmp_path):
    model = make_network(*V3)
    manifest = export_onnx(model, tmp_path / "model.onnx", height=64, width=96, rewrites=False)
    assert manifest.rewrites == ("remove_training_parts", "fold_batchnorm")
    graph = onnx.load(str(tmp_path / "model.onnx")).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    assert shapes["network.aspp.project.conv.weight"] == (16, 80, 3, 3)
    assert "BatchNormalization" not in {node.op_type for node in graph.node}
    assert relative_error(tmp_path / "model.onnx", model, (1, 64, 96)) < 2e-5


@pytest.mark.parametrize(("precision", "bound"), [("fp16", 2e-2), ("int8", 0.3)])
def test_low_precisions_of_a_rewritten_network(tmp_path, precision, bound):
    model = make_network(*V3)
    traced = TracedNetwork(
        model, Signature(batch=(1, 1, 1), height=(104,) * 3, width=(96,) * 3), calibration=Calibration(count=2)
    )
    traced.write(tmp_path / "model.onnx", PRECISIONS[precision], keep=["aspp.project.conv"])
    assert relative_error(tmp_path / "model.onnx", model, (1, 104, 96)) < bound
