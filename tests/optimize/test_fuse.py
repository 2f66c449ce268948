# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy

import pytest
import torch

from deeplab_infer import fuse
from deeplab_infer.models.blocks import ConvBnRelu, Norm
from deeplab_infer.optimize import fold_batchnorm, unfuse
from tests.networks import STREETS, make_network

NETWORKS = {
    STREETS: 20,
    "deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024": 3,
    "deeplabv3plus_xception65": 66,
    "deeplabv3plus_resnet50-beta_dense": 1,
    "deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024": 0,
}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def pair(name=STREETS, overrides=("dropout=0",), dtype=torch.float64):
    plain = make_network(name, overrides).to(dtype)
    fused = copy.deepcopy(plain)
    return plain, fused, fuse(fused)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_fused_network_gives_the_same_answer(name):
    plain, fused, report = pair(name)
    assert len(report.fused) == NETWORKS[name]
    assert not report.left
    assert list(plain.state_dict()) == list(fused.state_dict())
    x = torch.randn(1, 3, 65, 81, dtype=torch.float64)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        with torch.inference_mode():
            expected, got = plain(x), fused(x.contiguous(memory_format=memory_format))
        assert (expected - got).abs().max() <= 1e-12 * expected.abs().max()
    with torch.inference_mode():
        folded = fold_batchnorm(fused)(x)
    assert (expected - folded).abs().max() <= 1e-11 * expected.abs().max()


@pytest.mark.parametrize("name", [STREETS, "deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024"])
def test_a_fused_network_trains_alike(name):
    plain, fused, _ = pair(name)
    x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    for model in (plain, fused):
        out = model.train()(x)
        (out.logits.square().mean() + (0 if out.auxiliary is None else out.auxiliary.square().mean())).backward()
    scale = max(p.grad.abs().max() for p in plain.parameters())
    for (key, one), other in zip(plain.named_parameters(), fused.parameters(), strict=True):
        assert (one.grad - other.grad).abs().max() <= 1e-9 * scale, key
    for (key, one), other in zip(plain.named_buffers(), fused.named_buffers(), strict=True):
        torch.testing.assert_close(one, other[1], msg=key)


def test_the_report_names_parts_and_kernels():
    _, model, report = pair()
    kernels = {part.name: part.kernel for part in report.fused}
    assert kernels["aspp"] == "aspp_depthwise"
    assert kernels["decoder"] == "upsample_concat_depthwise"
    assert kernels["decoder.convs.1.depthwise"] == kernels["backbone.features.1.conv.0"] == "depthwise_conv_bn_relu"
    assert "decoder.convs.0.depthwise" not in kernels
    assert "aspp: aspp_depthwise" in str(report)
    assert str(fuse(torch.nn.Linear(1, 1))) == "nothing to fuse"
    assert not any(getattr(module, "fused", False) for module in unfuse(model).modules())


def test_synchronised_batch_norm_trains_in_torch_and_says_so():
    plain, _, _ = pair(dtype=torch.float32)
    model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(plain)
    report = fuse(model)
    assert [part.name for part in report.fused] == []
    assert "SyncBatchNorm gathers its statistics from all processes" in str(report)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda block: setattr(block, "bn", torch.nn.GroupNorm(2, 8)), "GroupNorm is not batch normalisation"),
        (lambda block: setattr(block.conv, "padding", (0, 0)), "padding is not zeros"),
        (lambda block: setattr(block, "bn", torch.nn.BatchNorm2d(8, affine=False)), "no weights"),
        (lambda block: setattr(block.conv, "dilation", (1, 2)), "differ between height and width"),
        (lambda block: setattr(block.conv, "kernel_size", (3, 5)), "kernel 3x5"),
        (lambda block: setattr(block.conv, "bias", torch.nn.Parameter(torch.zeros(8)))
         , "has a bias before its normalisation"),
    ],
)  # fmt: skip
def test_what_cannot_be_fused_is_left_with_a_reason(change, reason):
    block = torch.nn.Sequential(ConvBnRelu(8, 8, 3, Norm(), groups=8))
    change(block[0])
    report = fuse(block)
    assert not report.fused
    assert reason in report.left[0].reason
    assert not block[0].fused


def test_the_backbone_can_be_left_to_torch():
    model = make_network()
    assert [part.name for part in fuse(model, backbone=False).fused] == ["aspp", "decoder", "decoder.convs.1.depthwise"]
    assert not any(getattr(module, "fused", False) for module in model.backbone.modules())
    assert len(fuse(model).fused) == 20
    fuse(model, backbone=False)
    assert not any(getattr(module, "fused", False) for module in model.backbone.modules())


def test_branches_that_differ_are_left():
    model = make_network()
    model.aspp.branches[2].depthwise.bn.eps = 0.5
    report = fuse(model)
    assert [part.name for part in report.left] == ["aspp"]
    assert "branches differ" in report.left[0].reason
    x = torch.randn(1, 3, 33, 33)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), unfuse(copy.deepcopy(model))(x), rtol=1e-4, atol=1e-4)


def test_one_value_a_channel_is_refused_as_torch_does():
    block = ConvBnRelu(4, 4, 3, Norm(), groups=4).train()
    for prepare in (unfuse, fuse):
        prepare(block)
        with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
            block(torch.zeros(1, 4, 1, 1))


@pytest.mark.parametrize("momentum", [0.3, None])
def test_running_statistics_are_updated_as_torch_does(momentum):
    plain = ConvBnRelu(4, 4, 3, Norm(), groups=4).train()
    plain.bn.momentum = momentum
    fused = copy.deepcopy(plain)
    fuse(fused)
    for _ in range(3):
        x = torch.randn(2, 4, 6, 5)
        plain(x), fused(x)
    for (name, one), other in zip(plain.bn.named_buffers(), fused.bn.buffers(), strict=True):
        torch.testing.assert_close(one, other, msg=name)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("training", [False, True])
def test_a_fused_network_compiles_without_graph_breaks(device, training):
    _, model, _ = pair("deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024", dtype=torch.float32)
    head = model.aspp.train(training).to(device)
    x = torch.randn(2, 512, 12, 16, device=device)
    with torch.no_grad():
        expected = copy.deepcopy(head)(x)
        got = torch.compile(head, fullgraph=True)(x)
    torch.testing.assert_close(expected, got, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_networks(device, dtype):
    plain, _, _ = pair()
    model = copy.deepcopy(plain).to(dtype).to(device)
    fuse(model)
    x = torch.randn(1, 3, 65, 97)
    with torch.inference_mode():
        expected = plain(x.double())
        got = model(x.to(dtype).to(device)).cpu()
    assert got.dtype == dtype
    assert (got.double() - expected).norm() <= (0.2 if dtype == torch.bfloat16 else 0.02) * expected.norm()
