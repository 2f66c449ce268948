# SPDX-License-Identifier: Apache-2.0
"""IoU as mmsegmentation's metric defines it."""

import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deeplab_infer.errors import DataError
from deeplab_infer.evaluation import ConfusionMatrix


def test_areas_are_summed_over_images_before_any_ratio(rng):
    matrix = ConfusionMatrix(("a", "b", "c", "d"), ignore_index=9)
    intersection, predicted, labelled = np.zeros(4), np.zeros(4), np.zeros(4)
    for _ in range(5):
        truth = rng.choice([0, 1, 2, 9], (20, 30))
        found = rng.integers(0, 4, (20, 30))
        matrix.add(found, truth)
        for c in range(4):
            valid = truth != 9
            intersection[c] += ((truth == c) & (found == c)).sum()
            predicted[c] += ((found == c) & valid).sum()
            labelled[c] += (truth == c).sum()
    scores = matrix.scores()
    iou = intersection / (predicted + labelled - intersection)
    assert np.allclose(scores.iou, iou)
    assert scores.iou[3] == 0, "a class that is only predicted counts 0"
    assert scores.miou == pytest.approx(iou.mean())
    assert scores.aacc == pytest.approx(intersection.sum() / labelled.sum())
    assert np.isnan(scores.accuracy[3])
    assert scores.macc == pytest.approx((intersection[:3] / labelled[:3]).mean())
    assert scores.to_dict()["accuracy"]["d"] is None


def test_absent_classes_are_left_out():
    matrix = ConfusionMatrix(("a", "b", "c"))
    matrix.add(np.array([[0, 1]]), np.array([[0, 1]]))
    assert matrix.scores().miou == 1.0
    assert np.isnan(matrix.scores().iou[2])
    assert np.isnan(ConfusionMatrix(("a",)).scores().miou)


def test_bad_labels():
    matrix = ConfusionMatrix(("a", "b"))
    with pytest.raises(DataError, match="labels hold the value 7"):
        matrix.add(np.array([[0]]), np.array([[7]]))
    with pytest.raises(DataError, match="prediction hold the value 2"):
        matrix.add(np.array([[2]]), np.array([[1]]))
    with pytest.raises(DataError, match="sizes must agree"):
        matrix.add(np.zeros((2, 2), int), np.zeros((2, 3), int))


def test_parts_add_up_to_the_whole(rng):
    classes = ("a", "b", "c")
    pairs = [(rng.integers(0, 3, (9, 7)), rng.choice([0, 1, 2, 255], (9, 7))) for _ in range(6)]
    whole, parts = ConfusionMatrix(classes), [ConfusionMatrix(classes) for _ in range(3)]
    for index, pair in enumerate(pairs):
        whole.add(*pair)
        parts[index % 3].add(*pair)
    merged = ConfusionMatrix.from_counts(classes, parts[0].counts)
    for part in parts[1:]:
        merged += part
    assert (merged.counts == whole.counts).all()
    assert merged.scores().miou == whole.scores().miou
    assert parts[0].counts.sum() < merged.counts.sum(), "the counts given are copied"


def test_only_counts_of_one_dataset_are_added():
    matrix = ConfusionMatrix(("a", "b"))
    for other in (ConfusionMatrix(("a", "c")), ConfusionMatrix(("a", "b"), ignore_index=0)):
        with pytest.raises(DataError, match="both must be of one dataset"):
            matrix += other
    for counts in (np.zeros((2, 3), int), np.zeros((2, 2)), np.full((2, 2), -1)):
        with pytest.raises(DataError, match="counts must be integers"):
            ConfusionMatrix.from_counts(("a", "b"), counts)


def test_large_counts_are_exact():
    """Beyond 2^24 pixels, which Cityscapes' roads reach, a float32 sum loses some."""
    a, b, c = 2**40 + 1, 2**41 - 1, 2**39 + 3
    scores = ConfusionMatrix.from_counts(("a", "b"), np.array([[a, 0], [b, c]], np.int64)).scores()
    assert scores.pixels.tolist() == [a, b + c]
    assert scores.iou.tolist() == [float(Fraction(a, a + b)), float(Fraction(c, b + c))]
    assert scores.aacc == float(Fraction(a + c, a + b + c))


def test_nothing_labelled_is_json():
    matrix = ConfusionMatrix(("a",))
    matrix.add(np.zeros((2, 2), int), np.full((2, 2), 255))
    summary = matrix.scores().to_dict()
    assert (summary["miou"], summary["aacc"], summary["iou"]) == (None, None, {"a": None})
    json.loads(json.dumps(summary), parse_constant=pytest.fail)


@given(
    arrays(np.uint8, (5, 6), elements=st.sampled_from([0, 1, 2, 3, 255])),
    arrays(np.uint8, (5, 6), elements=st.integers(0, 3)),
)
def test_ious_by_sets(truth, found):
    matrix = ConfusionMatrix(tuple("abcd"))
    matrix.add(found, truth)
    valid = truth != 255
    for c, iou in enumerate(matrix.scores().iou):
        ours, theirs = (found == c) & valid, truth == c
        union = (ours | theirs).sum()
        assert np.isnan(iou) if not union else iou == (ours & theirs).sum() / union
