# SPDX-License-Identifier: Apache-2.0
"""Draw the pictures of docs/kernels.md: ``python scripts/draw_kernels.py`` writes docs/images/kernels_*.png.

The geometry is computed as the kernels compute it: rows of a walk and a band as in csrc/ops/depthwise_rows.h and
depthwise_walks.h, windows by `deeplab_infer.runtime.windows.place_windows`, bytes from the shapes.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from PIL import Image

from deeplab_infer.runtime.windows import place_windows

TARGET = Path(__file__).parents[1] / "docs" / "images"
INK, PALE, ZERO = "#222222", "#e6e6e6", "#f6f6f6"
WALKS = ("#4c72b0", "#dd8452", "#55a868")  # one colour a walk


def box(axes: Axes, at: tuple[float, float], size: tuple[float, float], color: str, **options: Any) -> None:
    """A filled rectangle with a thin border; ``at`` is its top left corner."""
    axes.add_patch(Rectangle(at, *size, facecolor=color, edgecolor="white", linewidth=0.8, **options))


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], **options: Any) -> None:
    """A thin arrow."""
    options = {"arrowstyle": "-|>", "mutation_scale": 9, "color": INK, "linewidth": 1, **options}
    axes.add_patch(FancyArrowPatch(start, end, **options))


def blank(axes: Axes, width: float, height: float, title: str) -> None:
    """Axes without frame whose y runs down, as rows do."""
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_aspect("equal")
    axes.axis("off")
    axes.set_title(title, fontsize=9.5, loc="left", color=INK)


def draw_walk() -> plt.Figure:
    """Channels-last: a walk down the rows a, a + rate, ..., and the ring of packed rows that it keeps."""
    rate, rows, columns, y = 3, 12, 14, 6
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.4, 3.9), width_ratios=(1, 1.25))
    blank(left, 20, 14, "input rows, rate 3: three walks, a colour each")
    for row in range(rows):
        own = row % rate == y % rate
        for column in range(columns):
            box(left, (column, row + 1), (1, 1), WALKS[row % rate] if own else f"{WALKS[row % rate]}55")
    for i in range(-1, 2):
        for j in range(-1, 2):
            left.plot(7 + j * rate + 0.5, y + i * rate + 1.5, "o", color="white", markersize=6, markeredgecolor=INK)
    left.text(14.4, y + 1.5, "output row y", va="center", fontsize=8.5)
    left.text(14.4, y - rate + 1.5, "y - rate", va="center", fontsize=8.5)
    left.text(14.4, y + rate + 1.5, "y + rate", va="center", fontsize=8.5)
    blank(right, 27, 14, "the ring of that walk: three packed rows, zeros at both ends")
    for slot, name in enumerate(("y - rate", "y", "y + rate")):
        top = 1.5 + slot * 1.7
        for column in range(columns + 2 * rate):
            inside = rate <= column < columns + rate
            box(right, (column, top), (1, 1.2), WALKS[y % rate] if inside else PALE)
        right.text(columns + 2 * rate + 0.4, top + 0.6, name, va="center", fontsize=8.5)
    for j, name in enumerate(("left tap: from column 0", "centre tap: from column rate", "right tap: from 2 rate")):
        top = 7.4 + j * 1.15
        right.plot([j * rate, j * rate + columns], [top, top], color=INK, linewidth=2.5, solid_capstyle="butt")
        right.text(columns + 2 * rate + 0.4, top, name, va="center", fontsize=8.5)
    text = (
        "Each tap is one run of vectors. The next output row of the walk, y + rate,\n"
        "packs one new row, y + 2 rate, over the oldest; the other two are there already."
    )
    right.text(0, 11.2, text, fontsize=8.5, va="top", color=INK)
    return figure


def draw_band() -> plt.Figure:
    """NCHW: a band of one channel with its halo, over which every rate runs."""
    figure, axes = plt.subplots(figsize=(9.4, 3.7))
    blank(
        axes, 60, 22, "one channel's plane, cut into bands of rows; each band is packed once, for all taps of all rates"
    )
    width, zeros, reach, band = 16.0, 4.0, 4, 6
    for row in range(20):
        inside = 7 <= row < 7 + band
        halo = 7 - reach <= row < 7 + band + reach and not inside
        color = WALKS[0] if inside else f"{WALKS[0]}77" if halo else PALE
        box(axes, (0, row + 1), (width, 1), color)
    axes.text(width + 0.6, 7 + 1 + band / 2, "band: output rows", va="center", fontsize=8.5)
    for top in (7 - reach, 7 + band):
        axes.text(
            width + 0.6,
            top + 1 + reach / 2,
            "halo: as many rows as\nthe largest rate reaches",
            va="center",
            fontsize=8.5,
        )
    arrow(axes, (width + 11.2, 11), (width + 14.6, 11))
    start = width + 15
    for row in range(band + 2 * reach):
        inside = reach <= row < reach + band
        for at, size, color in (
            (start, zeros, ZERO),
            (start + zeros, width, WALKS[0] if inside else f"{WALKS[0]}77"),
            (start + zeros + width, zeros, ZERO),
        ):
            box(axes, (at, row + 4), (size, 1), color)
    axes.add_patch(Rectangle((start, 4), width + 2 * zeros, band + 2 * reach, fill=False, edgecolor=INK, linewidth=1))
    axes.text(
        start + width / 2 + zeros, 3.4, "packed in the second-level cache, up to 192 KiB", ha="center", fontsize=8.5
    )
    axes.text(start + 0.2, 19.2, "zeros", fontsize=8.5)
    axes.text(start + zeros + width + 0.2, 19.2, "zeros", fontsize=8.5)
    y, x = 4 + reach + 2.5, start + zeros + 2.5
    for rate, marker, color in ((2, "o", "white"), (reach, "s", WALKS[1])):
        for i in range(-1, 2):
            for j in range(-1, 2):
                place = (x + j * rate, y + i * rate)
                axes.plot(*place, marker, color=color, markersize=5.5, markeredgecolor=INK)
    axes.text(
        start + width / 2 + zeros,
        20.6,
        "taps of rates 2 and 4 at one output; those beyond the border read zeros",
        ha="center",
        fontsize=8.5,
    )
    return figure


def megabytes(*shape: int) -> float:
    """Of a float16 map."""
    return float(np.prod(shape)) * 2 / 1e6


def draw_concat() -> plt.Figure:
    """Maps that go through memory in front of and behind the decoder's first depthwise convolution."""
    x, low, wide, joined = (512, 128, 256), (48, 256, 512), (512, 256, 512), (560, 256, 512)
    steps = [
        ("interpolate", megabytes(*x) + megabytes(*wide)),
        ("concat", megabytes(*wide) + megabytes(*low) + megabytes(*joined)),
        ("depthwise conv", 2 * megabytes(*joined)),
        ("batch norm", 2 * megabytes(*joined)),
        ("ReLU", 2 * megabytes(*joined)),
    ]
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(9.4, 4.3), height_ratios=(1, 1.15))
    total = sum(size for _, size in steps)
    blank(top, 60, 10, f"one operator after the other: {total:.0f} MB read and written")
    for index, (name, size) in enumerate(steps):
        at = 1 + index * 11.8
        top.add_patch(
            FancyBboxPatch((at, 3), 8.2, 3.6, boxstyle="round,pad=0.3", facecolor=f"{WALKS[1]}88", edgecolor="none")
        )
        top.text(at + 4.1, 4.2, name, ha="center", va="center", fontsize=8.5)
        top.text(at + 4.1, 5.8, f"{size:.0f} MB", ha="center", va="center", fontsize=8.5)
        if index:
            arrow(top, (at - 3.2, 4.8), (at - 0.4, 4.8))
    top.text(1, 8.9, "an arrow is a map of 512 or 560 channels of 256x512 in memory", fontsize=8.5, color=INK)
    fused = megabytes(*x) + megabytes(*low) + megabytes(*joined)
    blank(bottom, 60, 12, f"upsample_concat_depthwise: {fused:.0f} MB")
    for at, name, shape in ((1.5, "x", x), (7.5, "low", low)):
        box(bottom, (1, at), (9, 3.4), f"{WALKS[0]}88")
        bottom.text(
            5.5,
            at + 1.7,
            f"{name} {shape[0]}x{shape[1]}x{shape[2]}\n{megabytes(*shape):.0f} MB",
            ha="center",
            va="center",
            fontsize=8.5,
        )
    bottom.add_patch(Rectangle((16, 0.8), 29, 10.6, fill=False, edgecolor=INK, linewidth=1, linestyle="--"))
    bottom.text(38.2, 10.4, "in registers or caches", ha="center", fontsize=8.5)
    for index, text in enumerate(("two rows of x,\nresized along x and y", "low's row: copied", "")):
        if text:
            box(bottom, (17, 1.5 + index * 6), (11, 3.4), f"{WALKS[2]}88")
            bottom.text(22.5, 3.2 + index * 6, text, ha="center", va="center", fontsize=8.5)
    box(bottom, (31.5, 3.2), (13, 5.2), f"{WALKS[2]}88")
    bottom.text(
        38,
        5.8,
        "rows y - rate, y, y + rate\nof the concat:\nconv, scale, shift, ReLU",
        ha="center",
        va="center",
        fontsize=8.5,
    )
    for start, end in (
        ((10.2, 3.2), (16.8, 3.2)), ((10.2, 9.2), (16.8, 9.2)), ((28.2, 3.2), (31.3, 5)), ((28.2, 9.2), (31.3, 6.8)),
        ((44.7, 5.8), (47.8, 5.8)),
    ):  # fmt: skip
        arrow(bottom, start, end)
    box(bottom, (48, 4.1), (11.5, 3.4), f"{WALKS[0]}88")
    bottom.text(53.7, 5.8, f"output 560x256x512\n{megabytes(*joined):.0f} MB", ha="center", va="center", fontsize=8.5)
    return figure


