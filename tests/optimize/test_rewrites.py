# SPDX-License-Identifier: Apache-2.0
"""Each rewrite alone and all together, in float64 against the untouched network: nothing changes that comes out."""

import copy

import pytest
import torch
from torch import nn

from deeplab_infer import fuse
from deeplab_infer.models import build_model
from deeplab_infer.optimize import (
    REWRITES,
    drop_void_taps,
    fold_batchnorm,
    fold_image_pooling,
    optimise,
    remove_training_parts,
)
from deeplab_infer.optimize.fold_image_pooling import FoldedAspp

from ..networks import STREETS, make_network

NARROW = ("aspp_channels=8", "decoder_channels=8", "low_level_channels=4", "auxiliary_channels=4", "auxiliary=true")
DENSE = ("architecture=deeplabv3", "aspp_separable=false", "projection_kernel=3")
# Heads, on a small backbone.
HEADS = {
    "v3plus": ("projection_kernel=3",),
    "v3plus-1x1": ("align_corners=true",),
    "v3": (*DENSE, "output_stride=8", "aspp_rates=[12,24,36]"),
    "v3-align-corners": (*DENSE, "align_corners=true"),
    "torchvision-like": (*DENSE, "projection_kernel=1", "post_aspp_convs=1", "resize_logits_twice=false"),
    "smp-like": ("separable_bn=after", "post_aspp_convs=1", "post_aspp_separable=true", "decoder_convs=1"),
    "dense-decoder": ("decoder_separable=false", "aspp_separable=false"),
    "no-pooling": (*DENSE, "image_pooling=false"),
    "no-aspp": ("architecture=deeplabv3", "aspp=false", "image_pooling=false", "aspp_rates=[]"),
}
BACKBONES = {
    "resnet18": ("deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024", ()),
    "resnet50-beta-multi-grid": ("deeplabv3_resnet50-beta_no-pooling", ("image_pooling=true", "multi_grid=[1,2,4]")),
    "cascade": ("deeplabv3_resnet50-beta_block5", ()),
    "xception": ("deeplabv3plus_xception65", ("depth=41",)),
}
SIZES = ((33, 65), (8, 9), (16, 97), (1, 130))  # odd, smaller than a stride, flat ones


def network(head):
    return make_network(STREETS, (*NARROW, *HEADS[head])).double()


def logits(model, size, batch=2):
    torch.manual_seed(1)
    with torch.inference_mode():
        return model(torch.randn(batch, 3, *size, dtype=torch.float64))


def assert_same(found, wanted):
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= 1e-10 * wanted.abs().max().clamp(min=1)


@pytest.mark.parametrize("head", HEADS)
def test_each_rewrite_and_all_of_them_give_the_same_logits(head):
    model = network(head)
    for size in SIZES:
        wanted = logits(model, size)
        for rewrite in REWRITES:
            if not rewrite.why_not(model, size):
                assert_same(logits(rewrite.apply(model, size), size), wanted)
        found, report = optimise(model, size=size)
        assert_same(logits(found, size), wanted)
    assert [one.name for one in report] == [rewrite.name for rewrite in REWRITES]
    assert all(one.applied == (not one.reason) for one in report)
    assert not any(isinstance(layer, nn.BatchNorm2d | nn.Dropout2d) for layer in found.modules())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_rewritten_backbones_give_the_same_logits(backbone):
    name, overrides = BACKBONES[backbone]
    model = make_network(name, (*overrides, *NARROW[:-1])).double()
    found, _ = optimise(model, size=(33, 65))
    assert_same(logits(found, (33, 65), 1), logits(model, (33, 65), 1))


@pytest.mark.parametrize("head", ["v3plus", "v3", "smp-like"])
def test_a_network_for_open_sizes_serves_every_size(head):
    plain = network(head)
    found, report = optimise(plain)
    assert {one.name: one.reason for one in report}["drop_void_taps"] == "the input's size is open"
    for size in SIZES:
        assert_same(logits(found, size), logits(plain, size))


def test_the_network_itself_is_left_alone():
    model = network("v3")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    layers = [type(layer) for layer in model.modules()]
    optimise(model, size=(33, 33))
    assert [type(layer) for layer in model.modules()] == layers
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_rewritten_network_shares_no_weights_with_its_source():
    plain = network("v3")
    found, _ = optimise(plain, size=(33, 33))
    mine = {tensor.data_ptr() for tensor in (*plain.parameters(), *plain.buffers())}
    assert not mine & {tensor.data_ptr() for tensor in (*found.parameters(), *found.buffers()) if tensor.numel()}


def test_what_is_rewritten_already_is_copied():
    once, _ = optimise(network("v3"))
    twice, report = optimise(once)
    assert not any(one.applied for one in report)
    assert twice is not once
    assert_same(logits(twice, (33, 65)), logits(once, (33, 65)))


def test_skipped_rewrites_and_wrong_names():
    found, report = optimise(network("v3"), skip=["fold_image_pooling"])
    assert {one.name: one.reason for one in report}["fold_image_pooling"] == "switched off"
    assert not isinstance(found.aspp, FoldedAspp)
    with pytest.raises(ValueError, match="no rewrite 'fold_everything'; there are remove_training_parts, fold_batch"):
        optimise(found, skip=["fold_everything"])


@pytest.mark.parametrize(
    "function",
    [optimise, fold_batchnorm, fold_image_pooling, remove_training_parts, lambda model: drop_void_taps(model, (9, 9))],
)
def test_training_mode_is_refused(function):
    with pytest.raises(ValueError, match="eval mode|training mode"):
        function(build_model(STREETS))


