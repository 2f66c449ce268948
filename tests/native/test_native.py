# SPDX-License-Identifier: Apache-2.0
"""The native module itself: every instruction set, threads, and the checks at its door."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from deeplab_infer import _C
from deeplab_infer.ops.resize_taps import resize_taps

SETS = _C.build_info()["instruction_sets"]
# name: logits [C, h, w], size, via. Downscaling and equal sizes leave no block of columns compact.
CASES = {
    "x4": ((19, 16, 33), (64, 131), None),
    "two resizes": ((7, 13, 17), (37, 45), (52, 70)),
    "down": ((5, 60, 90), (11, 13), None),
    "same": ((5, 20, 40), (20, 40), None),
    "nearly same": ((3, 30, 41), (31, 43), None),
    "wide from one": ((4, 1, 1), (3, 50), None),
}


def arguments(case):
    shape, size, via = CASES[case]
    logits = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    vias = via or (None, None)
    y = resize_taps(shape[1], size[0], False, vias[0])
    x = resize_taps(shape[2], size[1], False, vias[1])
    return logits, *y, *x


def values(logits, y_index, y_weight, x_index, x_weight):
    rows = np.einsum("chkw,hk->chw", logits[:, y_index].astype(np.float64), y_weight)
    return np.einsum("chwk,wk->chw", rows[:, :, x_index], x_weight)


def test_build_info_says_what_was_built():
    info = _C.build_info()
    assert info["cuda"] is bool(info["cuda_version"]) is bool(info["cuda_architectures"])
    assert info["instruction_sets"][0] == "portable"
    assert info["threads"] >= 1
    assert info["compiler"]
    assert info["build_type"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("instruction_set", SETS)
def test_every_instruction_set_equals_float64(case, instruction_set):
    given = arguments(case)
    expected = values(*given)
    labels, scores = _C.upsample_argmax(*given, True, 1, instruction_set)
    chosen = np.take_along_axis(expected, labels[None].astype(np.int64), axis=0)[0]
    assert (expected.max(axis=0) - chosen).max() <= 1e-5
    softmax = np.exp(expected - expected.max(axis=0))
    np.testing.assert_allclose(scores, 1 / softmax.sum(axis=0), rtol=3e-6)
    maps = _C.upsample(*given, 1, instruction_set)
    np.testing.assert_allclose(maps, expected, atol=3e-6)


@pytest.mark.parametrize("instruction_set", SETS)
def test_the_score_is_exact_over_the_whole_range_of_exp(instruction_set):
    gaps = np.concatenate([np.linspace(0, 90, 1000), np.geomspace(1e-7, 1, 200)]).astype(np.float32)
    logits = np.stack([np.zeros_like(gaps), -gaps])[:, None]
    taps = *resize_taps(1, 1, False), *resize_taps(len(gaps), len(gaps), False)
    _, scores = _C.upsample_argmax(logits, *taps, True, 1, instruction_set)
    np.testing.assert_allclose(scores[0], 1 / (1 + np.exp(-gaps.astype(np.float64))), rtol=2e-7)


def test_the_result_does_not_depend_on_the_number_of_threads():
    logits = np.random.default_rng(2).standard_normal((2, 21, 65, 70)).astype(np.float32)
    taps = *resize_taps(65, 400, True), *resize_taps(70, 503, True)
    one = _C.upsample_argmax(logits, *taps, True, 1)
    for threads in (0, 2, 3, 64):
        for expected, got in zip(one, _C.upsample_argmax(logits, *taps, True, threads), strict=True):
            np.testing.assert_array_equal(expected, got)
    np.testing.assert_array_equal(_C.upsample(logits, *taps, 1), _C.upsample(logits, *taps, 5))


def test_calls_from_several_threads_at_once():
    given = arguments("x4")
    expected = _C.upsample_argmax(*given)
    wrong = []

    def work():
        wrong.extend(i for i in range(50) if not np.array_equal(_C.upsample_argmax(*given, False, 2), expected))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_arrays_of_any_leading_shape_are_upsampled():
    taps = *resize_taps(3, 7, False), *resize_taps(4, 9, False)
    stack = np.random.default_rng(3).standard_normal((2, 3, 5, 3, 4)).astype(np.float32)
    out = _C.upsample(stack, *taps)
    assert out.shape == (2, 3, 5, 7, 9)
    np.testing.assert_array_equal(out[1, 2, 4], _C.upsample(stack[1, 2, 4], *taps))


def changed(position, array):
    given = list(arguments("two resizes"))
    given[position] = array(given[position])
    return given


@pytest.mark.parametrize(
    ("position", "change", "error", "words"),
    [
        (0, lambda a: a.astype(np.float64), TypeError, "logits: got dtype float64, needs float32"),
        (0, lambda a: a[:, ::2], ValueError, "logits: is not C-contiguous"),
        (0, lambda a: a[0], ValueError, r"logits: got shape \[13, 17\]"),
        (0, lambda a: a[:0], ValueError, "logits: has no classes"),
        (0, lambda a: a[:, :, :0].copy(), ValueError, "logits: has an empty image"),
        (1, lambda a: a.astype(np.int64), TypeError, "y_index: got dtype int64, needs int32"),
        (1, lambda a: a + 1, ValueError, "y_index: value 13 at row"),
        (1, lambda a: a - 1, ValueError, "y_index: value -1 at row 0"),
        (1, lambda a: a[0], ValueError, "y_index: got shape"),
        (2, lambda a: a[1:], ValueError, "y_weight: got shape .* needs the shape of y_index"),
        (2, lambda a: a.astype(np.float16), TypeError, "y_weight: got dtype float16"),
        (3, lambda a: a * 100, ValueError, "x_index: value"),
        (4, lambda a: a[:, :1], ValueError, "x_weight: got shape"),
    ],
)
def test_bad_arrays_are_named(position, change, error, words):
    with pytest.raises(error, match=words):
        _C.upsample_argmax(*changed(position, change))


def test_bad_tables_and_options_are_named():
    logits, y_index, y_weight, x_index, x_weight = arguments("x4")
    wide = np.zeros((4, 5), np.int32)
    with pytest.raises(ValueError, match="y_index: has 5 taps"):
        _C.upsample_argmax(logits, wide, wide.astype(np.float32), x_index, x_weight)
    with pytest.raises(ValueError, match="x_index: has no rows"):
        _C.upsample_argmax(logits, y_index, y_weight, x_index[:0], x_weight[:0])
    with pytest.raises(ValueError, match="threads: got -1"):
        _C.upsample_argmax(logits, y_index, y_weight, x_index, x_weight, False, -1)
    with pytest.raises(ValueError, match=r"instruction_set: got 'mmx'.*portable"):
        _C.upsample_argmax(logits, y_index, y_weight, x_index, x_weight, instruction_set="mmx")
    with pytest.raises(TypeError):
        _C.upsample_argmax([[[1.0]], None], y_index, y_weight, x_index, x_weight)
