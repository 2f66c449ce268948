# SPDX-License-Identifier: Apache-2.0
"""What ``deeplab-eval`` prints, writes and judges."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import re
import sys
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..files import atomic_write
from ..images import SUFFIXES
from .cli import make_console
from .evaluate_options import PROG

if TYPE_CHECKING:
    from ..data.base import LabelledImages
    from ..evaluation import Comparison, ModelResult, Report

_PACKAGES = ("torch", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt_rtx", "tensorrt-rtx", "numpy",
             "opencv-python-headless")  # fmt: skip


def write_report(report: Report, dataset: LabelledImages, arguments: argparse.Namespace) -> None:
    """Every file that was asked for, then the tables, then what was left out and how long it took.

    Args:
        report: the results.
        dataset: what they are of; images of agreement maps are read again.
        arguments: of the command.
    """
    from ..evaluation import plot_confusion, plot_trimap

    text = json.dumps(report.to_dict(), indent=1) + "\n"
    for path, content in ((arguments.json, text), (arguments.csv, report.to_csv())):
        if path and path != "-":
            with atomic_write(path, "w") as stream:
                stream.write(content)
    if arguments.confusion:
        for model in report.models:
            plot_confusion(model.scores, _one_each(arguments.confusion, model, report), f"{model.name}: {report.title}")
    if arguments.boundary_plot:
        curves = {model.name: (model.trimap, model.scores) for model in report.models if model.trimap}
        plot_trimap(curves, arguments.boundary_plot)
    if arguments.agreement_map:
        for comparison in report.comparisons:
            _draw_worst(comparison, dataset, report, Path(arguments.agreement_map))
    if arguments.json == "-":
        sys.stdout.write(text)
    elif arguments.markdown:
        sys.stdout.write(report.to_markdown())
    else:
        console = make_console()
        for table in report.tables():
            console.print(table)
    _tell(report, arguments)


def _tell(report: Report, arguments: argparse.Namespace) -> None:
    """What was left out, always; how long it took, unless told to be quiet."""
    for message in report.models[0].unreadable:
        print(f"{PROG}: left out: {message}", file=sys.stderr)
    for model in report.models if not arguments.quiet else ():
        each = 1e3 * model.seconds / max(1, model.images)
        print(
            f"{model.name}: {model.images} images predicted in {model.seconds:.1f} s, {each:.1f} ms each",
            file=sys.stderr,
        )


def _draw_worst(comparison: Comparison, dataset: LabelledImages, report: Report, folder: Path) -> None:
    from PIL import Image

    from ..evaluation import draw_agreement

    if len(report.comparisons) > 1:
        folder = folder / slug(comparison.names[1])
        folder.mkdir(exist_ok=True)
    for rank, worst in enumerate(comparison.worst, 1):
        image, labels = dataset[worst.index]
        first, second = worst.predictions
        ignored = dataset.spec.ignore_index
        picture = draw_agreement(image, first, second, labels, names=comparison.names, ignore_index=ignored)
        with atomic_write(folder / f"{rank:02d}_{slug(str(picture_path(worst.name)))}") as stream:
            Image.fromarray(picture).save(stream, "PNG")


def judge(report: Report, arguments: argparse.Namespace) -> int:
    """Exit code: 1 where ``--min-miou`` or ``--min-agreement`` was missed, which is said, else 0."""
    misses = []
    if arguments.min_miou is not None:
        misses += [
            f"{model.name}: mIoU {model.scores.miou:.4f} is below --min-miou {arguments.min_miou:g}"
            for model in report.models
            if not model.scores.miou >= arguments.min_miou
        ]
    if arguments.min_agreement is not None:
        misses += [
            f"{one.names[1]}: agreement {one.agreement:.6f} with {one.names[0]} is below --min-agreement "
            f"{arguments.min_agreement:g}"
            for one in report.comparisons
            if not one.agreement >= arguments.min_agreement
        ]
    for miss in misses:
        print(f"{PROG}: {miss}", file=sys.stderr)
    return 1 if misses else 0


def versions() -> dict[str, Any]:
    """JSON-able: versions of what took part, and the system."""
    installed = {d.name: d.version for d in importlib.metadata.distributions() if d.name in _PACKAGES}
    all_of_them = {"deeplab-infer": __version__, "python": platform.python_version(), **dict(sorted(installed.items()))}
    return {"versions": all_of_them, "system": platform.platform()}


def _one_each(path: str, model: ModelResult, report: Report) -> Path:
    target = Path(path)
    return target if len(report.models) == 1 else target.with_stem(f"{target.stem}_{slug(model.name)}")


def picture_path(name: str) -> PurePosixPath:
    """The path of an image's PNG below a folder, from its name in the dataset; it never leads out of that folder."""
    parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", "..", ".")]
    path = PurePosixPath(*(re.sub(r"[^\w.\-]", "_", part) for part in parts or ["image"]))
    return path.with_suffix(".png") if path.suffix.lower() in SUFFIXES else path.with_name(f"{path.name}.png")


def slug(text: str) -> str:
    """A text as a part of a file's name."""
    return re.sub(r"[^\w.\-]+", "_", text).strip("_")
