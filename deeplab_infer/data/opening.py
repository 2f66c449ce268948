# SPDX-License-Identifier: Apache-2.0
"""A data set from its name or format, its folder and a split."""

from __future__ import annotations

import os

from ..configs import DatasetSpec, dataset_spec
from ..configs.datasets import dataset_names
from ..configs.suggest import suggest
from ..errors import ConfigError, DataError
from .base import LabelledImages
from .coco import CocoDataset, Uncovered
from .layout_files import open_layout
from .layouts import layouts
from .plain_folder import open_folder

_OWN_FORMATS = {
    "folder": "images/, masks/ and classes.txt",
    "coco": "COCO-style annotations (polygons, run lengths) with an images folder",
}


def dataset_formats() -> dict[str, str]:
    """Names that `open_dataset` takes, each with a line that describes it."""
    return {**{name: layout.title for name, layout in layouts().items()}, **_OWN_FORMATS}


def default_splits(name: str) -> tuple[str, str]:
    """The splits of a format for training and for evaluation, e.g. ``("trainaug", "val")`` for VOC.

    Raises:
        DataError: the name is unknown.
    """
    key = format_name(name)
    return layouts()[key].default_splits if key in layouts() else ("train", "val")


def format_name(name: str) -> str:
    """The name as `dataset_formats` has it; aliases such as ``"voc"`` are those of `dataset_spec`.

    Raises:
        DataError: the name is unknown; near misses are suggested.
    """
    key = name.lower()
    if key not in dataset_formats():
        try:
            key = dataset_spec(key).name
        except ConfigError:
            key = name
    if key in dataset_formats():
        return key
    known = ", ".join(dataset_formats())
    if key in dataset_names():
        raise DataError(f"data set {name!r} is generated and has no folder to open (those with one: {known})")
    raise DataError(f"unknown data set {name!r}{suggest(name.lower(), dataset_formats())} (known: {known})")


def open_dataset(
    name: str,
    root: str | os.PathLike[str],
    split: str,
    *,
    spec: DatasetSpec | None = None,
    annotations: str | os.PathLike[str] | None = None,
    uncovered: Uncovered | None = None,
) -> LabelledImages:
    """Open a split of a data set: its files are found and counted, none of the pictures is read.

    Args:
        name: of `dataset_formats`: a known data set, ``"folder"`` or ``"coco"``.
        root: the data set's folder or, for a known one, its usual parent.
        split: e.g. ``"train"`` or ``"val"``; `default_splits` gives the usual ones.
        spec: the classes to use. For a known data set as many as it has; for a folder those of classes.txt, which may
            then be missing; for COCO, categories are matched by name. Default: the data set's own.
        annotations: COCO only: the annotation file.
        uncovered: COCO only: ``"background"`` or ``"ignore"`` for pixels under no annotation.

    Raises:
        DataError: unknown name or split, or missing files; messages say what was looked for, what is there instead and
            what to download or prepare.
    """
    key = format_name(name)
    if key == "coco":
        return CocoDataset(root, split, annotations, spec, uncovered)
    for option, value in (("annotations", annotations), ("uncovered", uncovered)):
        if value is not None:
            raise DataError(f"{option} belongs to the data set format 'coco', not to {key!r}; leave it out")
    if key == "folder":
        return open_folder(root, split, spec)
    return open_layout(key, root, split, spec)
