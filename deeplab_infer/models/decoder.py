# SPDX-License-Identifier: Apache-2.0
"""The DeepLabv3+ decoder (section 3.1, figure 2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..configs.schema import ModelConfig
from . import fused
from .blocks import ConvBnRelu, Convolution, Norm, SeparableConvBnRelu, conv3x3_block, resize


class Decoder(nn.Module):
    """Encoder output resized to the low-level features' size, concat, 3x3 blocks.

    ``[N, encoder_channels, h, w], [N, low_channels, H/4, W/4] -> [N, decoder_channels, H/4, W/4]``
    """

    fused = False  # `deeplab_infer.fuse` sets it

    def __init__(self, encoder_channels: int, low_channels: int, config: ModelConfig, norm: Norm) -> None:
        super().__init__()
        self.align_corners = config.align_corners
        self.low_level = ConvBnRelu(low_channels, config.low_level_channels, 1, norm)
        self.convs = nn.Sequential()
        channels = encoder_channels + config.low_level_channels
        for _ in range(config.decoder_convs):
            self.convs.append(
                conv3x3_block(
                    channels,
                    config.decoder_channels,
                    norm,
                    separable=config.decoder_separable,
                    bn_after_depthwise=config.separable_bn == "both",
                )
            )
            channels = config.decoder_channels
        self.out_channels = channels

    def forward(self, encoded: Tensor, low: Tensor) -> Tensor:
        low = self.low_level(low)
        if self.fused:
            return self._run_fused(encoded, low)
        return self.convs(torch.cat([resize(encoded, low.shape[2:], self.align_corners), low], 1))

    def first_depthwise(self) -> tuple[nn.Conv2d, nn.Module | None] | None:
        """The depthwise convolution that eats the concatenation, and its normalisation; None for a dense decoder."""
        first = self.convs[0] if len(self.convs) else None
        if not isinstance(first, SeparableConvBnRelu):
            return None
        assert isinstance(first.depthwise, ConvBnRelu | Convolution)
        return first.depthwise.conv, getattr(first.depthwise, "bn", None)

    def _run_fused(self, encoded: Tensor, low: Tensor) -> Tensor:
        depthwise = self.first_depthwise()
        if depthwise is None or not fused.runs_fused(depthwise[1]):
            return self.convs(fused.upsample_concat(encoded, low, self.align_corners))
        conv, bn = depthwise
        activation = "none" if bn is None else "relu"
        y = fused.concat_depthwise(conv, bn, encoded, low, self.align_corners, activation)
        first = self.convs[0]
        assert isinstance(first, SeparableConvBnRelu)
        return self.convs[1:](first.pointwise(y))
