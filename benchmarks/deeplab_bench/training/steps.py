# SPDX-License-Identifier: Apache-2.0
"""The step that a job trains with, the same but for what its variant says, and the batch that it trains on."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deeplab_infer.configs import load_config
from deeplab_infer.data.loading import Batch
from deeplab_infer.models import DeepLab, TrainingOutput, build_model
from deeplab_infer.training.inputs import to_input
from deeplab_infer.training.options import TrainOptions
from deeplab_infer.training.step import TrainingStep

from .variants import VARIANTS

_SEED = 0
_NAME = "random"
# Small, so that hundreds of steps on random labels stay finite; a rate takes no time.
_LEARNING_RATE = 1e-4


class PlainStep(TrainingStep):
    """A step whose loss is written as everyone writes it."""

    def __init__(self, model: DeepLab, options: TrainOptions, device: torch.device) -> None:
        super().__init__(model, options, device)
        self._plain_loss = torch.compile(plain_loss) if options.compiled else plain_loss

    def loss(self, batch: Batch) -> Tensor:
        """The differentiable loss of a batch: the mean over all pixels, with the auxiliary head's."""
        x = to_input(batch.images, self.model.config, batch.valid, self.device).to(self.model.classifier.weight.dtype)
        labels = batch.labels.to(self.device, non_blocking=True).long()
        config = self.model.config
        with self._autocast():
            output = self._forward(x)
            return self._plain_loss(
                output, labels, config.align_corners, config.dataset.ignore_index, self.options.auxiliary_weight
            )


def plain_loss(
    output: TrainingOutput, labels: Tensor, align_corners: bool, ignore_index: int, auxiliary_weight: float
) -> Tensor:
    """Cross entropy at the labels' size, all logits of the batch at once.

    Args:
        output: logits [N, C, h, w], in the network's precision.
        labels: int64 [N, H, W].
        align_corners: how logits are resized.
        ignore_index: label that does not count.
        auxiliary_weight: of the auxiliary head's loss.
    """
    total = torch.zeros((), device=labels.device)
    for logits, weight in ((output.logits, 1.0), (output.auxiliary, auxiliary_weight)):
        if logits is not None:
            full = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=align_corners)
            total = total + weight * F.cross_entropy(full, labels, ignore_index=ignore_index)
    return total


def make_options(job: dict[str, Any]) -> TrainOptions:
    """What a job trains with; see `worker.run_job`."""
    variant = VARIANTS[job["variant"]]
    return TrainOptions(
        batch=job["batch"],
        crop=(job["crop"][0], job["crop"][1]),
        optimizer="sgd",
        momentum=0.9,
        lr=_LEARNING_RATE,
        warmup=0,
        weight_decay=5e-4,
        decay="all",
        clip=0.0,
        batchnorm=job["batchnorm"],
        amp=job["amp"],
        device=job["device"],
        fused=variant.fused,
        compiled=variant.compiled,
        recompute=variant.recompute,
    )


def make_step(job: dict[str, Any]) -> TrainingStep:
    """The network of a job with seeded random weights, and what trains it."""
    torch.manual_seed(_SEED)
    variant, options = VARIANTS[job["variant"]], make_options(job)
    model, device = build_model(load_config(job["name"])), torch.device(job["device"])
    return PlainStep(model, options, device) if variant.whole_batch_loss else TrainingStep(model, options, device)


def random_batch(job: dict[str, Any]) -> Batch:
    """The crops that every variant of a job sees at every step: random, no label ignored, on the device."""
    batch, (height, width) = job["batch"], job["crop"]
    generator = torch.Generator().manual_seed(_SEED)
    classes = load_config(job["name"]).num_classes
    images = torch.randint(256, (batch, height, width, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randint(classes, (batch, height, width), dtype=torch.uint8, generator=generator)
    valid = torch.tensor([[height, width]] * batch)
    device = torch.device(job["device"])
    return Batch(images.to(device), labels.to(device), valid, (_NAME,) * batch)
