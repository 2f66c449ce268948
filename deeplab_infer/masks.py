# SPDX-License-Identifier: Apache-2.0
"""Masks as polygons and as COCO run lengths."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray


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


def encode_rle(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """COCO's compressed run-length encoding of a mask.

    Runs go down the columns and start with the zeros; from the third run on, the difference to the run two before is
    stored, in groups of five bits, lowest first, as characters from 48 on.

    Returns:
        ``{"size": [H, W], "counts": str}``, as pycocotools reads it.
    """
    flat = np.asfortranarray(mask).reshape(-1, order="F").astype(np.int8)
    changes = np.flatnonzero(np.diff(flat, prepend=0))
    runs = np.diff(np.concatenate([[0], changes, [flat.size]]))
    # A mask that starts with a one starts with an empty run of zeros: prepend=0 has made that change.
    values = runs.copy()
    values[3:] -= runs[1:-2]
    return {
        "size": [int(mask.shape[0]), int(mask.shape[1])],
        "counts": "".join(map(_characters, values.tolist())),
    }


def _characters(value: int) -> str:
    text = ""
    while True:
        bits = value & 0x1F
        value >>= 5
        more = value != -1 if bits & 0x10 else value != 0
        text += chr(48 + (bits | (0x20 if more else 0)))
        if not more:
            return text
