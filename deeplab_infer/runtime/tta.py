# SPDX-License-Identifier: Apache-2.0
"""Test-time augmentation: the same image at several sizes, plain and mirrored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import DeepLabError
from ..preprocess import Size, network_size


@dataclass(frozen=True)
class Pass:
    """One run of the network: the image at ``size`` (height, width), mirrored or not."""

    size: Size
    flip: bool


def plan_passes(height: int, width: int, test_scale: Size | None, scales: tuple[float, ...], flip: bool) -> list[Pass]:
    """The passes of multi-scale and flip inference.

    A scale multiplies the config's base size where it has one and the image's own size otherwise, as the tools that
    made the published figures did.

    Raises:
        DeepLabError: no scale, or one that is not positive.
    """
    if not scales or not all(scale > 0 for scale in scales):
        raise DeepLabError(f"scales must be positive numbers, got {scales}")
    passes = []
    for scale in scales:
        if test_scale is not None:
            # The reference truncates here: 0.5 times 2049 x 1025 is 1024 x 512.
            limits = (max(1, int(test_scale[0] * scale)), max(1, int(test_scale[1] * scale)))
            size = network_size(height, width, limits)
        else:
            size = (max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)))
        passes += [Pass(size, mirrored) for mirrored in ((False, True) if flip else (False,))]
    return passes


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Softmax over the first axis of float32 [C, H, W]."""
    shifted = np.exp(logits - logits.max(0, keepdims=True))
    shifted /= shifted.sum(0, keepdims=True)
    return shifted
