# SPDX-License-Identifier: Apache-2.0
"""Aligned Xception of DeepLabv3+ (section 3.2): 41, 65 or 71 layers.

State-dict names are those of timm's ``xception41``, ``xception65`` and ``xception71``, whose weights come
from the papers' authors. As there, the stride of a module is in its third separable convolution, and except
in the exit's last module the ReLU stands before each separable convolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ...configs.schema import ModelConfig
from .. import fused
from ..blocks import ConvBnRelu, Norm, conv
from .features import Backbone, Features, backbone_norm


@dataclass(frozen=True)
class ModulePlan:
    """One Xception module: channels of its three separable convolutions, stride, rate.

    ``downsamples`` says that the module has a stride at output stride 32; its shortcut then has weights at every
    output stride.
    """

    channels: tuple[int, int, int]
    stride: int = 1
    dilation: int = 1
    downsamples: bool = False
    exit: bool = False


_ENTRY = {
    41: ((128, 2), (256, 2), (728, 2)),
    65: ((128, 2), (256, 2), (728, 2)),
    71: ((128, 2), (256, 1), (256, 2), (728, 1), (728, 2)),
}
_MIDDLE = {41: 8, 65: 16, 71: 16}


def plan_modules(depth: int, output_stride: int) -> list[ModulePlan]:
    """All modules; a stride beyond the output stride becomes a doubled rate of the modules after it."""
    nominal = [((width,) * 3, stride, False) for width, stride in _ENTRY[depth]]
    nominal += [((728,) * 3, 1, False)] * _MIDDLE[depth]
    nominal += [((728, 1024, 1024), 2, False), ((1536, 1536, 2048), 1, True)]
    plan: list[ModulePlan] = []
    current, rate = 2, 1
    for channels, stride, is_exit in nominal:
        if current * stride > output_stride:
            plan.append(ModulePlan(channels, 1, rate, stride > 1, is_exit))
            rate *= stride
        else:
            plan.append(ModulePlan(channels, stride, rate, stride > 1, is_exit))
            current *= stride
    return plan


class SeparableConv(nn.Module):
    """3x3 depthwise and 1x1 pointwise convolution, each normalised; ReLUs only in the exit module."""

    fused = False

    def __init__(self, in_channels: int, out_channels: int, stride: int, dilation: int, relu: bool, norm: Norm) -> None:
        super().__init__()
        self.conv_dw = conv(in_channels, in_channels, 3, stride, dilation, groups=in_channels)
        self.bn_dw = norm(in_channels)
        self.conv_pw = conv(in_channels, out_channels, 1)
        self.bn_pw = norm(out_channels)
        self.relu = relu

    def conv_and_norm(self) -> tuple[nn.Module, nn.Module | None]:
        """See `ConvBnRelu.conv_and_norm`."""
        return self.conv_dw, self.bn_dw

    def _depthwise(self, x: Tensor) -> Tensor:
        if self.fused and fused.runs_fused(self.bn_dw):
            return fused.depthwise(self.conv_dw, self.bn_dw, x, "relu" if self.relu else "none")
        x = self.bn_dw(self.conv_dw(x))
        return F.relu(x) if self.relu else x

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn_pw(self.conv_pw(self._depthwise(x)))
        return F.relu(x) if self.relu else x


class Shortcut(nn.Module):
    """1x1 convolution and batch normalisation."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv = conv(in_channels, out_channels, 1, stride)
        self.bn = norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class XceptionModule(nn.Module):
    """Three separable convolutions with a shortcut; the exit's last module has none."""

    def __init__(self, in_channels: int, plan: ModulePlan, norm: Norm) -> None:
        super().__init__()
        self.exit = plan.exit
        self.shortcut: Shortcut | None = None
        if not plan.exit and (in_channels != plan.channels[-1] or plan.downsamples):
            self.shortcut = Shortcut(in_channels, plan.channels[-1], plan.stride, norm)
        self.stack = nn.ModuleDict()
        for index, width in enumerate(plan.channels):
            stride = plan.stride if index == 2 else 1
            self.stack[f"conv{index + 1}"] = SeparableConv(in_channels, width, stride, plan.dilation, plan.exit, norm)
            in_channels = width

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the module's output and the rectified input of its third convolution."""
        y, before_last = x, x
        for separable in self.stack.values():
            before_last = y if self.exit else F.relu(y)
            y = separable(before_last)
        if self.exit:
            return y, before_last
        return y + (x if self.shortcut is None else self.shortcut(x)), before_last


class Xception(Backbone):
    """Aligned Xception; low-level features are what enters the convolution that leaves stride 4."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        norm = backbone_norm(config)
        plans = plan_modules(config.depth, config.output_stride)
        self.stem = nn.Sequential(ConvBnRelu(3, 32, 3, norm, stride=2), ConvBnRelu(32, 64, 3, norm))
        self.blocks = nn.ModuleList()
        channels = 64
        for plan in plans:
            self.blocks.append(XceptionModule(channels, plan, norm))
            channels = plan.channels[-1]
        # The second strided module takes stride 4 to stride 8 at every output stride of 8 and more.
        self.low_index = [index for index, plan in enumerate(plans) if plan.stride == 2][1]
        self.middle_index = len(plans) - 3
        self.low_channels = plans[self.low_index].channels[1]
        self.middle_channels = plans[self.middle_index].channels[-1]
        self.high_channels = channels

    def forward(self, x: Tensor) -> Features:
        x = self.stem(x)
        low = middle = x
        for index, block in enumerate(self.blocks):
            x, before_last = block(x)
            if index == self.low_index:
                low = before_last
            if index == self.middle_index:
                middle = x
        return Features(low, middle, x)
