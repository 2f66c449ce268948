# SPDX-License-Identifier: Apache-2.0
"""MobileNetV2 (arXiv 1801.04381) with atrous convolution; state-dict names are torchvision's."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ...configs.schema import ModelConfig
from .. import fused
from ..activations import norm_relu
from ..blocks import Norm, conv
from .features import Backbone, Features, backbone_norm

# Table 2 of the paper: expansion, channels, units, stride.
_LAYERS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_LOW, _MIDDLE = 3, 13  # features.3 is the last unit at stride 4, features.13 the last of the 96-channel layer


@dataclass(frozen=True)
class UnitPlan:
    """One inverted residual unit."""

    expansion: int
    channels: int
    stride: int
    dilation: int


def plan_units(config: ModelConfig) -> list[UnitPlan]:
    """All units; a stride beyond the output stride becomes a doubled rate.

    With ``contract_dilation`` the unit that lost its stride keeps the old rate (the papers' code); without,
    it has the doubled one already (mmsegmentation, segmentation_models_pytorch).
    """
    plan: list[UnitPlan] = []
    current, rate = 2, 1
    for expansion, channels, count, stride in _LAYERS:
        first_rate = rate
        if current * stride > config.output_stride:
            rate *= stride
            first_rate = first_rate if config.contract_dilation else rate
            stride = 1
        current *= stride
        width = _divisible(channels * config.width_mult)
        plan.append(UnitPlan(expansion, width, stride, first_rate))
        plan += [UnitPlan(expansion, width, 1, rate)] * (count - 1)
    return plan


def _divisible(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of 8 that is not more than 10 % below."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


class ConvBnRelu6(nn.Sequential):
    """Convolution, batch normalisation, ReLU6."""

    fused = False

    def __init__(self, in_channels: int, out_channels: int, kernel: int, norm: Norm, **options: int) -> None:
        super().__init__(conv(in_channels, out_channels, kernel, **options), norm(out_channels), nn.ReLU6())

    def conv_and_norm(self) -> tuple[nn.Module, nn.Module | None]:
        """See `ConvBnRelu.conv_and_norm`."""
        return self[0], self[1]

    def forward(self, x: Tensor) -> Tensor:
        convolution, norm = self[0], self[1]
        if self.fused and fused.runs_fused(norm):
            assert isinstance(convolution, nn.Conv2d)
            return fused.depthwise(convolution, norm, x, "relu6")
        return norm_relu(norm, convolution(x), F.relu6)


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, 1x1 linear projection; shortcut where the shape stays."""

    def __init__(self, in_channels: int, plan: UnitPlan, norm: Norm) -> None:
        super().__init__()
        hidden = in_channels * plan.expansion
        layers: list[nn.Module] = []
        if plan.expansion != 1:
            layers.append(ConvBnRelu6(in_channels, hidden, 1, norm))
        layers.append(ConvBnRelu6(hidden, hidden, 3, norm, stride=plan.stride, dilation=plan.dilation, groups=hidden))
        layers += [conv(hidden, plan.channels, 1), norm(plan.channels)]
        self.conv = nn.Sequential(*layers)
        self.shortcut = plan.stride == 1 and in_channels == plan.channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.shortcut else self.conv(x)


class MobileNetV2(Backbone):
    """MobileNetV2 at output stride 8, 16 or 32; ``mobilenet_last_conv`` adds the 320 -> 1280 convolution."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        norm = backbone_norm(config)
        channels = _divisible(32 * config.width_mult)
        layers: list[nn.Module] = [ConvBnRelu6(3, channels, 3, norm, stride=2)]
        widths = [channels]
        for plan in plan_units(config):
            layers.append(InvertedResidual(channels, plan, norm))
            channels = plan.channels
            widths.append(channels)
        if config.mobilenet_last_conv:
            last = _divisible(1280 * max(1.0, config.width_mult))
            layers.append(ConvBnRelu6(channels, last, 1, norm))
            channels = last
        self.features = nn.Sequential(*layers)
        self.low_channels, self.middle_channels, self.high_channels = widths[_LOW], widths[_MIDDLE], channels

    def forward(self, x: Tensor) -> Features:
        low = middle = x
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index == _LOW:
                low = x
            if index == _MIDDLE:
                middle = x
        return Features(low, middle, x)
