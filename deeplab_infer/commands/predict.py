# SPDX-License-Identifier: Apache-2.0
"""``deeplab-predict``: masks, overlays and summaries of files, folders, globs, videos and cameras."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DeepLabError
from ..files import require_writable_dir
from ..images import MAX_PIXELS
from ..outputs import Outputs
from ..outputs.writer import run_names, suffixes
from ..runtime import BACKENDS, RUN_PRECISIONS
from ..streaming.names import Name, expand, expand_all, is_media, read_names
from .cli import make_parser, run_command
from .job_options import add_job_options, wants_job
from .output_names import OutputNames
from .output_options import add_output_options, output_options
from .predict_run import Input, Run
from .predict_videos import VideoPlan
from .stream_options import add_stream_options, stream_options
from .stream_progress import StreamProgress
from .terminating import stop_like_ctrl_c
from .window_options import add_window_options, window_options

if TYPE_CHECKING:
    from ..segmenter import Segmenter

PROG = "deeplab-predict"
_EPILOG = """\
examples:
  deeplab-predict model.engine street.png -o out --overlay
  deeplab-predict model.onnx photos/ "more/*.jpg" -o out --overlay --json
  deeplab-predict model.onnx big.png -o out --mode slide --window 769x769 --window-stride 513x513
  deeplab-predict model.onnx photos/ -o out --no-mask --coco polygons --classes car person --threshold 0.8
  deeplab-predict model.onnx huge.tif -o out --mode slide --window 512x512 --windows even --blend linear
  deeplab-predict model.engine street.mp4 -o out --json --smooth 5
  deeplab-predict model.engine rtsp://name:password@10.0.0.5/live -o out --drop --no-video --json
  find photos -name "*.jpg" -print0 | deeplab-predict model.onnx - -0 -o out
  deeplab-predict model.onnx archive/ -r -o out --resume
  deeplab-predict model.engine archive/ -r -o /shared/out --ray auto

Masks are palettised PNGs of class indices. --json writes results.jsonl, one line an image with the area of each class.
A video or camera gives NAME_overlay.mp4 with the sound of the video, with --json NAME.jsonl, a line a frame as soon as
it is done, and with --frames a folder of what is written of images. A file that cannot be read is reported and skipped.
exit code: 0 all done, 1 some files failed, 2 wrong use or nothing could be done, 130 interrupted
"""


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = make_parser(PROG, "Segment images and videos with an exported model, a checkpoint or a config.", _EPILOG)
    parser.add_argument(
        "model", help="an exported .engine, .onnx or .xml; with torch also a checkpoint or a config's name"
    )
    parser.add_argument(
        "source",
        nargs="+",
        help="images, videos, folders, patterns, cameras (rtsp://, http://, /dev/video0), or - for names on stdin",
    )
    parser.add_argument("-o", "--output-dir", default="predictions", metavar="DIR", help="default: predictions")
    add_output_options(parser)
    add_stream_options(parser)
    add_job_options(parser)
    run = parser.add_argument_group("how to run")
    run.add_argument("-r", "--recursive", action="store_true", help="also the folders below")
    run.add_argument("--backend", default="auto", help=f"{', '.join(BACKENDS)} (default: auto)")
    run.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    run.add_argument("--threads", type=int, help="CPU threads (default: all)")
    run.add_argument("--no-fused", action="store_true", help="torch backend: plain torch instead of the fused kernels")
    run.add_argument(
        "--precision",
        choices=RUN_PRECISIONS,
        help="of a network, or bf16 of an fp32 file on a CPU (default: fp32, or its own)",
    )
    add_window_options(run)
    run.add_argument(
        "--max-pixels", type=int, default=MAX_PIXELS, help=f"refuse files with more (default: {MAX_PIXELS})"
    )
    run.add_argument("--scales", type=float, nargs="+", default=[1.0], help="scales to average over (default: 1.0)")
    run.add_argument("--flip", action="store_true", help="average with the mirrored image")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(PROG, build_parser(), _run, argv)


def _run(arguments: argparse.Namespace) -> int:
    options, streams = output_options(arguments), stream_options(arguments)
    plan = VideoPlan(options, not arguments.no_video, arguments.frames, arguments.max_frames)
    from_stdin = arguments.source == ["-"]
    if wants_job(arguments):
        from .predict_job import predict_job

        every = list(_from_stdin(arguments)) if from_stdin else _known(arguments, plan)
        return predict_job(arguments, every, _model_options(arguments), options)
    known = [] if from_stdin else _known(arguments, plan)
    names = OutputNames(known, run_names(options), arguments.output_dir)

    def named(name: Name) -> Input:
        media = is_media(name)
        return Input(name, names.stem(name, plan.suffixes if media else suffixes(options)), media)

    # Known names are given theirs before the model is loaded: a clash should not take a minute to find.
    given = [named(name) for name in known]
    inputs: Iterable[Input] = map(named, _from_stdin(arguments)) if from_stdin else given
    folder = require_writable_dir(arguments.output_dir)
    files = [Path(one.name).absolute().parent for one in given if not one.is_media]
    root = os.path.commonpath(files) if files else Path.cwd()
    with (
        stop_like_ctrl_c(),
        _open(arguments) as segmenter,
        Outputs(
            folder,
            options,
            segmenter.classes,
            segmenter.palette,
            root=root,
            whole_run=from_stdin or bool(files),
        ) as outputs,
        StreamProgress(arguments.quiet) as progress,
    ):
        run = Run(segmenter, outputs, plan, progress, streams, hurried=from_stdin, max_pixels=arguments.max_pixels)
        run.all(inputs, images=None if from_stdin else len(files))
    return run.exit_code()


def _known(arguments: argparse.Namespace, plan: VideoPlan) -> list[Name]:
    """All inputs that were named on the command line."""
    if "-" in arguments.source:
        raise DeepLabError("'-' stands for all names, read from stdin; give no other source with it")
    if arguments.null:
        raise DeepLabError("--null is about names on stdin; give '-' as the source")
    known = expand_all(arguments.source, arguments.recursive)
    if any(is_media(name) for name in known):
        plan.check()
    return known


def _from_stdin(arguments: argparse.Namespace) -> Iterator[Name]:
    """Names as they come; what is wrong with one is said when it is read."""
    # Without a buffer: a thread that waits in it would keep the process from ending.
    for name in read_names(lambda size: os.read(sys.stdin.fileno(), size), arguments.null):
        if os.path.isdir(name):
            yield from expand(name, arguments.recursive)
        else:
            yield name if is_media(name) else Path(name)


def _open(arguments: argparse.Namespace) -> Segmenter:
    from ..segmenter import Segmenter

    return Segmenter(arguments.model, **_model_options(arguments))


def _model_options(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "backend": arguments.backend,
        "device": arguments.device,
        "threads": arguments.threads,
        "fused": not arguments.no_fused,
        "precision": arguments.precision,
        "max_pixels": arguments.max_pixels,
        **window_options(arguments),
        "scales": arguments.scales,
        "flip": arguments.flip,
    }


if __name__ == "__main__":
    sys.exit(main())
