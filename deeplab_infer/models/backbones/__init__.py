# SPDX-License-Identifier: Apache-2.0
"""The feature extractors: ResNet, aligned Xception, MobileNetV2."""

from __future__ import annotations

from ...configs.schema import ModelConfig
from .features import Backbone, Features
from .mobilenet_v2 import MobileNetV2
from .resnet import ResNet
from .xception import Xception

_BACKBONES: dict[str, type[Backbone]] = {"resnet": ResNet, "xception": Xception, "mobilenet_v2": MobileNetV2}


def build_backbone(config: ModelConfig) -> Backbone:
    """The backbone of a config, randomly initialised."""
    return _BACKBONES[config.backbone](config)


__all__ = ["Backbone", "Features", "MobileNetV2", "ResNet", "Xception", "build_backbone"]
