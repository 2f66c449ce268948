# SPDX-License-Identifier: Apache-2.0
"""mmsegmentation's IoUMetric on the same labels."""

import numpy as np
import pytest
import torch

from deeplab_infer.configs import dataset_spec
from deeplab_infer.evaluation import ConfusionMatrix

pytestmark = pytest.mark.peer

IMAGES, SIZE = 12, (97, 131)


def label_pairs(classes, absent, only_predicted, seed=0):
    """Ground truth with void pixels, without some classes, and a prediction that is right in about two thirds."""
    rng = np.random.default_rng(seed)
    present = [c for c in range(classes) if c not in (*absent, *only_predicted)]
    for _ in range(IMAGES):
        truth = rng.choice(present, SIZE)
        guess = rng.choice([*present, *only_predicted], SIZE)
        found = np.where(rng.random(SIZE) < 0.66, truth, guess)
        truth = np.where(rng.random(SIZE) < 0.1, 255, truth)
        yield found.astype(np.uint8), truth.astype(np.uint8)


@pytest.mark.parametrize(
    ("dataset", "absent", "only_predicted"),
    [("cityscapes", (), ()), ("voc12aug", (3,), (7,)), ("ade20k", (0, 149), (17, 80))],
)
def test_equal_to_mmsegmentation(mmseg_models, dataset, absent, only_predicted):
    from mmseg.evaluation import IoUMetric

    spec = dataset_spec(dataset)
    count = len(spec.classes)
    matrix = ConfusionMatrix(spec.classes, spec.ignore_index)
    areas = []
    for found, truth in label_pairs(count, absent, only_predicted):
        matrix.add(found, truth)
        areas.append(
            IoUMetric.intersect_and_union(
                torch.from_numpy(found).long(), torch.from_numpy(truth).long(), count, spec.ignore_index
            )
        )
    scores = matrix.scores()
    # Areas of this size are exact in their float32 sums, so that only the division rounds: to 24 bits.
    theirs = IoUMetric.total_area_to_metrics(*(sum(area) for area in zip(*areas, strict=True)), metrics=["mIoU"])
    rounding = 2.0**-23
    np.testing.assert_allclose(scores.iou, theirs["IoU"], rtol=rounding)
    np.testing.assert_allclose(scores.accuracy, theirs["Acc"], rtol=rounding)
    np.testing.assert_allclose(scores.aacc, theirs["aAcc"], rtol=rounding)
    assert np.isnan(scores.iou[list(absent)]).all()
    assert (scores.iou[list(only_predicted)] == 0).all()

    # What it prints: means in percent, rounded to two decimals.
    metric = IoUMetric(ignore_index=spec.ignore_index, iou_metrics=["mIoU"])
    metric.dataset_meta = {"classes": spec.classes}
    printed = metric.compute_metrics(areas)
    for name, value in (("mIoU", scores.miou), ("mAcc", scores.macc), ("aAcc", scores.aacc)):
        assert printed[name] == pytest.approx(100 * value, abs=0.005 + 1e-4), name
        print(f"PARITY IoUMetric {dataset} {name}: {printed[name]} {100 * value:.6f}")
