# SPDX-License-Identifier: Apache-2.0
"""The loss and its gradient against float64 computations that share no code with it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from deeplab_infer.models import TrainingOutput
from deeplab_infer.training.losses import PixelLoss, segmentation_loss

CLASSES, SIZE, LABELS = 4, (5, 6), (11, 17)


def make_case(rng, images=3, dtype=torch.float64, auxiliary=True):
    logits = torch.from_numpy(rng.normal(size=(images, CLASSES, *SIZE)) * 2).to(dtype).requires_grad_()
    side = torch.from_numpy(rng.normal(size=(images, CLASSES, 3, 4))).to(dtype).requires_grad_() if auxiliary else None
    labels = rng.integers(0, CLASSES, (images, *LABELS))
    labels[rng.random(labels.shape) < 0.2] = 255
    return TrainingOutput(logits, side), torch.from_numpy(labels)


def log_probabilities(logits, align_corners):
    """Bilinear resize and log softmax, by matrices, in float64."""
    values = logits.detach().double().numpy()
    for axis, count in ((2, LABELS[0]), (3, LABELS[1])):
        size = values.shape[axis]
        matrix = np.zeros((count, size))
        for row in range(count):
            if align_corners:
                position = row * (size - 1) / (count - 1)
            else:
                position = max(0.0, (row + 0.5) * size / count - 0.5)
            low = min(int(position), size - 1)
            high = min(low + 1, size - 1)
            matrix[row, low] += 1 - (position - low)
            matrix[row, high] += position - low
        values = np.moveaxis(np.tensordot(matrix, values, (1, axis)), 0, axis)
    shifted = values - values.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def pixel_losses(logits, labels, align_corners, smoothing=0.0, weights=None):
    log = log_probabilities(logits, align_corners)
    labels = labels.numpy()
    safe = np.where(labels == 255, 0, labels)
    weights = np.ones(CLASSES) if weights is None else np.asarray(weights)
    target = np.full(log.shape, smoothing / CLASSES)
    np.put_along_axis(target, safe[:, None], 1 - smoothing + smoothing / CLASSES, 1)
    loss = -(target * weights[None, :, None, None] * log).sum(1)
    return np.where(labels == 255, 0.0, loss)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("average", ["all", "labelled"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, (0.5, 1.0, 3.0, 0.0)])
def test_value(rng, align_corners, average, smoothing, weights):
    output, labels = make_case(rng)
    loss = PixelLoss(
        align_corners,
        label_smoothing=smoothing,
        class_weights=None if weights is None else torch.tensor(weights),
        average=average,
    )
    found = segmentation_loss(output, labels, loss)
    valid = labels != 255
    if average == "all":
        divisor = labels.numel()
    else:
        divisor = valid.sum() if weights is None else np.asarray(weights)[labels[valid]].sum()
    parts = [
        pixel_losses(logits, labels, align_corners, smoothing, weights).sum() / float(divisor) for logits in output
    ]
    assert found.item() == pytest.approx(parts[0] + 0.4 * parts[1], rel=1e-11)


@pytest.mark.parametrize("align_corners", [False, True])
def test_gradient_equals_that_of_the_whole_batch_at_once(rng, align_corners):
    output, labels = make_case(rng)
    segmentation_loss(output, labels, PixelLoss(align_corners)).backward()
    found = [logits.grad.clone() for logits in output]
    for logits in output:
        logits.grad = None
    total = sum(
        weight
        * F.cross_entropy(
            F.interpolate(logits, LABELS, mode="bilinear", align_corners=align_corners), labels, ignore_index=255
        )
        for weight, logits in zip((1, 0.4), output, strict=True)
    )
    total.backward()
    for logits, gradient in zip(output, found, strict=True):
        # Sums of up to 187 terms below 1 in another order: far below 1e-13.
        assert torch.allclose(logits.grad, gradient, rtol=0, atol=1e-13)


def test_gradient_check(rng):
    output, labels = make_case(rng, images=2, auxiliary=False)
    assert torch.autograd.gradcheck(
        lambda x: segmentation_loss(TrainingOutput(x, None), labels, PixelLoss(False)), output.logits
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_logits_are_widened_before_anything(rng, dtype):
    output, labels = make_case(rng, dtype=dtype)
    found = segmentation_loss(output, labels, PixelLoss(False))
    assert found.dtype == torch.float32
    wide = TrainingOutput(*(logits.detach().double().requires_grad_() for logits in output))
    expected = segmentation_loss(wide, labels, PixelLoss(False))
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    found.backward()
    expected.backward()
    assert output.logits.grad.dtype == dtype
    # One rounding of each gradient to the logits' type.
    bound = torch.finfo(dtype).eps * wide.logits.grad.abs() + 1e-6
    assert ((output.logits.grad.double() - wide.logits.grad).abs() <= bound).all()


def test_only_a_gradient_of_the_logits_size_is_kept(rng):
    output, labels = make_case(rng, images=3, auxiliary=False)
    found = segmentation_loss(output, labels, PixelLoss(False))
    assert [tuple(kept.shape) for kept in found.grad_fn.saved_tensors] == [output.logits.shape]


def test_the_hardest_pixels_of_a_batch(rng):
    output, labels = make_case(rng, auxiliary=False)
    each = pixel_losses(output.logits, labels, False)
    kept = 40
    loss = PixelLoss(False, ohem_kept=kept, average="all")
    hardest = np.sort(each[labels.numpy() != 255])[::-1][: kept * len(labels)]
    assert segmentation_loss(output, labels, loss).item() == pytest.approx(hardest.sum() / labels.numel(), rel=1e-11)


def test_the_hardest_pixels_with_a_threshold(rng):
    output, labels = make_case(rng, auxiliary=False)
    each = pixel_losses(output.logits, labels, False)
    valid = labels.numpy() != 255
    probability = np.exp(-each[valid])
    for kept, threshold in ((5, 0.3), (60, 0.05)):
        limit = max(np.sort(probability)[kept * len(labels) - 1], threshold)
        expected = each[valid][probability <= limit].sum() / labels.numel()
        loss = PixelLoss(False, ohem_kept=kept, ohem_threshold=threshold, average="all")
        assert segmentation_loss(output, labels, loss).item() == pytest.approx(expected, rel=1e-11)


def test_fewer_pixels_than_must_be_kept(rng):
    output, labels = make_case(rng, auxiliary=False)
    loss = PixelLoss(False, ohem_kept=10_000)
    assert segmentation_loss(output, labels, loss).item() == segmentation_loss(output, labels, PixelLoss(False)).item()


def test_a_batch_without_labels_has_no_loss(rng):
    output, labels = make_case(rng)
    for options in ({}, {"average": "all"}, {"ohem_kept": 3}):
        found = segmentation_loss(output, torch.full_like(labels, 255), PixelLoss(False, **options))
        found.backward()
        assert found.item() == 0 and not output.logits.grad.any()
