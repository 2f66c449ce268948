# SPDX-License-Identifier: Apache-2.0
"""The picture, its labels and its depths, painted together so that they agree to the pixel."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]
Colour = tuple[float, float, float]


@dataclass
class Canvas:
    """What is drawn on.

    Attributes:
        image: float32 [H, W, 3] RGB, 0..255, before light, haze and noise.
        labels: uint8 [H, W].
        depth: float32 [H, W], metres from the camera.
    """

    image: Floats
    labels: NDArray[np.uint8]
    depth: Floats

    @classmethod
    def blank(cls, height: int, width: int) -> Canvas:
        """An empty canvas, infinitely far away."""
        return cls(
            np.zeros((height, width, 3), np.float32),
            np.zeros((height, width), np.uint8),
            np.full((height, width), 1e4, np.float32),
        )

    @property
    def height(self) -> int:
        """Rows of the picture."""
        return self.labels.shape[0]

    @property
    def width(self) -> int:
        """Columns of the picture."""
        return self.labels.shape[1]

    def paint(self, mask: Mask, colour: Floats | Colour, label: int, depth: Floats | float) -> None:
        """Cover the pixels of ``mask``.

        ``colour`` is a full-size picture, one row a covered pixel, or one colour; ``depth`` is full-size or one value.
        """
        full_size = isinstance(colour, np.ndarray) and colour.ndim == 3
        self.image[mask] = np.asarray(colour)[mask] if full_size else colour
        self.labels[mask] = label
        self.depth[mask] = depth[mask] if isinstance(depth, np.ndarray) else depth

    def polygon(self, points: NDArray[np.float64]) -> Mask:
        """Pixels inside a polygon of (x, y) points; edges are hard, so that labels stay exact."""
        mask = np.zeros((self.height, self.width), np.uint8)
        cv2.fillPoly(mask, [np.round(points).astype(np.int32)], 1)
        return mask.astype(bool)

    def ellipse(self, x: float, y: float, radius_x: float, radius_y: float) -> Mask:
        """Pixels inside an axis-parallel ellipse."""
        mask = np.zeros((self.height, self.width), np.uint8)
        axes = (max(0, round(radius_x)), max(0, round(radius_y)))
        cv2.ellipse(mask, (round(x), round(y)), axes, 0, 0, 360, 1, -1)
        return mask.astype(bool)

    def rectangle(self, left: float, top: float, right: float, bottom: float) -> Mask:
        """Pixels inside an axis-parallel rectangle, at least one pixel wide and high where it is in the picture."""
        x0, y0 = round(left), round(top)
        x1, y1 = max(x0 + 1, round(right)), max(y0 + 1, round(bottom))
        mask = np.zeros((self.height, self.width), bool)
        mask[max(0, y0) : max(0, y1), max(0, x0) : max(0, x1)] = True
        return mask


def value_noise(rng: np.random.Generator, height: int, width: int, cell: float, octaves: int = 3) -> Floats:
    """Smooth random texture [H, W], about -1..1; ``cell`` is the size of its coarsest patches in pixels."""
    total = np.zeros((height, width), np.float32)
    amplitude, weight = 1.0, 0.0
    for _ in range(octaves):
        rows, columns = int(height / cell) + 2, int(width / cell) + 2
        grid = rng.uniform(-1, 1, (rows, columns)).astype(np.float32)
        total += amplitude * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        weight += amplitude
        amplitude, cell = amplitude * 0.55, max(1.0, cell / 2.3)
    return total / weight
