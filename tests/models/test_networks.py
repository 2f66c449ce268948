# SPDX-License-Identifier: Apache-2.0
"""Shapes, plans and names of the networks."""

import pytest
import torch
import torch.nn.functional as F

from deeplab_infer import build_model
from deeplab_infer.configs import list_configs, load_config
from deeplab_infer.models.backbones import mobilenet_v2, resnet, xception

CITYSCAPES = "deeplabv3plus_{}_4xb2-80k_cityscapes-512x1024"


def dilations(name, stage):
    return [unit.dilation for unit in resnet.plan_units(load_config(name))[stage]]


def test_mmsegmentation_dilations():
    # Checked on mmsegmentation's own built models: the first unit of a dilated stage has half the rate.
    assert dilations(CITYSCAPES.format("r50-d8"), 2) == [1, 2, 2, 2, 2, 2]
    assert dilations(CITYSCAPES.format("r50-d8"), 3) == [2, 4, 4]
    assert dilations(CITYSCAPES.format("r101-d16-mg124"), 2) == [1] * 23
    assert dilations(CITYSCAPES.format("r101-d16-mg124"), 3) == [1, 2, 4]


def test_only_the_first_convolution_of_a_basic_block_is_dilated():
    with torch.device("meta"):
        model = build_model(CITYSCAPES.format("r18-d8"))
    assert [model.backbone.layer4[i].conv1.dilation[0] for i in (0, 1)] == [2, 4]
    assert [model.backbone.layer4[i].conv2.dilation[0] for i in (0, 1)] == [1, 1]


def test_beta_plan_doubles_the_rate_after_the_last_unit():
    config = load_config("deeplabv3_resnet101-beta")
    plan16 = resnet.plan_units(config)
    assert [unit.stride for unit in plan16[0]] == [1, 1, 2]
    assert plan16[2][-1] == resnet.UnitPlan(1, 1)
    assert [unit.dilation for unit in plan16[3]] == [2, 4, 8]
    plan8 = resnet.plan_units(config.with_output_stride(8))
    assert {unit.dilation for unit in plan8[2]} == {2}
    assert [unit.dilation for unit in plan8[3]] == [4, 8, 16]


def test_cascade_doubles_the_rate_per_block():
    plan = resnet.plan_units(load_config("deeplabv3_resnet50-beta_block7"))
    assert [units[0].dilation for units in plan[3:]] == [2, 4, 8, 16]
    multi_grid = resnet.plan_units(load_config("deeplabv3_resnet50-beta_block7-mg121"))
    assert [unit.dilation for unit in multi_grid[6]] == [16, 32, 16]


def test_xception_plan():
    plan = xception.plan_modules(65, 16)
    assert len(plan) == 21 and [p.stride for p in plan[:3]] == [2, 2, 2]
    assert plan[-2].stride == 1 and plan[-2].dilation == 1 and plan[-1].dilation == 2
    assert [p.dilation for p in xception.plan_modules(65, 8)[2:5]] == [1, 2, 2]


def test_mobilenet_plan():
    config = load_config("deeplabv3plus_mobilenetv2")
    units = mobilenet_v2.plan_units(config)
    assert [u.dilation for u in units[13:17]] == [1, 2, 2, 2]
    doubled = mobilenet_v2.plan_units(config.replace(contract_dilation=False))
    assert [u.dilation for u in doubled[13:17]] == [2, 2, 2, 2]


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize(
    "name",
    [
        "deeplabv3plus_mobilenetv2",
        "deeplabv3_xception65",
        CITYSCAPES.format("r18b-d8"),
        "deeplabv3_resnet50-beta",
    ],
)
@pytest.mark.parametrize("size", [(65, 97), (64, 96)])
def test_logits_are_at_the_network_s_stride(name, output_stride, size):
    config = load_config(name).with_output_stride(output_stride)
    with torch.device("meta"):
        logits = build_model(config).eval()(torch.empty(2, 3, *size))
    expected = [-(-side // config.logits_stride) for side in size]
    assert tuple(logits.shape) == (2, config.num_classes, *expected)


@pytest.mark.parametrize("name", list_configs())
def test_every_named_config_builds(name):
    config = load_config(name)
    with torch.device("meta"):
        model = build_model(config)
    assert model.config is config
    assert (model.auxiliary is not None) == config.auxiliary


def test_training_mode_returns_both_logits():
    model = build_model(load_config(CITYSCAPES.format("r18-d8"), ["num_classes=3"]))
    output = model(torch.randn(2, 3, 65, 65))
    assert output.logits.shape == (2, 3, 17, 17)
    assert output.auxiliary.shape == (2, 3, 9, 9)
    (output.logits.sum() + output.auxiliary.sum()).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert build_model("deeplabv3plus_mobilenetv2").train()(torch.randn(2, 3, 65, 65)).auxiliary is None


@pytest.mark.parametrize("align_corners", [False, True])
def test_image_pooling_is_a_mean_resized_from_one_pixel(align_corners):
    config = load_config("deeplabv3plus_mobilenetv2_streets").replace(align_corners=align_corners)
    aspp = build_model(config).eval().aspp.double()
    x = torch.randn(2, 320, 5, 7, dtype=torch.float64)
    pooled = aspp.image_pool(F.adaptive_avg_pool2d(x, 1))
    resized = F.interpolate(pooled, size=(5, 7), mode="bilinear", align_corners=align_corners)
    expected = aspp.project(torch.cat([resized, *(branch(x) for branch in aspp.branches)], 1))
    assert torch.allclose(aspp(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "name",
    [
        CITYSCAPES.format("r101-d16-mg124"),
        "deeplabv3plus_xception71",
        "deeplabv3plus_mobilenetv2",
        "deeplabv3_resnet50-beta_block7",
    ],
)
def test_output_stride_changes_no_weight(name):
    config = load_config(name)
    with torch.device("meta"):
        shapes = [
            {key: value.shape for key, value in build_model(config.with_output_stride(s)).state_dict().items()}
            for s in (8, 16, 32)
        ]
    assert shapes[0] == shapes[1] == shapes[2]


def test_one_pixel_images_are_fine():
    model = build_model("deeplabv3plus_mobilenetv2_streets").eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 1, 1)).shape == (1, 10, 1, 1)
