# SPDX-License-Identifier: Apache-2.0
"""``deeplab-predict``: masks, overlays and summaries of files, folders and globs."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from ..errors import DeepLabError, ImageError
from ..files import atomic_path, require_writable_dir
from ..images import MAX_PIXELS, list_images
from ..runtime import BACKENDS, RUN_PRECISIONS
from .cli import make_console, make_parser, run_command
from .window_options import add_window_options, window_options

PROG = "deeplab-predict"
_EPILOG = """\
examples:
  deeplab-predict model.engine street.png -o out --overlay
  deeplab-predict model.onnx photos/ "more/*.jpg" -o out --overlay --json
  deeplab-predict model.onnx big.png -o out --mode slide --window 769x769 --window-stride 513x513
  deeplab-predict model.onnx huge.tif -o out --mode slide --window 512x512 --windows even --blend linear

Masks are palettised PNGs of class indices. --json writes results.jsonl, one line an image with the area of each class.
A file that cannot be read is reported and skipped.
exit code: 0 all done, 1 some files failed, 2 wrong use or nothing could be done, 130 interrupted
"""


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = make_parser(PROG, "Segment images with an exported model, a checkpoint or a named config.", _EPILOG)
    parser.add_argument(
        "model", help="an exported .engine, .onnx or .xml; with torch also a checkpoint or a config's name"
    )
    parser.add_argument("source", nargs="+", help="image files, folders, or quoted patterns")
    parser.add_argument("-o", "--output-dir", default="predictions", metavar="DIR", help="default: predictions")
    out = parser.add_argument_group("what to write")
    out.add_argument("--no-mask", action="store_true", help="no label PNGs")
    out.add_argument(
        "--overlay", action="store_true", help="also NAME_overlay.png: colours over the image, with a legend"
    )
    out.add_argument("--npz", action="store_true", help="also NAME.npz with labels and scores")
    out.add_argument("--json", action="store_true", help="also results.jsonl")
    out.add_argument("--alpha", type=float, default=0.55, help="opacity of the overlay, 0..1 (default: 0.55)")
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
    from ..segmenter import Segmenter

    if not 0 <= arguments.alpha <= 1:
        raise DeepLabError(f"--alpha must be in 0..1, got {arguments.alpha}")
    images = list_images(arguments.source, arguments.recursive)
    stems = output_stems(images, _suffixes(arguments))
    _refuse_to_overwrite(images, stems, arguments)
    folder = require_writable_dir(arguments.output_dir)
    windows = window_options(arguments)
    with Segmenter(
        arguments.model,
        backend=arguments.backend,
        device=arguments.device,
        threads=arguments.threads,
        fused=not arguments.no_fused,
        precision=arguments.precision,
        max_pixels=arguments.max_pixels,
        **windows,
        scales=arguments.scales,
        flip=arguments.flip,
    ) as segmenter:
        if arguments.json:
            with atomic_path(folder / "results.jsonl") as temporary, open(temporary, "w", encoding="utf-8") as lines:
                failed = _predict_all(segmenter, images, stems, folder, arguments, lines)
        else:
            failed = _predict_all(segmenter, images, stems, folder, arguments, None)
    print(f"{len(images) - failed} of {len(images)} images segmented into {folder}")
    return 0 if failed == 0 else 2 if failed == len(images) else 1


def _predict_all(
    segmenter: Any,
    images: list[Path],
    stems: list[str],
    folder: Path,
    arguments: argparse.Namespace,
    lines: IO[str] | None,
) -> int:
    """Segment one after the other; returns how many failed."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = make_console(stderr=True)
    failed = 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    quiet = arguments.quiet or not console.is_terminal
    with Progress(*columns, console=console, disable=quiet, transient=True) as bar:
        windows = bar.add_task("windows", visible=False)

        def tell(done: int, total: int) -> None:
            bar.update(windows, completed=done, total=total, visible=done < total)

        for path, stem in bar.track(list(zip(images, stems, strict=True)), description="segmenting"):
            try:
                result = segmenter.predict(path, scores=arguments.npz, progress=tell)
            except ImageError as error:
                failed += 1
                console.print(f"skipped: {error}", style="red", markup=False, soft_wrap=True)
                continue
            _write(result, folder, stem, arguments)
            if lines is not None:
                lines.write(result.to_json() + "\n")
    return failed


def output_stems(images: Sequence[Path], suffixes: Sequence[str] = (".png",)) -> list[str]:
    """A name for each image's outputs: its stem, or more of its path where stems meet twice.

    Args:
        images: the files.
        suffixes: what is appended to a stem; no two images get an output of one name.
    """
    count = Counter(path.stem for path in images)
    stems: list[str] = []
    taken: set[str] = set()
    for path in images:
        stem = path.stem if count[path.stem] == 1 else "_".join([*path.parent.parts[-2:], path.name.replace(".", "_")])
        stem = stem.replace("/", "_").replace("..", "_")
        unique, number = stem, 2
        while not taken.isdisjoint(unique + suffix for suffix in suffixes):
            unique, number = f"{stem}_{number}", number + 1
        taken.update(unique + suffix for suffix in suffixes)
        stems.append(unique)
    return stems


def _suffixes(arguments: argparse.Namespace) -> list[str]:
    asked = {".png": not arguments.no_mask, "_overlay.png": arguments.overlay, ".npz": arguments.npz}
    return [suffix for suffix, wanted in asked.items() if wanted]


def _refuse_to_overwrite(images: Sequence[Path], stems: Sequence[str], arguments: argparse.Namespace) -> None:
    """A mask of ``photos/a.png`` written into ``photos`` would replace the photo."""
    sources = {path.resolve() for path in images}
    folder = Path(arguments.output_dir).resolve()
    for stem in stems:
        for suffix in _suffixes(arguments):
            if (folder / f"{stem}{suffix}").resolve() in sources:
                raise DeepLabError(
                    f"the output {stem}{suffix} would overwrite an input image in {arguments.output_dir!r}; "
                    "choose another folder with -o"
                )


def _write(result: Any, folder: Path, stem: str, arguments: argparse.Namespace) -> None:
    if not arguments.no_mask:
        result.save(folder / f"{stem}.png", "labels")
    if arguments.overlay:
        result.save(folder / f"{stem}_overlay.png", "overlay", alpha=arguments.alpha)
    if arguments.npz:
        result.save(folder / f"{stem}.npz")


if __name__ == "__main__":
    sys.exit(main())
