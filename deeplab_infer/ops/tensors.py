# SPDX-License-Identifier: Apache-2.0
"""The fused operators on torch tensors; importing this registers them as ``torch.ops.deeplab``.

They are differentiable, work under autocast, ``torch.compile``, ``torch.export`` and CUDA graphs, and give the same
bits for the same input, in the backward pass too. `fused` documents shapes and errors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import autograd as _autograd  # noqa: F401  (registers gradients and autocast)
from .native import run_preprocess

_ops = torch.ops.deeplab


def _kernels(x: Tensor, weight: Tensor, rates: int) -> Tensor:
    if x.ndim != 4:
        raise ValueError(f"x: got shape {list(x.shape)}, needs [N, C, H, W]")
    k = weight.shape[-1] if weight.ndim else 0
    if k == 0 or weight.numel() != rates * x.shape[1] * k * k:
        raise ValueError(
            f"weight: got shape {list(weight.shape)}, needs {rates} x {x.shape[1]} kernels: rates x the channels of x"
        )
    return weight.reshape(rates, x.shape[1], k, k)


def _channels(name: str, x: Tensor, values: Tensor, rates: int) -> Tensor:
    if values.numel() != rates * x.shape[1]:
        raise ValueError(f"{name}: got shape {list(values.shape)}, needs [rates, C] = [{rates}, {x.shape[1]}]")
    return values.reshape(rates, x.shape[1])


def depthwise_conv_bn_relu(
    x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, stride: int, dilation: int, activation: str
) -> Tensor:
    """See `fused.depthwise_conv_bn_relu`; gradients for x, weight, scale and shift."""
    weight = _kernels(x, weight, 1)
    scale, shift = _channels("scale", x, scale, 1), _channels("shift", x, shift, 1)
    y: Tensor = _ops.depthwise(x, weight, scale, shift, stride, [dilation], activation)
    return y[0]


def aspp_depthwise(
    x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, rates: Sequence[int], activation: str
) -> Tensor:
    """See `fused.aspp_depthwise`; gradients for x, weight, scale and shift."""
    count = len(rates)
    weight = _kernels(x, weight, count)
    scale, shift = _channels("scale", x, scale, count), _channels("shift", x, shift, count)
    y: Tensor = _ops.depthwise(x, weight, scale, shift, 1, list(rates), activation)
    return y


def depthwise_training(
    x: Tensor,
    weight: Tensor,
    gamma: Tensor,
    beta: Tensor,
    eps: float,
    rates: Sequence[int],
    stride: int = 1,
    activation: str = "relu",
) -> tuple[Tensor, Tensor, Tensor]:
    """The training form: normalised with the batch's own statistics, over which it is differentiated.

    Args:
        x: [N, C, H, W].
        weight: [R, C, k, k] (or [C, 1, k, k] for one rate); k of 3 on a GPU.
        gamma, beta: [R, C].
        eps: added to the variance.
        rates: R atrous rates.
        stride, activation: as in `fused.depthwise_conv_bn_relu`.

    Returns:
        y [R, N, C, ceil(H / stride), ceil(W / stride)], and mean and biased variance [R, C] of the convolution over
        (N, H, W), which are not differentiable.
    """
    count = len(rates)
    weight = _kernels(x, weight, count)
    gamma, beta = _channels("gamma", x, gamma, count), _channels("beta", x, beta, count)
    y, mean, variance = _ops.depthwise_training(x, weight, gamma, beta, eps, stride, list(rates), activation)
    return y, mean, variance


def upsample_concat(x: Tensor, low: Tensor, align_corners: bool) -> Tensor:
    """See `fused.upsample_concat`; gradients for x and low."""
    y: Tensor = _ops.upsample_concat(x, low, align_corners)
    return y


def _concat_parameters(
    x: Tensor, low: Tensor, weight: Tensor, first: Tensor, second: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    channels = x.shape[1] + low.shape[1]
    k = weight.shape[-1]
    for name, values, each in (("weight", weight, k * k), ("scale", first, 1), ("shift", second, 1)):
        if values.numel() != channels * each:
            raise ValueError(f"{name}: got shape {list(values.shape)}, needs the {channels} channels of x and low")
    return weight.reshape(1, channels, k, k), first.reshape(1, channels), second.reshape(1, channels)


def upsample_concat_depthwise(
    x: Tensor,
    low: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    align_corners: bool,
    dilation: int = 1,
    activation: str = "relu",
) -> Tensor:
    """See `fused.upsample_concat_depthwise`; gradients for x, low, weight, scale and shift."""
    parameters = _concat_parameters(x, low, weight, scale, shift)
    y: Tensor = _ops.upsample_concat_depthwise(x, low, *parameters, align_corners, dilation, activation)
    return y


def upsample_concat_depthwise_training(
    x: Tensor,
    low: Tensor,
    weight: Tensor,
    gamma: Tensor,
    beta: Tensor,
    eps: float,
    align_corners: bool,
    dilation: int = 1,
    activation: str = "relu",
) -> tuple[Tensor, Tensor, Tensor]:
    """`upsample_concat` into `depthwise_training`; the concatenation is not kept for the backward pass.

    Returns:
        y [N, C + C_low, H, W], mean and biased variance [1, C + C_low].
    """
    parameters = _concat_parameters(x, low, weight, gamma, beta)
    y, mean, variance = _ops.upsample_concat_depthwise_training(
        x, low, *parameters, eps, align_corners, dilation, activation
    )
    return y, mean, variance


def upsample_argmax(
    logits: Tensor, size: tuple[int, int], align_corners: bool, via: tuple[int, int] | None = None
) -> Tensor:
    """`deeplab_infer.ops.upsample_argmax` on the tensor's device: [N, C, h, w] to labels [N, H, W].

    Returns:
        uint8 up to 256 classes, else int32.
    """
    labels: Tensor = _ops.upsample_argmax(logits, list(size), list(via or ()), align_corners)
    return labels


def merge_windows(
    logits: Tensor, size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int], align_corners: bool
) -> Tensor:
    """See `fused.merge_windows`; on the device of the logits, without a gradient.

    Returns:
        float32 [C, *size].
    """
    if logits.ndim != 4:
        raise ValueError(f"logits: got shape {list(logits.shape)}, needs [n, C, h, w]")
    merged: Tensor = _ops.merge_windows(logits, list(size), list(window), list(stride), align_corners)
    return merged


def preprocess(
    images: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    size: tuple[int, int] | None = None,
    dtype: torch.dtype = torch.float32,
    reverse_channels: bool = False,
    channels_last: bool = False,
) -> Tensor:
    """See `fused.preprocess`; on the device of the pixels.

    Args:
        images: uint8 [N, H, W, 3].
        mean, std: three values each, in 0..255 units.
        size: (h, w) of the result; None keeps the size.
        dtype: float32, float16 or bfloat16.
        reverse_channels: swap red and blue.
        channels_last: layout of the result.

    Returns:
        [N, 3, h, w].
    """
    if images.ndim != 4:
        raise ValueError(f"images: got shape {list(images.shape)}, needs [N, H, W, 3]")
    height, width = size or (images.shape[1], images.shape[2])
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    out = torch.empty((len(images), 3, height, width), dtype=dtype, device=images.device, memory_format=memory_format)
    run_preprocess(images.contiguous(), out, mean, std, reverse_channels)
    return out
