# SPDX-License-Identifier: Apache-2.0
"""What a backbone gives to the rest of the network."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from ...configs.schema import ModelConfig
from ..blocks import Norm


class Features(NamedTuple):
    """Feature maps of one image batch.

    Attributes:
        low: ``[N, low_channels, H/4, W/4]``, for the decoder.
        middle: ``[N, middle_channels, ...]`` of the last but one stage, for the auxiliary head.
        high: ``[N, high_channels, H/output_stride, W/output_stride]``.
    """

    low: Tensor
    middle: Tensor
    high: Tensor


class Backbone(nn.Module):
    """A feature extractor: ``forward`` gives `Features`; sizes are rounded up at every stride (769 -> 193 at 4)."""

    low_channels: int
    middle_channels: int
    high_channels: int

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()


def backbone_norm(config: ModelConfig) -> Norm:
    """The normalisation of the backbone's layers."""
    return Norm(config.bn_eps if config.backbone_bn_eps is None else config.backbone_bn_eps, config.bn_momentum)
