# SPDX-License-Identifier: Apache-2.0
"""What a street is: its camera, its ground and its walls, in metres, drawn by a random generator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Camera:
    """A level camera over the road, looking along it.

    Attributes:
        focal: pixels per unit of x/z.
        height: metres above the road.
        horizon: picture row of the horizon.
        centre: picture column of the vanishing point.
    """

    focal: float
    height: float
    horizon: float
    centre: float

    def column(self, x: float, z: float) -> float:
        """Picture column of a point ``x`` metres right of the camera and ``z`` ahead."""
        return self.centre + self.focal * x / z

    def row(self, y: float, z: float) -> float:
        """Picture row of a point ``y`` metres above the road and ``z`` ahead."""
        return self.horizon + self.focal * (self.height - y) / z


@dataclass(frozen=True)
class Facade:
    """A house front along the street: from ``near`` to ``far`` metres ahead."""

    near: float
    far: float
    height: float
    colour: NDArray[np.float32]
    window_colour: NDArray[np.float32]
    storey: float
    bay: float
    window: tuple[float, float]
    shop: bool
    brick: bool


@dataclass(frozen=True)
class Street:
    """All that does not move.

    Attributes:
        camera: where the picture is taken from.
        left_kerb, right_kerb: metres from the camera to the kerbs (left is negative).
        pavement: width of the pavements, metres.
        lanes: positions of the lane markings, metres; edge lines are apart.
        edge_lines: whether the road has lines along its kerbs.
        crossing: distance of a zebra crossing, or None.
        walls: house fronts of the left and the right side; gaps between them show trees and sky.
        sky_top, sky_low: colours of the sky.
        sun: light's direction -1 (from the left) .. 1, and strength 0..1.
        brightness: exposure.
        haze: metres over which haze takes two thirds of the colour.
    """

    camera: Camera
    left_kerb: float
    right_kerb: float
    pavement: float
    lanes: tuple[float, ...]
    edge_lines: bool
    crossing: float | None
    walls: tuple[tuple[Facade, ...], tuple[Facade, ...]]
    sky_top: NDArray[np.float32]
    sky_low: NDArray[np.float32]
    sun: tuple[float, float]
    brightness: float
    haze: float


_WALL_COLOURS = np.array(
    [
        (196, 178, 152), (170, 92, 74), (214, 202, 184), (148, 138, 130), (188, 148, 110),
        (122, 112, 108), (206, 186, 140), (160, 168, 176), (180, 120, 96), (226, 220, 208),
    ],
    np.float32,
)  # fmt: skip
_SKIES = (
    ((72, 128, 200), (190, 212, 232)),
    ((104, 146, 196), (216, 222, 226)),
    ((156, 166, 178), (206, 208, 208)),
    ((96, 112, 160), (246, 200, 150)),
    ((120, 160, 214), (232, 232, 222)),
)


def draw_street(rng: np.random.Generator, height: int, width: int) -> Street:
    """A random street for a picture of this size."""
    camera = Camera(
        focal=height * rng.uniform(0.85, 1.25),
        height=rng.uniform(1.35, 2.3),
        horizon=height * rng.uniform(0.36, 0.5),
        centre=width * rng.uniform(0.38, 0.62),
    )
    lane, lane_count = rng.uniform(2.9, 3.6), int(rng.integers(2, 5))
    total = lane * lane_count
    # The camera drives in one of the lanes, mostly on the right half.
    own_lane = int(rng.integers(lane_count // 2, lane_count))
    left = -(own_lane + 0.5) * lane + rng.uniform(-0.4, 0.4)
    top, low = _SKIES[rng.integers(len(_SKIES))]
    jitter = rng.uniform(-14, 14, 3)
    return Street(
        camera=camera,
        left_kerb=left,
        right_kerb=left + total,
        pavement=rng.uniform(2.2, 4.5),
        lanes=tuple(left + lane * i for i in range(1, lane_count)),
        edge_lines=bool(rng.random() < 0.5),
        crossing=float(rng.uniform(6, 24)) if rng.random() < 0.3 else None,
        walls=(_draw_wall(rng), _draw_wall(rng)),
        sky_top=(np.array(top) + jitter).astype(np.float32),
        sky_low=(np.array(low) + jitter * 0.5).astype(np.float32),
        sun=(float(rng.uniform(-1, 1)), float(rng.uniform(0.15, 1))),
        brightness=float(rng.uniform(0.72, 1.14)),
        haze=float(rng.uniform(130, 420)),
    )


def _draw_wall(rng: np.random.Generator) -> tuple[Facade, ...]:
    facades = []
    z = rng.uniform(-8, 6)
    density = rng.uniform(0.3, 0.95)
    while z < 150:
        length = rng.uniform(7, 20)
        if rng.random() < density:
            colour = _WALL_COLOURS[rng.integers(len(_WALL_COLOURS))] + rng.uniform(-18, 18, 3)
            facades.append(
                Facade(
                    near=z,
                    far=z + length,
                    height=float(rng.uniform(4.5, 17)),
                    colour=colour.astype(np.float32),
                    window_colour=rng.uniform(28, 96, 3).astype(np.float32) + np.array((0, 6, 14), np.float32),
                    storey=float(rng.uniform(2.8, 3.8)),
                    bay=float(rng.uniform(1.8, 3.4)),
                    window=(float(rng.uniform(0.4, 0.7)), float(rng.uniform(0.4, 0.65))),
                    shop=bool(rng.random() < 0.45),
                    brick=bool(rng.random() < 0.5),
                )
            )
        z += length + (0 if rng.random() < 0.7 else rng.uniform(2, 12))
    return tuple(facades)