# -- training parts


def test_nothing_of_training_is_left():
    plain = network("v3")
    assert plain.auxiliary is not None
    bare = remove_training_parts(plain)
    assert bare.auxiliary is None
    assert isinstance(bare.dropout, nn.Identity)
    assert plain.auxiliary is not None
    gone = sum(p.numel() for p in plain.auxiliary.parameters())
    assert sum(p.numel() for p in bare.parameters()) == sum(p.numel() for p in plain.parameters()) - gone
    reasons = {rewrite.name: rewrite.why_not(bare, None) for rewrite in REWRITES}
    assert reasons["remove_training_parts"] == "no auxiliary head and no dropout"


# -- image pooling


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1), (2, 2), (2, 1), (3, 2), (4, 7)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_the_folded_projection_is_the_convolution_over_the_broadcast_branch(kernel, size):
    """Against convolution over the concatenation, written out; a map's borders are where it could differ."""
    torch.manual_seed(0)
    aspp = make_network(STREETS, (f"projection_kernel={kernel}", *NARROW)).double().aspp
    x = torch.randn(3, 320, *size, dtype=torch.float64)
    with torch.inference_mode():
        mean = x.mean((2, 3), keepdim=True)
        pooled = aspp.image_pool(mean).repeat(1, 1, *size)
        whole = torch.cat([pooled, *(branch(x) for branch in aspp.branches)], 1)
        project = aspp.project
        padded = nn.functional.pad(whole, (kernel // 2,) * 4)
        wanted = nn.functional.conv2d(padded, project.conv.weight, project.conv.bias)
        wanted = nn.functional.batch_norm(
            wanted,
            project.bn.running_mean,
            project.bn.running_var,
            project.bn.weight,
            project.bn.bias,
            eps=project.bn.eps,
        ).relu()
        found = FoldedAspp(copy.deepcopy(aspp)).eval()(x)
    assert_same(found, wanted)


def test_the_projection_reads_fewer_channels():
    folded = fold_image_pooling(network("v3"))
    assert folded.aspp.project.conv.in_channels == 8 * 4
    assert folded.aspp.project.pooled_weight.shape == (8 * 9, 8)
    reasons = {rewrite.name: rewrite.why_not(folded, None) for rewrite in REWRITES}
    assert reasons["fold_image_pooling"] == "the image pooling is folded already"


@pytest.mark.parametrize(
    ("head", "reason"), [("no-pooling", "no image pooling"), ("no-aspp", "no ASPP")]
)  # fmt: skip
def test_without_a_pooled_branch(head, reason):
    with pytest.raises(ValueError, match=f"fold_image_pooling: {reason}"):
        fold_image_pooling(network(head))


def test_a_projection_of_another_kind_is_left():
    plain = network("v3")
    plain.aspp.project.conv.padding = (0, 0)
    found, report = optimise(plain)
    assert not isinstance(found.aspp, FoldedAspp)
    assert "no plain 1x1 or zero-padded 3x3" in {one.name: one.reason for one in report}["fold_image_pooling"]


@pytest.mark.parametrize("head", ["v3plus", "v3plus-1x1", "smp-like"])
def test_fused_kernels_run_in_a_rewritten_network(head):
    plain = network(head)
    found, _ = optimise(plain)
    assert {part.kernel for part in fuse(found).fused} == {part.kernel for part in fuse(copy.deepcopy(plain)).fused}
    assert found.aspp.fused
    assert_same(logits(found, (33, 65)), logits(plain, (33, 65)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision(dtype):
    plain = network("v3")
    found, _ = optimise(plain)
    wanted = logits(plain, (33, 65))
    torch.manual_seed(1)
    x = torch.randn(2, 3, 33, 65, dtype=torch.float64).to(dtype)
    with torch.inference_mode():
        low = found.to(dtype)(x)
    assert low.dtype == dtype
    assert (low.double() - wanted).norm() <= (0.2 if dtype == torch.bfloat16 else 0.02) * wanted.norm()


# -- void taps


def kernels(model):
    return [branch.conv.kernel_size for branch in model.aspp.branches]


def test_kernels_are_cut_to_the_taps_that_read_the_map():
    plain = network("v3")  # rates 12, 24, 36
    assert kernels(drop_void_taps(plain, (8 * 24, 8 * 13))) == [(1, 1), (3, 3), (1, 1), (1, 1)]
    assert kernels(drop_void_taps(plain, (8 * 25, 8 * 400))) == [(1, 1), (3, 3), (3, 3), (1, 3)]
    assert kernels(plain) == [(1, 1)] + [(3, 3)] * 3


@pytest.mark.parametrize("size", [(200, 104), (104, 97), (289, 97), (8, 8)])
def test_kernels_without_void_taps_give_the_same_logits(size):
    plain = network("v3")
    assert_same(logits(drop_void_taps(plain, size), size, 1), logits(plain, size, 1))


def test_nothing_is_cut_without_a_reason():
    with pytest.raises(ValueError, match="drop_void_taps: the input's size is open"):
        drop_void_taps(network("v3"), None)
    with pytest.raises(ValueError, match="every tap of a dense convolution reads some of the map"):
        drop_void_taps(network("v3"), (3200, 3200))
    depthwise = drop_void_taps(network("v3plus"), (16, 16))  # a map of one pixel
    assert depthwise.aspp.project.conv.kernel_size == (1, 1)
    assert all(branch.depthwise.conv.kernel_size == (3, 3) for branch in depthwise.aspp.branches[1:]), "bound by memory"
