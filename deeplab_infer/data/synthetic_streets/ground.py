# SPDX-License-Identifier: Apache-2.0
"""Sky, ground and walls: everything that is computed pixel by pixel from the camera's rays."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas, Floats, Mask, value_noise
from .classes import BUILDING, MARKING, PAVEMENT, ROAD, SKY, TREE
from .scene import Facade, Street

FAR = 160.0  # metres; beyond it the street ends in trees and houses


def paint_sky(canvas: Canvas, street: Street, rng: np.random.Generator) -> None:
    """A gradient with clouds and, in clear weather, a sun."""
    height, width = canvas.height, canvas.width
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None, None] * height / max(1.0, street.camera.horizon)
    colour = street.sky_top + (street.sky_low - street.sky_top) * np.clip(rows, 0, 1) ** 0.8
    colour = np.broadcast_to(colour, (height, width, 3)).copy()
    cover = rng.uniform(-0.45, 0.4)
    clouds = np.clip((value_noise(rng, height, width, height / 3.2, 5) + cover) * 2.4, 0, 1)[..., None]
    shade = 238 + 16 * value_noise(rng, height, width, height / 6)[..., None]
    colour += (shade - colour) * clouds * 0.85
    if street.sun[1] > 0.6:
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        centre_x = width * (0.5 + 0.45 * street.sun[0])
        distance = np.hypot(x - centre_x, (y - height * 0.12) * 1.1) / height
        colour += (np.array((255, 246, 220), np.float32) - colour) * np.exp(-distance / 0.09)[..., None] * 0.8
    canvas.paint(np.ones((height, width), bool), np.clip(colour, 0, 255), SKY, 1e4)


def paint_far_end(canvas: Canvas, street: Street, rng: np.random.Generator) -> None:
    """A skyline of houses and tree tops where the street vanishes."""
    camera = street.camera
    x = np.arange(canvas.width)
    tree_line = camera.horizon - camera.focal * (
        0.03 + 0.022 * value_noise(rng, 1, canvas.width, max(4.0, canvas.height / 14), 4)[0]
    )
    y = np.arange(canvas.height)[:, None]
    left = 0.0
    while left < canvas.width:
        right = left + camera.focal * rng.uniform(0.05, 0.18)
        if rng.random() < 0.5:
            top = camera.horizon - camera.focal * rng.uniform(0.04, 0.13)
            shade = float(rng.uniform(105, 170))
            mask = canvas.rectangle(left, top, right, camera.horizon + 1)
            canvas.paint(mask, (shade, shade * 0.97, shade * 0.95), BUILDING, FAR * 1.1)
        left = right
    mask = (y >= np.round(tree_line)[None, :]) & (y <= camera.horizon + 1) & (x >= 0)
    texture = value_noise(rng, canvas.height, canvas.width, max(3.0, canvas.height / 40))[..., None]
    green = np.array((70, 98, 58), np.float32) + texture * np.array((22, 26, 16), np.float32)
    canvas.paint(mask, green, TREE, FAR)


def ground_rays(canvas: Canvas, street: Street) -> tuple[Floats, Floats, Mask]:
    """Position (x, z) in metres of the ground under each pixel, and where there is ground."""
    camera = street.camera
    rows = np.arange(canvas.height, dtype=np.float32)[:, None] + 0.5 - np.float32(camera.horizon)
    below = rows > 0.2
    z = np.where(below, camera.focal * camera.height / np.maximum(rows, 0.2), 1e4).astype(np.float32)
    columns = np.arange(canvas.width, dtype=np.float32)[None, :] + 0.5 - np.float32(camera.centre)
    x = (columns * z / camera.focal).astype(np.float32)
    z = np.broadcast_to(z, x.shape)
    return x, z, np.broadcast_to(below, x.shape)


def paint_ground(canvas: Canvas, street: Street, rng: np.random.Generator) -> None:
    """Road, markings, kerbs and pavements."""
    x, z, ground = ground_rays(canvas, street)
    height, width = canvas.height, canvas.width
    fine = value_noise(rng, height, width, max(2.0, height / 160), 3)
    coarse = value_noise(rng, height, width, height / 5, 4)
    slab = rng.uniform(0.5, 1.2)
    base = rng.uniform(128, 178)
    joints = ((np.mod(x, slab) < 0.04) | (np.mod(z, slab) < 0.05)) & (z < 18)
    stone = (base + 12 * fine + 14 * coarse - 26 * joints)[..., None] * np.array((1.0, 0.975, 0.94), np.float32)
    canvas.paint(ground, stone, PAVEMENT, z)

    asphalt_base = rng.uniform(66, 112)
    worn = 10 * np.cos((x - (street.left_kerb + street.right_kerb) / 2) * 2.0)
    asphalt = asphalt_base + 13 * fine + 16 * coarse + worn * rng.uniform(0, 0.9)
    patch = value_noise(rng, height, width, height / 2.5, 2)
    asphalt = asphalt - 16 * (patch > 0.42)
    road = ground & (x > street.left_kerb) & (x < street.right_kerb)
    tint = np.array((1.0, 1.0, 1.03), np.float32)
    canvas.paint(road, np.clip(asphalt, 20, 200)[..., None] * tint, ROAD, z)

    # The kerb's face, seen from above, belongs to the pavement.
    kerb = ground & (
        ((x <= street.left_kerb) & (x > street.left_kerb - 0.22))
        | ((x >= street.right_kerb) & (x < street.right_kerb + 0.22))
    )
    canvas.image[kerb] *= 1.16
    _paint_markings(canvas, street, x, z, road, fine, rng)


def _paint_markings(
    canvas: Canvas, street: Street, x: Floats, z: Floats, road: Mask, fine: Floats, rng: np.random.Generator
) -> None:
    line = rng.uniform(0.13, 0.2)
    near = z < 55
    mask = np.zeros_like(road)
    for position in street.lanes:
        period, phase = rng.uniform(5, 10), rng.uniform(0, 8)
        dashed = np.mod(z + phase, period) < period * rng.uniform(0.4, 0.6)
        mask |= (np.abs(x - position) < line) & (dashed | (rng.random() < 0.25))
    if street.edge_lines:
        for position in (street.left_kerb + 0.45, street.right_kerb - 0.45):
            mask |= np.abs(x - position) < line * 0.8
    if street.crossing is not None:
        inside = np.abs(z - street.crossing) < 1.6
        mask |= inside & (np.mod(x - street.left_kerb, 1.1) < 0.55)
    mask &= road & near
    white = np.array((226, 224, 214) if rng.random() < 0.85 else (228, 192, 74), np.float32)
    wear = (1 - rng.uniform(0.02, 0.2) * (fine > 0.1))[..., None]
    canvas.paint(mask, np.clip((white + 14 * fine[..., None]) * wear, 0, 255), MARKING, z)


def paint_walls(canvas: Canvas, street: Street, rng: np.random.Generator) -> None:
    """House fronts on both sides, as planes along the street, and their ends across it."""
    for side, facades in zip((-1, 1), street.walls, strict=True):
        edge = street.left_kerb - street.pavement if side < 0 else street.right_kerb + street.pavement
        for facade in sorted(facades, key=lambda f: -f.near):
            _paint_facade(canvas, street, facade, edge, side, rng)


def _paint_facade(
    canvas: Canvas, street: Street, facade: Facade, edge: float, side: int, rng: np.random.Generator
) -> None:
    camera = street.camera
    near = max(facade.near, 0.6)
    if facade.far <= near:
        return
    columns = np.arange(canvas.width, dtype=np.float32) + 0.5 - np.float32(camera.centre)
    facing = columns * side > 1e-3
    z = np.where(facing, camera.focal * edge / np.where(facing, columns, 1.0), -1.0).astype(np.float32)
    inside = np.flatnonzero((z >= near) & (z < facade.far))
    if inside.size == 0:
        return  # out of the picture, and its gable further out still
    columns_seen = slice(inside[0], inside[-1] + 1)
    z = z[columns_seen]
    rows = np.arange(canvas.height, dtype=np.float32)[:, None] + 0.5 - np.float32(camera.horizon)
    y = np.float32(camera.height) - rows * z[None, :] / np.float32(camera.focal)
    mask = (y >= 0) & (y <= facade.height)
    light = 0.72 + 0.34 * max(0.0, -side * street.sun[0]) * street.sun[1]
    colour = _facade_colour(facade, z, y, rng) * np.float32(light)
    seen = Canvas(canvas.image[:, columns_seen], canvas.labels[:, columns_seen], canvas.depth[:, columns_seen])
    seen.paint(mask, np.clip(colour, 0, 255), BUILDING, np.broadcast_to(z[None, :], mask.shape))
    if facade.near > 0.6:
        _paint_gable(canvas, street, facade, edge, side, light)


def _facade_colour(facade: Facade, z: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    along = np.broadcast_to((z - facade.near)[None, :], y.shape)
    noise = value_noise(rng, y.shape[0], y.shape[1], max(3.0, y.shape[0] / 60))
    colour = facade.colour + 9 * noise[..., None]
    if facade.brick:
        courses = (np.mod(y, 0.3) < 0.05) & (along < 60)
        colour = colour - 16 * courses[..., None]
    u, v = np.mod(along / facade.bay, 1.0), np.mod(y / facade.storey, 1.0)
    storeys = np.floor(y / facade.storey)
    wide, tall = facade.window
    window = (np.abs(u - 0.5) < wide / 2) & (np.abs(v - 0.52) < tall / 2) & (y < facade.height - 0.7)
    if facade.shop:
        window = np.where(storeys == 0, (np.abs(u - 0.5) < 0.43) & (v > 0.12) & (v < 0.74), window)
    frame = (np.abs(u - 0.5) < wide / 2 + 0.04) & (np.abs(v - 0.52) < tall / 2 + 0.035) & ~window
    lit = np.mod(np.floor(along / facade.bay) * 7 + storeys * 13, 11) < 2
    glass = facade.window_colour + np.clip(v - 0.3, 0, 1)[..., None] * 60 + lit[..., None] * np.float32(46)
    colour = np.where(frame[..., None], colour * 1.14, colour)
    colour = np.where(window[..., None], glass, colour)
    cornice = y > facade.height - 0.35
    return np.where(cornice[..., None], colour * 0.72, colour).astype(np.float32)


def _paint_gable(canvas: Canvas, street: Street, facade: Facade, edge: float, side: int, light: float) -> None:
    """The wall across the street that shows where the house before it is lower or missing."""
    camera, z = street.camera, facade.near
    inner, outer = camera.column(edge, z), camera.column(edge + side * 14, z)
    mask = canvas.rectangle(min(inner, outer), camera.row(facade.height, z), max(inner, outer), camera.row(0, z))
    mask &= canvas.depth > z
    shade = facade.colour * np.float32(0.62 + 0.2 * light)
    across = (np.arange(canvas.width, dtype=np.float32) + 0.5 - np.float32(camera.centre)) * z / camera.focal
    rows = np.arange(canvas.height, dtype=np.float32)[:, None] + 0.5 - np.float32(camera.horizon)
    y = np.float32(camera.height) - rows * np.float32(z / camera.focal)
    u, v = np.mod(np.abs(across - edge) / 3.4, 1.0)[None, :], np.mod(y / facade.storey, 1.0)
    window = (np.abs(u - 0.5) < 0.16) & (np.abs(v - 0.52) < 0.22) & (y < facade.height - 0.7)
    colour = np.where(window[..., None], facade.window_colour * np.float32(0.9), shade)
    canvas.paint(mask, colour.astype(np.float32), BUILDING, z)
