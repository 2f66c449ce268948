# SPDX-License-Identifier: Apache-2.0
"""Random weights that behave like trained ones: activations keep their scale, and labels are decided."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_RIDGE = 1e-1
_SHARPNESS = 8.0
_BRANCH_GAIN = 0.1
_LEAST_VARIANCE = 0.01  # of the mean square: an image-level branch sees one pixel, which varies not at all


def make_lifelike(
    model: nn.Module,
    classifier: nn.Conv2d,
    network: Callable[[Tensor], Tensor],
    x: Tensor,
    labels: NDArray[np.uint8],
) -> None:
    """Fit a random network to one scene.

    Every batch normalisation takes the statistics of what it sees, residual branches add a tenth, and the classifier is
    the ridge regression from its input to the labels. With plain random weights most pixels would be near-ties, a deep
    network would be chaotic (rounding grows from block to block), and agreement would mean nothing.

    Args:
        model: with batch normalisations in eval mode.
        classifier: its last convolution, 1x1 with bias.
        network: runs the model.
        x: float32 [1, 3, H, W].
        labels: [H, W] of the scene; taken modulo the number of classes.
    """
    generator = torch.Generator().manual_seed(0)
    branch_ends = {id(layer) for layer in map(_branch_end, model.modules()) if layer is not None}
    handles = [
        layer.register_forward_pre_hook(lambda layer, inputs: _settle(layer, inputs[0], generator, branch_ends))
        for layer in model.modules()
        if isinstance(layer, _BatchNorm)
    ]
    seen: list[Tensor] = []
    handles.append(classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])))
    network(x)
    for handle in handles:
        handle.remove()
    _fit(classifier, seen[0], labels)


def _branch_end(block: nn.Module) -> nn.Module | None:
    """The last normalisation of a ResNet block's branch, under the names that all projects use."""
    return getattr(block, "bn3", getattr(block, "bn2", None)) if hasattr(block, "downsample") else None


def _settle(layer: nn.Module, x: Tensor, generator: torch.Generator, branch_ends: set[int]) -> None:
    """Statistics of the input, and a random scale and shift."""
    assert isinstance(layer, _BatchNorm)
    assert layer.running_mean is not None and layer.running_var is not None
    dims = (0, 2, 3)
    layer.running_mean.copy_(x.mean(dims))
    layer.running_var.copy_(x.var(dims, unbiased=False).clamp_min(_LEAST_VARIANCE * float(x.square().mean()) + 1e-8))
    gain = _BRANCH_GAIN if id(layer) in branch_ends else 1.0
    layer.weight.copy_(gain * (torch.rand(layer.weight.shape, generator=generator) * 0.8 + 0.6))
    layer.bias.copy_(gain * (torch.rand(layer.bias.shape, generator=generator) * 0.4 - 0.2))


def _fit(classifier: nn.Conv2d, features: Tensor, labels: NDArray[np.uint8]) -> None:
    classes = classifier.out_channels
    small = torch.from_numpy(labels)[None, None].float()
    wanted = nn.functional.interpolate(small, size=features.shape[-2:], mode="nearest").long().flatten() % classes
    columns = features[0].flatten(1).T.double()
    mean = columns.mean(0)
    centred = columns - mean
    target = nn.functional.one_hot(wanted.to(columns.device), classes).double()
    prior = target.mean(0)
    gram = centred.T @ centred / len(centred)
    gram += _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    weight = torch.linalg.solve(gram, centred.T @ (target - prior) / len(centred)).T * _SHARPNESS
    classifier.weight.copy_(weight[:, :, None, None])
    assert classifier.bias is not None
    classifier.bias.copy_(_SHARPNESS * prior - weight @ mean)
