# SPDX-License-Identifier: Apache-2.0
"""Pixels as a network's input."""

from __future__ import annotations

import torch
from torch import Tensor

from ..configs import ModelConfig


def to_input(
    images: Tensor, config: ModelConfig, valid: Tensor | None = None, device: torch.device | str = "cpu"
) -> Tensor:
    """Normalised network input, float32 [N, 3, H, W] in channels-last memory.

    Args:
        images: uint8 [N, H, W, 3] RGB.
        config: mean, std and channel order.
        valid: int64 [N, 2]: rows and columns of each image that are picture; the rest, at the bottom and the right, is
            padding and becomes 0, the mean colour (mmsegmentation and the papers pad so).
        device: where to.
    """
    x = images.to(device, non_blocking=True).permute(0, 3, 1, 2).float()
    if config.channel_order == "bgr":
        x = x.flip(1)
    mean = torch.tensor(config.mean, device=x.device).view(1, 3, 1, 1)
    std = torch.tensor(config.std, device=x.device).view(1, 3, 1, 1)
    x = (x - mean) / std
    for index, (rows, columns) in enumerate([] if valid is None else valid.tolist()):
        if rows < x.shape[2]:
            x[index, :, rows:] = 0
        if columns < x.shape[3]:
            x[index, :, :, columns:] = 0
    return x.contiguous(memory_format=torch.channels_last)