def draw_windows() -> plt.Figure:
    """Which windows cover a pixel, for 8 windows of 769x769 over 1025x2049."""
    size, window, stride = (1025, 2049), (769, 769), (513, 513)
    placed = place_windows(*size, window, stride)
    cover = np.zeros(size, np.uint8)
    for one in placed:
        cover[one.top : one.bottom, one.left : one.right] += 1
    figure, axes = plt.subplots(figsize=(9.4, 4.5))
    axes.imshow(cover, cmap="Blues", vmin=0, vmax=7)
    pixel = (1100, 420)
    covering = [one for one in placed if one.left <= pixel[0] < one.right and one.top <= pixel[1] < one.bottom]
    for index, one in enumerate(covering):
        inset = 6 + 9 * index
        corner = (one.left + inset, one.top + inset)
        axes.add_patch(
            Rectangle(
                corner,
                769 - 2 * inset,
                769 - 2 * inset,
                fill=False,
                edgecolor=("#c44e52", "#dd8452", "#55a868", "#8172b2")[index % 4],
                linewidth=1.8,
            )
        )
    axes.plot(*pixel, "o", color="white", markersize=8, markeredgecolor=INK)
    axes.annotate(
        f"this pixel: the mean over\nits {len(covering)} windows, in their order",
        pixel, (pixel[0] + 330, pixel[1] + 20), fontsize=9, va="center", arrowprops={"arrowstyle": "-|>", "color": INK},
    )  # fmt: skip
    lefts, tops = sorted({one.left for one in placed}), sorted({one.top for one in placed})
    axes.set_xticks([*lefts, 2049], [*map(str, lefts), "2049"], fontsize=8.5)
    axes.set_yticks([*tops, 1025], [*map(str, tops), "1025"], fontsize=8.5)
    axes.set_title(
        f"{len(placed)} windows of 769x769 on 1025x2049, stride 513: the last ones are shifted back to the border.\n"
        f"A darker shade is more windows; {cover.mean():.2f} on average",
        fontsize=9.5, loc="left", color=INK,
    )  # fmt: skip
    for side in axes.spines.values():
        side.set_visible(False)
    return figure


PICTURES: dict[str, Callable[[], plt.Figure]] = {
    "kernels_walk": draw_walk,
    "kernels_band": draw_band,
    "kernels_concat": draw_concat,
    "kernels_windows": draw_windows,
}


def main() -> None:
    """Write all pictures, in 64 colours: a quarter of the size of full colour."""
    for name, draw in PICTURES.items():
        figure = draw()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight", facecolor="white")
        plt.close(figure)
        buffer.seek(0)
        with Image.open(buffer) as picture:
            picture.convert("RGB").quantize(64).save(TARGET / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
