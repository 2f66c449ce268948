# SPDX-License-Identifier: Apache-2.0
"""Bands around boundaries against distances that are computed pair by pair."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deeplab_infer.errors import DataError
from deeplab_infer.evaluation import ConfusionMatrix, Trimap, edge_distance

VOID = 255
CLASSES = tuple("abcd")


def squared_distance(labels, edges):
    """Squared distance of every pixel to the nearest one beyond a boundary, whole numbers; -1 where there is none."""
    height, width = labels.shape
    result = np.full(labels.shape, -1, np.int64)
    for y in range(height):
        for x in range(width):
            if labels[y, x] == VOID:
                continue
            is_void, other = labels == VOID, (labels != labels[y, x]) & (labels != VOID)
            rows, columns = np.nonzero({"void": is_void, "classes": other, "both": is_void | other}[edges])
            if rows.size:
                result[y, x] = ((rows - y) ** 2 + (columns - x) ** 2).min()
    return result


def blobs(rng, height, width, void=True):
    """Labels in patches, as pictures have them, with some void borders and single pixels."""
    labels = rng.integers(0, 4, (height, width))
    labels = labels[np.arange(height)[:, None] // 9 * 9 % height, np.arange(width) // 11 * 11 % width].astype(np.uint8)
    if void:
        labels[rng.random(labels.shape) < 0.01] = VOID
        labels[height // 2 : height // 2 + 3, : width // 2] = VOID
    return labels


@pytest.mark.parametrize("edges", ["void", "classes", "both"])
def test_bands_are_those_of_brute_force(rng, edges):
    labels, found = blobs(rng, 48, 61), rng.integers(0, 4, (48, 61)).astype(np.uint8)
    widths = (1, 2, 3, 5, 10, 20)
    trimap = Trimap(CLASSES, VOID, widths, edges)
    trimap.add(found, labels)
    scores = trimap.scores()
    squared = squared_distance(labels, edges)
    for width, ours in zip(widths, scores.scores, strict=True):
        band = (labels != VOID) & (squared >= 0) & (squared <= width**2)
        matrix = ConfusionMatrix(CLASSES, VOID)
        matrix.add(found, np.where(band, labels, VOID))
        assert (ours.confusion == matrix.counts).all()
        assert ours.miou == matrix.scores().miou
    assert scores.labelled == (labels != VOID).sum()
    assert scores.share == tuple(s.pixels.sum() / scores.labelled for s in scores.scores)


@settings(deadline=None, max_examples=60)
@given(
    arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.sampled_from([0, 1, 3, VOID])),
    st.sampled_from(["void", "classes", "both"]),
    st.sampled_from([1, 2, 4, 30]),
)
def test_distances_are_exact(labels, edges, reach):
    squared = squared_distance(labels, edges)
    near = (squared >= 0) & (squared <= reach**2) & (labels != VOID)
    distance = edge_distance(labels, VOID, edges, reach)
    assert distance.dtype == np.float32
    assert np.isinf(distance[~near]).all()
    assert (distance[near] == np.sqrt(squared[near].astype(np.float32))).all()


def test_distances_are_exact_in_wide_pictures():
    """Squares beyond 2^24 are no float32 numbers any more; a band must not feel it."""
    labels = np.zeros((40, 9000), np.uint8)
    rng = np.random.default_rng(3)
    rows, columns = rng.integers(0, 40, 50), rng.integers(0, 9000, 50)
    labels[rows, columns] = VOID
    squared = np.full(labels.shape, 1 << 40)
    y, x = np.mgrid[:40, :9000]
    for row, column in zip(rows, columns, strict=True):
        squared = np.minimum(squared, (y - row) ** 2 + (x - column) ** 2)
    distance = edge_distance(labels, VOID, "void", 40)
    for width in (1, 2, 3, 5, 10, 20, 40):
        assert ((distance <= width) == ((squared <= width**2) & (labels != VOID))).all()


def test_a_straight_edge_has_width_pixels_on_each_side():
    labels = np.zeros((5, 40), np.uint8)
    labels[:, 20:] = 1
    trimap = Trimap(("a", "b"), widths=(1, 3))
    trimap.add(labels, labels)
    assert [int(s.pixels.sum()) for s in trimap.scores().scores] == [5 * 2 * 1, 5 * 2 * 3]
    labels[:, 18:22] = VOID
    trimap = Trimap(("a", "b"), widths=(1, 3), edges="void")
    trimap.add(np.zeros_like(labels), labels)
    assert [s.pixels.tolist() for s in trimap.scores().scores] == [[5, 5], [15, 15]]
    assert trimap.scores().miou == (0.25, 0.25)


def test_void_edges_and_class_edges_are_told_apart():
    labels = np.zeros((9, 60), np.uint8)
    labels[:, 20:] = 1
    labels[:, 40:45] = VOID
    counts = {}
    for edges in ("void", "classes", "both", "auto"):
        trimap = Trimap(("a", "b"), widths=(2,), edges=edges)
        trimap.add(labels % 2, labels)
        counts[edges] = int(trimap.counts.sum())
    assert counts == {"void": 36, "classes": 36, "both": 72, "auto": 72}
    assert Trimap(("a",), edges="auto").scores().edges == "both"


def test_the_border_of_the_image_is_no_boundary():
    trimap = Trimap(("a", "b"))
    trimap.add(np.zeros((6, 6), int), np.zeros((6, 6), int))
    scores = trimap.scores()
    assert trimap.counts.sum() == 0
    assert np.isnan(scores.miou).all()
    summary = json.loads(json.dumps(scores.to_dict()), parse_constant=pytest.fail)
    assert summary["miou"]["40"] is None
    assert summary["bands"][0] | {"iou": 0, "accuracy": 0, "pixels": 0} == {
        "width": 1, "share": 0.0, "miou": None, "macc": None, "aacc": None, "iou": 0, "accuracy": 0, "pixels": 0
    }  # fmt: skip


def test_areas_are_summed_and_parts_add_up(rng):
    pairs = [(rng.integers(0, 4, (20, 30)).astype(np.uint8), blobs(rng, 20, 30)) for _ in range(4)]
    whole, one, two = (Trimap(CLASSES, widths=(5, 1, 5)) for _ in range(3))
    assert whole.widths == (1, 5)
    for index, pair in enumerate(pairs):
        whole.add(*pair)
        (one if index % 2 else two).add(*pair)
    one += two
    assert one.scores().to_dict() == whole.scores().to_dict()
    for other in (
        Trimap(CLASSES, widths=(1,)),
        Trimap(CLASSES, widths=(1, 5), edges="void"),
        Trimap(("a",), widths=(1, 5)),
    ):
        with pytest.raises(DataError, match="measured alike"):
            one += other


def test_wrong_use():
    for widths in ((), (0,), (-1, 2), (1.5,)):
        with pytest.raises(DataError, match="widths of bands"):
            Trimap(CLASSES, widths=widths)
    with pytest.raises(DataError, match="edges 'voids' is not one of auto, void"):
        Trimap(CLASSES, edges="voids")
    with pytest.raises(DataError, match="labels hold the value 9"):
        Trimap(CLASSES).add(np.zeros((2, 2), int), np.full((2, 2), 9))
    with pytest.raises(DataError, match="sizes must agree"):
        Trimap(CLASSES).add(np.zeros((2, 2), int), np.zeros((2, 3), int))
