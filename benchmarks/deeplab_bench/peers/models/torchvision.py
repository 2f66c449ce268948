# SPDX-License-Identifier: Apache-2.0
"""torchvision's ``deeplabv3_resnet50`` and ``deeplabv3_resnet101``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .base import PeerModel, normalised
from .imports import import_torchvision

NETWORKS = ("deeplabv3_resnet50", "deeplabv3_resnet101")
CLASSES = 21


def build(network: str, device: str) -> PeerModel:
    """A builder's network with VOC's 21 classes, without the auxiliary head, which would run at inference too."""
    library = import_torchvision()
    if network not in NETWORKS:
        raise ValueError(f"{network!r} is not one of {', '.join(NETWORKS)}")
    builder = getattr(library.models.segmentation, network)
    return TorchvisionModel(builder(weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=False), device)


class TorchvisionModel(PeerModel):
    """A model that resizes the logits to the input's size itself."""

    def __init__(self, model: nn.Module, device: str) -> None:
        super().__init__(model, device)
        self._mean = torch.tensor((0.485, 0.456, 0.406), device=device).view(3, 1, 1)
        self._std = torch.tensor((0.229, 0.224, 0.225), device=device).view(3, 1, 1)
        self._parts: Any = self.model

    @property
    def classifier(self) -> nn.Conv2d:
        """See `PeerModel`."""
        layer: nn.Conv2d = self._parts.classifier[-1]
        return layer

    def normalisation(self) -> dict[str, Any]:
        """See `PeerModel`."""
        mean, std = (values.flatten() * 255 for values in (self._mean, self._std))
        return {"mean": mean.tolist(), "std": std.tolist(), "swap": False}

    def to_input(self, pixels: NDArray[np.uint8]) -> Tensor:
        """See `PeerModel`."""
        return normalised(pixels, self._mean, self._std)

    def network(self, x: Tensor) -> Tensor:
        """See `PeerModel`; the model without its resize."""
        logits: Tensor = self._parts.classifier(self._parts.backbone(x)["out"])
        return logits

    def full(self, x: Tensor) -> Tensor:
        """See `PeerModel`."""
        logits: Tensor = self.model(x)["out"]
        return logits

    def checkpoint(self) -> dict[str, Any]:
        """See `PeerModel`."""
        return {key: value.cpu() for key, value in self.model.state_dict().items()}

    def load_checkpoint(self, content: dict[str, Any]) -> None:
        """See `PeerModel`."""
        self.model.load_state_dict(content)
