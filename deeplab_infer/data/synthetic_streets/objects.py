# SPDX-License-Identifier: Apache-2.0
"""What stands and moves in the street: cars, people, trees, lamp posts and signs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .canvas import Canvas, Mask, value_noise
from .classes import CAR, PAVEMENT, PERSON, POLE, ROAD, SIGN, TREE
from .scene import Street


@dataclass(frozen=True)
class Placed:
    """An object at ``x`` metres right of the camera and ``z`` ahead, and the function that draws it."""

    x: float
    z: float
    draw: Callable[[Canvas, Street, float, float, np.random.Generator], None]


_CAR_COLOURS = np.array(
    [
        (186, 24, 28), (28, 52, 122), (222, 224, 226), (34, 36, 40), (120, 126, 132),
        (238, 238, 232), (62, 92, 72), (204, 160, 44), (84, 128, 168), (96, 30, 48),
    ],
    np.float32,
)  # fmt: skip
_CLOTHES = np.array(
    [
        (180, 40, 46),
        (34, 60, 120),
        (42, 44, 52),
        (214, 206, 192),
        (226, 172, 46),
        (58, 116, 92),
        (136, 86, 148),
    ],
    np.float32,
)
_SKIN = np.array([(236, 194, 164), (204, 152, 116), (146, 98, 68), (92, 60, 44)], np.float32)
_SIGN_COLOURS = np.array([(206, 26, 34), (24, 84, 176), (236, 196, 32), (20, 128, 76), (240, 240, 236)], np.float32)


def place_objects(street: Street, rng: np.random.Generator) -> list[Placed]:
    """Everything in the street, far things first."""
    placed: list[Placed] = []
    lane = (street.right_kerb - street.left_kerb) / (len(street.lanes) + 1)
    for index in range(len(street.lanes) + 1):
        oncoming = index < (len(street.lanes) + 1) // 2
        z = rng.uniform(7, 22)
        while z < 75:
            if rng.random() < 0.62:
                x = street.left_kerb + (index + 0.5) * lane + rng.uniform(-0.25, 0.25)
                placed.append(Placed(x, z, draw_car_front if oncoming else draw_car_back))
            z += rng.uniform(8, 22)
    for side, kerb in ((-1, street.left_kerb), (1, street.right_kerb)):
        _place_beside(placed, street, side, kerb, rng)
    return sorted(placed, key=lambda item: -item.z)


def _place_beside(placed: list[Placed], street: Street, side: int, kerb: float, rng: np.random.Generator) -> None:
    """Trees, lamp posts, signs and people on one pavement; parked cars along its kerb."""
    spacing, start = rng.uniform(14, 26), rng.uniform(4, 16)
    lamps = rng.random() < 0.85
    trees = rng.random() < 0.85
    for index in range(6):
        z = start + index * spacing + rng.uniform(-1.5, 1.5)
        if lamps:
            placed.append(Placed(kerb + side * 0.55, z, draw_lamp))
        if trees and rng.random() < 0.85:
            offset = street.pavement * rng.uniform(0.4, 1.2)
            placed.append(Placed(kerb + side * offset, z + spacing * rng.uniform(0.3, 0.7), draw_tree))
    for _ in range(int(rng.integers(0, 4))):
        placed.append(Placed(kerb + side * rng.uniform(0.35, 0.9), rng.uniform(5, 34), draw_sign))
    for _ in range(int(rng.integers(1, 8))):
        x = kerb + side * street.pavement * rng.uniform(0.2, 0.95)
        placed.append(Placed(x, rng.uniform(4.5, 34), draw_person))
    if rng.random() < 0.35:
        z = rng.uniform(6, 30)
        placed.append(Placed(kerb - side * rng.uniform(1.0, 3.0), z, draw_person))
    if rng.random() < 0.45:
        for z in np.arange(rng.uniform(8, 14), 50, rng.uniform(6.5, 11)):
            placed.append(Placed(kerb - side * 1.0, float(z), draw_car_back if side > 0 else draw_car_front))


def _shadow(canvas: Canvas, mask: Mask, strength: float) -> None:
    """Darken the ground under an object; labels stay what they are."""
    ground = mask & ((canvas.labels == ROAD) | (canvas.labels == PAVEMENT))
    canvas.image[ground] *= 1 - strength


def _points(*pairs: tuple[float, float]) -> NDArray[np.float64]:
    return np.array(pairs, np.float64)


def _tuple(colour: NDArray[np.float32], gain: float = 1.0) -> tuple[float, float, float]:
    r, g, b = np.clip(colour * gain, 0, 255).tolist()
    return r, g, b


def draw_car_back(canvas: Canvas, street: Street, x: float, z: float, rng: np.random.Generator) -> None:
    """A car that drives ahead: tail lights, rear window."""
    _draw_car(canvas, street, x, z, rng, lights=(168.0, 18.0, 22.0), window=0.56)


def draw_car_front(canvas: Canvas, street: Street, x: float, z: float, rng: np.random.Generator) -> None:
    """A car that comes along or is parked against the drive: head lights, windscreen."""
    _draw_car(canvas, street, x, z, rng, lights=(246.0, 240.0, 214.0), window=0.6)


def _draw_car(
    canvas: Canvas,
    street: Street,
    x: float,
    z: float,
    rng: np.random.Generator,
    lights: tuple[float, float, float],
    window: float,
) -> None:
    camera = street.camera
    scale = camera.focal / z
    half, tall = rng.uniform(0.82, 0.98) * scale, rng.uniform(1.38, 1.95) * scale
    length = rng.uniform(3.6, 4.8)
    colour = _CAR_COLOURS[rng.integers(len(_CAR_COLOURS))] + rng.uniform(-10, 10, 3).astype(np.float32)
    centre, bottom = camera.column(x, z), camera.row(0, z)
    far_centre, far_scale = camera.column(x, z + length), camera.focal / (z + length)
    far_bottom = camera.row(0, z + length)
    shoulder, roof = bottom - tall * window, bottom - tall
    _shadow(canvas, canvas.ellipse(centre, bottom - 0.02 * scale, half * 1.25, 0.2 * scale), 0.55)
    # The side that the camera sees, between the near and the far end.
    side = 1 if centre < far_centre else -1
    far_edge = far_centre + side * half * far_scale / scale
    far_top, far_shoulder = (
        far_bottom - tall * far_scale / scale,
        far_bottom - tall * window * far_scale / scale,
    )
    near_edge = centre + side * half
    if (far_edge - near_edge) * side > 0:
        body = canvas.polygon(
            _points(
                (near_edge, bottom - 0.2 * scale),
                (near_edge, shoulder),
                (far_edge, far_shoulder),
                (far_edge, far_bottom - 0.2 * far_scale),
            )
        )
        canvas.paint(body, _tuple(colour, 0.72), CAR, z)
        cabin = canvas.polygon(
            _points(
                (near_edge, shoulder),
                (centre + side * half * 0.8, roof),
                (far_edge - side * 0.22 * far_scale, far_top),
                (far_edge, far_shoulder),
            )
        )
        canvas.paint(cabin, (44.0, 52.0, 62.0), CAR, z)
        for part in (0.2, 0.8):
            wheel_z = z + length * part
            wheel = canvas.ellipse(
                camera.column(x, wheel_z) + side * half * (z / wheel_z),
                camera.row(0.31, wheel_z),
                0.13 * camera.focal / wheel_z,
                0.32 * camera.focal / wheel_z,
            )
            canvas.paint(wheel & (canvas.depth >= z), (24.0, 24.0, 26.0), CAR, z)
    for sign in (-1, 1):
        tyre = canvas.rectangle(
            centre + sign * half * 0.78 - 0.11 * scale,
            bottom - 0.34 * scale,
            centre + sign * half * 0.78 + 0.11 * scale,
            bottom,
        )
        canvas.paint(tyre, (22.0, 22.0, 24.0), CAR, z)
    front = canvas.polygon(
        _points(
            (centre - half, bottom - 0.2 * scale),
            (centre - half, shoulder + 0.06 * scale),
            (centre - half * 0.93, shoulder),
            (centre + half * 0.93, shoulder),
            (centre + half, shoulder + 0.06 * scale),
            (centre + half, bottom - 0.2 * scale),
        )
    )
    canvas.paint(front, _tuple(colour), CAR, z)
    outline = _points(
        (centre - half * 0.93, shoulder),
        (centre - half * 0.74, roof),
        (centre + half * 0.74, roof),
        (centre + half * 0.93, shoulder),
    )
    canvas.paint(canvas.polygon(outline), _tuple(colour, 0.92), CAR, z)
    glass = _points(
        (centre - half * 0.8, shoulder),
        (centre - half * 0.66, roof + 0.1 * scale),
        (centre + half * 0.66, roof + 0.1 * scale),
        (centre + half * 0.8, shoulder),
    )
    pane = canvas.polygon(glass)
    canvas.paint(pane, (52.0, 62.0, 74.0), CAR, z)
    rows = np.arange(canvas.height, dtype=np.float32)[:, None, None]
    sheen = np.clip((shoulder - rows) / max(1.0, shoulder - roof), 0, 1) * 52
    canvas.image[pane] += np.broadcast_to(sheen, canvas.image.shape)[pane]
    bumper = canvas.rectangle(centre - half * 0.98, bottom - 0.42 * scale, centre + half * 0.98, bottom - 0.2 * scale)
    canvas.paint(bumper & front, _tuple(colour, 0.66), CAR, z)
    for sign in (-1, 1):
        lamp = canvas.rectangle(
            centre + sign * half * 0.8 - 0.13 * scale,
            shoulder + 0.12 * scale,
            centre + sign * half * 0.8 + 0.13 * scale,
            shoulder + 0.26 * scale,
        )
        canvas.paint(lamp & front, lights, CAR, z)
    plate = canvas.rectangle(centre - 0.26 * scale, bottom - 0.52 * scale, centre + 0.26 * scale, bottom - 0.4 * scale)
    canvas.paint(plate & front, (232.0, 232.0, 224.0), CAR, z)


def draw_person(canvas: Canvas, street: Street, x: float, z: float, rng: np.random.Generator) -> None:
    """A standing or walking person, now and then with a bag."""
    camera, scale = street.camera, street.camera.focal / z
    tall = rng.uniform(1.5, 1.9) * scale
    centre, bottom = camera.column(x, z), camera.row(0, z)
    stride, lean = rng.uniform(0.04, 0.3) * scale, rng.uniform(-0.05, 0.05) * scale
    coat = _CLOTHES[rng.integers(len(_CLOTHES))] + rng.uniform(-12, 12, 3).astype(np.float32)
    trousers = np.array((34, 36, 48), np.float32) + rng.uniform(0, 60) + rng.uniform(-6, 6, 3).astype(np.float32)
    skin = _tuple(_SKIN[rng.integers(len(_SKIN))])
    hip, shoulder, head = bottom - 0.48 * tall, bottom - 0.82 * tall, bottom - 0.92 * tall
    wide = rng.uniform(0.2, 0.26) * scale
    _shadow(canvas, canvas.ellipse(centre, bottom, 0.4 * scale, 0.09 * scale), 0.4)
    for sign, gain in ((-1, 0.82), (1, 1.0)):
        foot = centre + sign * stride
        leg = canvas.polygon(
            _points(
                (centre + sign * 0.02 * scale - 0.1 * scale, hip),
                (centre + sign * 0.02 * scale + 0.1 * scale, hip),
                (foot + 0.07 * scale, bottom - 0.05 * scale),
                (foot - 0.07 * scale, bottom - 0.05 * scale),
            )
        )
        canvas.paint(leg, _tuple(trousers, gain), PERSON, z)
        shoe = canvas.rectangle(foot - 0.09 * scale, bottom - 0.07 * scale, foot + 0.11 * scale, bottom)
        canvas.paint(shoe, (26.0, 24.0, 24.0), PERSON, z)
    for sign, gain in ((-1, 0.72), (1, 0.86)):
        hand = centre + sign * (wide + rng.uniform(0.02, 0.16) * scale)
        arm = canvas.polygon(
            _points(
                (centre + sign * wide * 0.9 - 0.05 * scale + lean, shoulder),
                (centre + sign * wide * 0.9 + 0.06 * scale + lean, shoulder),
                (hand + 0.05 * scale, hip + 0.05 * scale),
                (hand - 0.05 * scale, hip + 0.05 * scale),
            )
        )
        canvas.paint(arm, _tuple(coat, gain), PERSON, z)
    long_coat = rng.uniform(-0.02, 0.2) * tall
    torso = canvas.polygon(
        _points(
            (centre - wide + lean, shoulder),
            (centre + wide + lean, shoulder),
            (centre + wide * 0.92, hip + long_coat),
            (centre - wide * 0.92, hip + long_coat),
        )
    )
    canvas.paint(torso, _tuple(coat), PERSON, z)
    neck = canvas.rectangle(centre + lean - 0.05 * scale, head, centre + lean + 0.05 * scale, shoulder + 1)
    canvas.paint(neck, skin, PERSON, z)
    face = canvas.ellipse(centre + lean * 1.5, head, 0.095 * scale, 0.125 * scale)
    canvas.paint(face, skin, PERSON, z)
    hair = face & canvas.rectangle(0, head - 0.2 * scale, canvas.width, head - 0.03 * scale)
    shade = float(rng.uniform(24, 150))
    canvas.paint(hair, (shade, shade * 0.78, shade * 0.55), PERSON, z)
    if rng.random() < 0.3:
        bag = canvas.rectangle(
            centre + wide * 0.9, hip - 0.02 * scale, centre + wide * 0.9 + 0.22 * scale, hip + 0.3 * scale
        )
        canvas.paint(bag, _tuple(_CLOTHES[rng.integers(len(_CLOTHES))], 0.7), PERSON, z)


def draw_tree(canvas: Canvas, street: Street, x: float, z: float, rng: np.random.Generator) -> None:
    """A trunk and a crown of overlapping balls of leaves."""
    camera, scale = street.camera, street.camera.focal / z
    trunk_height, crown = rng.uniform(2.2, 3.8) * scale, rng.uniform(1.4, 2.8) * scale
    centre, bottom = camera.column(x, z), camera.row(0, z)
    half = rng.uniform(0.12, 0.22) * scale
    _shadow(canvas, canvas.ellipse(centre, bottom, crown * 0.9, 0.28 * scale), 0.3)
    trunk = canvas.polygon(
        _points(
            (centre - half * 1.4, bottom),
            (centre - half * 0.7, bottom - trunk_height * 1.1),
            (centre + half * 0.7, bottom - trunk_height * 1.1),
            (centre + half * 1.4, bottom),
        )
    )
    canvas.paint(trunk, (88.0, 70.0, 54.0), TREE, z)
    green = np.array((62, 104, 46), np.float32) + rng.uniform(-18, 22, 3).astype(np.float32)
    texture = value_noise(rng, canvas.height, canvas.width, max(2.0, 0.35 * scale), 3)
    middle = bottom - trunk_height - crown * 0.7
    light = street.sun[0]
    for index in range(16):
        angle, reach = rng.uniform(0, 6.2832), rng.uniform(0.15, 0.75) if index else 0.0
        dx, dy = float(np.cos(angle)) * reach * crown, float(np.sin(angle)) * reach * crown * 0.85
        radius = crown * rng.uniform(0.3, 0.55)
        ball = canvas.ellipse(centre + dx, middle + dy, radius, radius * 0.92)
        gain = 0.9 - 0.25 * dy / crown + 0.16 * light * dx / crown + rng.uniform(-0.08, 0.08)
        leaves = green * np.float32(gain) + texture[ball][:, None] * np.array((30, 34, 20), np.float32)
        canvas.paint(ball, np.clip(leaves, 0, 255), TREE, z)


def _post(canvas: Canvas, street: Street, x: float, z: float, tall: float, half: float, shade: float) -> None:
    camera, scale = street.camera, street.camera.focal / z
    centre, bottom, top = camera.column(x, z), camera.row(0, z), camera.row(tall, z)
    width = max(0.75, half * scale)
    _shadow(canvas, canvas.ellipse(centre, bottom, 0.25 * scale, 0.06 * scale), 0.35)
    post = canvas.rectangle(centre - width, top, centre + width, bottom)
    canvas.paint(post, (shade, shade, shade * 1.03), POLE, z)
    lit = canvas.rectangle(centre - width, top, centre - width * 0.3, bottom)
    canvas.paint(lit, (shade * 1.25, shade * 1.25, shade * 1.27), POLE, z)


def draw_lamp(canvas: Canvas, street: Street, x: float, z: float, rng: np.random.Generator) -> None:
    """A lamp post with an arm over the road."""
    camera, scale = street.camera, street.camera.focal / z
    tall, shade = rng.uniform(5.0, 6.5), float(rng.uniform(66, 132))
    _post(canvas, street, x, z, tall, rng.uniform(0.1, 0.14), shade)
    reach = 1.3 if x < (street.left_kerb + street.right_kerb) / 2 else -1.3
    top = camera.row(tall, z)
    thick = max(0.75, 0.075 * scale)
    left, right = sorted((camera.column(x, z), camera.column(x + reach, z)))
    canvas.paint(canvas.rectangle(left, top - thick, right, top + thick), (shade, shade, shade), POLE, z)
    head = camera.column(x + reach, z)
    lamp = canvas.rectangle(head - 0.3 * scale, top - 0.1 * scale, head + 0.3 * scale, top + 0.12 * scale)
    canvas.paint(lamp, (shade * 1.4, shade * 1.4, shade * 1.2), POLE, z)


def draw_sign(canvas: Canvas, street: Street, x: float, z: float, rng: np.random.Generator) -> None:
    """A round, triangular or rectangular sign on a post."""
    camera, scale = street.camera, street.camera.focal / z
    tall, size = rng.uniform(2.3, 3.1), rng.uniform(0.36, 0.56) * scale
    _post(canvas, street, x, z, tall, 0.055, float(rng.uniform(112, 168)))
    centre, middle = camera.column(x, z), camera.row(tall, z)
    colour = _tuple(_SIGN_COLOURS[rng.integers(len(_SIGN_COLOURS))])
    kind = int(rng.integers(3))
    white, dark = (238.0, 238.0, 234.0), (36.0, 36.0, 42.0)
    if kind == 0:
        canvas.paint(canvas.ellipse(centre, middle, size, size), colour, SIGN, z)
        canvas.paint(canvas.ellipse(centre, middle, size * 0.72, size * 0.72), white, SIGN, z)
        bar = canvas.rectangle(centre - size * 0.45, middle - size * 0.14, centre + size * 0.45, middle + size * 0.14)
        canvas.paint(bar, dark, SIGN, z)
    elif kind == 1:
        for part, fill in ((1.15, colour), (0.72, white)):
            triangle = _points(
                (centre, middle - size * part),
                (centre + size * part, middle + size * 0.8 * part),
                (centre - size * part, middle + size * 0.8 * part),
            )
            canvas.paint(canvas.polygon(triangle), fill, SIGN, z)
        canvas.paint(canvas.ellipse(centre, middle + size * 0.2, size * 0.14, size * 0.24), dark, SIGN, z)
    else:
        tall_plate = size * rng.uniform(0.8, 1.5)
        plate = canvas.rectangle(centre - size, middle - tall_plate, centre + size, middle + tall_plate)
        canvas.paint(plate, white, SIGN, z)
        inner = canvas.rectangle(
            centre - size * 0.88,
            middle - tall_plate + size * 0.12,
            centre + size * 0.88,
            middle + tall_plate - size * 0.12,
        )
        canvas.paint(inner, colour, SIGN, z)
        for row in (-0.35, 0.25):
            line = canvas.rectangle(
                centre - size * 0.6,
                middle + row * tall_plate,
                centre + size * 0.6,
                middle + row * tall_plate + size * 0.2,
            )
            canvas.paint(line, white, SIGN, z)
