# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplab_infer.ops import taps_matrix, upsample, upsample_argmax
from deeplab_infer.ops.resize_taps import bilinear_taps


def reference(logits, size, align_corners, via=None):
    """Full-size values in float64, one dense matrix per axis and resize."""
    values = logits.astype(np.float64)
    for target in [size] if via is None else [via, size]:
        rows = taps_matrix(bilinear_taps(values.shape[-2], target[0], align_corners), values.shape[-2])
        columns = taps_matrix(bilinear_taps(values.shape[-1], target[1], align_corners), values.shape[-1])
        values = rows.astype(np.float64) @ values @ columns.T.astype(np.float64)
    return values


def assert_labels(labels, values, tolerance=1e-5):
    """The label's value is the highest, but for what float32 cannot tell apart."""
    chosen = np.take_along_axis(values, labels[..., None, :, :].astype(np.int64), axis=-3)[..., 0, :, :]
    assert (values.max(axis=-3) - chosen).max() <= tolerance


small = st.integers(1, 24)
pairs = st.tuples(small, small)


@settings(deadline=None, max_examples=200)
@given(
    batch=st.none() | st.integers(1, 3),
    channels=st.integers(1, 9),
    shape=pairs,
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    via=st.none() | pairs,
    align_corners=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_equals_the_reference(batch, channels, shape, size, via, align_corners, seed):
    lead = (channels,) if batch is None else (batch, channels)
    logits = np.random.default_rng(seed).standard_normal((*lead, *shape)).astype(np.float32)
    values = reference(logits, size, align_corners, via)

    labels, scores = upsample_argmax(logits, size, align_corners=align_corners, via=via, scores=True)
    assert labels.dtype == np.uint8
    assert labels.shape == scores.shape == (*lead[:-1], *size)
    assert_labels(labels, values)
    probability = np.exp(values - values.max(axis=-3, keepdims=True))
    probability /= probability.sum(axis=-3, keepdims=True)
    np.testing.assert_allclose(scores, probability.max(axis=-3), atol=2e-6)

    plain = upsample_argmax(logits, size, align_corners=align_corners, via=via)
    np.testing.assert_array_equal(plain, labels)
    maps = upsample(logits, size, align_corners, via=via)
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps, values, atol=2e-6)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("shape", "via", "size"),
    [
        ((19, 64, 128), None, (256, 512)),
        ((19, 97, 97), (193, 193), (769, 769)),
        ((150, 32, 43), (128, 171), (94, 125)),
        ((5, 33, 41), (65, 81), (131, 163)),
    ],
)
def test_two_resizes_equal_torch(shape, via, size, align_corners, rng):
    torch = pytest.importorskip("torch")
    logits = rng.standard_normal(shape).astype(np.float32)
    values = torch.from_numpy(logits)[None].double()
    for target in [size] if via is None else [via, size]:
        values = torch.nn.functional.interpolate(values, size=target, mode="bilinear", align_corners=align_corners)
    labels = upsample_argmax(logits, size, align_corners=align_corners, via=via)
    assert_labels(labels, values[0].numpy(), tolerance=2e-5)
    assert (labels == values[0].argmax(0).numpy()).mean() > 0.9999


def test_ties_go_to_the_lowest_class(rng):
    logits = np.repeat(rng.standard_normal((1, 7, 9)).astype(np.float32), 6, axis=0)
    logits[0] -= 1
    assert (upsample_argmax(logits, (50, 61), align_corners=False) == 1).all()


def test_more_classes_than_a_byte_holds(rng):
    logits = rng.standard_normal((300, 4, 5)).astype(np.float32)
    labels = upsample_argmax(logits, (16, 21), align_corners=True)
    assert labels.dtype == np.int32
    assert_labels(labels, reference(logits, (16, 21), True))
    assert upsample_argmax(logits[:256], (4, 5), align_corners=True).dtype == np.uint8


