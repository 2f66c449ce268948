# SPDX-License-Identifier: Apache-2.0
"""The images of ``deeplab-train``: to train on, to evaluate on, and a look at both before hours are spent."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..data.listing import some
from ..errors import DataError
from .cli import STREETS, make_console, parse_size

if TYPE_CHECKING:
    from ..configs import ModelConfig
    from ..data.base import LabelledImages

_log = logging.getLogger(__name__)
_DEFAULT_SCENES, _DEFAULT_VAL_SCENES = 500, 24
_DEFAULT_SCENE_SIZE, _DEFAULT_VAL_SIZE = "320x640", "384x768"
_SHOWN = 8


@dataclass(frozen=True)
class TrainingData:
    """What a run trains and evaluates on.

    Attributes:
        training: images with labels.
        validation: others, or None.
        order: positions that make an epoch; None for each once.
        workers: processes that cut crops, where none are asked for.
        description: JSON-able; a resumed run must have the same.
        source: where the images are from, for people.
    """

    training: LabelledImages
    validation: LabelledImages | None
    order: Sequence[int] | None
    workers: int
    description: dict[str, Any]
    source: str


def open_data(arguments: argparse.Namespace, config: ModelConfig) -> TrainingData:
    """Open what the options name; the config's own data set where they name none.

    Raises:
        DataError: options are missing, or files are.
    """
    name = (arguments.dataset or "").lower()
    generated = any(getattr(arguments, o) is not None for o in ("scenes", "scene_size", "val_scenes", "val_size"))
    if name in STREETS or generated or (not name and not arguments.data and config.dataset.name in STREETS):
        data = _streets(arguments)
    else:
        data = _files(arguments, config)
    order = _hard_images(data.training, arguments)
    if order is None:
        return data
    extra = {"bootstrap": arguments.bootstrap, "bootstrap_repeat": arguments.bootstrap_repeat}
    return dataclasses.replace(data, order=order, description={**data.description, **extra})


def adopt_classes(
    config: ModelConfig, data: TrainingData, name: str | None, overrides: Sequence[str] = ()
) -> ModelConfig:
    """The config with the classes of the data, where it has others; images are then used at their own size.

    Args:
        config: as it was named.
        data: of the run.
        name: of the new config; None makes one of both names.
        overrides: the user's ``key=value``, which win.
    """
    spec = data.training.spec
    if config.classes == spec.classes:
        return config if name is None else config.replace(name=name)
    _log.info(
        "config %s has the %d classes of %s; this run has the %d of its data: %s",
        config.name,
        config.num_classes,
        config.dataset.name,
        len(spec.classes),
        some(spec.classes),
    )
    changes: dict[str, Any] = {"dataset": spec, "num_classes": len(spec.classes)}
    if config.test_scale is not None and not any(text.startswith("test_scale=") for text in overrides):
        # The old data set's scale says nothing of these images, which training sees at their own.
        _log.info("images are evaluated at their own size, not within %dx%d (--set test_scale=...)", *config.test_scale)
        changes["test_scale"] = None
    name = name or f"{config.name}_{spec.name}"
    return config.replace(name=name, checkpoint="", checkpoint_sha256="", **changes)


def check_data(data: TrainingData, count: int, quiet: bool) -> dict[str, Any]:
    """Read some images of each part and refuse a data set with bad ones.

    Args:
        data: of the run.
        count: how many of each part; below 0 for all, 0 for none.
        quiet: without a progress bar.

    Returns:
        What was found, JSON-able.

    Raises:
        DataError: files that cannot be read, or labels out of range; each is named.
    """
    from rich.progress import Progress

    from ..data.checking import check_dataset

    if count == 0:
        return {}
    found: dict[str, Any] = {}
    parts = {"training": data.training} | ({"validation": data.validation} if data.validation is not None else {})
    with Progress(console=make_console(stderr=True, quiet=quiet), transient=True) as bar:
        for part, dataset in parts.items():
            task = bar.add_task(f"checking {part} images", total=None)
            report = check_dataset(
                dataset,
                lambda done, total, task=task: bar.update(task, completed=done, total=total),  # type: ignore[misc]
                limit=None if count < 0 else min(count, len(dataset)),
            )
            if report.problems:
                listed = "\n".join(f"  {problem.file}: {problem.problem}" for problem in report.problems[:_SHOWN])
                more = f"\n  and {len(report.problems) - _SHOWN} more" if len(report.problems) > _SHOWN else ""
                raise DataError(
                    f"{len(report.problems)} of {report.checked} checked {part} images cannot be used:\n{listed}{more}"
                )
            for warning in report.warnings() if report.checked == report.images else ():
                _log.warning("%s images: %s", part, warning)
            found[part] = report.to_dict()
    return found


def class_weights(text: str | None, data: TrainingData, quiet: bool) -> tuple[float, ...]:
    """Weights of the loss: numbers as given, or a rule applied to all training labels.

    Raises:
        DataError: neither a rule nor one number a class.
    """
    if not text:
        return ()
    from ..data.checking import check_dataset
    from ..data.dataset_report import WEIGHTINGS

    if text in WEIGHTINGS:
        with make_console(stderr=True, quiet=quiet).status("counting the training labels"):
            report = check_dataset(data.training)
        return tuple(float(weight) for weight in report.class_weights(text))
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise DataError(
            f"--class-weights {text!r} is neither {' nor '.join(WEIGHTINGS)} nor numbers with commas between"
        ) from None
    count = len(data.training.spec.classes)
    if len(values) != count:
        raise DataError(f"--class-weights has {len(values)} values, the data has {count} classes")
    return values


def _streets(arguments: argparse.Namespace) -> TrainingData:
    from ..data.scenes import HELD_OUT_SEED, InMemory, StreetScenes

    count = arguments.scenes or _DEFAULT_SCENES
    size = arguments.scene_size or _DEFAULT_SCENE_SIZE
    val_count = arguments.val_scenes or _DEFAULT_VAL_SCENES
    val_size = arguments.val_size or _DEFAULT_VAL_SIZE
    scenes = StreetScenes(count, *parse_size(size))
    held_out = StreetScenes(val_count, *parse_size(val_size), HELD_OUT_SEED)
    evaluated = arguments.val_split != "none"
    if not arguments.quiet:
        print(f"drawing {count} + {val_count if evaluated else 0} scenes", file=sys.stderr)
    description = {"dataset": "synthetic_streets", "scenes": count, "scene_size": size}
    validation = InMemory(held_out) if evaluated else None
    # Scenes lie in memory: a thread cuts crops as fast as processes, and shares the memory.
    return TrainingData(InMemory(scenes), validation, None, 0, description, f"generated streets of {size}")


def _files(arguments: argparse.Namespace, config: ModelConfig) -> TrainingData:
    import os

    from ..data.opening import dataset_formats, default_splits, format_name, open_dataset

    if not arguments.data:
        wanted = arguments.dataset or (config.dataset.name if config.dataset.name in dataset_formats() else "folder")
        raise DataError(f"config {config.name!r} needs images: give --dataset {wanted} --data DIR")
    if not arguments.dataset and config.dataset.name not in dataset_formats():
        raise DataError(
            f"--data {arguments.data} needs --dataset, the way its files are arranged: {', '.join(dataset_formats())}"
        )
    kind = format_name(arguments.dataset or config.dataset.name)
    split, val_split = default_splits(kind)
    split, val_split = arguments.split or split, arguments.val_split or val_split
    # Known data sets keep the config's classes, which may be a choice of the user's.
    spec = config.dataset if config.dataset.name == kind else None
    options: dict[str, Any] = {"spec": spec, "uncovered": arguments.uncovered}
    training = open_dataset(kind, arguments.data, split, annotations=arguments.annotations, **options)
    validation = None
    if val_split != "none":
        options["spec"] = training.spec if kind in ("coco", "folder") else spec
        validation = open_dataset(kind, arguments.data, val_split, annotations=arguments.val_annotations, **options)
        if validation.spec.classes != training.spec.classes:
            raise DataError(
                f"{split} has the classes {some(training.spec.classes)}, {val_split} has "
                f"{some(validation.spec.classes)}; they must be the same"
            )
    description = {"dataset": kind, "split": split, "images": len(training), "classes": list(training.spec.classes)}
    workers = min(4, len(os.sched_getaffinity(0)))
    source = f"{kind} in {arguments.data}, {split}" + ("" if validation is None else f" and {val_split}")
    return TrainingData(training, _limited(validation, arguments.val_limit), None, workers, description, source)


def _limited(dataset: LabelledImages | None, limit: int | None) -> LabelledImages | None:
    from ..evaluation import EvenlySpread

    return dataset if dataset is None or limit is None else EvenlySpread(dataset, limit)


def _hard_images(dataset: LabelledImages, arguments: argparse.Namespace) -> list[int] | None:
    if not arguments.bootstrap:
        return None
    from ..data.checking import hard_class_order

    classes = [name.strip() for name in arguments.bootstrap.split(",")]
    with make_console(stderr=True, quiet=arguments.quiet).status("looking for images with the hard classes"):
        order = hard_class_order(dataset, classes, arguments.bootstrap_repeat)
    _log.info("%d images make an epoch of %d with the hard classes repeated", len(dataset), len(order))
    return order
