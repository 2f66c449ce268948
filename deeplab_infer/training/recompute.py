# SPDX-License-Identifier: Apache-2.0
"""Residual units that keep only their input and are computed again for the gradient (activation checkpointing)."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from ..models import DeepLab
from ..models.backbones.mobilenet_v2 import InvertedResidual
from ..models.backbones.resnet import BasicBlock, Bottleneck
from ..models.backbones.xception import XceptionModule
from .batchnorm import normalisations

UNITS = (BasicBlock, Bottleneck, InvertedResidual, XceptionModule)


def recompute_units(model: DeepLab) -> int:
    """Let every residual unit of the backbone be recomputed, in place; returns how many there are.

    The gradient stays the same to the bit: dropout draws again what it drew, and running statistics are updated once.
    """
    units = [module for module in model.backbone.modules() if isinstance(module, UNITS)]
    for unit in units:
        unit.forward = functools.partial(_run, unit, unit.forward)  # type: ignore[method-assign]
    return len(units)


def _run(unit: nn.Module, forward: Callable[..., Any], *inputs: Any) -> Any:
    if not unit.training:
        return forward(*inputs)
    contexts = lambda: (contextlib.nullcontext(), _statistics_stay(unit))  # noqa: E731
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts)


@contextlib.contextmanager
def _statistics_stay(unit: nn.Module) -> Iterator[None]:
    """The second pass must not update the running statistics again."""
    norms = [norm for norm in normalisations(unit) if norm.training]
    saved = [[b.clone() for b in norm.buffers()] for norm in norms]
    try:
        yield
    finally:
        for norm, buffers in zip(norms, saved, strict=True):
            for buffer, value in zip(norm.buffers(), buffers, strict=True):
                # Autograd holds these buffers, unread in training: `.data` leaves its version counter alone.
                buffer.data.copy_(value)
