# SPDX-License-Identifier: Apache-2.0
"""IoU as mmsegmentation's metric defines it."""

import numpy as np
import pytest

from deeplab_infer.data.scenes import StreetScenes
from deeplab_infer.errors import DataError
from deeplab_infer.evaluation import ConfusionMatrix, evaluate


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


def test_a_perfect_predictor_scores_1():
    scenes = StreetScenes(2, 32, 48)
    answers = iter([scenes[0][1], scenes[1][1]])
    done = []
    scores = evaluate(lambda image: next(answers), scenes, lambda i, n: done.append((i, n))).scores()
    assert scores.miou == 1.0
    assert done == [(1, 2), (2, 2)]
