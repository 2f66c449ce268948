# SPDX-License-Identifier: Apache-2.0
"""``deeplab-eval``: mIoU of a checkpoint or exported model on held-out street scenes."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from ..errors import DataError
from ..evaluation.confusion import Scores
from ..files import atomic_write
from ..runtime import BACKENDS, TORCH_PRECISIONS
from .cli import make_console, make_parser, run_command
from .train import parse_size

PROG = "deeplab-eval"
_EPILOG = """\
examples:
  deeplab-eval deeplabv3plus_mobilenetv2_streets
  deeplab-eval exported/deeplabv3plus_mobilenetv2_streets_fp16.onnx --backend openvino --count 50
"""


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = make_parser(PROG, "Measure a model's mIoU on generated street scenes that no training saw.", _EPILOG)
    parser.add_argument("model", help="an exported .engine, .onnx or .xml, a checkpoint, or a config's name")
    parser.add_argument("--backend", default="auto", help=f"{', '.join(BACKENDS)} (default: auto)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument(
        "--no-fused", action="store_true", help="torch backend: plain torch instead of the fused kernels"
    )
    parser.add_argument("--precision", choices=TORCH_PRECISIONS, help="torch backend (default: fp32)")
    parser.add_argument("--count", type=int, default=24, help="scenes (default: 24)")
    parser.add_argument("--size", default="384x768", metavar="HxW", help="of a scene (default: 384x768)")
    parser.add_argument("--json", metavar="FILE", help="write the figures here ('-' for stdout)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(PROG, build_parser(), _run, argv)


def _run(arguments: argparse.Namespace) -> int:
    from rich.progress import track

    from ..data.scenes import HELD_OUT_SEED, StreetScenes
    from ..evaluation import ConfusionMatrix
    from ..segmenter import Segmenter

    scenes = StreetScenes(arguments.count, *parse_size(arguments.size), HELD_OUT_SEED)
    with Segmenter(
        arguments.model,
        backend=arguments.backend,
        device=arguments.device,
        threads=arguments.threads,
        fused=not arguments.no_fused,
        precision=arguments.precision,
    ) as segmenter:
        if segmenter.classes != scenes.spec.classes:
            raise DataError(
                f"{arguments.model} has {len(segmenter.classes)} classes ({', '.join(segmenter.classes[:3])}, ...), "
                f"the street scenes have {len(scenes.spec.classes)}; train or choose a model with those classes"
            )
        matrix = ConfusionMatrix(scenes.spec.classes, scenes.spec.ignore_index)
        bar = make_console(stderr=True)
        for index in track(range(len(scenes)), "scenes", console=bar, disable=arguments.quiet, transient=True):
            image, labels = scenes[index]
            matrix.add(segmenter.predict(image).labels, labels)
        result = {"model": arguments.model, **segmenter.describe(), **matrix.scores().to_dict()}
    _show(matrix.scores(), result, arguments)
    return 0


def _show(scores: Scores, result: dict[str, object], arguments: argparse.Namespace) -> None:
    from rich.table import Table

    text = json.dumps(result, indent=1) + "\n"
    if arguments.json == "-":
        sys.stdout.write(text)
        return
    if arguments.json:
        with atomic_write(arguments.json, "w") as stream:
            stream.write(text)
    table = Table(title=f"{arguments.count} held-out scenes of {arguments.size}", title_justify="left")
    for name in ("class", "IoU", "accuracy", "pixels"):
        table.add_column(name, justify="left" if name == "class" else "right")
    for name, iou, accuracy, pixels in zip(scores.classes, scores.iou, scores.accuracy, scores.pixels, strict=True):
        table.add_row(name, f"{iou:.2%}", f"{accuracy:.2%}", f"{pixels:,}")
    table.add_section()
    table.add_row("mean", f"{scores.miou:.2%}", f"{scores.macc:.2%}", f"all pixels {scores.aacc:.2%}")
    make_console().print(table)


if __name__ == "__main__":
    sys.exit(main())
