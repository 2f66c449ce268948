# SPDX-License-Identifier: Apache-2.0
"""One optimiser step: forward, loss, gradient, update; in any precision, over several batches and processes."""

from __future__ import annotations

import contextlib
import inspect
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..data.loading import Batch
from ..models import DeepLab
from ..models.activations import recomputed_activations
from ..optimize import fuse, unfuse
from .batchnorm import set_mode, synchronise
from .inputs import to_input
from .losses import pixel_loss, segmentation_loss
from .options import TrainOptions
from .processes import Processes
from .recompute import recompute_units
from .schedule import learning_rate, make_optimizer, set_learning_rate

_log = logging.getLogger(__name__)
_AMP_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_FIRST_SCALE = 512.0  # the reference's static loss scale


class NotFinite(Exception):
    """The loss is not a number; `batch` is what it came from."""

    def __init__(self, value: float, batch: Batch) -> None:
        super().__init__(f"the loss is {value}")
        self.value, self.batch = value, batch


@dataclass(frozen=True)
class StepResult:
    """What a step says of itself.

    Attributes:
        loss: mean over its batches, and over all processes.
        lr: learning rate of the backbone.
        gradient_norm: before clipping; NaN where it was not computed.
        skipped: the scaled gradients overflowed in fp16 and no update was made.
    """

    loss: float
    lr: float
    gradient_norm: float
    skipped: bool = False


class TrainingStep:
    """A network that trains.

    Attributes:
        model: the network itself, its weights those of the last step.
        optimizer, scaler: their state belongs to a run's state.
    """

    def __init__(
        self, model: DeepLab, options: TrainOptions, device: torch.device, processes: Processes | None = None
    ) -> None:
        """Prepare a network, in place: device, layout, batch normalisation, fused kernels.

        Args:
            model: the network.
            options: see `TrainOptions`.
            device: where it trains.
            processes: those that train it together.
        """
        self.model, self.options, self.device = model, options, device
        self.processes = processes or Processes()
        prepare(model, options, device, self.processes.world)
        self.optimizer = make_optimizer(model, options)
        self.scaler = torch.amp.GradScaler(device.type, init_scale=_FIRST_SCALE, enabled=options.amp == "fp16")
        self._loss = pixel_loss(options, model.config.align_corners, model.config.dataset.ignore_index)
        self._network: nn.Module = model
        if self.processes.world > 1:
            self._network = _distributed(model, device, options.batchnorm)
        self._forward: Callable[[Tensor], Any] = self._network
        if options.compiled:
            self._forward = torch.compile(self._network)

    def __call__(self, batches: Sequence[Batch], step: int) -> StepResult:
        """Make step number ``step``, counted from 0, over ``accumulate`` batches.

        Raises:
            NotFinite: the loss of a batch is not a number; nothing was updated.
        """
        rate = learning_rate(self.options, step)
        set_learning_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for index, batch in enumerate(batches):
            with self._synchronised_at(index == len(batches) - 1):
                total += self._backward(batch, 1 / len(batches))
        norm, skipped = self._update()
        loss = total / len(batches)
        if self.processes.world > 1:
            loss = float(self.processes.average(torch.tensor(loss, dtype=torch.float64, device=self.device)))
        return StepResult(loss, rate, norm, skipped)

    def loss(self, batch: Batch) -> Tensor:
        """The differentiable loss of a batch, in training mode."""
        x = to_input(batch.images, self.model.config, batch.valid, self.device).to(self.model.classifier.weight.dtype)
        labels = batch.labels.to(self.device, non_blocking=True).long()
        with self._autocast(), self._recomputing():
            output = self._forward(x)
        return segmentation_loss(output, labels, self._loss, self.options.auxiliary_weight, self.processes.average)

    def _backward(self, batch: Batch, share: float) -> float:
        loss = self.loss(batch)
        # One wait a step, while the GPU still has the gradient ahead of it: a bad batch must not reach the weights.
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NotFinite(value, batch)
        self.scaler.scale(loss * share).backward()
        return value

    def _update(self) -> tuple[float, bool]:
        self.scaler.unscale_(self.optimizer)
        limit = self.options.clip or math.inf
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, limit)
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        skipped = self.scaler.is_enabled() and self.scaler.get_scale() < scale
        return float(norm), skipped

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.options.amp == "off":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, _AMP_TYPES[self.options.amp])

    def _recomputing(self) -> contextlib.AbstractContextManager[Any]:
        if self.options.recompute != "activations":
            return contextlib.nullcontext()
        return recomputed_activations()

    def _synchronised_at(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Gradients are exchanged between processes with the last batch of a step only."""
        if last or not isinstance(self._network, DistributedDataParallel):
            return contextlib.nullcontext()
        return self._network.no_sync()


def _distributed(model: DeepLab, device: torch.device, batchnorm: str) -> DistributedDataParallel:
    """Statistics that differ between processes become those of the first, which writes the checkpoints."""
    name = "forward_sync_buffers"  # torch 2.13's; earlier it was called broadcast_buffers
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    options: dict[str, Any] = {name if name in known else "broadcast_buffers": batchnorm == "train"}
    ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True, **options)


def prepare(model: DeepLab, options: TrainOptions, device: torch.device, world: int = 1) -> None:
    """Put a network on its device and in training mode, with the fused kernels and normalisation of the options."""
    if options.batchnorm == "sync" and world > 1:
        synchronise(model, device)
    # torch's stubs do not know this argument, which makes convolutions about a tenth faster.
    nn.Module.to(model, device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    set_mode(model, options.batchnorm)
    if options.recompute == "units":
        _log.info("%d residual units are computed again for the gradient", recompute_units(model))
    if not options.fused:
        unfuse(model)
        return
    # MobileNetV2's backbone trained 1.3 to 1.5 times slower through our CPU kernels, the head 1.1 times faster.
    on_cpu = device.type == "cpu"
    if on_cpu:
        _log.info("training on a CPU: the head runs fused, the backbone on plain torch")
    for part in fuse(model, backbone=not on_cpu).left:
        _log.warning("%s trains on plain torch: %s", part.name, part.reason)
