# SPDX-License-Identifier: Apache-2.0
"""Which images ``deeplab-eval`` evaluates on."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from .cli import STREETS, parse_size
from .evaluate_options import DEFAULT_COUNT, DEFAULT_SIZE

if TYPE_CHECKING:
    from ..configs import DatasetSpec
    from ..data.base import LabelledImages


@dataclass(frozen=True)
class Source:
    """Images, and where they are from.

    Attributes:
        images: the dataset, or the part of it that was asked for.
        title: for tables.
        context: for the JSON.
    """

    images: LabelledImages
    title: str
    context: dict[str, Any]


def open_source(arguments: argparse.Namespace, model: str, trained_on: DatasetSpec) -> Source:
    """The dataset that was asked for, or else the one that a model was trained on.

    Args:
        arguments: of the command.
        model: what messages call the model.
        trained_on: its classes.

    Raises:
        DataError: options are missing, or the dataset cannot be opened.
    """
    from ..evaluation import EvenlySpread

    name = _choose(arguments, model, trained_on)
    source = _streets(arguments) if name in STREETS else _files(name, arguments, trained_on)
    total = len(source.images)
    if arguments.limit is None or arguments.limit >= total:
        return Source(source.images, f"{total} {source.title}", source.context)
    part = EvenlySpread(source.images, arguments.limit)
    return Source(part, f"{len(part)} of {total} {source.title}", {**source.context, "limit": arguments.limit})


def _choose(arguments: argparse.Namespace, model: str, trained_on: DatasetSpec) -> str:
    if arguments.dataset:
        return str(arguments.dataset).lower()
    if arguments.count is not None or arguments.size is not None:
        return STREETS[0]
    from ..data.opening import dataset_formats

    if trained_on.name in STREETS and not arguments.data:
        return STREETS[0]
    known = trained_on.name in dataset_formats()
    if known and arguments.data:
        return trained_on.name
    classes = f"{model} has the {len(trained_on.classes)} classes of {trained_on.name!r}"
    if arguments.data:
        raise DataError(
            f"{classes}, which does not tell how the files in {arguments.data!r} are arranged; give --dataset "
            f"({', '.join(dataset_formats())})"
        )
    raise DataError(f"{classes}; give images: --dataset {trained_on.name if known else 'folder'} --data DIR")


def _streets(arguments: argparse.Namespace) -> Source:
    from ..data.scenes import HELD_OUT_SEED, StreetScenes

    count = DEFAULT_COUNT if arguments.count is None else arguments.count
    size = arguments.size or DEFAULT_SIZE
    height, width = parse_size(size)
    scenes = StreetScenes(count, height, width, HELD_OUT_SEED)
    context = {"dataset": scenes.spec.name, "count": count, "size": size}
    return Source(scenes, f"held-out scenes of {size}", context)


def _files(name: str, arguments: argparse.Namespace, trained_on: DatasetSpec) -> Source:
    from ..data.opening import default_splits, format_name, open_dataset

    kind = format_name(name)
    split = arguments.split or default_splits(kind)[1]
    # A plain folder without classes.txt has the model's classes; the others know their own.
    bare = kind == "folder" and not (Path(arguments.data) / "classes.txt").is_file()
    images = open_dataset(
        kind,
        arguments.data,
        split,
        spec=trained_on if bare else None,
        annotations=arguments.annotations,
        uncovered=arguments.uncovered,
    )
    context = {"dataset": images.spec.name, "format": kind, "data": arguments.data, "split": split}
    context |= {key: getattr(arguments, key) for key in ("annotations", "uncovered") if getattr(arguments, key)}
    return Source(images, f"images of {images.spec.name} {split}", context)
