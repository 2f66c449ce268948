# SPDX-License-Identifier: Apache-2.0
"""The operators' implementations: memory from torch, work in ``_C``, on the tensor's device and current stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _C
from .functional import upsample_argmax as upsample_argmax_of_arrays
from .schema import (
    concat_layout,
    depthwise_shape,
    empty_like_layout,
    is_channels_last,
    library,
    parameter_type,
)

_BACKWARD_SUMS = 2 + 9  # of dy and dy * conv, and one a tap of a 3x3 kernel


def _execution(x: Tensor) -> dict[str, Any]:
    if x.is_cuda:
        return {"stream": torch.cuda.current_stream(x.device).cuda_stream}
    return {"threads": torch.get_num_threads()}


def _new(x: Tensor, shape: Sequence[int], channels_last: bool) -> Tensor:
    """Memory for a result."""
    out = empty_like_layout(x, shape, channels_last)
    if out.device.type == "cpu" and out.numel():
        _C.prefer_huge_pages(out)
    return out


def _dense(x: Tensor) -> Tensor:
    """X itself where a kernel can read it, else a contiguous copy."""
    return x if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()


def _in_layout(x: Tensor, channels_last: bool) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def _gradient_like(dy: Tensor, channels_last: bool) -> Tensor:
    """An incoming gradient [R, N, C, H, W] as one block of memory in the layout of the output it belongs to."""
    if channels_last:
        return dy.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    return dy.contiguous()


def _parameters(x: Tensor, *tensors: Tensor) -> list[Tensor]:
    dtype = parameter_type(x)
    return [t.to(dtype).contiguous() for t in tensors]


def _workspace(x: Tensor, shape: Sequence[int], sums: int) -> Tensor | None:
    if not x.is_cuda:
        return None
    rates, batch, channels, height, width = shape
    return x.new_empty(_C.depthwise_workspace(batch, channels, height, width, rates, sums), dtype=torch.float32)


def depthwise(
    x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, stride: int, rates: Sequence[int], activation: str
) -> Tensor:
    x = _dense(x)
    out = _new(x, depthwise_shape(x, stride, rates), is_channels_last(x))
    weight, scale, shift = _parameters(x, weight, scale, shift)
    _C.depthwise(x, weight, scale, shift, out, stride, list(rates), activation, **_execution(x))
    return out


def _gradients(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    factors: tuple[Tensor, Tensor, Tensor],
    stride: int,
    rates: list[int],
    activation: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """dx, dweight and the two sums, for dconv = a * z + b + c * conv."""
    dconv = _new(dy, dy.shape, is_channels_last(x))
    sums = scale.new_empty((*scale.shape, 2))
    dweight = torch.empty_like(weight)
    workspace = _workspace(x, dy.shape, _BACKWARD_SUMS)
    run = _execution(x)
    _C.depthwise_gradient(
        x, weight, dy, scale, shift, *factors, dconv, sums, dweight, workspace, stride, rates, activation, **run
    )
    dx = torch.empty_like(x)
    _C.depthwise_input_gradient(dconv, weight, dx, stride, rates, **run)
    return dx, dweight, sums


def depthwise_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    stride: int,
    rates: Sequence[int],
    activation: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x = _dense(x)
    dy = _gradient_like(dy.to(x.dtype), is_channels_last(x))
    own_weight, own_scale, own_shift = _parameters(x, weight, scale, shift)
    zero = torch.zeros_like(own_scale)
    dx, dweight, sums = _gradients(
        dy, x, own_weight, own_scale, own_shift, (own_scale, zero, zero), stride, list(rates), activation
    )
    dscale, dshift = sums[..., 1].contiguous(), sums[..., 0].contiguous()
    return dx, dweight.to(weight.dtype), dscale.to(scale.dtype), dshift.to(shift.dtype)


def _fold(mean: Tensor, variance: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    scale = gamma * torch.rsqrt(variance + eps)
    return scale, beta - mean * scale


def depthwise_training(
    x: Tensor,
    weight: Tensor,
    gamma: Tensor,
    beta: Tensor,
    eps: float,
    stride: int,
    rates: Sequence[int],
    activation: str,
) -> tuple[Tensor, Tensor, Tensor]:
    x = _dense(x)
    weight, gamma, beta = _parameters(x, weight, gamma, beta)
    mean, variance = torch.empty_like(gamma), torch.empty_like(gamma)
    workspace = _workspace(x, depthwise_shape(x, stride, rates), 2)
    _C.depthwise_statistics(x, weight, mean, variance, workspace, stride, list(rates), **_execution(x))
    scale, shift = _fold(mean, variance, gamma, beta, eps)
    return depthwise(x, weight, scale, shift, stride, rates, activation), mean, variance


def depthwise_training_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    stride: int,
    rates: Sequence[int],
    activation: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x = _dense(x)
    dy = _gradient_like(dy.to(x.dtype), is_channels_last(x))
    own_weight, own_gamma, own_beta = _parameters(x, weight, gamma, beta)
    scale, shift = _fold(mean, variance, own_gamma, own_beta, eps)
    sums = scale.new_empty((*scale.shape, 2))
    _C.depthwise_gradient(
        x,
        own_weight,
        dy,
        scale,
        shift,
        None,
        None,
        None,
        None,
        sums,
        None,
        _workspace(x, dy.shape, 2),
        stride,
        list(rates),
        activation,
        **_execution(x),
    )
    # Through the batch's mean and variance: with x_hat = (conv - mean) / std and M values a channel,
    # dconv = scale * (z - mean(z) - x_hat * mean(z * x_hat)), written as a * z + b + c * conv.
    inverse_std = torch.rsqrt(variance + eps)
    count = dy.shape[1] * dy.shape[3] * dy.shape[4]
    dbeta = sums[..., 0]
    dgamma = inverse_std * (sums[..., 1] - mean * dbeta)
    c = -scale * inverse_std * dgamma / count
    b = -scale * dbeta / count - c * mean
    dx, dweight, _ = _gradients(
        dy, x, own_weight, scale, shift, (scale, b.contiguous(), c.contiguous()), stride, list(rates), activation
    )
    return dx, dweight.to(weight.dtype), dgamma.to(gamma.dtype), dbeta.contiguous().to(beta.dtype)


def _concat_inputs(x: Tensor, low: Tensor) -> tuple[Tensor, Tensor, bool]:
    low, x = _dense(low), _dense(x)
    channels_last = concat_layout(x, low)
    return _in_layout(x, channels_last), _in_layout(low, channels_last), channels_last


def upsample_concat(x: Tensor, low: Tensor, align_corners: bool) -> Tensor:
    x, low, channels_last = _concat_inputs(x, low)
    shape = (low.shape[0], x.shape[1] + low.shape[1], *low.shape[2:])
    out = _new(x, shape, channels_last)
    _C.upsample_concat(x, low, out, align_corners, **_execution(x))
    return out


def upsample_concat_backward(dy: Tensor, channels: int, height: int, width: int, align_corners: bool) -> Tensor:
    dy = _dense(dy)
    dx = _new(dy, (dy.shape[0], channels, height, width), is_channels_last(dy))
    _C.upsample_concat_gradient(dy, dx, align_corners, **_execution(dy))
    return dx


def upsample_concat_depthwise(
    x: Tensor,
    low: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    align_corners: bool,
    rate: int,
    activation: str,
) -> Tensor:
    x, low, channels_last = _concat_inputs(x, low)
    out = _new(x, (low.shape[0], x.shape[1] + low.shape[1], *low.shape[2:]), channels_last)
    weight, scale, shift = _parameters(x, weight, scale, shift)
    _C.upsample_concat_depthwise(x, low, weight, scale, shift, out, align_corners, rate, activation, **_execution(x))
    return out


def upsample_concat_depthwise_training(
    x: Tensor,
    low: Tensor,
    weight: Tensor,
    gamma: Tensor,
    beta: Tensor,
    eps: float,
    align_corners: bool,
    rate: int,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor]:
    # The concatenation lives for this call only: the backward pass makes it again.
    concat = upsample_concat(x, low, align_corners)
    y, mean, variance = depthwise_training(concat, weight, gamma, beta, eps, 1, [rate], activation)
    return y[0], mean, variance


def upsample_argmax(logits: Tensor, size: Sequence[int], via: Sequence[int], align_corners: bool) -> Tensor:
    height, width = size
    if logits.is_cuda:
        logits = _dense(logits)
        dtype = torch.uint8 if logits.shape[1] <= 256 else torch.int32
        labels = logits.new_empty((logits.shape[0], height, width), dtype=dtype)
        _C.upsample_labels(logits, labels, None, align_corners, (via[0], via[1]) if via else None, **_execution(logits))
        return labels
    labels_array = upsample_argmax_of_arrays(
        logits.float().numpy(),
        (height, width),
        align_corners=align_corners,
        via=(via[0], via[1]) if via else None,
        threads=torch.get_num_threads(),
    )
    return torch.from_numpy(labels_array)


def merge_windows(
    logits: Tensor, size: Sequence[int], window: Sequence[int], stride: Sequence[int], align_corners: bool
) -> Tensor:
    logits = _dense(logits) if logits.is_cuda else logits.float().contiguous()
    out = _new(logits.new_empty(0, dtype=torch.float32), (logits.shape[1], size[0], size[1]), channels_last=False)
    _C.merge_windows(logits, out, (window[0], window[1]), (stride[0], stride[1]), align_corners, **_execution(logits))
    return out


def run_preprocess(
    images: Tensor, out: Tensor, mean: Sequence[float], std: Sequence[float], reverse_channels: bool
) -> None:
    """Not an operator of torch's: it has no gradient and stands before the network."""
    _C.preprocess(images, out, list(mean), list(std), reverse_channels, **_execution(images))


for _name, _function in {
    "depthwise": depthwise,
    "depthwise_backward": depthwise_backward,
    "depthwise_training": depthwise_training,
    "depthwise_training_backward": depthwise_training_backward,
    "upsample_concat": upsample_concat,
    "upsample_concat_backward": upsample_concat_backward,
    "upsample_concat_depthwise": upsample_concat_depthwise,
    "upsample_concat_depthwise_training": upsample_concat_depthwise_training,
    "upsample_argmax": upsample_argmax,
    "merge_windows": merge_windows,
}.items():
    for _key in ("CPU", "CUDA"):
        library.impl(_name, _function, _key)
