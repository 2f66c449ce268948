# SPDX-License-Identifier: Apache-2.0
"""Iteration-based training: SGD or AdamW, warm-up and poly decay, auxiliary loss, deterministic by seed."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.scenes import LabelledImages, crop_batch
from ..errors import DataError
from ..models import DeepLab, TrainingOutput
from ..models.blocks import resize
from ..optimize import fuse, unfuse
from .predict import to_input

_log = logging.getLogger(__name__)

AUXILIARY_WEIGHT = 0.4


@dataclass(frozen=True)
class TrainOptions:
    """How to train.

    Attributes:
        iterations: optimiser steps.
        batch: crops a step.
        crop: (height, width) of a crop, pixels.
        optimizer: ``"sgd"`` (momentum 0.9, Nesterov) or ``"adamw"``.
        lr: learning rate after the warm-up; it falls as (1 - t) ** 0.9 (DeepLabv3 section 4).
        weight_decay: of the weights of convolutions; biases and normalisation have none.
        warmup: steps over which the learning rate rises from 0.
        seed: of weights, order, crops and dropout.
        device: torch device.
        fused: train through the fused kernels; on a CPU those of the head, because the backbone is faster in torch.
    """

    iterations: int = 2000
    batch: int = 8
    crop: tuple[int, int] = (256, 256)
    optimizer: str = "adamw"
    lr: float = 2e-3
    weight_decay: float = 1e-4
    warmup: int = 100
    seed: int = 0
    device: str = "cpu"
    fused: bool = True

    def __post_init__(self) -> None:
        for name in ("iterations", "batch"):
            if getattr(self, name) < 1:
                raise DataError(f"{name} must be at least 1, got {getattr(self, name)}")
        if min(self.crop) < 32:
            raise DataError(f"a crop needs at least 32 x 32 pixels, got {self.crop[0]} x {self.crop[1]}")
        if self.batch * math.prod(self.crop) < 2 * 32 * 32:
            raise DataError("batch normalisation needs more than one value a channel: raise batch or crop")
        if self.optimizer not in ("sgd", "adamw"):
            raise DataError(f"optimizer {self.optimizer!r} is not one of 'sgd', 'adamw'")
        if not self.lr > 0:
            raise DataError(f"lr must be positive, got {self.lr}")


def learning_rate(options: TrainOptions, step: int) -> float:
    """Learning rate of one step, counted from 0."""
    warm = min(1.0, (step + 1) / max(1, options.warmup))
    return options.lr * warm * max(0.0, 1 - step / options.iterations) ** 0.9


def segmentation_loss(output: TrainingOutput, labels: Tensor, align_corners: bool, ignore_index: int) -> Tensor:
    """Cross entropy at the size of the labels, plus 0.4 times that of the auxiliary head."""

    def cross_entropy(logits: Tensor) -> Tensor:
        full = resize(logits, labels.shape[1:], align_corners)
        return F.cross_entropy(full, labels, ignore_index=ignore_index)

    loss = cross_entropy(output.logits)
    if output.auxiliary is not None:
        loss = loss + AUXILIARY_WEIGHT * cross_entropy(output.auxiliary)
    return loss


def train(
    model: DeepLab,
    dataset: LabelledImages,
    options: TrainOptions,
    report: Callable[[int, float], None] | None = None,
) -> DeepLab:
    """Train a network in place.

    Args:
        model: the network; its classes must be those of the dataset.
        dataset: images with labels.
        options: see `TrainOptions`.
        report: called after each step with (steps done, loss).

    Raises:
        DataError: classes differ, or the loss stopped being a number.
    """
    if model.config.num_classes != len(dataset.spec.classes):
        raise DataError(
            f"config {model.config.name!r} has {model.config.num_classes} classes, dataset {dataset.spec.name!r} "
            f"has {len(dataset.spec.classes)}; use --set num_classes={len(dataset.spec.classes)}"
        )
    device = torch.device(options.device)
    model.to(device).train()
    if options.fused:
        # MobileNetV2's backbone trained 1.3 to 1.5 times slower through our CPU kernels, the head 1.1 times faster.
        on_cpu = device.type == "cpu"
        if on_cpu:
            _log.info("training on a CPU: the head runs fused, the backbone on plain torch")
        for part in fuse(model, backbone=not on_cpu).left:
            _log.warning("%s trains on plain torch: %s", part.name, part.reason)
    else:
        unfuse(model)
    # torch's stubs do not know this argument, which makes convolutions about a tenth faster.
    nn.Module.to(model, memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.manual_seed(options.seed)
    optimizer = _optimizer(model, options)
    # One thread ahead: crops are cut while the network computes, in an order that only the seed decides.
    with ThreadPoolExecutor(1) as pool:
        rng = np.random.Generator(np.random.PCG64(options.seed))
        upcoming = pool.submit(_draw_batch, dataset, options, rng)
        for step in range(options.iterations):
            images, labels = upcoming.result()
            if step + 1 < options.iterations:
                upcoming = pool.submit(_draw_batch, dataset, options, rng)
            x = to_input(images, model.config).to(device, memory_format=torch.channels_last)
            loss = _step(model, optimizer, x, torch.from_numpy(labels).long().to(device), options, step, dataset)
            if report is not None:
                report(step + 1, loss)
    return model.eval()


def _draw_batch(
    dataset: LabelledImages, options: TrainOptions, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    indices = rng.integers(0, len(dataset), options.batch)
    return crop_batch(dataset, indices.tolist(), options.crop, rng)


def _step(
    model: DeepLab,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    labels: Tensor,
    options: TrainOptions,
    step: int,
    dataset: LabelledImages,
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(options, step)
    optimizer.zero_grad(set_to_none=True)
    loss = segmentation_loss(model(x), labels, model.config.align_corners, dataset.spec.ignore_index)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise DataError(
            f"the loss is {value} at step {step + 1}: training has diverged; "
            f"try a lower learning rate (now {options.lr}) or a longer warm-up (now {options.warmup})"
        )
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 10.0)
    optimizer.step()
    return value


def _optimizer(model: DeepLab, options: TrainOptions) -> torch.optim.Optimizer:
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": options.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=options.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=options.lr)
