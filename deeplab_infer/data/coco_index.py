# SPDX-License-Identifier: Apache-2.0
"""A COCO annotation file, checked: its classes, its images and the regions of each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..images import MAX_PIXELS
from .listing import some

CROWD = -1
_FARTHEST = 1e9
_NUMBERS = {int, float}
Shape = tuple[NDArray[np.float64], ...] | dict[str, Any]


@dataclass(frozen=True)
class Region:
    """One annotation: polygons or run lengths, and its class (`CROWD` for a crowd, which is ignored)."""

    id: Any
    label: int
    shape: Shape


@dataclass
class CocoImage:
    """An image of the file: name, size as the file has it, regions in the file's order."""

    file_name: str
    height: int
    width: int
    regions: list[Region] = field(default_factory=list)


@dataclass(frozen=True)
class Category:
    """A category of the file."""

    id: int
    name: str


def read_coco(file: Path) -> dict[str, list[dict[str, Any]]]:
    """The three tables of an annotation file: ``images``, ``annotations``, ``categories``.

    Raises:
        DataError: not JSON, or not of this form.
    """
    try:
        content = json.loads(file.read_bytes())
    except ValueError as error:
        raise DataError(f"{file}: not JSON, or cut short ({error}); copy or export it again") from None
    except RecursionError:
        raise DataError(f"{file}: not a COCO file; its JSON is nested too deep") from None
    for key in ("images", "annotations", "categories"):
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DataError(f"{file}: no list {key!r}; COCO files have 'images', 'annotations' and 'categories'")
    return content


def read_categories(rows: list[dict[str, Any]], file: Path) -> list[Category]:
    """Categories by rising id.

    Raises:
        DataError: an id or name is missing or double.
    """
    categories: dict[int, Category] = {}
    for row in rows:
        number, name = row.get("id"), row.get("name")
        if type(number) is not int or not isinstance(name, str) or not name.strip():
            raise DataError(f"{file}: category {row!r} needs a whole number 'id' and a 'name'")
        if number in categories:
            raise DataError(f"{file}: category id {number} is used twice ({categories[number].name!r} and {name!r})")
        categories[number] = Category(number, name.strip())
    return [categories[number] for number in sorted(categories)]


def read_images(tables: dict[str, list[dict[str, Any]]], labels: dict[int, int | str], file: Path) -> list[CocoImage]:
    """Images with their regions, in the file's order.

    Args:
        tables: what `read_coco` gave.
        labels: class index by category id; text where using the category is an error, saying why.
        file: the annotation file, for messages.

    Raises:
        DataError: a malformed image or annotation, named by its id.
    """
    images: dict[Any, CocoImage] = {}
    for row in tables["images"]:
        number = _identity(row, "image", file)
        if number in images:
            raise DataError(f"{file}: image id {number} is used twice")
        images[number] = _image(row, number, file)
    for row in tables["annotations"]:
        number = _identity(row, "annotation", file)
        where = f"{file}: annotation {number}"
        image = images.get(row["image_id"]) if isinstance(row.get("image_id"), (int, str)) else None
        if image is None:
            raise DataError(f"{where} belongs to image id {row.get('image_id')!r}, which is not in 'images'")
        image.regions.append(Region(number, _label(row, labels, where), _shape(row, image, where)))
    return list(images.values())


def _identity(row: dict[str, Any], what: str, file: Path) -> int | str:
    number = row.get("id")
    if not isinstance(number, (int, str)):
        raise DataError(f"{file}: an {what} has no 'id': {str(row)[:120]}")
    return number


def _image(row: dict[str, Any], number: int | str, file: Path) -> CocoImage:
    name, height, width = row.get("file_name"), row.get("height"), row.get("width")
    if not isinstance(name, str) or not name:
        raise DataError(f"{file}: image {number} has no 'file_name'")
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{file}: image {number}: file name {name!r} leaves the image folder; make it relative to it")
    if type(height) is not int or type(width) is not int or height < 1 or width < 1:
        raise DataError(
            f"{file}: image {number} ({name}) needs a whole 'height' and 'width', got {height!r}, {width!r}"
        )
    if height * width > MAX_PIXELS:
        raise DataError(f"{file}: image {number} ({name}) has {height} x {width} pixels, the limit is {MAX_PIXELS}")
    return CocoImage(str(path), height, width)


def _label(row: dict[str, Any], labels: dict[int, int | str], where: str) -> int:
    number = row.get("category_id")
    label = labels.get(number) if isinstance(number, int) else None
    if label is None:
        raise DataError(
            f"{where} has category id {number!r}, which is not in 'categories' (ids: {some([str(k) for k in labels])})"
        )
    if isinstance(label, str):
        raise DataError(f"{where}: {label}")
    return CROWD if row.get("iscrowd") else label


def _shape(row: dict[str, Any], image: CocoImage, where: str) -> Shape:
    shape = row.get("segmentation")
    if isinstance(shape, dict):
        if shape.get("size") != [image.height, image.width]:
            raise DataError(
                f"{where}: its run lengths have size {shape.get('size')!r}, its image [{image.height}, {image.width}]"
            )
        return shape
    if not isinstance(shape, list) or not shape:
        box = " (only a box: export the data set for segmentation)" if row.get("bbox") else ""
        raise DataError(f"{where} has no 'segmentation'{box}")
    return tuple(_polygons(shape, where))


def _polygons(shape: list[Any], where: str) -> Iterator[NDArray[np.float64]]:
    for polygon in shape:
        if not isinstance(polygon, list):
            raise DataError(f"{where}: a polygon is a list [x1, y1, x2, y2, ...], got {str(polygon)[:60]}")
        if len(polygon) < 6 or len(polygon) % 2:
            raise DataError(
                f"{where}: a polygon has {len(polygon)} numbers; it needs an even count of at least 6 (3 points)"
            )
        points = np.asarray(polygon) if _NUMBERS.issuperset(map(type, polygon)) else None
        # Whole numbers beyond 64 bits make an array of objects.
        if points is None or points.dtype == object or not np.abs(points).max() < _FARTHEST:
            raise DataError(f"{where}: a polygon holds what is no coordinate: {str(polygon)[:80]}")
        yield points.astype(np.float64).reshape(-1, 2)
