# SPDX-License-Identifier: Apache-2.0
"""Labels straight from a torch network, for the checks during training."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..configs import ModelConfig
from ..models import DeepLab
from ..models.blocks import resize


def to_input(images: NDArray[np.uint8], config: ModelConfig) -> Tensor:
    """Normalised network input, float32 [N, 3, H, W], from uint8 [N, H, W, 3] RGB images."""
    x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
    if config.channel_order == "bgr":
        x = x.flip(1)
    mean = torch.tensor(config.mean).view(1, 3, 1, 1)
    std = torch.tensor(config.std).view(1, 3, 1, 1)
    return (x - mean) / std


def predict_labels(model: DeepLab, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Labels uint8 [H, W] of one image, uint8 [H, W, 3] RGB, run whole at its own size."""
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        logits = model(to_input(image[None], model.config).to(next(model.parameters()).device))
        labels = resize(logits, image.shape[:2], model.config.align_corners)[0].argmax(0)
    model.train(was_training)
    return labels.to(torch.uint8).cpu().numpy()
