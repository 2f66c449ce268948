# SPDX-License-Identifier: Apache-2.0
"""The training loop: schedule, loss, repeatability, refusals."""

import numpy as np
import pytest
import torch

from deeplab_infer import build_model
from deeplab_infer.configs import load_config
from deeplab_infer.data.scenes import StreetScenes
from deeplab_infer.errors import DataError
from deeplab_infer.models import TrainingOutput
from deeplab_infer.training import TrainOptions, train
from deeplab_infer.training.loop import learning_rate, segmentation_loss

from ..networks import STREETS


def test_learning_rate_rises_then_falls():
    options = TrainOptions(iterations=100, lr=1.0, warmup=10)
    assert learning_rate(options, 0) == pytest.approx(0.1)
    assert learning_rate(options, 9) == pytest.approx((1 - 9 / 100) ** 0.9)
    assert learning_rate(options, 50) == pytest.approx(0.5**0.9)
    assert learning_rate(options, 99) == pytest.approx(0.01**0.9)


def test_loss_against_a_float64_computation(rng):
    logits = rng.normal(size=(2, 4, 5, 6))
    auxiliary = rng.normal(size=(2, 4, 5, 6))
    labels = rng.integers(0, 4, (2, 5, 6))
    labels[0, :2] = 255

    def cross_entropy(values):
        log = values - np.log(np.exp(values).sum(1, keepdims=True))
        picked = np.take_along_axis(log, np.where(labels == 255, 0, labels)[:, None], 1)[:, 0]
        return -picked[labels != 255].mean()

    output = TrainingOutput(torch.from_numpy(logits), torch.from_numpy(auxiliary))
    found = segmentation_loss(output, torch.from_numpy(labels), False, 255)
    assert float(found) == pytest.approx(cross_entropy(logits) + 0.4 * cross_entropy(auxiliary), rel=1e-12)
    alone = segmentation_loss(TrainingOutput(torch.from_numpy(logits), None), torch.from_numpy(labels), False, 255)
    assert float(alone) == pytest.approx(cross_entropy(logits), rel=1e-12)


def run(optimizer="adamw", **options):
    torch.manual_seed(0)
    model = build_model(STREETS)
    losses = []
    settings = TrainOptions(iterations=8, batch=2, crop=(64, 64), optimizer=optimizer, warmup=2, **options)
    train(model, StreetScenes(3, 64, 96), settings, lambda step, loss: losses.append(loss))
    return model, losses


def test_training_learns_and_repeats_to_the_bit():
    first, losses = run()
    second, again = run()
    assert losses == again
    assert losses[-1] < losses[0]
    assert not first.training
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_training_runs_fused_unless_told_otherwise():
    scenes = StreetScenes(4, 64, 96)
    losses = {}
    for fused in (True, False):
        torch.manual_seed(0)
        model = build_model(load_config(STREETS, ["dropout=0"]))
        options = TrainOptions(iterations=2, batch=2, crop=(48, 64), fused=fused, lr=1e-4)
        found = []
        train(model, scenes, options, lambda step, loss, found=found: found.append(loss))
        assert any(getattr(module, "fused", False) for module in model.modules()) is fused
        losses[fused] = found
    assert losses[True] == pytest.approx(losses[False], rel=1e-3)


def test_sgd_and_another_seed():
    _, losses = run("sgd", lr=0.05, seed=1)
    assert losses[-1] < losses[0]


def test_divergence_is_noticed_at_once():
    with pytest.raises(DataError, match="training has diverged.*lower learning rate"):
        run("sgd", lr=1e30)


def test_classes_must_agree():
    model = build_model(load_config(STREETS, ["num_classes=3"]))
    with pytest.raises(DataError, match="use --set num_classes=10"):
        train(model, StreetScenes(1, 32, 32), TrainOptions(iterations=1))


@pytest.mark.parametrize(
    "options", [{"iterations": 0}, {"batch": 0}, {"crop": (31, 64)}, {"optimizer": "adam"}, {"lr": 0.0}]
)
def test_bad_options(options):
    with pytest.raises(DataError):
        TrainOptions(**options)
