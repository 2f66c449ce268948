# SPDX-License-Identifier: Apache-2.0
"""The parts that a network's operations are summed by: from a module's path to its stage."""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import nn

from ..models import DeepLab
from ..models.backbones import MobileNetV2, Xception
from ..models.backbones.mobilenet_v2 import InvertedResidual

POST = "resize + argmax"
Namer = Callable[[str, str], str]

# (path, kind of operation, stage); the first that fits wins. Sections: 3.1 to 3.3 of the DeepLabv3(+) papers.
_HEAD = (
    (r"aspp\.image_pool\b", "", "image pool"),
    (r"aspp$", "mean|convert", "image pool"),
    (r"aspp\.branches\.0\b", "", "ASPP 1x1"),
    (r"aspp(\.branches\.\d+\.depthwise\b|$)", "convolution|batch norm|activation|depthwise", "ASPP depthwise"),
    (r"aspp\.branches\.\d+\.pointwise\b", "", "ASPP pointwise"),
    (r"aspp\.branches\.", "", "ASPP 3x3"),
    (r"aspp$", "", "ASPP concat"),
    (r"aspp\.project\b", "", "projection"),
    (r"post_aspp\b", "", "post ASPP"),
    (r"decoder\.low_level\b", "", "low-level"),
    (r"decoder$", "", "upsample + concat"),
    (r"decoder\.convs\.\d+\.depthwise\b", "", "decoder depthwise"),
    (r"decoder\.convs\.\d+\.pointwise\b", "", "decoder pointwise"),
    (r"decoder\.", "", "decoder 3x3"),
    (r"classifier\b", "", "classifier"),
    (r"$", "", POST),
)


def stage_namer(model: nn.Module) -> Namer:
    """A function from a module's path and the kind of operation to the stage; any other module's children are its own.

    Stages of a ResNet are ``stem`` and ``layer1`` to ``layer4`` (``layer7`` in a cascade), of an Xception its three
    flows, of a MobileNetV2 the layers of its paper's table 2.
    """
    if not isinstance(model, DeepLab):
        return lambda path, kind: path.partition(".")[0] or "network"
    backbone = _backbone_stages(model)

    def name(path: str, kind: str) -> str:
        if path.partition(".")[0] == "backbone":
            parts = path.split(".")[1:]
            return backbone.get(".".join(parts[:2])) or backbone.get(".".join(parts[:1])) or "stem"
        return next(stage for pattern, kinds, stage in _HEAD if re.match(pattern, path) and re.search(kinds, kind))

    return name


def _backbone_stages(model: DeepLab) -> dict[str, str]:
    """Stages of the backbone's children (and of their children), the stem's left out."""
    backbone = model.backbone
    if isinstance(backbone, Xception):
        plain = [i for i, block in enumerate(backbone.blocks) if block.shortcut is None and not block.exit]
        flows = [
            "entry flow" if i < plain[0] else "middle flow" if i <= plain[-1] else "exit flow"
            for i in range(len(backbone.blocks))
        ]
        return {f"blocks.{index}": flow for index, flow in enumerate(flows)}
    if isinstance(backbone, MobileNetV2):
        return _mobilenet_stages(backbone)
    return {name: name for name, _ in backbone.named_children() if name.startswith("layer")}


def _mobilenet_stages(backbone: MobileNetV2) -> dict[str, str]:
    stages: dict[str, str] = {}
    layer, channels = 0, 0
    for index, unit in enumerate(backbone.features):
        if isinstance(unit, InvertedResidual):
            projection = [m for m in unit.modules() if isinstance(m, nn.Conv2d)][-1]
            layer += projection.out_channels != channels
            channels = projection.out_channels
            stages[f"features.{index}"] = f"inverted residual {layer}"
        elif index:
            stages[f"features.{index}"] = "last convolution"
    return stages