def test_an_empty_batch_gives_an_empty_result():
    labels, scores = upsample_argmax(np.zeros((0, 3, 4, 4), np.float32), (8, 8), align_corners=False, scores=True)
    assert labels.shape == scores.shape == (0, 8, 8)
    assert upsample(np.zeros((0, 3, 4, 4), np.float32), (8, 8), False).shape == (0, 3, 8, 8)


def test_one_pixel_and_one_class():
    labels, scores = upsample_argmax(np.full((1, 1, 1), -3, np.float32), (1, 1), align_corners=True, scores=True)
    assert labels.tolist() == [[0]]
    assert scores.tolist() == [[1.0]]


def test_nan_never_wins_and_all_nan_is_marked():
    logits = np.zeros((3, 1, 4), np.float32)
    logits[0, 0, :] = [np.nan, 1, np.nan, 0]
    logits[1, 0, :] = [0, np.nan, np.nan, -np.inf]
    logits[2, 0, :] = [1, 0, np.nan, 2]
    labels, scores = upsample_argmax(logits, (1, 4), align_corners=False, scores=True)
    assert labels.tolist() == [[2, 0, 0, 2]]
    winner = np.exp(1) / (1 + np.exp(1))
    np.testing.assert_allclose(scores[0], [winner, winner, np.nan, np.exp(2) / (1 + np.exp(2))], rtol=1e-6)


def test_a_class_masked_with_minus_infinity_never_wins(rng):
    logits = rng.standard_normal((4, 5, 6)).astype(np.float32)
    rest = upsample_argmax(logits[1:], (17, 23), align_corners=False, scores=True)
    logits[0] = -np.inf
    labels, scores = upsample_argmax(logits, (17, 23), align_corners=False, scores=True)
    np.testing.assert_array_equal(labels, rest[0] + 1)
    np.testing.assert_allclose(scores, rest[1], rtol=1e-6)


def test_extreme_logits_have_a_score_of_one():
    logits = np.array([1e30, -1e30, 0], np.float32).reshape(3, 1, 1)
    labels, scores = upsample_argmax(logits, (3, 3), align_corners=False, scores=True)
    assert (labels == 0).all()
    assert (scores == 1).all()


def test_half_precision_and_strided_arrays(rng):
    logits = rng.standard_normal((4, 6, 10)).astype(np.float16)
    expected = upsample_argmax(logits.astype(np.float32), (13, 17), align_corners=False)
    np.testing.assert_array_equal(upsample_argmax(logits, (13, 17), align_corners=False), expected)
    channels_last = np.ascontiguousarray(logits.transpose(1, 2, 0)).transpose(2, 0, 1)
    np.testing.assert_array_equal(upsample_argmax(channels_last, (13, 17), align_corners=False), expected)


GOOD = np.zeros((3, 4, 5), np.float32)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"logits": [[1.0]]}, TypeError, "logits.*list"),
        ({"logits": GOOD.astype(np.float64)}, TypeError, "logits.*float64"),
        ({"logits": GOOD[0]}, ValueError, r"logits.*\[4, 5\]"),
        ({"logits": GOOD[:0]}, ValueError, "logits.*at least 1"),
        ({"logits": GOOD[:, :0]}, ValueError, "logits.*at least 1"),
        ({"size": 8}, TypeError, "size"),
        ({"size": (8, 8, 8)}, TypeError, "size"),
        ({"size": (8, 0)}, ValueError, r"size\[1\]"),
        ({"size": (8.5, 8)}, TypeError, r"size\[0\]"),
        ({"via": (0, 8)}, ValueError, "via"),
        ({"threads": 0}, ValueError, "threads"),
        ({"threads": "two"}, TypeError, "threads"),
    ],
)
def test_bad_arguments_are_named(changes, error, words):
    arguments = {"logits": GOOD, "size": (8, 8), "align_corners": False, **changes}
    with pytest.raises(error, match=words):
        upsample_argmax(**arguments)


def test_upsample_refuses_what_is_no_map():
    with pytest.raises(ValueError, match="logits"):
        upsample(np.zeros(4, np.float32), (2, 2), False)
    with pytest.raises(TypeError, match="int64"):
        upsample(np.zeros((4, 4), np.int64), (2, 2), False)
