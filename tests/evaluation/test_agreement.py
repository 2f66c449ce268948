# SPDX-License-Identifier: Apache-2.0
"""Two models on the same images."""

import json

import numpy as np
import pytest

from deeplab_infer.errors import DataError
from deeplab_infer.evaluation import ConfusionMatrix, ModelComparison, draw_agreement

CLASSES = tuple("abcd")
NAMES = ("old.onnx", "new.onnx")
VOID = 255


def triples(rng, count=6, wrong=0.2):
    for _ in range(count):
        truth = rng.integers(0, 4, (12, 15))
        first = np.where(rng.random(truth.shape) < wrong, rng.integers(0, 4, truth.shape), truth)
        second = np.where(rng.random(truth.shape) < wrong, rng.integers(0, 3, truth.shape), first)
        truth = np.where(rng.random(truth.shape) < 0.1, VOID, truth)
        yield first.astype(np.uint8), second.astype(np.uint8), truth.astype(np.uint8)


def test_against_counting_by_hand(rng):
    images = list(triples(rng))
    comparison = ModelComparison(NAMES, CLASSES, VOID, keep=2)
    for index, (first, second, truth) in enumerate(images):
        comparison.add(index, f"{index}.png", first, second, truth)
    result = comparison.result()
    first, second, truth = (np.concatenate([one[i].reshape(-1) for one in images]) for i in range(3))
    assert result.agreement == np.mean(first == second)
    for c in range(4):
        assert result.class_agreement[c] == np.mean(second[first == c] == c)
        for d in range(4):
            assert result.between[c, d] == ((first == c) & (second == d)).sum()
    for scores, found in ((result.first, first), (result.second, second)):
        matrix = ConfusionMatrix(CLASSES, VOID)
        matrix.add(found[None], truth[None])
        assert (scores.confusion == matrix.counts).all()
    assert np.allclose(result.iou_difference, result.second.iou - result.first.iou)
    assert result.miou_difference == result.second.miou - result.first.miou
    shares = [np.mean(a == b) for a, b, _ in images]
    order = sorted(range(len(images)), key=lambda i: (shares[i], i))
    assert [image.index for image in result.worst] == order[:2]
    worst = result.worst[0]
    assert (worst.predictions[1] == images[order[0]][1]).all()
    assert (worst.name, worst.agreement) == (f"{order[0]}.png", shares[order[0]])
    matrix = ConfusionMatrix(CLASSES, VOID)
    matrix.add(images[order[0]][1], images[order[0]][2])
    assert worst.miou[1] == matrix.scores().miou


def test_what_is_called_differently_most_comes_first():
    comparison = ModelComparison(NAMES, CLASSES)
    first, second = np.array([[0] * 10]), np.array([[0, 0, 0, 0, 1, 1, 1, 2, 2, 3]])
    comparison.add(0, "x", first, second, first)
    assert comparison.result().disagreements(2) == [("a", "b", 0.3), ("a", "c", 0.2)]
    assert len(comparison.result().disagreements(10)) == 3


def test_equal_models_agree_wholly(rng):
    comparison = ModelComparison(NAMES, CLASSES, keep=1)
    for index, (first, _, truth) in enumerate(triples(rng, 3)):
        comparison.add(index, str(index), first, first.copy(), truth)
    result = comparison.result()
    assert result.agreement == 1.0
    assert (result.class_agreement == 1).all()
    assert result.miou_difference == 0
    assert result.disagreements() == []
    assert result.worst[0].index == 0, "of equal images the first is kept"
    summary = json.loads(json.dumps(result.to_dict()), parse_constant=pytest.fail)
    assert summary["models"] == list(NAMES)
    assert summary["worst_images"][0]["agreement"] == 1


def test_void_pixels_count_between_models_but_not_against_the_truth():
    comparison = ModelComparison(NAMES, CLASSES)
    comparison.add(0, "x", np.array([[0, 1]]), np.array([[0, 2]]), np.array([[0, VOID]]))
    result = comparison.result()
    assert result.agreement == 0.5
    assert result.first.miou == result.second.miou == 1
    assert np.isnan(result.class_agreement[3])
    assert result.to_dict()["class_agreement"]["d"] is None


def test_wrong_use():
    comparison = ModelComparison(NAMES, CLASSES, keep=0)
    with pytest.raises(DataError, match="no image was compared"):
        comparison.result()
    with pytest.raises(DataError, match="sizes must agree"):
        comparison.add(0, "x", np.zeros((2, 2), int), np.zeros((2, 3), int), np.zeros((2, 2), int))
    comparison.add(0, "x", *[np.zeros((2, 2), int)] * 3)
    assert comparison.result().worst == ()


def test_the_map_says_who_is_right():
    truth = np.full((64, 96), 1, np.uint8)
    first, second = truth.copy(), truth.copy()
    second[10, 10:20] = 2  # the first is right
    first[20, 10:20] = 2  # the second is right
    first[30, 10:20], second[30, 10:20] = 2, 3  # neither
    first[40, 10:20], truth[40, 10:20] = 2, VOID
    image = np.full((64, 96, 3), (200, 100, 0), np.uint8)
    picture = draw_agreement(image, first, second, truth)
    assert picture.shape == image.shape
    assert picture.dtype == np.uint8
    rows = [tuple(int(v) for v in picture[row, 15]) for row in (10, 20, 30, 40)]
    assert len(set(rows)) == 4
    assert rows[0][2] > rows[0][0], "blue: the first"
    assert rows[1][0] > rows[1][2], "orange: the second"
    assert rows[3] == (255, 255, 255)
    grey = picture[50, 50]
    assert grey[0] == grey[1] == grey[2], "where they agree the image is grey"
    same = draw_agreement(image, truth, truth, truth)
    assert (same == same[0, 0, 0]).all(), "nothing to tell, no legend"
