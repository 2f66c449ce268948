# SPDX-License-Identifier: Apache-2.0
"""Batch normalisation folded into the convolution before it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import nn

from ..models import DeepLab

# Names under which our blocks hold a convolution and the normalisation that follows it.
_PAIRS = (
    ("conv", "bn"),
    ("conv1", "bn1"),
    ("conv2", "bn2"),
    ("conv3", "bn3"),
    ("conv_dw", "bn_dw"),
    ("conv_pw", "bn_pw"),
)


def fold_batchnorm(model: DeepLab) -> DeepLab:
    """A copy of an eval-mode network without batch normalisation.

    ``bn(conv(x)) = scale * conv(x) + shift`` with ``scale = weight / sqrt(var + eps)``; scale goes into the
    kernel, shift becomes the bias. Computed in float64, stored in the weights' dtype.

    Raises:
        ValueError: the network is in training mode, where the statistics are the batch's.
    """
    if model.training:
        raise ValueError("fold_batchnorm needs a network in eval mode; call model.eval() first")
    folded = copy.deepcopy(model)
    for parent, conv_name, bn_name in list(_pairs(folded)):
        conv, bn = getattr(parent, conv_name), getattr(parent, bn_name)
        setattr(parent, conv_name, _fold(conv, bn))
        setattr(parent, bn_name, nn.Identity())
    return folded


def why_nothing_to_fold(model: nn.Module) -> str:
    """Why `fold_batchnorm` changes nothing; empty where it does."""
    if model.training:
        return "the network is in training mode"
    return "" if next(_pairs(model), None) is not None else "no batch normalisation behind a convolution"


def _pairs(model: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    for module in model.modules():
        children = dict(module.named_children())
        names = list(children)
        candidates = list(pairwise(names)) if isinstance(module, nn.Sequential) else _PAIRS
        for first, second in candidates:
            if isinstance(children.get(first), nn.Conv2d) and isinstance(children.get(second), nn.BatchNorm2d):
                yield module, first, second


def _fold(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d:
    assert bn.running_mean is not None and bn.running_var is not None
    scale = bn.weight.double() / torch.sqrt(bn.running_var.double() + bn.eps)
    bias = conv.bias.double() if conv.bias is not None else torch.zeros_like(scale)
    shift = bn.bias.double() + (bias - bn.running_mean.double()) * scale
    merged = copy.deepcopy(conv)
    merged.weight = nn.Parameter((conv.weight.double() * scale.view(-1, 1, 1, 1)).to(conv.weight.dtype))
    merged.bias = nn.Parameter(shift.to(conv.weight.dtype))
    return merged
