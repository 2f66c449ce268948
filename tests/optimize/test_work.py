# SPDX-License-Identifier: Apache-2.0
"""Multiply-adds, bytes and peak memory of small networks, counted by hand. What is published is in tests/bench."""

from math import prod

import pytest
import torch
from torch import nn

from deeplab_infer.configs import load_config
from deeplab_infer.errors import DeepLabError
from deeplab_infer.models import build_model
from deeplab_infer.optimize import fold_batchnorm, fold_image_pooling
from deeplab_infer.optimize.work import count, on_meta, work_of
from tests.networks import STREETS


def test_a_convolution_counted_by_hand():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    counted = count(network, 8, 8)
    conv, norm, relu = counted.operations
    assert [op.kind for op in counted.operations] == ["convolution", "batch norm", "activation"]
    assert [op.name for op in counted.operations] == ["0", "1", "2"]
    assert conv.shape == counted.output == (1, 4, 4, 4)
    assert conv.dense == 64 * 3 * 9
    assert conv.bytes_eager == 2 * (3 * 64 + 4 * 3 * 9 + 64)
    assert norm.bytes_eager == 2 * (64 + 64 + 4 * 4)
    assert relu.bytes_eager == 2 * (64 + 64)
    assert counted.bytes_fused == conv.bytes_eager
    assert counted.weights == 108
    assert (conv.window.kernel, conv.window.stride, conv.window.bias) == ((3, 3, 3), (2, 2), False)


def test_batches_and_element_sizes():
    network = nn.Conv2d(3, 4, 1, bias=False)
    one, two = count(network, 5, 7), count(network, 5, 7, batch=2, element_bytes=4)
    assert two.dense == 2 * one.dense
    assert two.bytes_eager == 4 * (2 * 7 * 35 + 12)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)

    def forward(self, x):
        y = torch.relu(x + self.conv(x))
        pooled = y.mean((2, 3), keepdim=True).expand_as(y)
        return torch.cat([y, pooled], 1)


def test_an_addition_is_read_by_the_convolution_before_it():
    conv, add, relu, mean, concat = count(Residual(), 8, 8).operations
    assert (conv.kind, add.kind, relu.kind, mean.kind, concat.kind) == (
        "convolution", "add", "activation", "mean", "concat",
    )  # fmt: skip
    assert add.bytes_eager == 2 * 3 * 3 * 64
    assert (add.bytes_fused, relu.bytes_fused) == (0, 0)
    assert conv.bytes_fused == conv.bytes_eager + 2 * 3 * 64
    # What is broadcast is one number a channel.
    assert concat.bytes_eager == 2 * (3 * 64 + 3 + 6 * 64)


def test_a_strided_1x1_reads_a_quarter():
    (conv,) = count(nn.Conv2d(3, 4, 1, 2, bias=False), 8, 8).operations
    assert conv.bytes_eager == 2 * (3 * 16 + 12 + 4 * 16)


def test_a_matrix_product():
    counted = count(nn.Linear(8, 5, bias=False), 4, 8)
    (product,) = counted.operations
    assert product.kind == "matmul"
    assert product.dense == 3 * 4 * 8 * 5
    assert counted.weights == 8 * 5


def test_peak_memory_of_a_chain_and_of_a_shortcut():
    """In a chain the largest pair of neighbours; beside a shortcut what it still holds."""
    chain = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 16, 1), nn.ReLU(), nn.Conv2d(16, 4, 1))
    assert count(chain, 10, 10).peak_bytes == 2 * 100 * (8 + 16)

    class Shortcut(nn.Module):
        def __init__(self):
            super().__init__()
            self.chain, self.last = chain, nn.Conv2d(12, 2, 1)

        def forward(self, x):
            first = self.chain[0](x)
            return self.last(torch.cat([first, self.chain[2:](first)], 1))

    # The first map of 8 channels waits while 16 become 4; then 8 and 4 are joined to 12.
    assert count(Shortcut(), 10, 10, element_bytes=4).peak_bytes == 4 * 100 * (8 + 16 + 4)


def test_peak_memory_of_an_addition_needs_no_third_map():
    """The sum lies where the convolution's result was: the input, and one map."""
    network = Residual()
    before_concat = 2 * 64 * (3 + 3)
    concat = 2 * (64 * (3 + 6) + 3)
    assert count(network, 8, 8).peak_bytes == max(before_concat, concat)


def test_unknown_operators_are_refused():
    with pytest.raises(DeepLabError, match="aten::_softmax is not counted"):
        count(nn.Softmax(1), 4, 4)


def test_a_network_with_weights_stays_as_it_is():
    model = build_model(STREETS)
    counted = count(model, 33, 65)
    assert not next(model.parameters()).is_meta
    assert model.training
    assert counted == count(STREETS, 33, 65)


def test_totals_of_a_network():
    model = on_meta(STREETS)
    work, counted = work_of(model, (64, 96), 4), count(STREETS, 64, 96, element_bytes=4)
    assert (work.multiply_adds, work.bytes_moved) == (counted.dense, counted.bytes_eager)
    assert work.output == (1, 10, 16, 24)
    assert work.parameters == sum(prod(parameter.shape) for parameter in build_model(STREETS).parameters())
    # A map can be no smaller than the input in bytes, and eager never moves less than fused.
    assert work.peak_bytes >= 4 * 3 * 64 * 96
    assert work.bytes_fused < work.bytes_moved


def test_what_folding_saves_by_hand():
    """Batch normalisation: a read and a write of every map. Pooling: the projection's share of a 3x3 over the map."""
    config = load_config("deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024")
    plain, size = on_meta(config), (128, 256)
    counted = count(plain, *size)
    folded = fold_batchnorm(plain)
    norms = [op for op in counted.operations if op.kind == "batch norm"]
    scales = sum(4 * op.shape[1] - op.shape[1] for op in norms)  # four numbers a channel become a bias
    saved = work_of(plain, size, 2).bytes_moved - work_of(folded, size, 2).bytes_moved
    assert saved == 2 * (sum(2 * op.output_elements for op in norms) + scales)
    pooled = work_of(fold_image_pooling(folded), size, 2)
    width, rows, columns = config.aspp_channels, 16, 32
    assert work_of(folded, size, 2).multiply_adds - pooled.multiply_adds == pytest.approx(
        width * width * 9 * rows * columns, rel=0.01
    )
    assert count(fold_image_pooling(folded), *size).weights == counted.weights
