# SPDX-License-Identifier: Apache-2.0
"""ResNet with atrous convolution: V1 (7x7 stem), V1c (deep stem) and the papers' "beta" variant.

State-dict names are those of torchvision and mmsegmentation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ...configs.schema import ModelConfig
from ..activations import norm_relu
from ..blocks import Norm, conv
from .features import Backbone, Features, backbone_norm

UNITS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_STEM_CHANNELS = {"v1c": (32, 32, 64), "beta": (64, 64, 128)}


@dataclass(frozen=True)
class UnitPlan:
    """Stride and atrous rate of one residual unit."""

    stride: int
    dilation: int


def plan_units(config: ModelConfig) -> list[list[UnitPlan]]:
    """Stride and rate of every unit, stage by stage."""
    return _plan_beta(config) if config.stem == "beta" else _plan_stages(config)


def _plan_stages(config: ModelConfig) -> list[list[UnitPlan]]:
    """The stride is in the first unit of a stage (He et al. 2015; torchvision, mmsegmentation)."""
    stages = list(zip(UNITS[config.depth], config.strides, config.dilations, strict=True))
    # An extra cascade block continues at twice the rate of the one before (DeepLabv3 section 3.1).
    for _ in range(config.cascade_blocks):
        stages.append((stages[-1][0], 1, stages[-1][2] * 2))
    plan = []
    for index, (count, stride, dilation) in enumerate(stages):
        rates = [dilation] * count
        if config.multi_grid and index >= 3:
            rates = _multi_grid(config, count, dilation)
        elif config.contract_dilation and dilation > 1:
            # The first unit still sees the grid of the stage before, whose rate is half.
            rates[0] = dilation // 2
        plan.append([UnitPlan(stride if unit == 0 else 1, rate) for unit, rate in enumerate(rates)])
    return plan


def _plan_beta(config: ModelConfig) -> list[list[UnitPlan]]:
    """The stride is in a block's last unit; beyond the output stride it doubles the rates that follow."""
    counts = UNITS[config.depth] + (UNITS[config.depth][3],) * config.cascade_blocks
    plan: list[list[UnitPlan]] = []
    stride, rate = 4, 1
    for index, count in enumerate(counts):
        grid = _multi_grid(config, count, 1) if config.multi_grid and index >= 3 else [1] * count
        units = []
        for unit in range(count):
            wanted = 2 if unit == count - 1 and index < len(counts) - 1 else 1
            if stride == config.output_stride:
                units.append(UnitPlan(1, rate * grid[unit]))
                rate *= wanted
            else:
                units.append(UnitPlan(wanted, grid[unit]))
                stride *= wanted
        plan.append(units)
    return plan


def _multi_grid(config: ModelConfig, count: int, dilation: int) -> list[int]:
    factor = 1 if config.multi_grid_absolute else dilation
    return [config.multi_grid[unit % len(config.multi_grid)] * factor for unit in range(count)]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (ResNet-18, -34)."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, plan: UnitPlan, config: ModelConfig, norm: Norm) -> None:
        super().__init__()
        second_dilation = plan.dilation if config.basic_block_dilation == "both" else 1
        self.conv1 = conv(in_channels, width, 3, plan.stride, plan.dilation)
        self.bn1 = norm(width)
        self.conv2 = conv(width, width, 3, 1, second_dilation)
        self.bn2 = norm(width)
        self.downsample = _downsample(in_channels, width, plan.stride, norm, config.stem)

    def forward(self, x: Tensor) -> Tensor:
        y = norm_relu(self.bn1, self.conv1(x))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions (ResNet-50 and deeper)."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, plan: UnitPlan, config: ModelConfig, norm: Norm) -> None:
        super().__init__()
        first, second = (plan.stride, 1) if config.stride_in == "conv1" else (1, plan.stride)
        self.conv1 = conv(in_channels, width, 1, first)
        self.bn1 = norm(width)
        self.conv2 = conv(width, width, 3, second, plan.dilation)
        self.bn2 = norm(width)
        self.conv3 = conv(width, width * self.expansion, 1)
        self.bn3 = norm(width * self.expansion)
        self.downsample = _downsample(in_channels, width * self.expansion, plan.stride, norm, config.stem)

    def forward(self, x: Tensor) -> Tensor:
        y = norm_relu(self.bn1, self.conv1(x))
        y = norm_relu(self.bn2, self.conv2(y))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def _downsample(in_channels: int, out_channels: int, stride: int, norm: Norm, stem: str) -> nn.Module | None:
    if in_channels == out_channels and stride == 1:
        return None
    if in_channels == out_channels and stem == "beta":
        # The papers' shortcut has no weights where only the size changes: every stride-th pixel.
        return nn.MaxPool2d(1, stride)
    return nn.Sequential(conv(in_channels, out_channels, 1, stride), norm(out_channels))


class ResNet(Backbone):
    """ResNet-18 to -152 at output stride 8, 16 or 32, with up to three extra cascade blocks.

    Low-level features are stage 1's output (stride 4); for "beta", whose stage 1 ends with a stride, the
    output of the unit before it (DeepLabv3+ section 4: the last feature map of res2x before striding).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        norm = backbone_norm(config)
        block = BasicBlock if config.depth < 50 else Bottleneck
        self.deep_stem = config.stem != "v1"
        self.low_before_stride = config.stem == "beta"
        channels = 64
        if self.deep_stem:
            self.stem = _deep_stem(_STEM_CHANNELS[config.stem], norm)
            channels = _STEM_CHANNELS[config.stem][-1]
        else:
            self.conv1 = conv(3, 64, 7, 2)
            self.bn1 = norm(64)
        self.stages: list[str] = []
        outputs = []
        for index, units in enumerate(plan_units(config)):
            width = 64 * 2 ** min(index, 3)
            layers = []
            for unit in units:
                layers.append(block(channels, width, unit, config, norm))
                channels = width * block.expansion
            self.stages.append(f"layer{index + 1}")
            self.add_module(self.stages[-1], nn.Sequential(*layers))
            outputs.append(channels)
        self.low_channels, self.middle_channels, self.high_channels = outputs[0], outputs[2], outputs[-1]

    def _run_deep_stem(self, x: Tensor) -> Tensor:
        layers = list(self.stem)
        for convolution, norm in zip(layers[::3], layers[1::3], strict=True):
            x = norm_relu(norm, convolution(x))
        return x

    def forward(self, x: Tensor) -> Features:
        x = self._run_deep_stem(x) if self.deep_stem else norm_relu(self.bn1, self.conv1(x))
        x = F.max_pool2d(x, 3, 2, 1)
        first = self.get_submodule("layer1")
        assert isinstance(first, nn.Sequential)
        if self.low_before_stride:
            low = first[:-1](x)
            x = first[-1](low)
        else:
            low = x = first(x)
        middle = x = self.get_submodule("layer3")(self.get_submodule("layer2")(x))
        for name in self.stages[3:]:
            x = self.get_submodule(name)(x)
        return Features(low, middle, x)


def _deep_stem(channels: tuple[int, ...], norm: Norm) -> nn.Sequential:
    layers: list[nn.Module] = []
    previous = 3
    for index, width in enumerate(channels):
        layers += [conv(previous, width, 3, 2 if index == 0 else 1), norm(width), nn.ReLU()]
        previous = width
    return nn.Sequential(*layers)
