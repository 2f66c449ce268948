# SPDX-License-Identifier: Apache-2.0
"""What batch normalisation does in training: its own batch, all processes' batches, or running statistics."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..models import DeepLab


class HostSyncBatchNorm(_BatchNorm):
    """Batch normalisation with the statistics of all processes, for a CPU, which `nn.SyncBatchNorm` refuses."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() != 4:
            raise ValueError(f"expected [N, C, H, W], got {list(input.shape)}")

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] normalised; N may differ between processes."""
        if not self.training or not (dist.is_available() and dist.is_initialized()):
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        count = torch.full((1,), x.numel() / x.shape[1], dtype=wide.dtype)
        sums = _summed_over_processes(torch.cat([wide.sum((0, 2, 3)), count]))
        total = sums[-1:].detach()
        mean = sums[:-1] / total
        centred = wide - mean.view(1, -1, 1, 1)
        variance = _summed_over_processes(centred.square().sum((0, 2, 3))) / total
        if self.track_running_stats:
            self._update(mean.detach(), variance.detach() * (total / (total - 1)))
        y = centred * torch.rsqrt(variance + self.eps).view(1, -1, 1, 1)
        return (y * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)).to(x.dtype)

    def _update(self, mean: Tensor, variance: Tensor) -> None:
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            momentum = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clone()
        dist.all_reduce(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        y = gradient.contiguous().clone()
        dist.all_reduce(y)
        return y


def _summed_over_processes(x: Tensor) -> Tensor:
    return _SumOverProcesses.apply(x)


def synchronise(model: DeepLab, device: torch.device) -> None:
    """Replace every batch normalisation, in place, by one with the statistics of all processes."""
    kind: type[_BatchNorm] = nn.SyncBatchNorm if device.type == "cuda" else HostSyncBatchNorm
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, _converted(child, kind))


def _converted(bn: nn.BatchNorm2d, kind: type[_BatchNorm]) -> _BatchNorm:
    other = kind(bn.num_features, bn.eps, bn.momentum, bn.affine, bn.track_running_stats)
    other = other.to(bn.weight.device, bn.weight.dtype)
    other.load_state_dict(bn.state_dict())
    return other.train(bn.training)


def normalisations(module: nn.Module) -> list[_BatchNorm]:
    """Every batch normalisation, of whatever kind."""
    return [one for one in module.modules() if isinstance(one, _BatchNorm)]


def set_mode(model: DeepLab, mode: str) -> None:
    """Put a network in training mode, its batch normalisation as `TrainOptions.batchnorm` says."""
    model.train()
    if mode in ("train", "sync"):
        return
    for norm in normalisations(model):
        norm.eval()
        if mode == "frozen":
            norm.requires_grad_(False)
