# SPDX-License-Identifier: Apache-2.0
"""``deeplab-eval``: mIoU of models on a dataset, near boundaries, and against each other."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError, DeepLabError
from ..files import sha256_file
from ..runtime import BACKENDS, RUN_PRECISIONS
from .cli import make_console, run_command
from .evaluate_dataset import open_source
from .evaluate_options import MS_SCALES, PROG, build_parser, check_options, for_each_model
from .evaluate_output import judge, picture_path, slug, versions, write_report
from .window_options import window_options

if TYPE_CHECKING:
    from ..data.base import LabelledImages
    from ..evaluation import Comparison, LabelStore, ModelResult, Trimap
    from ..evaluation.evaluate import Watcher
    from ..segmenter import Segmenter


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    typed = sys.argv[1:] if argv is None else list(argv)
    return run_command(PROG, build_parser(), lambda arguments: _run(arguments, typed), argv)


def _run(arguments: argparse.Namespace, typed: Sequence[str]) -> int:
    from ..evaluation import Report
    from ..evaluation.classes import check_classes

    check_options(arguments)
    with ExitStack() as opened:
        models = _open_models(arguments, opened)
        source = open_source(arguments, models[0].name, models[0].segmenter.config.dataset)
        dataset = source.images
        for model in models:
            check_classes(model.name, model.segmenter.classes, dataset.spec, arguments.by_index)
        results, comparisons = _evaluate_all(models, dataset, arguments)
    context = {**source.context, "command": shlex.join([PROG, *typed]), **versions()}
    report = Report(source.title, tuple(results), tuple(comparisons), context)
    write_report(report, dataset, arguments)
    return judge(report, arguments)


# -- models


@dataclass(frozen=True)
class _Model:
    """An opened model, what tables call it, and what the JSON says about it."""

    name: str
    segmenter: Segmenter
    details: dict[str, Any]


def _open_models(arguments: argparse.Namespace, opened: ExitStack) -> list[_Model]:
    """All at once, so that one that does not open or fit is known before the first has run for an hour."""
    from ..segmenter import Segmenter

    count = len(arguments.model)
    backends = for_each_model(arguments.backend, count, "--backend", BACKENDS)
    devices = for_each_model(arguments.device, count, "--device")
    precisions = for_each_model(arguments.precision, count, "--precision", RUN_PRECISIONS)
    windows = window_options(arguments)
    scales = MS_SCALES if arguments.ms_flip else arguments.scales or (1.0,)
    segmenters = [
        opened.enter_context(
            Segmenter(
                model,
                backend=backend or "auto",
                device=device or "auto",
                threads=arguments.threads,
                fused=not arguments.no_fused,
                precision=None if precision == "auto" else precision,
                **windows,
                scales=scales,
                flip=arguments.flip or arguments.ms_flip,
            )
        )
        for model, backend, device, precision in zip(arguments.model, backends, devices, precisions, strict=True)
    ]
    names = _names(arguments.model, segmenters)
    return [
        _Model(name, segmenter, {"model": path, **_fingerprint(path), **segmenter.describe()})
        for name, path, segmenter in zip(names, arguments.model, segmenters, strict=True)
    ]


def _names(paths: Sequence[str], segmenters: Sequence[Segmenter]) -> list[str]:
    """File names where they tell the models apart, then whole paths, then what each runs on, then numbers."""
    runs = [f"{one['backend']} {one['precision']}" for one in (s.describe() for s in segmenters)]
    candidates = [
        [Path(path).name for path in paths],
        list(paths),
        [f"{Path(path).name} ({run})" for path, run in zip(paths, runs, strict=True)],
        [f"{path} ({run})" for path, run in zip(paths, runs, strict=True)],
    ]
    for names in candidates:
        if len(set(names)) == len(names):
            return names
    return [f"{name} #{number}" for number, name in enumerate(candidates[2], 1)]


def _fingerprint(model: str) -> dict[str, str]:
    path = Path(model)
    files = {"sha256": path, "sha256_weights": path.with_suffix(".bin")} if path.suffix == ".xml" else {"sha256": path}
    return {key: sha256_file(file) for key, file in files.items() if file.is_file()}


# -- measuring


def _evaluate_all(
    models: Sequence[_Model], dataset: LabelledImages, arguments: argparse.Namespace
) -> tuple[list[ModelResult], list[Comparison]]:
    """One model after the other: the thread pools of two runtimes at once slow each other."""
    from ..evaluation import LabelStore, ModelComparison

    results: list[ModelResult] = []
    comparisons: list[Comparison] = []
    firsts = LabelStore()
    for number, model in enumerate(models):
        watchers: list[Watcher] = []
        comparison = None
        if number:
            names = (models[0].name, model.name)
            comparison = ModelComparison(names, dataset.spec.classes, dataset.spec.ignore_index, arguments.worst)
            watchers.append(_comparing(comparison, firsts, dataset))
        elif len(models) > 1:
            watchers.append(lambda index, labels, predicted: firsts.put(index, predicted))
        results.append(_evaluate_one(model, dataset, arguments, watchers, alone=len(models) == 1))
        if comparison is not None:
            comparisons.append(comparison.result())
    return results, comparisons


def _evaluate_one(
    model: _Model, dataset: LabelledImages, arguments: argparse.Namespace, watchers: list[Watcher], alone: bool
) -> ModelResult:
    from ..evaluation import ModelResult, evaluate

    trimap = _make_trimap(dataset, arguments)
    if trimap is not None:
        watchers.append(lambda index, labels, predicted: trimap.add(predicted, labels))
    if arguments.save:
        watchers.append(_saving(model, dataset, Path(arguments.save) / ("" if alone else slug(model.name))))
    with _progress(model.name, arguments) as report:
        done = evaluate(
            lambda image: model.segmenter.predict(image).labels,
            dataset,
            report,
            watchers=watchers,
            skip_unreadable=arguments.skip_unreadable,
            read_ahead=model.details["device"] != "cpu",
        )
    scores = done.scores()
    if not scores.pixels.sum():
        raise DataError(f"no pixel of the {done.images} images is labelled with a class; nothing can be measured")
    bands = None if trimap is None else trimap.scores()
    if bands is not None and not bands.scores[-1].pixels.sum():
        raise DataError(
            f"no labelled pixel is within {bands.widths[-1]} pixels of a boundary ({bands.edges}); "
            "use --boundary-edges both or wider bands"
        )
    return ModelResult(model.name, scores, done.images, done.seconds, bands, done.unreadable, model.details)


def _make_trimap(dataset: LabelledImages, arguments: argparse.Namespace) -> Trimap | None:
    from ..evaluation import Trimap
    from ..evaluation.boundary import DEFAULT_WIDTHS

    widths = arguments.boundary or (DEFAULT_WIDTHS if arguments.boundary_plot else None)
    if widths is None:
        return None
    return Trimap(dataset.spec.classes, dataset.spec.ignore_index, widths, arguments.boundary_edges)


def _comparing(comparison: Any, firsts: LabelStore, dataset: LabelledImages) -> Watcher:
    def watch(index: int, labels: Any, predicted: Any) -> None:
        comparison.add(index, dataset.name(index), firsts.get(index), predicted, labels)

    return watch


def _saving(model: _Model, dataset: LabelledImages, folder: Path) -> Watcher:
    """Writes predictions under the names of their images."""
    from ..segmentation import Segmentation

    taken: dict[Path, str] = {}

    def watch(index: int, labels: Any, predicted: Any) -> None:
        name = dataset.name(index)
        target = folder / picture_path(name)
        if taken.setdefault(target, name) != name:
            raise DeepLabError(f"--save: {name} and {taken[target]} would both be written as {target}; rename one")
        target.parent.mkdir(parents=True, exist_ok=True)
        Segmentation(predicted, model.segmenter.classes, model.segmenter.palette).save(target, "labels")

    return watch


@contextmanager
def _progress(name: str, arguments: argparse.Namespace) -> Iterator[Callable[[int, int], None]]:
    """A bar with the time left, where someone looks at it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = make_console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    quiet = arguments.quiet or not console.is_terminal
    with Progress(*columns, console=console, disable=quiet, transient=True) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


if __name__ == "__main__":
    sys.exit(main())
