# SPDX-License-Identifier: Apache-2.0
"""labelme's JSON: a polygon of each connected region.

Format: the files that labelme 5 and 6 save and load. Holes are joined to the outline (`outlines`), which every version
reads; labelme's own export draws the polygons as the same pixels (``tolerance`` 0).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..segmentation import Segmentation
from .outlines import centre_polygon
from .regions import connected_regions, whole_classes

_VERSION = "5.0.0"  # of the format


def encode_labelme(result: Segmentation, target: Path, min_area: float, tolerance: float) -> bytes:
    """What labelme opens beside the image.

    Args:
        result: its ``path`` becomes ``imagePath``, relative to the folder of ``target``; of an image that was no
            file it is the name of the target.
        target: the file that will hold it.
        min_area: pixels of the smallest region and of the smallest hole.
        tolerance: as in `centre_polygon`.
    """
    image = target.stem if result.path is None else os.path.relpath(os.path.abspath(result.path), target.parent)
    shapes: list[dict[str, Any]] = [
        {
            "label": result.classes[region.label],
            "points": centre_polygon(region, tolerance, min_area),
            "group_id": None,
            "description": "",
            "shape_type": "polygon",
            "flags": {},
        }
        for whole in whole_classes(result.labels, len(result.classes))
        for region in connected_regions(whole, min_area)
    ]
    height, width = result.labels.shape
    content: dict[str, Any] = {
        "version": _VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": image,
        "imageData": None,
        "imageHeight": int(height),
        "imageWidth": int(width),
    }
    return (json.dumps(content, indent=1) + "\n").encode()
