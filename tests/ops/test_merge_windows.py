# SPDX-License-Identifier: Apache-2.0
"""`merge_windows` against float64, in every mode; what it refuses; how torch sees it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplab_infer import _C
from deeplab_infer.ops import merge_windows, tensors
from deeplab_infer.runtime.windows import place_windows
from deeplab_infer.testing import cases, reference
from deeplab_infer.testing.tolerances import assert_close
from tests.kernels import LAYOUTS, Bench, f64, modes, options


def windows_of(case):
    return len(place_windows(*case.size, case.window, case.stride))


def terms(case):
    """Two products along each axis, a weight's own rounding in each, the sum over windows, the division."""
    return 2 * 2 + 2 + math.prod(-(-w // s) + 1 for w, s in zip(case.window, case.stride, strict=True)) + 1


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("mode", modes())
@pytest.mark.parametrize("case", cases.WINDOWS)
def test_equals_float64(mode, dtype, layout, case):
    if mode.startswith("cpu") and (dtype, layout) != ("float32", "nchw"):
        pytest.skip("the CPU takes contiguous float32")
    bench = Bench(mode, dtype, layout)
    logits = bench.image(windows_of(case), *case.logits)
    out = bench.output(case.logits[0], *case.size, dtype=torch.float32, flat=True)
    arguments = case.window, case.stride, case.align_corners
    _C.merge_windows(logits, out, *arguments, **options(mode))
    expected = reference.merge_windows(f64(logits), case.size, *arguments)
    assert_close("merged", f64(out), expected.value, expected.magnitude, "float32", terms(case))
    again = torch.empty_like(out)
    _C.merge_windows(logits, again, *arguments, **options(mode))
    assert torch.equal(out, again), "the same bits every time"
    bench.check_guards()


@settings(max_examples=150, deadline=None)
@given(*[st.integers(1, 60)] * 2, *[st.integers(1, 30)] * 2, *[st.integers(1, 30)] * 2, st.booleans())
def test_constant_windows_give_their_mean(height, width, tall, wide, down, right, emulated):
    """Window i holds the number 2^i of its place: the sum says exactly which windows were taken."""
    window, stride = (tall, wide), (min(down, tall), min(right, wide))
    windows = place_windows(height, width, window, stride)
    if len(windows) > 19 or (emulated and not _C.build_info()["cuda"]):
        return
    numbers = 2.0 ** np.arange(len(windows), dtype=np.float32)
    total, visits = np.zeros((height, width)), np.zeros((height, width))
    for w, number in zip(windows, numbers, strict=True):
        total[w.top : w.bottom, w.left : w.right] += number
        visits[w.top : w.bottom, w.left : w.right] += 1
    out = np.empty((1, height, width), np.float32)
    _C.merge_windows(numbers.reshape(-1, 1, 1, 1), out, window, stride, False, threads=1, emulate=emulated)
    np.testing.assert_allclose(out[0], total / visits, rtol=2.0**-22)  # below the share of any one window


@pytest.mark.parametrize("mode", modes())
def test_a_value_that_is_not_a_number_stays_where_it_is_read(mode):
    bench = Bench(mode, "float32", "nchw")
    logits = bench.image(2, 1, 5, 5)
    logits[0, 0, 2, 2] = math.nan
    out = bench.output(1, 9, 14, flat=True)
    _C.merge_windows(logits, out, (9, 9), (9, 5), True, **options(mode))  # every second pixel is a value itself
    spoilt = np.zeros((9, 14), bool)
    spoilt[3:6, 3:6] = True
    np.testing.assert_array_equal(np.isnan(f64(out)[0]), spoilt)


def test_threads_and_instruction_sets_give_the_same_bits():
    case = cases.WINDOWS[1]
    logits = np.random.default_rng(0).standard_normal((windows_of(case), *case.logits)).astype(np.float32)
    arguments = {"window": case.window, "stride": case.stride, "align_corners": case.align_corners}
    one = merge_windows(logits, case.size, **arguments, threads=1)
    np.testing.assert_array_equal(merge_windows(logits, case.size, **arguments, threads=5), one)


def test_results_larger_than_the_caches():
    """They are written past them, from rows that start at every alignment."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((4, 3, 12, 20)).astype(np.float32)
    arguments = (600, 613), (400, 401), (300, 301), False
    expected = reference.merge_windows(logits.astype(np.float64), *arguments)
    for name in _C.build_info()["instruction_sets"]:
        out = np.full((3, 600, 613), np.nan, np.float32)
        _C.merge_windows(logits, out, *arguments[1:], instruction_set=name)
        assert_close("merged", out, expected.value, expected.magnitude, "float32", 12)


@pytest.mark.parametrize("mode", modes())
def test_positions_beyond_32_bits(mode):
    """Two windows whose positions are fractions with numerators of 2e9: the GPU's kernel in 64 bits."""
    bench = Bench(mode, "float32", "nchw")
    logits = bench.image(2, 1, 1, 40_000)
    out = bench.output(1, 1, 50_010, flat=True)
    _C.merge_windows(logits, out, (1, 50_000), (1, 50_000), True, **options(mode))
    positions = np.arange(50_000) * (39_999 / 49_999)
    first, second = (np.interp(positions, np.arange(40_000), one) for one in f64(logits)[:, 0, 0])
    expected = np.concatenate([first[:10], (first[10:] + second[:-10]) / 2, second[-10:]])
    assert np.abs(f64(out)[0, 0] - expected).max() < 8 * 2.0**-24 * np.abs(f64(logits)).max()
    bench.check_guards()


def test_arrays_and_tensors():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((4, 3, 6, 8)).astype(np.float16)
    arguments = {"window": (20, 30), "stride": (12, 15), "align_corners": False}
    array = merge_windows(logits, (32, 45), **arguments)
    assert array.dtype == np.float32
    assert array.shape == (3, 32, 45)
    out = np.empty_like(array)
    assert merge_windows(logits.astype(np.float32), (32, 45), **arguments, out=out) is out
    np.testing.assert_array_equal(out, array)
    for tensor in (torch.from_numpy(logits), torch.from_numpy(logits).to(memory_format=torch.channels_last)):
        np.testing.assert_array_equal(merge_windows(tensor, (32, 45), **arguments).numpy(), array)


def test_torch_knows_its_shape():
    logits = torch.randn(4, 3, 6, 8)
    torch.library.opcheck(
        torch.ops.deeplab.merge_windows.default,
        (logits, [32, 45], [20, 30], [12, 15], False),
        test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_dynamic"),
    )
    merged = tensors.merge_windows(logits.to("meta"), (32, 45), (20, 30), (12, 15), False)
    assert merged.shape == (3, 32, 45)
    assert merged.dtype == torch.float32


GOOD = {
    "logits": np.zeros((4, 2, 3, 3), np.float32), "size": (32, 45), "window": (20, 30), "stride": (12, 15),
    "align_corners": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        (
            {"logits": np.zeros((3, 2, 3, 3), np.float32)},
            ValueError,
            "logits: has 3 windows, but 2 x 2 windows of 20 x",
        ),
        ({"logits": np.zeros((4, 2, 3, 3))}, TypeError, "logits: got dtype float64, needs float32"),
        ({"logits": np.zeros((2, 3, 3), np.float32)}, ValueError, r"logits: .* needs \[n, C, h, w\]"),
        ({"logits": np.zeros((4, 2, 0, 3), np.float32)}, ValueError, "logits: .*at least 1"),
        ({"logits": np.zeros((4, 3, 3, 2), np.float32).transpose(0, 3, 1, 2)}, ValueError, "channels-last"),
        ({"logits": [[1]]}, TypeError, "logits: got list"),
        ({"size": (0, 45)}, ValueError, r"size\[0\]"),
        ({"window": (0, 30)}, ValueError, "window: got a height of 0"),
        ({"stride": (12, 0)}, ValueError, "stride: got a width of 0"),
        ({"window": (8, 30), "stride": (12, 15)}, ValueError, "stride: windows with a height of 8 .* leave gaps"),
        ({"out": np.zeros((3, 32, 45), np.float32)}, ValueError, "out: got shape .* the C of logits, 2"),
        ({"out": np.zeros((2, 32, 44), np.float32)}, ValueError, "out: got shape .* the size"),
        ({"out": np.zeros((2, 32, 45))}, TypeError, "out: got dtype float64"),
        ({"out": np.zeros((2, 32, 90), np.float32)[..., ::2]}, ValueError, "out: is not C-contiguous"),
        ({"threads": 0}, ValueError, "threads"),
    ],
)
def test_bad_arguments_are_named(changes, error, words):
    with pytest.raises(error, match=words):
        merge_windows(**{**GOOD, **changes})


def test_the_cpu_refuses_other_types_and_shared_memory():
    block = np.zeros(4 * 2 * 9 + 2 * 32 * 45, np.float32)
    with pytest.raises(ValueError, match="out: overlaps logits"):
        _C.merge_windows(block[:72].reshape(4, 2, 3, 3), block[60:2940].reshape(2, 32, 45), (20, 30), (12, 15), False)
    with pytest.raises(TypeError, match="logits: got dtype float16"):
        _C.merge_windows(
            GOOD["logits"].astype(np.float16), np.zeros((2, 32, 45), np.float32), (20, 30), (12, 15), False
        )
