# SPDX-License-Identifier: Apache-2.0
"""Learning rate and weight decay: which parameters get how much, and when."""

from __future__ import annotations

import torch
from torch import nn

from ..models import DeepLab
from .options import TrainOptions


def learning_rate(options: TrainOptions, step: int) -> float:
    """Learning rate of one step, counted from 0: linear warm-up times the poly rule (DeepLabv3 section 4.1)."""
    warm = min(1.0, (step + 1) / max(1, options.warmup))
    poly = max(0.0, 1 - step / options.iterations) ** options.power
    return warm * (options.min_lr + max(0.0, options.lr - options.min_lr) * poly)


def make_optimizer(model: DeepLab, options: TrainOptions) -> torch.optim.Optimizer:
    """SGD or AdamW over the parameters that train, in groups of one learning-rate factor and one weight decay."""
    groups = parameter_groups(model, options)
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=options.lr, momentum=options.momentum, nesterov=options.nesterov)
    return torch.optim.AdamW(groups, lr=options.lr)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of a learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def parameter_groups(model: DeepLab, options: TrainOptions) -> list[dict[str, object]]:
    """Groups ``{"params", "factor", "weight_decay"}``; the factor is on the learning rate."""
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        factor = 1.0 if name.startswith("backbone.") else options.head_lr
        decay = options.weight_decay if _decays(parameter, options.decay) else 0.0
        found.setdefault((factor, decay), []).append(parameter)
    return [
        {"params": parameters, "factor": factor, "weight_decay": decay} for (factor, decay), parameters in found.items()
    ]


def _decays(parameter: nn.Parameter, rule: str) -> bool:
    if rule == "all":
        return True
    # Convolution weights are [out, in / groups, kh, kw]: a depthwise one has one input channel a group.
    is_depthwise = parameter.ndim == 4 and parameter.shape[1] == 1 and parameter.shape[2] > 1
    return parameter.ndim > 1 and not (rule == "dense" and is_depthwise)
