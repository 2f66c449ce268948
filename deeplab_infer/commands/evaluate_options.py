# SPDX-License-Identifier: Apache-2.0
"""The options of ``deeplab-eval``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..errors import DeepLabError
from ..evaluation.boundary import DEFAULT_WIDTHS, EDGES
from ..evaluation.plots import require_plotting
from ..files import require_writable_dir
from ..runtime import BACKENDS, RUN_PRECISIONS
from .cli import STREETS, make_parser
from .window_options import add_window_options

PROG = "deeplab-eval"
DEFAULT_COUNT, DEFAULT_SIZE = 24, "384x768"
# The reference's scales, each plain and mirrored: 12 passes.
MS_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
_EPILOG = """\
examples:
  deeplab-eval deeplabv3plus_mobilenetv2_streets
  deeplab-eval exported/deeplabv3plus_mobilenetv2_streets_fp16.onnx --backend openvino --count 50
  deeplab-eval model.onnx --dataset cityscapes --data data/cityscapes --ms-flip --json result.json
  deeplab-eval model.onnx --dataset folder --data my_data --boundary --confusion confusion.png
  deeplab-eval model.pth model.engine --data data/cityscapes --agreement-map differences --min-agreement 0.99

Several models: all in one table, and each is compared with the first. --backend, --device and --precision then take
one value for all, or one for each, with commas between.
exit code: 0 done, 1 --min-miou or --min-agreement missed, 2 wrong use or an error, 130 interrupted
"""


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = make_parser(
        PROG,
        "Measure a model's mIoU on a dataset, on generated street scenes that no training saw, or compare models.",
        _EPILOG,
    )
    parser.add_argument(
        "model", nargs="+", help="an exported .engine, .onnx or .xml, a checkpoint, or a config's name; several compare"
    )
    _dataset_options(parser.add_argument_group("what to evaluate on"))
    _runtime_options(parser.add_argument_group("how to run"))
    _protocol_options(parser.add_argument_group("how to predict"))
    _measure_options(parser.add_argument_group("what to measure besides IoU and accuracy"))
    _output_options(parser.add_argument_group("what to write"))
    _limit_options(parser.add_argument_group("what must be reached"))
    return parser


def _dataset_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--dataset",
        metavar="NAME",
        help="cityscapes, ade20k, voc12aug, pascal_context, pascal_context_59, loveda, potsdam, coco, folder "
        "(images/, masks/, classes.txt), or streets (generated); default: the one that the model was trained on",
    )
    group.add_argument("--data", metavar="DIR", help="folder of the dataset")
    group.add_argument("--split", metavar="NAME", help="part of the dataset (default: its usual one, val)")
    group.add_argument("--annotations", metavar="FILE", help="coco: the annotation file (default: the split's)")
    group.add_argument("--uncovered", choices=("background", "ignore"), help="coco: pixels under no annotation")
    group.add_argument("--limit", type=int, metavar="N", help="only N images, evenly spread")
    group.add_argument(
        "--skip-unreadable", type=int, default=0, metavar="N", help="leave out up to N unreadable images"
    )
    group.add_argument("--by-index", action="store_true", help="accept other class names if the number of them agrees")
    group.add_argument("--count", type=int, help=f"streets: scenes (default: {DEFAULT_COUNT})")
    group.add_argument("--size", metavar="HxW", help=f"streets: of a scene (default: {DEFAULT_SIZE})")


def _runtime_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--backend", default="auto", help=f"{', '.join(BACKENDS)} (default: auto)")
    group.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    group.add_argument("--threads", type=int, help="CPU threads")
    group.add_argument(
        "--no-fused", action="store_true", help="torch backend: plain torch instead of the fused kernels"
    )
    group.add_argument("--precision", help=f"{', '.join(RUN_PRECISIONS)} (default: fp32, or the file's own)")


def _protocol_options(group: argparse._ArgumentGroup) -> None:
    add_window_options(group)
    group.add_argument(
        "--scales", type=parse_scales, metavar="S,S,...", help="scales to average over, e.g. 0.75,1,1.25 (default: 1)"
    )
    group.add_argument("--flip", action="store_true", help="average with the mirrored image")
    group.add_argument(
        "--ms-flip",
        action="store_true",
        help=f"the reference's multi-scale protocol: scales {','.join(map(str, MS_SCALES))}, each mirrored too",
    )


def _measure_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--boundary",
        nargs="?",
        type=parse_widths,
        const=DEFAULT_WIDTHS,
        metavar="W,W,...",
        help="mIoU in bands of these widths around boundaries, pixels "
        f"(without widths: {','.join(map(str, DEFAULT_WIDTHS))})",
    )
    group.add_argument(
        "--boundary-edges",
        choices=EDGES,
        default="auto",
        help="which boundaries: edges of void regions (the papers), edges between classes, or both (auto)",
    )


def _output_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    group.add_argument("--json", metavar="FILE", help="write the figures here ('-' for stdout)")
    group.add_argument("--csv", metavar="FILE", help="write a row for each class and model here")
    group.add_argument(
        "--confusion", metavar="FILE", help="draw the confusion matrix (.png, .svg, .pdf); of several models one each"
    )
    group.add_argument("--boundary-plot", metavar="FILE", help="draw mIoU over the width of the band; adds --boundary")
    group.add_argument("--save", metavar="DIR", help="write predictions as palettised PNGs of class numbers")
    group.add_argument(
        "--agreement-map", metavar="DIR", help="several models: draw where they differ, on the images with most of it"
    )
    group.add_argument("--worst", type=int, default=5, metavar="N", help="how many such images (default: 5)")


def _limit_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--min-miou", type=float, metavar="X", help="exit code 1 if a model's mIoU is below, 0..1")
    group.add_argument(
        "--min-agreement",
        type=float,
        metavar="X",
        help="exit code 1 if a model's labels agree less with the first, 0..1",
    )


def check_options(arguments: argparse.Namespace) -> None:
    """Refuse options that contradict each other or cannot be served, before anything is loaded.

    Raises:
        DeepLabError: what was wrong, and what to do.
    """
    if arguments.ms_flip and (arguments.scales or arguments.flip):
        raise DeepLabError("--ms-flip brings its own scales and flip; leave out --scales and --flip")
    for name in ("min_miou", "min_agreement"):
        value = getattr(arguments, name)
        if value is not None and not 0 <= value <= 1:
            raise DeepLabError(f"--{name.replace('_', '-')} is a share in 0..1, got {value:g}; 79 % is 0.79")
    for name in ("limit", "worst"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise DeepLabError(f"--{name} must be at least 1, got {value}")
    if arguments.skip_unreadable < 0:
        raise DeepLabError(f"--skip-unreadable must be at least 0, got {arguments.skip_unreadable}")
    if len(arguments.model) == 1:
        for name in ("agreement_map", "min_agreement"):
            if getattr(arguments, name) is not None:
                raise DeepLabError(f"--{name.replace('_', '-')} compares models; give two or more")
    _check_dataset(arguments)
    _check_outputs(arguments)


def _check_dataset(arguments: argparse.Namespace) -> None:
    generated = arguments.count is not None or arguments.size is not None
    streets = (arguments.dataset or "").lower() in STREETS
    if (generated and (arguments.data or (arguments.dataset and not streets))) or (streets and arguments.data):
        raise DeepLabError(
            "--count and --size are for generated streets, --data is for other datasets; give one of them"
        )
    if arguments.dataset and not streets and not arguments.data:
        raise DeepLabError(f"--dataset {arguments.dataset} needs its folder: give --data DIR")


def _check_outputs(arguments: argparse.Namespace) -> None:
    for name in ("json", "csv"):
        path = getattr(arguments, name)
        if path and path != "-" and not Path(path).parent.is_dir():
            raise DeepLabError(f"--{name} {path}: there is no folder {str(Path(path).parent)!r}; make it first")
    for path in (arguments.confusion, arguments.boundary_plot):
        if path:
            require_plotting(path)
    for folder in (arguments.save, arguments.agreement_map):
        if folder:
            require_writable_dir(folder)


def for_each_model(text: str | None, count: int, option: str, known: Sequence[str] = ()) -> list[str | None]:
    """One value a model of an option that takes one for all or one for each.

    Args:
        text: values with commas between; None for none.
        count: number of models.
        option: for messages.
        known: what values there are besides ``auto``; empty for any.

    Raises:
        DeepLabError: another number of values, or an unknown one.
    """
    values: list[str | None] = [None] if text is None else [value.strip() for value in text.split(",")]
    for value in values:
        if value is not None and known and value not in (*known, "auto"):
            raise DeepLabError(f"{option} {value!r} is not one of auto, {', '.join(known)}")
    if len(values) not in (1, count):
        raise DeepLabError(f"{option} has {len(values)} values for {count} models; give one for all, or one for each")
    return values * count if len(values) == 1 else values


def parse_scales(text: str) -> tuple[float, ...]:
    """``"0.75,1,1.25"`` as numbers."""
    try:
        scales = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} are not scales like 0.75,1,1.25") from None
    if not all(0 < scale < 100 for scale in scales):
        raise argparse.ArgumentTypeError(f"scales must be positive, got {text!r}")
    return scales


def parse_widths(text: str) -> tuple[int, ...]:
    """``"1,3,10"`` as whole numbers of pixels."""
    parts = text.split(",")
    if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(
            f"{text!r} are not widths like 1,3,10 (pixels); put the model before --boundary"
        )
    return tuple(int(part) for part in parts)
