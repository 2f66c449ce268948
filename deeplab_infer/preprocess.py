# SPDX-License-Identifier: Apache-2.0
"""From an RGB image to what the network eats."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from .configs import ModelConfig
from .ops.fused import preprocess

Size = tuple[int, int]


def network_size(height: int, width: int, test_scale: Size | None) -> Size:
    """Size (height, width) at which an image enters the network.

    The reference's keep-ratio rule: with limits (a, b) = ``test_scale``, the scale is
    ``min(max(a, b) / long side, min(a, b) / short side)``, and a side becomes ``int(side * scale + 0.5)``.

    Args:
        height, width: of the image.
        test_scale: limits (width, height); None keeps the size.
    """
    if test_scale is None:
        return height, width
    scale = min(max(test_scale) / max(height, width), min(test_scale) / min(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize_image(image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Bilinear resize of uint8 [H, W, 3] in 8 bits, as OpenCV (and so the reference) does it."""
    if image.shape[:2] == tuple(size):
        return image
    return np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR), np.uint8)


def normalise(images: NDArray[np.uint8], config: ModelConfig, threads: int | None = None) -> NDArray[np.float32]:
    """Float input of a network without normalisation inside.

    Args:
        images: uint8 [N, H, W, 3] RGB.
        config: its mean and std (0..255 units) and channel order.
        threads: None for every processor this process may use.

    Returns:
        float32 [N, 3, H, W], C-contiguous.
    """
    size = (images.shape[1], images.shape[2])
    pixels = np.ascontiguousarray(images)
    normalised: NDArray[np.float32] = preprocess(
        pixels, size, config.mean, config.std, reverse_channels=config.channel_order == "bgr", threads=threads
    )
    return normalised
