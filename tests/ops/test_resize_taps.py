# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplab_infer.ops.resize_taps import bilinear_taps, compose_taps, resize_taps, taps_matrix

sizes = st.integers(1, 70)


def apply(taps, values):
    index, weight = taps
    return (values[index].astype(np.float64) * weight).sum(axis=1)


@settings(deadline=None, max_examples=150)
@given(size_in=sizes, size_out=sizes, align_corners=st.booleans(), seed=st.integers(0, 1000))
def test_equals_torch_in_double(size_in, size_out, align_corners, seed):
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(seed).standard_normal(size_in)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(values)[None, None, None],
        size=(1, size_out),
        mode="bilinear",
        align_corners=align_corners,
    )
    np.testing.assert_allclose(
        apply(bilinear_taps(size_in, size_out, align_corners), values), expected.flatten().numpy(), atol=1e-6
    )


@settings(deadline=None, max_examples=150)
@given(size_in=sizes, via=sizes, size_out=sizes, align_corners=st.booleans())
def test_composition_is_the_product_of_the_two_matrices(size_in, via, size_out, align_corners):
    first = bilinear_taps(size_in, via, align_corners)
    second = bilinear_taps(via, size_out, align_corners)
    composed = compose_taps(first, second)
    assert composed[0].shape[1] <= 4
    expected = taps_matrix(second, via).astype(np.float64) @ taps_matrix(first, size_in)
    np.testing.assert_allclose(taps_matrix(composed, size_in), expected, atol=1e-6)


@settings(deadline=None, max_examples=100)
@given(size_in=sizes, size_out=sizes, align_corners=st.booleans(), via=st.none() | sizes)
def test_weights_sum_to_one_and_indices_are_inside(size_in, size_out, align_corners, via):
    index, weight = resize_taps(size_in, size_out, align_corners, via)
    assert index.dtype == np.int32
    assert weight.dtype == np.float32
    assert index.min() >= 0
    assert index.max() < size_in
    np.testing.assert_allclose(weight.sum(axis=1), 1, atol=1e-6)


def test_identity_needs_one_tap():
    index, weight = resize_taps(9, 9, False)
    assert index.shape == (9, 1)
    assert (index[:, 0] == np.arange(9)).all()
    assert (weight == 1).all()


def test_a_resize_to_the_same_size_on_the_way_changes_nothing():
    for via in (10, 40):
        for one, other in zip(resize_taps(10, 40, False), resize_taps(10, 40, False, via), strict=True):
            np.testing.assert_array_equal(one, other)


def test_kept_tables_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        resize_taps(4, 8, False)[1][0, 0] = 3


@pytest.mark.parametrize(
    ("arguments", "error", "word"),
    [
        ((0, 4, False), ValueError, "size_in"),
        ((4, -1, False), ValueError, "size_out"),
        ((4.0, 4, False), TypeError, "size_in"),
        ((4, True, False), TypeError, "size_out"),
        ((4, 4, False, 0), ValueError, "via"),
    ],
)
def test_bad_sizes_are_named(arguments, error, word):
    with pytest.raises(error, match=word):
        resize_taps(*arguments)


def test_tables_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="second"):
        compose_taps(bilinear_taps(4, 5, False), bilinear_taps(6, 9, False))
    with pytest.raises(ValueError, match="size_in"):
        taps_matrix(bilinear_taps(8, 4, False), 3)
