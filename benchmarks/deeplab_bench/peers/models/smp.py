# SPDX-License-Identifier: Apache-2.0
"""segmentation_models_pytorch's ``DeepLabV3`` and ``DeepLabV3Plus``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .base import PeerModel, normalised
from .imports import import_smp

CLASSES = 19
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def build(network: str, device: str) -> PeerModel:
    """``DeepLabV3Plus:resnet50`` and the like, with the library's defaults and 19 classes."""
    architecture, _, encoder = network.partition(":")
    library = import_smp()
    if architecture not in ("DeepLabV3", "DeepLabV3Plus") or not encoder:
        raise ValueError(f"{network!r} is not DeepLabV3:ENCODER or DeepLabV3Plus:ENCODER")
    model = getattr(library, architecture)(encoder, encoder_weights=None, classes=CLASSES)
    # What get_preprocessing_params gives; it would download the encoder's settings.
    return SmpModel(model, device, _HALF if encoder.startswith("tu-xception") else _IMAGENET)


class SmpModel(PeerModel):
    """A model whose head resizes the logits to the input's size itself."""

    def __init__(self, model: nn.Module, device: str, colours: tuple[tuple[float, ...], tuple[float, ...]]) -> None:
        super().__init__(model, device)
        self._mean, self._std = (torch.tensor(values, device=device).view(3, 1, 1) for values in colours)
        self._parts: Any = self.model

    @property
    def classifier(self) -> nn.Conv2d:
        """See `PeerModel`."""
        layer: nn.Conv2d = self._parts.segmentation_head[0]
        return layer

    def normalisation(self) -> dict[str, Any]:
        """See `PeerModel`."""
        mean, std = (values.flatten() * 255 for values in (self._mean, self._std))
        return {"mean": mean.tolist(), "std": std.tolist(), "swap": False}

    def to_input(self, pixels: NDArray[np.uint8]) -> Tensor:
        """See `PeerModel`."""
        return normalised(pixels, self._mean, self._std)

    def network(self, x: Tensor) -> Tensor:
        """See `PeerModel`; the model without the resize of its head."""
        logits: Tensor = self.classifier(self._parts.decoder(self._parts.encoder(x)))
        return logits

    def full(self, x: Tensor) -> Tensor:
        """See `PeerModel`."""
        logits: Tensor = self.model(x)
        return logits

    def checkpoint(self) -> dict[str, Any]:
        """See `PeerModel`."""
        return {key: value.cpu() for key, value in self.model.state_dict().items()}

    def load_checkpoint(self, content: dict[str, Any]) -> None:
        """See `PeerModel`."""
        self.model.load_state_dict(content)
