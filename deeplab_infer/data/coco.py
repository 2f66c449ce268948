# SPDX-License-Identifier: Apache-2.0
"""A data set with COCO-style annotations: polygons and run lengths, drawn into label maps when read.

What covers a pixel: the smallest region over it; of regions of one size the later in the file; crowds, which are
ignored, only where no other region is.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..configs import DatasetSpec
from ..configs.datasets import generic_dataset
from ..configs.suggest import suggest
from ..errors import DataError
from ..images import read_image
from ..masks import decode_rle, fill_polygons
from .base import Pair
from .class_files import check_class_names
from .coco_files import find_annotations, find_images
from .coco_index import CROWD, Category, CocoImage, Region, read_categories, read_coco, read_images
from .label_files import size_mismatch
from .splits import HASH_RULE, hash_split

_log = logging.getLogger(__name__)

BACKGROUND = "background"
Uncovered = Literal["background", "ignore"]


class CocoDataset:
    """Images of a COCO annotation file with label maps.

    Attributes:
        spec: the categories by rising id as classes; ``"background"`` goes before them where they have no such class
            and uncovered pixels are background.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str,
        annotations: str | os.PathLike[str] | None = None,
        spec: DatasetSpec | None = None,
        uncovered: Uncovered | None = None,
    ) -> None:
        """Read and check the annotation file.

        Args:
            root: the data set's folder.
            split: chooses the annotation file by its name or folder; a single file without a split in its name is
                divided by hash (`hash_split`).
            annotations: the file, from here or from ``root``; all of its images are used.
            spec: classes to use, found by their names; default: the categories.
            uncovered: ``"background"`` or ``"ignore"`` for pixels under no region; default: background, but ignored
                where ``spec`` has no class of that name.

        Raises:
            DataError: files are missing or malformed; messages name the annotation's id.
        """
        if uncovered not in (None, "background", "ignore"):
            raise DataError(f"uncovered pixels are 'background' or 'ignore', not {uncovered!r}")
        self.root = Path(root)
        file, divide = find_annotations(root, split, annotations)
        tables = read_coco(file)
        categories = read_categories(tables["categories"], file)
        self.spec = _spec(categories, file, uncovered) if spec is None else spec
        check_class_names(self.spec.classes, str(file) if spec is None else f"the classes of {spec.name!r}")
        self._uncovered = _fill_value(self.spec, uncovered)
        images = read_images(tables, _labels(categories, self.spec), file)
        if divide:
            _log.info("%s names no split: %s", file, HASH_RULE)
            kept = set(hash_split([image.file_name for image in images], split))
            images = [image for image in images if image.file_name in kept]
        if not images:
            raise DataError(f"{file} has no images for split {split!r}")
        self.annotations = file
        self._images = images
        self._paths = find_images(self.root, file, split, [image.file_name for image in images])

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Pair:
        entry = self._entry(index)
        path = self._paths[entry.file_name]
        image = read_image(path)
        if image.shape[:2] != (entry.height, entry.width):
            raise size_mismatch(path, image.shape, str(self.annotations), (entry.height, entry.width))
        return image, self.labels(index)

    def labels(self, index: int) -> NDArray[np.uint8]:
        """Only the labels of an image, uint8 [H, W]; the image is not read.

        Raises:
            DataError: malformed run lengths, with the annotation's id.
        """
        entry = self._entry(index)
        labels = np.full((entry.height, entry.width), self._uncovered, np.uint8)
        for region, patch in _painting_order(entry, self.annotations):
            below = labels[patch.top : patch.top + patch.mask.shape[0], patch.left : patch.left + patch.mask.shape[1]]
            below[patch.mask] = self.spec.ignore_index if region.label == CROWD else region.label
        return labels

    def name(self, index: int) -> str:
        """The image's file name in the annotations."""
        return self._entry(index).file_name

    def _entry(self, index: int) -> CocoImage:
        if not 0 <= index < len(self._images):
            raise IndexError(f"image {index} of {len(self._images)}")
        return self._images[index]


class _Patch(NamedTuple):
    """A region's pixels within their box."""

    top: int
    left: int
    mask: NDArray[np.bool_]


def _painting_order(entry: CocoImage, file: Path) -> list[tuple[Region, _Patch]]:
    """Crowds first, then from large to small; the sort keeps the file's order among equals."""
    patches = [(region, _patch(region, entry, file)) for region in entry.regions]
    return sorted(patches, key=lambda item: (item[0].label != CROWD, -int(item[1].mask.sum())))


def _patch(region: Region, entry: CocoImage, file: Path) -> _Patch:
    try:
        if isinstance(region.shape, dict):
            return _cropped(decode_rle(region.shape))
        corners = np.concatenate(region.shape)
        left, top = np.clip(np.floor(corners.min(0)), 0, (entry.width, entry.height)).astype(int)
        right, bottom = np.clip(np.ceil(corners.max(0)), 0, (entry.width, entry.height)).astype(int)
        moved = [polygon - (left, top) for polygon in region.shape]
        return _Patch(top, left, fill_polygons(moved, bottom - top, right - left))
    except DataError as error:
        raise DataError(f"{file}: annotation {region.id} of {entry.file_name}: {error}") from None


def _cropped(mask: NDArray[np.bool_]) -> _Patch:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return _Patch(0, 0, mask[:0, :0])
    return _Patch(rows[0], columns[0], mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy())


def _spec(categories: list[Category], file: Path, uncovered: Uncovered | None) -> DatasetSpec:
    names = tuple(category.name for category in categories)
    if not names:
        raise DataError(f"{file}: 'categories' is empty; there is nothing to learn")
    if uncovered != "ignore" and BACKGROUND not in names:
        names = (BACKGROUND, *names)
    return DatasetSpec("coco", names, generic_dataset(len(names), names).palette)


def _fill_value(spec: DatasetSpec, uncovered: Uncovered | None) -> int:
    if uncovered == "ignore":
        return spec.ignore_index
    if BACKGROUND in spec.classes:
        return spec.classes.index(BACKGROUND)
    if uncovered == "background":
        raise DataError(
            f"the classes of {spec.name!r} have no 'background' for uncovered pixels; add one, or ignore those pixels"
        )
    _log.info("the classes of %s have no 'background': pixels under no annotation are ignored", spec.name)
    return spec.ignore_index


def _labels(categories: list[Category], spec: DatasetSpec) -> dict[int, int | str]:
    """Class index by category id; for categories that are no class of ``spec`` what to say when one is used."""
    index = {name: position for position, name in enumerate(spec.classes)}
    return {
        category.id: index.get(
            category.name,
            f"category {category.name!r} is no class of {spec.name!r}{suggest(category.name, spec.classes)}",
        )
        for category in categories
    }
