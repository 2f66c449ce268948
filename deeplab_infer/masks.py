# SPDX-License-Identifier: Apache-2.0
"""Masks as polygons and as COCO run lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .errors import DataError
from .images import MAX_PIXELS

_MAX_CROSSINGS = 50_000_000


def no_class(classes: int) -> int:
    """The label of a pixel without a class: 255, or 65535 where 255 is a class."""
    return 255 if classes <= 255 else 65535


def without_class(labels: NDArray[Any], gone: NDArray[np.bool_], classes: int) -> NDArray[Any]:
    """A copy of labels in which some pixels have no class.

    Args:
        labels: [H, W].
        gone: bool, of every pixel, [H, W], or of every class, [classes].
        classes: how many there are.

    Returns:
        [H, W], uint8 up to 255 classes, else int32, with `no_class` where ``gone``.
    """
    value = no_class(classes)
    kind = np.uint8 if value == 255 else np.int32
    if gone.ndim == 2:
        return np.where(gone, kind(value), labels).astype(kind, copy=False)
    table = np.full(value + 1, value, kind)
    table[:classes][~gone] = np.flatnonzero(~gone)
    return table[labels]


def find_polygons(mask: NDArray[np.bool_], min_area: float = 0.0) -> list[dict[str, Any]]:
    """Regions of a mask with their holes, largest first.

    Args:
        mask: bool [H, W].
        min_area: smallest region kept, in pixels.

    Returns:
        ``{"outline": [[x, y], ...], "holes": [...], "area": pixels}`` a region; the area counts pixels.
    """
    count, components, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    regions = []
    for index in range(1, count):
        area = int(stats[index, cv2.CC_STAT_AREA])
        if area < min_area:
            continue
        x, y = int(stats[index, cv2.CC_STAT_LEFT]), int(stats[index, cv2.CC_STAT_TOP])
        width, height = int(stats[index, cv2.CC_STAT_WIDTH]), int(stats[index, cv2.CC_STAT_HEIGHT])
        region = (components[y : y + height, x : x + width] == index).astype(np.uint8)
        contours, hierarchy = cv2.findContours(region, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(x, y))
        outlines = [c[:, 0].tolist() for c, h in zip(contours, hierarchy[0], strict=True) if h[3] < 0]
        holes = [c[:, 0].tolist() for c, h in zip(contours, hierarchy[0], strict=True) if h[3] >= 0]
        regions.append({"outline": outlines[0], "holes": holes, "area": area})
    return sorted(regions, key=lambda region: -region["area"])


def fill_polygons(polygons: Sequence[NDArray[np.float64]], height: int, width: int) -> NDArray[np.bool_]:
    """The pixels whose centres lie inside one of the polygons.

    Pixel (x, y) covers x..x+1 and y..y+1, as in COCO: the square from (0, 0) to (10, 10) has 100 pixels. (OpenCV's
    ``fillPoly`` also covers each pixel that the outline touches, 121 here.) Within a polygon the even-odd rule counts.

    Args:
        polygons: float64 [N, 2], x and y of the corners; parts outside the picture are cut off.
        height, width: of the picture.

    Returns:
        bool [height, width].

    Raises:
        DataError: the polygons have far more corners than the picture has pixels.
    """
    mask = np.zeros((height, width), np.bool_)
    for polygon in polygons:
        mask |= _fill_polygon(polygon, height, width)
    return mask


def _fill_polygon(polygon: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    (x0, y0), (x1, y1) = polygon.T, np.roll(polygon, -1, axis=0).T
    # An edge is crossed by the rows whose centres lie between its ends.
    first = np.clip(np.ceil(np.minimum(y0, y1) - 0.5), 0, height).astype(np.int64)
    last = np.clip(np.ceil(np.maximum(y0, y1) - 0.5), 0, height).astype(np.int64)
    counts = last - first
    if (total := int(counts.sum())) > _MAX_CROSSINGS:
        raise DataError(f"a polygon of {len(polygon):,} corners crosses {total:,} rows, more than {_MAX_CROSSINGS:,}")
    edge = np.repeat(np.arange(len(counts)), counts)
    row = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    x = x0[edge] + (row + 0.5 - y0[edge]) * (x1 - x0)[edge] / (y1 - y0)[edge]
    column = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
    crossings = np.bincount(row * (width + 1) + column, minlength=height * (width + 1)) & 1
    inside = np.bitwise_xor.accumulate(crossings.astype(np.uint8).reshape(height, width + 1), axis=1)
    return inside[:, :width].astype(np.bool_)


def encode_rle(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """COCO's compressed run-length encoding of a mask.

    Runs go down the columns and start with the zeros; from the third run on, the difference to the run two before is
    stored, in groups of five bits, lowest first, as characters from 48 on.

    Returns:
        ``{"size": [H, W], "counts": str}``, as pycocotools reads it.
    """
    return encode_rle_patch(mask, 0, 0, (mask.shape[0], mask.shape[1]))


def encode_rle_patch(mask: NDArray[np.bool_], top: int, left: int, size: tuple[int, int]) -> dict[str, Any]:
    """`encode_rle` of a picture that is empty but for one patch, which is never made whole.

    Args:
        mask: bool [h, w], the patch.
        top, left: where it lies in the picture.
        size: (height, width) of the picture.
    """
    height, width = size
    steps = np.diff(np.pad(mask.astype(np.int8), ((1, 1), (0, 0))), axis=0).T
    (column, first), last = np.nonzero(steps == 1), np.nonzero(steps == -1)[1]
    starts, ends = (left + column) * height + top + first, (left + column) * height + top + last
    apart = starts[1:] != ends[:-1]  # a run may go on at the top of the next column
    starts, ends = starts[np.append(True, apart)[: len(starts)]], ends[np.append(apart, True)[: len(ends)]]
    borders = np.stack([starts, ends], 1).reshape(-1)
    borders = borders[:-1] if len(borders) and borders[-1] == height * width else borders
    runs = np.diff(np.concatenate([[0], borders, [height * width]]))
    # A mask that starts with a one starts with an empty run of zeros: its first border is 0.
    values = runs.copy()
    values[3:] -= runs[1:-2]
    return {"size": [int(height), int(width)], "counts": "".join(map(_characters, values.tolist()))}


def decode_rle(rle: dict[str, Any], max_pixels: int = MAX_PIXELS) -> NDArray[np.bool_]:
    """The mask of a COCO run-length encoding, the inverse of `encode_rle`.

    Args:
        rle: ``{"size": [H, W], "counts": ...}`` with counts as a compressed string (or its bytes) or as a list of runs
            down the columns, zeros first.
        max_pixels: larger masks are refused before they are allocated.

    Returns:
        bool [H, W].

    Raises:
        DataError: keys are missing, the size is none, or the runs are malformed or do not fill the size.
    """
    if not isinstance(rle, dict) or not {"size", "counts"} <= rle.keys():
        raise DataError("a run-length encoding needs 'size' and 'counts'")
    size, counts = rle["size"], rle["counts"]
    whole = isinstance(size, (list, tuple)) and len(size) == 2 and all(type(n) is int and n > 0 for n in size)
    if not whole:
        raise DataError(f"the size of a run-length encoding is [height, width], got {size!r}")
    if size[0] * size[1] > max_pixels:
        raise DataError(f"a run-length encoding of {size[0]} x {size[1]} pixels exceeds the limit of {max_pixels}")
    runs = _runs(counts, size[0] * size[1])
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.ascontiguousarray(flat.reshape((size[0], size[1]), order="F"))


def _runs(counts: Any, pixels: int) -> list[int]:
    if isinstance(counts, bytes):
        counts = counts.decode("latin-1")
    if isinstance(counts, str):
        runs = _decompress(counts)
    elif isinstance(counts, list) and all(type(run) is int for run in counts):
        runs = counts
    else:
        raise DataError(f"run lengths are a string or a list of whole numbers, got {type(counts).__name__}")
    if any(run < 0 or run > pixels for run in runs) or sum(runs) != pixels:
        raise DataError(f"the run lengths add up to {sum(runs):,} pixels, the size says {pixels:,}; they are damaged")
    return runs


def _decompress(text: str) -> list[int]:
    """`_characters` backwards, with the differences added up."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise DataError(f"character {character!r} does not occur in compressed run lengths; they are damaged")
        value |= (code & 0x1F) << shift
        shift += 5
        if code & 0x20:
            continue
        if code & 0x10:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise DataError("the compressed run lengths end within a number; they are damaged")
    return runs


def _characters(value: int) -> str:
    text = ""
    while True:
        bits = value & 0x1F
        value >>= 5
        more = value != -1 if bits & 0x10 else value != 0
        text += chr(48 + (bits | (0x20 if more else 0)))
        if not more:
            return text
