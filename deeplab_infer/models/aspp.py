# SPDX-License-Identifier: Apache-2.0
"""Atrous spatial pyramid pooling (DeepLabv3 section 3.3; depthwise-separable in DeepLabv3+ section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..configs.schema import ModelConfig
from . import fused
from .blocks import ConvBnRelu, Convolution, Norm, SeparableConvBnRelu, conv3x3_block


class Aspp(nn.Module):
    """A 1x1 branch, one 3x3 branch a rate and image pooling; concat (pooling first) and a fusing convolution.

    ``[N, in_channels, h, w] -> [N, aspp_channels, h, w]``
    """

    fused = False  # `deeplab_infer.fuse` sets it where the 3x3 branches are separable

    def __init__(self, in_channels: int, config: ModelConfig, norm: Norm) -> None:
        super().__init__()
        width = config.aspp_channels
        self.image_pool = ConvBnRelu(in_channels, width, 1, norm) if config.image_pooling else None
        self.branches = nn.ModuleList([ConvBnRelu(in_channels, width, 1, norm)])
        for rate in config.aspp_rates:
            self.branches.append(
                conv3x3_block(
                    in_channels,
                    width,
                    norm,
                    separable=config.aspp_separable,
                    bn_after_depthwise=config.separable_bn == "both",
                    dilation=rate,
                )
            )
        count = len(self.branches) + (self.image_pool is not None)
        self.project = ConvBnRelu(count * width, width, config.projection_kernel, norm)

    def depthwise_branches(self) -> list[tuple[int, nn.Conv2d, nn.Module | None]]:
        """Index, depthwise convolution and its normalisation of every separable branch."""
        found = []
        for index, branch in enumerate(self.branches):
            if isinstance(branch, SeparableConvBnRelu):
                assert isinstance(branch.depthwise, ConvBnRelu | Convolution)
                found.append((index, branch.depthwise.conv, getattr(branch.depthwise, "bn", None)))
        return found

    def _run_branches(self, x: Tensor) -> list[Tensor]:
        separable = self.depthwise_branches() if self.fused else []
        if not separable or not fused.runs_fused(*(bn for _, _, bn in separable)):
            return [branch(x) for branch in self.branches]
        convs, norms = [conv for _, conv, _ in separable], [bn for _, _, bn in separable]
        activation = "none" if norms[0] is None else "relu"
        depthwise = iter(fused.aspp_depthwise(convs, norms, x, activation).unbind(0))
        return [
            branch.pointwise(next(depthwise)) if isinstance(branch, SeparableConvBnRelu) else branch(x)
            for branch in self.branches
        ]

    def _pooled(self, x: Tensor) -> Tensor | None:
        """[N, width, 1, 1] of the image-pooling branch, or None without one."""
        if self.image_pool is None:
            return None
        # A sum over tens of thousands of pixels needs float32, whatever the network runs in.
        mean = x.to(_sum_type(x.dtype)).mean((2, 3), keepdim=True).to(x.dtype)
        pooled: Tensor = self.image_pool(mean)
        return pooled

    def _project(self, parts: list[Tensor], pooled: Tensor | None) -> Tensor:
        if pooled is not None:
            # Resizing one pixel to the map, under either corner rule, is a broadcast.
            parts.insert(0, pooled.expand(-1, -1, parts[0].shape[2], parts[0].shape[3]))
        y: Tensor = self.project(torch.cat(parts, 1))
        return y

    def forward(self, x: Tensor) -> Tensor:
        return self._project(self._run_branches(x), self._pooled(x))


def _sum_type(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
