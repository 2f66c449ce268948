# SPDX-License-Identifier: Apache-2.0
"""Street scenes made by a program: deterministic, any size, with labels that are exact to the pixel.

They stand in for real data where none can be shipped: in the tests, the examples and the demonstration.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from .canvas import Canvas, value_noise
from .ground import paint_far_end, paint_ground, paint_sky, paint_walls
from .objects import place_objects
from .scene import Street, draw_street

MIN_SIZE = 16


def generate_street(seed: int, height: int = 512, width: int = 1024) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A street scene and its labels; the same seed and size give the same scene.

    Args:
        seed: any integer of at least 0.
        height: rows, at least 16.
        width: columns, at least 16.

    Returns:
        image uint8 [height, width, 3] RGB, and labels uint8 [height, width], 0..9, in the order of the classes of
        the dataset ``synthetic_streets``; every pixel has one.

    Raises:
        DataError: a negative seed or a size below 16.
    """
    if seed < 0:
        raise DataError(f"seed must be at least 0, got {seed}")
    if height < MIN_SIZE or width < MIN_SIZE:
        raise DataError(f"a street needs at least {MIN_SIZE} x {MIN_SIZE} pixels, got {height} x {width}")
    rng = np.random.Generator(np.random.PCG64(seed))
    street = draw_street(rng, height, width)
    canvas = Canvas.blank(height, width)
    paint_sky(canvas, street, rng)
    paint_far_end(canvas, street, rng)
    paint_ground(canvas, street, rng)
    paint_walls(canvas, street, rng)
    for item in place_objects(street, rng):
        item.draw(canvas, street, item.x, item.z, rng)
    return _expose(canvas, street, rng), canvas.labels


def _expose(canvas: Canvas, street: Street, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Haze, light, lens blur and sensor noise."""
    air = np.exp(-canvas.depth / np.float32(street.haze))[..., None]
    sky = (canvas.depth > 5e3)[..., None]
    hazy = canvas.image * air + street.sky_low * (1 - air)
    image = np.where(sky, canvas.image, hazy)
    warmth = np.array((1 + 0.06 * street.sun[1], 1.0, 1 - 0.05 * street.sun[1]), np.float32)
    image = (image - 118) * np.float32(rng.uniform(0.92, 1.12)) + 118
    image = image * warmth * np.float32(street.brightness)
    sigma = canvas.height / 512 * rng.uniform(0.35, 0.75)
    image = cv2.GaussianBlur(image.astype(np.float32), (0, 0), max(0.2, sigma))
    noise = rng.standard_normal(image.shape[:2], dtype=np.float32)[..., None] * np.float32(rng.uniform(1.0, 4.5))
    mottle = value_noise(rng, canvas.height, canvas.width, 3.0, 1)[..., None] * 1.5
    return np.clip(np.round(image + noise + mottle), 0, 255).astype(np.uint8)


__all__ = ["MIN_SIZE", "Canvas", "Street", "generate_street"]
