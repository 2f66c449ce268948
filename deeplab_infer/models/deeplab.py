# SPDX-License-Identifier: Apache-2.0
"""The whole network: backbone, ASPP, decoder, classifier, and the training-mode auxiliary head."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from ..configs.schema import ModelConfig
from .aspp import Aspp
from .backbones import build_backbone
from .blocks import ConvBnRelu, Norm, conv3x3_block, initialise
from .decoder import Decoder


class TrainingOutput(NamedTuple):
    """What the network returns in training mode.

    Attributes:
        logits: ``[N, num_classes, h, w]``.
        auxiliary: ``[N, num_classes, h', w']``, or None without an auxiliary head.
    """

    logits: Tensor
    auxiliary: Tensor | None


class AuxiliaryHead(nn.Module):
    """One 3x3 block and a classifier on the last but one backbone stage (training only)."""

    def __init__(self, in_channels: int, config: ModelConfig, norm: Norm) -> None:
        super().__init__()
        self.block = ConvBnRelu(in_channels, config.auxiliary_channels, 3, norm)
        self.dropout = nn.Dropout2d(config.dropout)
        self.classifier = nn.Conv2d(config.auxiliary_channels, config.num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.block(x)))


class DeepLab(nn.Module):
    """DeepLabV3 or DeepLabV3+ as its `ModelConfig` says.

    Attributes:
        config: what it was built from.
        checkpoint_source: where its weights came from; empty for random weights.
        checkpoint_sha256: SHA-256 of that file, or None.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpoint_source = ""
        self.checkpoint_sha256: str | None = None
        norm = Norm(config.bn_eps, config.bn_momentum)
        self.backbone = build_backbone(config)
        channels = self.backbone.high_channels
        self.aspp = Aspp(channels, config, norm) if config.aspp else None
        channels = config.aspp_channels if config.aspp else channels
        self.post_aspp = nn.Sequential()
        for _ in range(config.post_aspp_convs):
            self.post_aspp.append(
                conv3x3_block(
                    channels,
                    config.aspp_channels,
                    norm,
                    separable=config.post_aspp_separable,
                    bn_after_depthwise=config.separable_bn == "both",
                )
            )
            channels = config.aspp_channels
        self.decoder = Decoder(channels, self.backbone.low_channels, config, norm) if config.has_decoder else None
        channels = self.decoder.out_channels if self.decoder is not None else channels
        self.dropout = nn.Dropout2d(config.dropout)
        self.classifier = nn.Conv2d(channels, config.num_classes, 1)
        self.auxiliary = AuxiliaryHead(self.backbone.middle_channels, config, norm) if config.auxiliary else None
        initialise(self)

    def forward(self, x: Tensor) -> Tensor | TrainingOutput:
        """Run the network on normalised images.

        Args:
            x: ``[N, 3, H, W]`` float, normalised with the config's mean and std, channels in its order.

        Returns:
            In eval mode logits ``[N, num_classes, h, w]`` at the network's own stride: ``ceil(H/4)`` with a
            decoder, else ``ceil(H/output_stride)``. In training mode a `TrainingOutput`.
        """
        features = self.backbone(x)
        y = features.high
        if self.aspp is not None:
            y = self.aspp(y)
        y = self.post_aspp(y)
        if self.decoder is not None:
            y = self.decoder(y, features.low)
        logits = self.classifier(self.dropout(y))
        if not self.training:
            return logits
        return TrainingOutput(logits, None if self.auxiliary is None else self.auxiliary(features.middle))
