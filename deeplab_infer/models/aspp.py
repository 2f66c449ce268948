# SPDX-License-Identifier: Apache-2.0
"""Atrous spatial pyramid pooling (DeepLabv3 section 3.3; depthwise-separable in DeepLabv3+ section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..configs.schema import ModelConfig
from .blocks import ConvBnRelu, Norm, conv3x3_block


class Aspp(nn.Module):
    """A 1x1 branch, one 3x3 branch a rate and image pooling; concat (pooling first) and a fusing convolution.

    ``[N, in_channels, h, w] -> [N, aspp_channels, h, w]``
    """

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

    def forward(self, x: Tensor) -> Tensor:
        parts = [branch(x) for branch in self.branches]
        if self.image_pool is not None:
            # A sum over tens of thousands of pixels needs float32, whatever the network runs in.
            mean = x.to(_sum_type(x.dtype)).mean((2, 3), keepdim=True).to(x.dtype)
            pooled = self.image_pool(mean)
            # Resizing one pixel to the map, under either corner rule, is a broadcast.
            parts.insert(0, pooled.expand(-1, -1, x.shape[2], x.shape[3]))
        return self.project(torch.cat(parts, 1))


def _sum_type(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
