# SPDX-License-Identifier: Apache-2.0
"""The operators as torch knows them: schema, and what comes out of which shapes (for tracing without data).

``R`` is the number of atrous rates. Parameters (weight, scale, shift, gamma, beta, mean, variance) are float32, or
float64 where the input is; the implementations convert. Outputs are channels-last where the input is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

NAMESPACE = "deeplab"

SCHEMAS = {
    "depthwise": (
        "(Tensor x, Tensor weight, Tensor scale, Tensor shift, int stride, int[] rates, str activation) -> Tensor"
    ),
    "depthwise_backward": (
        "(Tensor dy, Tensor x, Tensor weight, Tensor scale, Tensor shift, int stride, int[] rates, str activation)"
        " -> (Tensor dx, Tensor dweight, Tensor dscale, Tensor dshift)"
    ),
    "depthwise_training": (
        "(Tensor x, Tensor weight, Tensor gamma, Tensor beta, float eps, int stride, int[] rates, str activation)"
        " -> (Tensor y, Tensor mean, Tensor variance)"
    ),
    "depthwise_training_backward": (
        "(Tensor dy, Tensor x, Tensor weight, Tensor gamma, Tensor beta, Tensor mean, Tensor variance, float eps,"
        " int stride, int[] rates, str activation) -> (Tensor dx, Tensor dweight, Tensor dgamma, Tensor dbeta)"
    ),
    "upsample_concat": "(Tensor x, Tensor low, bool align_corners) -> Tensor",
    "upsample_concat_backward": (
        "(Tensor dy, SymInt channels, SymInt height, SymInt width, bool align_corners) -> Tensor"
    ),
    "upsample_concat_depthwise": (
        "(Tensor x, Tensor low, Tensor weight, Tensor scale, Tensor shift, bool align_corners, int rate,"
        " str activation) -> Tensor"
    ),
    "upsample_concat_depthwise_training": (
        "(Tensor x, Tensor low, Tensor weight, Tensor gamma, Tensor beta, float eps, bool align_corners, int rate,"
        " str activation) -> (Tensor y, Tensor mean, Tensor variance)"
    ),
    "upsample_argmax": "(Tensor logits, SymInt[] size, SymInt[] via, bool align_corners) -> Tensor",
    "merge_windows": ("(Tensor logits, SymInt[] size, SymInt[] window, SymInt[] stride, bool align_corners) -> Tensor"),
}

library = torch.library.Library(NAMESPACE, "DEF")
for _name, _schema in SCHEMAS.items():
    library.define(_name + _schema)


def is_channels_last(x: Tensor) -> bool:
    """Whether an [N, C, H, W] tensor is channels-last; where sizes of 1 leave it open, it is not."""
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def parameter_type(x: Tensor) -> torch.dtype:
    """Type in which the kernels take parameters for an input of this type."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def empty_like_layout(x: Tensor, shape: Sequence[int], channels_last: bool) -> Tensor:
    """An uninitialised tensor [..., N, C, H, W] of x's type and device, its last four axes in the wanted layout."""
    if not channels_last:
        return x.new_empty(shape)
    *lead, channels, height, width = shape
    last = len(shape) - 1
    order = (*range(len(lead)), last, last - 2, last - 1)
    return x.new_empty((*lead, height, width, channels)).permute(order)


def depthwise_shape(x: Tensor, stride: int, rates: Sequence[int]) -> tuple[int, ...]:
    """[R, N, C, ceil(H / stride), ceil(W / stride)]"""
    batch, channels, height, width = x.shape
    return len(rates), batch, channels, (height - 1) // stride + 1, (width - 1) // stride + 1


def concat_layout(x: Tensor, low: Tensor) -> bool:
    """Whether the concatenation is channels-last: as low is; where low leaves it open, as x is."""
    if low.is_contiguous() and low.is_contiguous(memory_format=torch.channels_last):
        return is_channels_last(x)
    return is_channels_last(low)


def _fake(name: str):  # type: ignore[no-untyped-def]
    return torch.library.register_fake(f"{NAMESPACE}::{name}", lib=library)


@_fake("depthwise")
def _depthwise(
    x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, stride: int, rates: Sequence[int], activation: str
) -> Tensor:
    return empty_like_layout(x, depthwise_shape(x, stride, rates), is_channels_last(x))


@_fake("depthwise_backward")
def _depthwise_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    stride: int,
    rates: Sequence[int],
    activation: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dx = empty_like_layout(x, x.shape, is_channels_last(x))
    return dx, torch.empty_like(weight), torch.empty_like(scale), torch.empty_like(shift)


@_fake("depthwise_training")
def _depthwise_training(
    x: Tensor,
    weight: Tensor,
    gamma: Tensor,
    beta: Tensor,
    eps: float,
    stride: int,
    rates: Sequence[int],
    activation: str,
) -> tuple[Tensor, Tensor, Tensor]:
    y = empty_like_layout(x, depthwise_shape(x, stride, rates), is_channels_last(x))
    moments = x.new_empty((len(rates), x.shape[1]), dtype=parameter_type(x))
    return y, moments, torch.empty_like(moments)


@_fake("depthwise_training_backward")
def _depthwise_training_backward(
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
    dx = empty_like_layout(x, x.shape, is_channels_last(x))
    return dx, torch.empty_like(weight), torch.empty_like(gamma), torch.empty_like(beta)


@_fake("upsample_concat")
def _upsample_concat(x: Tensor, low: Tensor, align_corners: bool) -> Tensor:
    shape = (low.shape[0], x.shape[1] + low.shape[1], low.shape[2], low.shape[3])
    return empty_like_layout(x, shape, concat_layout(x, low))


@_fake("upsample_concat_backward")
def _upsample_concat_backward(dy: Tensor, channels: int, height: int, width: int, align_corners: bool) -> Tensor:
    return empty_like_layout(dy, (dy.shape[0], channels, height, width), is_channels_last(dy))


@_fake("upsample_concat_depthwise")
def _upsample_concat_depthwise(
    x: Tensor,
    low: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    align_corners: bool,
    rate: int,
    activation: str,
) -> Tensor:
    return _upsample_concat(x, low, align_corners)


@_fake("upsample_concat_depthwise_training")
def _upsample_concat_depthwise_training(
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
    moments = x.new_empty((1, x.shape[1] + low.shape[1]), dtype=parameter_type(x))
    return _upsample_concat(x, low, align_corners), moments, torch.empty_like(moments)


@_fake("upsample_argmax")
def _upsample_argmax(logits: Tensor, size: Sequence[int], via: Sequence[int], align_corners: bool) -> Tensor:
    dtype = torch.uint8 if logits.shape[1] <= 256 else torch.int32
    return logits.new_empty((logits.shape[0], size[0], size[1]), dtype=dtype)


@_fake("merge_windows")
def _merge_windows(
    logits: Tensor, size: Sequence[int], window: Sequence[int], stride: Sequence[int], align_corners: bool
) -> Tensor:
    return logits.new_empty((logits.shape[1], size[0], size[1]), dtype=torch.float32)
