# SPDX-License-Identifier: Apache-2.0
"""The blocks' forward passes through the fused kernels, over the same weights (`deeplab_infer.fuse` turns them on)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..ops import tensors

MAX_KERNEL = 7


def why_not_fusable(conv: nn.Module, bn: nn.Module | None) -> str | None:
    """Why a convolution and what follows it cannot run as one kernel; None where they can."""
    if not isinstance(conv, nn.Conv2d) or conv.groups != conv.in_channels or conv.out_channels != conv.in_channels:
        return "not a depthwise convolution"
    k, stride, rate = conv.kernel_size[0], conv.stride[0], conv.dilation[0]
    if conv.kernel_size != (k, k) or k % 2 == 0 or k > MAX_KERNEL:
        return f"kernel {conv.kernel_size[0]}x{conv.kernel_size[1]} is not 1x1, 3x3, 5x5 or 7x7"
    if conv.stride != (stride, stride) or conv.dilation != (rate, rate):
        return "stride or atrous rate differ between height and width"
    if conv.padding != (rate * (k // 2),) * 2 or conv.padding_mode != "zeros":
        return "padding is not zeros that keep the size"
    if isinstance(bn, nn.BatchNorm2d | nn.SyncBatchNorm):
        if conv.bias is not None:
            return "the convolution has a bias before its normalisation"
        if not bn.affine or not bn.track_running_stats:
            return "the normalisation has no weights or no running statistics"
    elif bn is not None and not isinstance(bn, nn.Identity):
        return f"{type(bn).__name__} is not batch normalisation"
    return None


def uses_batch_statistics(bn: nn.Module | None) -> bool:
    """Whether the block normalises with the batch's own statistics now."""
    return isinstance(bn, nn.BatchNorm2d | nn.SyncBatchNorm) and bn.training


def runs_fused(*norms: nn.Module | None) -> bool:
    """Whether blocks with these normalisations may take the fused path now.

    `nn.SyncBatchNorm` in training gathers its statistics from all processes, which the kernels do not.
    """
    if any(isinstance(bn, nn.SyncBatchNorm) and bn.training for bn in norms):
        return False
    return len({uses_batch_statistics(bn) for bn in norms}) == 1


def _scale_and_shift(conv: nn.Conv2d, bn: nn.Module | None) -> tuple[Tensor, Tensor]:
    """Normalisation with the running statistics (or the bias that folding left) as float32 scale and shift."""
    if isinstance(bn, nn.BatchNorm2d | nn.SyncBatchNorm):
        assert bn.running_mean is not None and bn.running_var is not None
        dtype = torch.promote_types(conv.weight.dtype, torch.float32)
        scale = bn.weight.to(dtype) * torch.rsqrt(bn.running_var.to(dtype) + bn.eps)
        return scale, bn.bias.to(dtype) - bn.running_mean.to(dtype) * scale
    ones = torch.ones(conv.out_channels, dtype=torch.float32, device=conv.weight.device)
    return ones, torch.zeros_like(ones) if conv.bias is None else conv.bias


def _update_running_statistics(bn: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """As torch does: the variance unbiased, `momentum` None for a cumulative average."""
    with torch.no_grad():
        assert bn.running_mean is not None and bn.running_var is not None and bn.num_batches_tracked is not None
        bn.num_batches_tracked.add_(1)
        momentum = 1.0 / float(bn.num_batches_tracked) if bn.momentum is None else bn.momentum
        bn.running_mean.lerp_(mean.to(bn.running_mean.dtype), momentum)
        bn.running_var.lerp_((variance * (count / (count - 1))).to(bn.running_var.dtype), momentum)


def _check_count(count: int, x: Tensor) -> None:
    if count <= 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {list(x.shape)}")


def depthwise(conv: nn.Conv2d, bn: nn.Module | None, x: Tensor, activation: str) -> Tensor:
    """``activation(bn(conv(x)))`` of a depthwise convolution."""
    return aspp_depthwise([conv], [bn], x, activation)[0]


def aspp_depthwise(convs: Sequence[nn.Conv2d], norms: Sequence[nn.Module | None], x: Tensor, activation: str) -> Tensor:
    """``activation(bn(conv(x)))`` of several depthwise convolutions with different rates: [R, N, C, H, W]."""
    weight = torch.stack([conv.weight for conv in convs]).squeeze(2)
    rates, stride = [conv.dilation[0] for conv in convs], convs[0].stride[0]
    if uses_batch_statistics(norms[0]):
        batch_norms = [bn for bn in norms if isinstance(bn, nn.BatchNorm2d)]
        gamma, beta = torch.stack([bn.weight for bn in batch_norms]), torch.stack([bn.bias for bn in batch_norms])
        y, mean, variance = tensors.depthwise_training(
            x, weight, gamma, beta, batch_norms[0].eps, rates, stride, activation
        )
        count = y.shape[1] * y.shape[3] * y.shape[4]
        _check_count(count, x)
        for index, bn in enumerate(batch_norms):
            _update_running_statistics(bn, mean[index], variance[index], count)
        return y
    pairs = [_scale_and_shift(conv, bn) for conv, bn in zip(convs, norms, strict=True)]
    scale, shift = torch.stack([p[0] for p in pairs]), torch.stack([p[1] for p in pairs])
    if len(rates) == 1:
        return tensors.depthwise_conv_bn_relu(x, weight, scale, shift, stride, rates[0], activation)[None]
    return tensors.aspp_depthwise(x, weight, scale, shift, rates, activation)


def concat_depthwise(
    conv: nn.Conv2d, bn: nn.Module | None, x: Tensor, low: Tensor, align_corners: bool, activation: str
) -> Tensor:
    """``activation(bn(conv(concat(resize(x), low))))`` of a depthwise convolution."""
    rate = conv.dilation[0]
    if uses_batch_statistics(bn):
        assert isinstance(bn, nn.BatchNorm2d)
        y, mean, variance = tensors.upsample_concat_depthwise_training(
            x, low, conv.weight, bn.weight, bn.bias, bn.eps, align_corners, rate, activation
        )
        count = y.shape[0] * y.shape[2] * y.shape[3]
        _check_count(count, x)
        _update_running_statistics(bn, mean[0], variance[0], count)
        return y
    scale, shift = _scale_and_shift(conv, bn)
    return tensors.upsample_concat_depthwise(x, low, conv.weight, scale, shift, align_corners, rate, activation)


def upsample_concat(x: Tensor, low: Tensor, align_corners: bool) -> Tensor:
    """``concat(resize(x), low)``"""
    return tensors.upsample_concat(x, low, align_corners)
