# SPDX-License-Identifier: Apache-2.0
"""Overlays with a legend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Entry = tuple[str, tuple[int, int, int], float]
_ROWS = 256  # blended at once


def draw_overlay(
    image: NDArray[np.uint8],
    colors: NDArray[np.uint8],
    labels: NDArray[Any],
    alpha: float,
    legend: Sequence[Entry],
    outlines: bool,
) -> NDArray[np.uint8]:
    """Blend, outline and annotate; besides the result, memory is for some rows only.

    Args:
        image: uint8 [H, W, 3] RGB.
        colors: uint8 RGB: of every pixel, [H, W, 3], or of every label, [K, 3]; labels from K on show the image.
        labels: integers [H, W], whose changes are outlined.
        alpha: opacity of the colours, 0..1.
        legend: (name, RGB colour, share of the image 0..1), drawn in this order; none for no legend.
        outlines: whether to draw the borders between classes.
    """
    picture = np.empty(image.shape, np.uint8)
    for top in range(0, len(labels), _ROWS):
        rows = slice(top, top + _ROWS)
        painted = _paint(colors, labels[rows], image[rows]) if colors.ndim == 2 else colors[rows]
        blended = image[rows] * np.float32(1 - alpha) + painted * np.float32(alpha)
        if outlines:  # of a band with the row below it
            blended[_borders(labels[top : top + _ROWS + 1])[: len(blended)]] *= 0.35
        picture[rows] = np.clip(np.round(blended), 0, 255)
    return _draw_legend(picture, legend) if legend else picture


def _paint(colors: NDArray[np.uint8], labels: NDArray[Any], image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    known = labels < len(colors)
    return colors[labels] if known.all() else np.where(known[..., None], colors[np.where(known, labels, 0)], image)


def _borders(labels: NDArray[Any]) -> NDArray[np.bool_]:
    border = np.zeros(labels.shape, bool)
    border[:-1] |= labels[:-1] != labels[1:]
    border[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    return border


def _draw_legend(picture: NDArray[np.uint8], legend: Sequence[Entry]) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    size = max(10, min(width, height * 2) // 62)
    font = ImageFont.load_default(size)
    line, pad = round(size * 1.45), round(size * 0.7)
    shown = list(legend[: max(1, (height - 2 * pad) // line)])
    hidden = len(legend) - len(shown)
    texts = [f"{name}  {_percent(share)}" for name, _, share in shown]
    if hidden:
        texts[-1] = f"and {hidden + 1} more"
    box_width = 3 * pad + size + round(max(font.getlength(text) for text in texts))
    box_height = pad + line * len(shown)
    if box_width > width * 0.6 or box_height > height * 0.9:
        return picture  # a picture of a few pixels has no room for words
    left, top = pad // 2, pad // 2
    corner = picture[: top + box_height + 1, : left + box_width + 1]
    sheet = Image.fromarray(corner).convert("RGBA")
    panel = Image.new("RGBA", sheet.size, (0, 0, 0, 0))
    draw = ImageDraw.Draw(panel)
    draw.rounded_rectangle(
        (left, top, left + box_width, top + box_height), radius=round(size * 0.45), fill=(16, 18, 22, 190)
    )
    for index, ((_, color, _), text) in enumerate(zip(shown, texts, strict=True)):
        y = top + pad // 2 + index * line + (line - size) // 2
        if not (hidden and index == len(shown) - 1):
            swatch = (left + pad, y, left + pad + size, y + size)
            draw.rounded_rectangle(swatch, radius=size // 5, fill=(*color, 255), outline=(255, 255, 255, 120))
        draw.text((left + 2 * pad + size, y + size / 2), text, font=font, fill=(240, 242, 245, 255), anchor="lm")
    corner[:] = np.asarray(Image.alpha_composite(sheet, panel).convert("RGB"))
    return picture


def _percent(share: float) -> str:
    return "<0.1 %" if 0 < share < 0.001 else f"{share * 100:.1f} %"
