# SPDX-License-Identifier: Apache-2.0
"""Cross entropy at the size of the labels, without all full-size logits in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models import TrainingOutput
from ..models.blocks import resize
from .options import TrainOptions

Average = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class PixelLoss:
    """How the cross entropies of pixels become one number; attributes as in `TrainOptions`."""

    align_corners: bool
    ignore_index: int = 255
    label_smoothing: float = 0.0
    class_weights: Tensor | None = None
    ohem_kept: int = 0
    ohem_threshold: float | None = None
    average: str = "labelled"

    def pixels(self, full: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy of every pixel, [N, H, W]; 0 where it is ignored.

        Args:
            full: float32 or float64 [N, C, H, W].
            labels: int64 [N, H, W].
        """
        return F.cross_entropy(
            full,
            labels,
            weight=None if self.class_weights is None else self.class_weights.to(full),
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            reduction="none",
        )

    def divisor(self, labels: Tensor, average: Average = lambda total: total) -> Tensor:
        """What the sum is divided by, a scalar float64.

        Args:
            labels: int64 [N, H, W] of the batch.
            average: mean of a scalar over all processes, so that their mean gradient is that of one process.
        """
        if self.average == "all":
            return torch.tensor(float(labels.numel()), dtype=torch.float64, device=labels.device)
        valid = labels != self.ignore_index
        if self.class_weights is None:
            total = valid.sum()
        else:
            total = self.class_weights.to(labels.device, torch.float64)[labels[valid]].sum()
        # A batch without any label has no loss, and no gradient.
        return average(total.double()).clamp(min=torch.finfo(torch.float64).tiny)

    def hardest(self, logits: Tensor, labels: Tensor) -> Tensor | None:
        """Which pixels of a batch count (online hard example mining), bool [N, H, W]; None for all of them.

        Those with the largest loss, ``ohem_kept`` times the images; with a threshold at least so many, and all whose
        true class has a lower probability.

        Args:
            logits: float32 or float64 [N, C, h, w].
            labels: int64 [N, H, W].
        """
        if not self.ohem_kept:
            return None
        valid = labels != self.ignore_index
        count = self.ohem_kept * len(labels)
        if int(valid.sum()) <= count:
            return valid
        pairs = zip(logits.split(1), labels.split(1), strict=True)
        hardness = torch.cat([self._hardness(one, truth) for one, truth in pairs])
        limit = torch.topk(hardness[valid], count, sorted=False).values.min()
        if self.ohem_threshold is not None:
            limit = limit.clamp(max=-self.ohem_threshold)
        return valid & (hardness >= limit)

    def _hardness(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of each pixel, or how improbable its true class is."""
        full = resize(logits, labels.shape[1:], self.align_corners)
        if self.ohem_threshold is None:
            return self.pixels(full, labels)
        safe = labels.masked_fill(labels == self.ignore_index, 0)
        return -full.softmax(1).gather(1, safe[:, None])[:, 0]


class _SummedOverImages(torch.autograd.Function):
    """The loss of a batch, image by image; each gradient is made at once, at the size of the network's logits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, loss: PixelLoss, divisor: Tensor) -> Tensor:
        ctx.dtype = logits.dtype
        wide = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
        total = torch.zeros((), dtype=torch.float64, device=logits.device)
        gradient = torch.empty_like(wide)
        with torch.autocast(logits.device.type, enabled=False):
            chosen = loss.hardest(wide, labels)
            for index in range(len(labels)):
                one = slice(index, index + 1)
                with torch.enable_grad():
                    leaf = wide[one].requires_grad_()
                    full = resize(leaf, labels.shape[1:], loss.align_corners)
                    pixels = loss.pixels(full, labels[one])
                    value = (pixels if chosen is None else pixels * chosen[one]).sum()
                    gradient[one] = torch.autograd.grad(value, leaf)[0]
                total += value.detach()
        ctx.save_for_backward(gradient.div_(divisor))
        return (total / divisor).to(wide.dtype)

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * scale).to(ctx.dtype), None, None, None


def pixel_loss(options: TrainOptions, align_corners: bool, ignore_index: int) -> PixelLoss:
    """The loss that the options describe."""
    weights = torch.tensor(options.class_weights) if options.class_weights else None
    return PixelLoss(
        align_corners=align_corners,
        ignore_index=ignore_index,
        label_smoothing=options.label_smoothing,
        class_weights=weights,
        ohem_kept=options.ohem_kept,
        ohem_threshold=options.ohem_threshold,
        average=options.loss_average,
    )


def segmentation_loss(
    output: TrainingOutput,
    labels: Tensor,
    loss: PixelLoss,
    auxiliary_weight: float = 0.4,
    average: Average = lambda total: total,
) -> Tensor:
    """The loss of a batch, with that of the auxiliary head.

    Args:
        output: of the network in training mode.
        labels: int64 [N, H, W].
        loss: how pixels are weighted and averaged.
        auxiliary_weight: of the auxiliary head.
        average: see `PixelLoss.divisor`.

    Returns:
        A scalar, float32 or wider, whatever the network runs in.
    """
    divisor = loss.divisor(labels, average)
    total: Tensor = _SummedOverImages.apply(output.logits, labels, loss, divisor)
    if output.auxiliary is not None:
        auxiliary: Tensor = _SummedOverImages.apply(output.auxiliary, labels, loss, divisor)
        total = total + auxiliary_weight * auxiliary
    return total
