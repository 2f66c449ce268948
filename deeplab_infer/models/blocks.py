# SPDX-License-Identifier: Apache-2.0
"""The convolution blocks that every part of the network is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from . import fused
from .activations import norm_relu


@dataclass(frozen=True)
class Norm:
    """How batch normalisation layers are made.

    Attributes:
        eps: added to the variance.
        momentum: weight of the new batch in the running statistics.
    """

    eps: float = 1e-5
    momentum: float = 0.1

    def __call__(self, channels: int) -> nn.BatchNorm2d:
        return nn.BatchNorm2d(channels, eps=self.eps, momentum=self.momentum)


def conv(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Conv2d:
    """A convolution without bias whose padding keeps ``size / stride``."""
    padding = dilation * (kernel // 2)
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, groups, bias=False)


class ConvBnRelu(nn.Module):
    """Convolution, batch normalisation, ReLU: ``[N, in, H, W] -> [N, out, H/stride, W/stride]``."""

    fused = False  # `deeplab_infer.fuse` sets it on depthwise blocks

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        norm: Norm,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.conv = conv(in_channels, out_channels, kernel, stride, dilation, groups)
        self.bn = norm(out_channels)

    def conv_and_norm(self) -> tuple[nn.Module, nn.Module | None]:
        """The two layers that a fused kernel replaces."""
        return self.conv, self.bn

    def forward(self, x: Tensor) -> Tensor:
        if self.fused and fused.runs_fused(self.bn):
            return fused.depthwise(self.conv, self.bn, x, "relu")
        return norm_relu(self.bn, self.conv(x))


class Convolution(nn.Module):
    """A bare convolution under the same names as `ConvBnRelu` (``separable_bn: after``)."""

    fused = False

    def __init__(self, in_channels: int, out_channels: int, kernel: int, dilation: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = conv(in_channels, out_channels, kernel, dilation=dilation, groups=groups)

    def conv_and_norm(self) -> tuple[nn.Module, nn.Module | None]:
        """See `ConvBnRelu.conv_and_norm`."""
        return self.conv, None

    def forward(self, x: Tensor) -> Tensor:
        return fused.depthwise(self.conv, None, x, "none") if self.fused else self.conv(x)


class SeparableConvBnRelu(nn.Module):
    """Atrous separable convolution (DeepLabv3+ section 3.1): 3x3 depthwise, then 1x1 pointwise."""

    def __init__(
        self, in_channels: int, out_channels: int, norm: Norm, dilation: int, bn_after_depthwise: bool
    ) -> None:
        super().__init__()
        self.depthwise: nn.Module
        if bn_after_depthwise:
            self.depthwise = ConvBnRelu(in_channels, in_channels, 3, norm, dilation=dilation, groups=in_channels)
        else:
            self.depthwise = Convolution(in_channels, in_channels, 3, dilation=dilation, groups=in_channels)
        self.pointwise = ConvBnRelu(in_channels, out_channels, 1, norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


def conv3x3_block(
    in_channels: int,
    out_channels: int,
    norm: Norm,
    *,
    separable: bool,
    bn_after_depthwise: bool,
    dilation: int = 1,
) -> nn.Module:
    """A 3x3 block, dense or depthwise-separable, with normalisation and ReLU."""
    if separable:
        return SeparableConvBnRelu(in_channels, out_channels, norm, dilation, bn_after_depthwise)
    return ConvBnRelu(in_channels, out_channels, 3, norm, dilation=dilation)


def resize(x: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """Bilinear resize of ``[N, C, h, w]`` to ``size`` = (H, W)."""
    return F.interpolate(x, size=(size[0], size[1]), mode="bilinear", align_corners=align_corners)


def initialise(module: nn.Module) -> None:
    """He initialisation of convolutions, identity normalisation (as in the ResNet papers)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
