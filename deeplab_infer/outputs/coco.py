# SPDX-License-Identifier: Apache-2.0
"""coco.json: the regions of every image of a run in COCO's format.

Format: the object detection section of https://cocodataset.org/#format-data. Category ids are class index + 1, as in
COCO-Stuff; pixels without a class are in no annotation. ``area`` and ``bbox`` are those of the pixels, also where the
polygon is simplified.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from .. import __version__
from ..files import atomic_write
from ..masks import encode_rle_patch
from ..segmentation import Segmentation
from .options import OutputOptions
from .outlines import border_polygon
from .regions import Region, connected_regions, whole_classes


def coco_annotations(result: Segmentation, options: OutputOptions) -> list[dict[str, Any]]:
    """The annotations of one image, without the ids that they get in the file."""
    annotations = []
    for whole in whole_classes(result.labels, len(result.classes)):
        parts = connected_regions(whole, options.min_area) if options.per_region else [whole]
        for part in parts:
            shape = _shape(part, result.labels.shape, options)
            if shape:
                annotations.append(
                    {
                        "category_id": part.label + 1,
                        "segmentation": shape,
                        "area": part.area,
                        "bbox": part.bbox,
                        "iscrowd": 0,
                    }
                )
    return annotations


def _shape(part: Region, size: tuple[int, int], options: OutputOptions) -> Any:
    if options.coco == "rle":
        return encode_rle_patch(part.mask, part.top, part.left, size)
    regions = [part] if options.per_region else connected_regions(part, options.min_area)
    return [
        [value for point in border_polygon(region, options.tolerance, options.min_area) for value in point]
        for region in regions
    ]


def write_coco(target: Path, classes: tuple[str, ...], records: Iterable[dict[str, Any]]) -> None:
    """The file of all records, in one pass; neither its images nor its annotations are ever all in memory.

    Args:
        target: the file.
        classes: names of the model's classes.
        records: what `Outputs.write` gave for each image.
    """
    info = {"description": "segmentations by deeplab-infer", "version": __version__}
    categories = [{"id": index, "name": name} for index, name in enumerate(classes, 1)]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", dir=target.parent) as annotations,
        atomic_write(target, "w") as stream,
    ):
        stream.write(f'{{"info":{_dump(info)},\n"licenses":[],\n"categories":{_dump(categories)},\n"images":[')
        _write_images(stream, annotations, records)
        stream.write('\n],\n"annotations":[')
        annotations.seek(0)
        shutil.copyfileobj(annotations, stream)
        stream.write("\n]}\n")


def _write_images(images: IO[str], annotations: IO[str], records: Iterable[dict[str, Any]]) -> None:
    """Images go where they belong; annotations wait for their turn in a file without a name."""
    count = 0
    for number, record in enumerate(records, 1):
        size = {"height": record["height"], "width": record["width"]}
        images.write(",\n" if number > 1 else "\n")
        images.write(_dump({"id": number, "file_name": record["file_name"], **size}))
        for annotation in record["coco"]:
            count += 1
            annotations.write(",\n" if count > 1 else "\n")
            annotations.write(_dump({"id": count, "image_id": number, **annotation}))


def _dump(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
