# SPDX-License-Identifier: Apache-2.0
"""Run lengths and polygons to masks."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deeplab_infer.errors import DataError
from deeplab_infer.masks import decode_rle, encode_rle, fill_polygons

_EDGE = (cv2.MORPH_DILATE, cv2.MORPH_ERODE)


@settings(max_examples=200, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_run_lengths_back_to_the_mask(mask):
    rle = encode_rle(mask)
    for counts in (rle["counts"], rle["counts"].encode(), runs_of(mask)):
        decoded = decode_rle({"size": rle["size"], "counts": counts})
        assert decoded.dtype == bool
        assert np.array_equal(decoded, mask)


def runs_of(mask):
    """Uncompressed run lengths, pixel by pixel down the columns."""
    runs, value = [0], False
    for pixel in mask.T.ravel():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


def test_a_known_encoding():
    """Worked out by hand: runs 6, 1, 40 are stored as 6, 1, 40 in 5-bit groups: '6', '1', 'X1'."""
    mask = decode_rle({"size": [47, 1], "counts": "61X1"})
    assert np.flatnonzero(mask).tolist() == [6]


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"counts": "04"}, "needs 'size' and 'counts'"),
        ([1, 2], "needs 'size' and 'counts'"),
        ({"size": [2], "counts": [2]}, r"size of a run-length encoding is \[height, width\], got \[2\]"),
        ({"size": [0, 2], "counts": []}, "size of a run-length"),
        ({"size": [2.0, 2], "counts": [4]}, "size of a run-length"),
        ({"size": [2, 2], "counts": [3]}, "add up to 3 pixels, the size says 4"),
        ({"size": [2, 2], "counts": [5, -1]}, "they are damaged"),
        ({"size": [2, 2], "counts": [2.0, 2]}, "string or a list of whole numbers, got list"),
        ({"size": [2, 2], "counts": None}, "got NoneType"),
        ({"size": [2, 2], "counts": "0 4"}, "character ' ' does not occur"),
        ({"size": [2, 2], "counts": "0T"}, "end within a number"),
        ({"size": [100_000, 100_000], "counts": [1]}, "exceeds the limit"),
    ],
)
def test_bad_run_lengths(rle, message):
    with pytest.raises(DataError, match=message):
        decode_rle(rle)


def inside(polygon, x, y):
    """Whether a point is in a polygon: a ray to the right crosses its edges an odd number of times."""
    odd = False
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, 0), strict=True):
        if (y0 <= y) != (y1 <= y) and x >= x0 + (y - y0) * (x1 - x0) / (y1 - y0):
            odd = not odd
    return odd


def test_polygons_cover_the_centres_inside(rng):
    for _ in range(40):
        polygon = rng.uniform(-5, 30, (int(rng.integers(3, 9)), 2))
        expected = [[inside(polygon, x + 0.5, y + 0.5) for x in range(27)] for y in range(21)]
        assert np.array_equal(fill_polygons([polygon], 21, 27), expected)


def test_squares_have_their_area():
    square = np.array([[0, 0], [10, 0], [10, 10], [0, 10]], float)
    mask = fill_polygons([square, square + 15], 30, 40)
    assert mask[:10, :10].all()
    assert mask[15:25, 15:25].all()
    assert mask.sum() == 200
    assert not fill_polygons([square + 100], 30, 40).any()
    assert fill_polygons([square * 100 - 50], 30, 40).all()


def test_polygons_agree_with_pycocotools(rng):
    peer = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    for _ in range(20):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 12))
        polygon = np.stack([60 + 40 * np.cos(angles), 50 + 35 * np.sin(angles)], 1)
        theirs = peer.decode(peer.frPyObjects([polygon.ravel().tolist()], 100, 120))[..., 0].astype(bool)
        ours = fill_polygons([polygon], 100, 120)
        # Theirs draws its outline in steps of a fifth of a pixel: only pixels along it may differ.
        grown, shrunk = (cv2.morphologyEx(ours.astype(np.uint8), op, np.ones((3, 3))) for op in _EDGE)
        assert not ((ours != theirs) & (grown == shrunk)).any()


def test_a_polygon_beyond_measure():
    corners = np.zeros((3000, 2))
    corners[::2, 1] = 20_000
    with pytest.raises(DataError, match="crosses 60,000,000 rows"):
        fill_polygons([corners], 20_000, 1)
