# SPDX-License-Identifier: Apache-2.0
"""Every fused operator against float64, on every instruction set, as the GPU's threads run, and on a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deeplab_infer import _C
from deeplab_infer.testing import reference
from deeplab_infer.testing.cases import CONCAT, DEPTHWISE
from deeplab_infer.testing.tolerances import assert_close
from tests.kernels import DTYPES, LAYOUTS, Bench, f64, modes, options, skip_unless_supported

pytestmark = [
    pytest.mark.parametrize("layout", LAYOUTS),
    pytest.mark.parametrize("dtype", DTYPES),
    pytest.mark.parametrize("mode", modes()),
]


def out_size(case):
    height, width = case.shape[2:]
    return (height - 1) // case.stride + 1, (width - 1) // case.stride + 1


@pytest.mark.parametrize("case", DEPTHWISE, ids=str)
def test_depthwise(mode, dtype, layout, case):
    skip_unless_supported(mode, dtype)
    bench = Bench(mode, dtype, layout)
    count, channels = len(case.rates), case.shape[1]
    x = bench.image(*case.shape)
    weight = bench.parameter(count, channels, case.kernel, case.kernel)
    scale, shift = bench.parameter(count, channels), bench.parameter(count, channels)
    out = bench.output(count, *case.shape[:2], *out_size(case))
    _C.depthwise(x, weight, scale, shift, out, case.stride, list(case.rates), case.activation, **options(mode))
    expected = reference.depthwise(
        f64(x), f64(weight), f64(scale), f64(shift), case.stride, list(case.rates), case.activation
    )
    # Two more for scale and shift; the GPU multiplies the scale into the weights.
    assert_close("y", f64(out), expected.value, expected.magnitude, dtype, case.kernel**2 + 3)
    bench.check_guards()


@pytest.mark.parametrize("case", CONCAT, ids=str)
def test_upsample_concat_and_its_gradient(mode, dtype, layout, case):
    skip_unless_supported(mode, dtype)
    bench = Bench(mode, dtype, layout)
    batch, channels = case.shape[:2]
    x, low = bench.image(*case.shape), bench.image(batch, case.low_channels, *case.size)
    out = bench.output(batch, channels + case.low_channels, *case.size)
    _C.upsample_concat(x, low, out, case.align_corners, **options(mode))
    expected = reference.upsample_concat(f64(x), f64(low), case.align_corners)
    # Four products of two weights, each of which is rounded twice.
    assert_close("y", f64(out), expected.value, expected.magnitude, dtype, 10)
    assert torch.equal(out[:, channels:], low)

    dy = bench.image(*out.shape)
    dx = bench.output(*case.shape)
    _C.upsample_concat_gradient(dy, dx, case.align_corners, **options(mode))
    expected = reference.upsample_concat_gradient(f64(dy[:, :channels]), case.shape[2:], case.align_corners)
    readers = (2 * case.size[0] // case.shape[2] + 3) * (2 * case.size[1] // case.shape[3] + 3)
    assert_close("dx", f64(dx), expected.value, expected.magnitude, dtype, readers + 6)
    bench.check_guards()


@pytest.mark.parametrize("case", CONCAT, ids=str)
def test_upsample_concat_depthwise(mode, dtype, layout, case):
    skip_unless_supported(mode, dtype)
    bench = Bench(mode, dtype, layout)
    batch, channels = case.shape[0], case.shape[1] + case.low_channels
    x, low = bench.image(*case.shape), bench.image(batch, case.low_channels, *case.size)
    weight, scale, shift = (
        bench.parameter(1, channels, 3, 3),
        bench.parameter(1, channels),
        bench.parameter(1, channels),
    )
    out = bench.output(1, batch, channels, *case.size)
    _C.upsample_concat_depthwise(
        x, low, weight, scale, shift, out, case.align_corners, case.rate, "relu", **options(mode)
    )
    concat = reference.upsample_concat(f64(x), f64(low), case.align_corners)
    expected = reference.depthwise(concat.value, f64(weight), f64(scale), f64(shift), 1, [case.rate], "relu")
    size = reference.depthwise(
        concat.magnitude, np.abs(f64(weight)), np.abs(f64(scale)), np.abs(f64(shift)), 1, [case.rate], "none"
    )
    assert_close("y", f64(out), expected.value, size.magnitude, dtype, 9 + 3 + 10)
    bench.check_guards()


BACKWARD = [case for case in DEPTHWISE if case.kernel == 3 and case.shape[0] > 0]


def workspace(bench, case, sums):
    height, width = out_size(case)
    floats = _C.depthwise_workspace(*case.shape[:2], height, width, len(case.rates), sums)
    return torch.full((floats,), float("nan"), device=bench.device)


@pytest.mark.parametrize("case", BACKWARD, ids=str)
def test_depthwise_statistics(mode, dtype, layout, case):
    skip_unless_supported(mode, dtype)
    bench = Bench(mode, dtype, layout)
    count, channels = len(case.rates), case.shape[1]
    x = bench.image(*case.shape) + 3  # a mean well away from zero
    weight = bench.parameter(count, channels, 3, 3)
    mean = bench.output(count, channels, dtype=bench.parameters, flat=True)
    variance = bench.output(count, channels, dtype=bench.parameters, flat=True)
    _C.depthwise_statistics(
        x, weight, mean, variance, workspace(bench, case, 2), case.stride, list(case.rates), **options(mode)
    )
    kind = "float64" if dtype == "float64" else "float32"
    pixels = case.shape[0] * np.prod(out_size(case))
    for r, rate in enumerate(case.rates):
        conv = reference.convolution(f64(x), f64(weight)[r], case.stride, rate)
        axes = (0, 2, 3)
        assert_close("mean", f64(mean[r]), conv.value.mean(axes), conv.magnitude.max(axes), kind, 11 + pixels)
        # The variance is of deviations, each of which is off by the convolution's own error.
        deviation = np.abs(conv.value - conv.value.mean(axes, keepdims=True))
        size = ((deviation.max(axes) + 1e-3) * conv.magnitude.max(axes)) * 4
        assert_close("variance", f64(variance[r]), conv.value.var(axes), size, kind, 11 + pixels)
    bench.check_guards()


@pytest.mark.parametrize("case", BACKWARD, ids=str)
def test_depthwise_gradient(mode, dtype, layout, case):
    skip_unless_supported(mode, dtype)
    bench = Bench(mode, dtype, layout)
    count, channels = len(case.rates), case.shape[1]
    x, dy = bench.image(*case.shape), bench.image(count, *case.shape[:2], *out_size(case))
    weight = bench.parameter(count, channels, 3, 3)
    scale, shift, *factors = (bench.parameter(count, channels) for _ in range(5))
    dconv = bench.output(*dy.shape)
    sums, again = (bench.output(count, channels, 2, dtype=bench.parameters, flat=True) for _ in range(2))
    dweight = bench.output(count, channels, 3, 3, dtype=bench.parameters, flat=True)
    rates = list(case.rates)
    common = (case.stride, rates, case.activation)
    _C.depthwise_gradient(
        x, weight, dy, scale, shift, *factors, dconv, sums, dweight, workspace(bench, case, 11), *common,
        **options(mode),
    )  # fmt: skip
    _C.depthwise_gradient(
        x, weight, dy, scale, shift, None, None, None, None, again, None, workspace(bench, case, 2), *common,
        **options(mode),
    )  # fmt: skip
    assert torch.equal(sums, again)
    kind = "float64" if dtype == "float64" else "float32"
    pixels = case.shape[0] * int(np.prod(out_size(case)))
    for r, rate in enumerate(rates):
        own = [f64(t[r]) for t in (weight, dy, scale, shift)]
        expected = reference.depthwise_gradients(
            f64(x), *own, tuple(f64(f[r]) for f in factors), case.stride, rate, case.activation
        )
        # At the activation's corner rounding decides on which side a value lies: no channel may be that close.
        assert expected.margin.min() > 1e-7, "this seed puts a value on the activation's corner; choose another"
        assert_close("dconv", f64(dconv[r]), expected.dconv.value, expected.dconv.magnitude, dtype, 14)
        assert_close("sums", f64(sums[r, :, 0]), expected.sum_z.value, expected.sum_z.magnitude, kind, pixels)
        z_conv = expected.sum_z_conv
        assert_close("sums", f64(sums[r, :, 1]), z_conv.value, z_conv.magnitude, kind, pixels + 10)
        assert_close("dweight", f64(dweight[r]), expected.dweight.value, expected.dweight.magnitude, kind, pixels + 14)

    dx = bench.output(*case.shape)
    _C.depthwise_input_gradient(dy, weight, dx, case.stride, rates, **options(mode))
    expected = reference.depthwise_input_gradient(f64(dy), f64(weight), case.shape[2:], case.stride, rates)
    assert_close("dx", f64(dx), expected.value, expected.magnitude, dtype, 9 * count)
    bench.check_guards()
