# SPDX-License-Identifier: Apache-2.0
"""``deeplab-export``: a checkpoint to a verified ONNX file."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from deeplab_infer.commands.cli import make_console, make_parser, run_command
from deeplab_infer.configs import list_configs, load_config
from deeplab_infer.errors import ExportError
from deeplab_infer.files import atomic_path, atomic_write, require_writable_dir

if TYPE_CHECKING:
    from deeplab_infer.models import DeepLab

    from .verify import Sample, VerificationReport

PROG = "deeplab-export"
_log = logging.getLogger(__name__)

_EPILOG = """\
examples:
  deeplab-export --config deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024 --checkpoint auto --fp16 -o exported
  deeplab-export --checkpoint my_mmseg_model.pth -o exported              the config comes from the file
  deeplab-export --config my_config.py --checkpoint my.pth --height 1024 --width 2048 --batch 1 -o exported
  deeplab-export --config deeplabv3plus_xception65 --checkpoint random --set num_classes=8 -o exported

The exported file is run and compared with the float32 network; the report is printed and written beside it.
exit code: 0 verified, 1 verification failed, 2 wrong use or error, 130 interrupted
"""


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = make_parser(PROG, "Export a DeepLabV3 or DeepLabV3+ checkpoint to a verified ONNX file.", _EPILOG)
    model = parser.add_argument_group("model")
    model.add_argument(
        "--config", metavar="NAME|FILE", help="a named config, .yaml, or mmsegmentation .py (read, never run)"
    )
    model.add_argument(
        "--checkpoint",
        metavar="FILE|URL|auto|random",
        help="weights; auto: the config's official or bundled ones (default); random: none",
    )
    model.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="change a field of the config, e.g. --set num_classes=8 (repeatable)",
    )
    model.add_argument("--output-stride", type=int, choices=(8, 16, 32), help="run the weights at this output stride")
    model.add_argument(
        "--trust-checkpoint",
        action="store_true",
        help="allow a pickle that can run code when it is loaded; only for files you made",
    )
    model.add_argument("--list", action="store_true", help="print the named configs and leave")
    graph = parser.add_argument_group("graph")
    precision = graph.add_mutually_exclusive_group()
    precision.add_argument("--precision", choices=("fp32", "fp16"), help="of weights and activations (default: fp32)")
    precision.add_argument(
        "--fp16", action="store_const", const="fp16", dest="precision", help="same as --precision fp16"
    )
    graph.add_argument(
        "--input",
        choices=("uint8", "float"),
        default="uint8",
        help="uint8: [N,H,W,3] RGB, normalised inside (default); float: [N,3,H,W], normalised outside",
    )
    graph.add_argument(
        "--output",
        choices=("logits", "labels"),
        default="logits",
        help="logits at the network's stride (default), or labels at the input's size",
    )
    for name, default in (("batch", "1:1:8"), ("height", None), ("width", None)):
        graph.add_argument(
            f"--{name}",
            type=_range,
            default=default,
            metavar="N|MIN:OPT:MAX",
            help=f"fixed, or open within limits (default: {default or 'open'})",
        )
    graph.add_argument(
        "--opset", type=int, default=18, choices=(18, 19, 20, 21), help="ONNX operator set (default: 18)"
    )
    check = parser.add_argument_group("verification")
    check.add_argument(
        "--images", metavar="PATH", nargs="+", default=[], help="images to verify with (default: generated streets)"
    )
    check.add_argument(
        "--runtime",
        action="append",
        choices=("onnxruntime", "openvino"),
        default=[],
        help="verify on this runtime (repeatable; default: onnxruntime)",
    )
    check.add_argument(
        "--min-agreement",
        type=float,
        metavar="SHARE",
        help="least share of equal labels (default: 0.9999 fp32, 0.999 fp16)",
    )
    check.add_argument(
        "--max-drop", type=float, metavar="POINTS", help="largest loss of mIoU, where labels are known (default: 0.5)"
    )
    check.add_argument("--no-verify", action="store_true", help="do not run the file after writing it")
    out = parser.add_argument_group("output")
    out.add_argument(
        "-o", "--output-dir", default="exported", metavar="DIR", help="folder to write to (default: exported)"
    )
    out.add_argument("--name", help="stem of the files (default: config's name, and _fp16)")
    out.add_argument("--force", action="store_true", help="replace files that exist")
    out.add_argument("--json", metavar="FILE", help="write the report here too ('-' for stdout)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(PROG, build_parser(), _run, argv)


def _run(arguments: argparse.Namespace) -> int:
    # A default in the parser would hide that both options of the group were given.
    arguments.precision = arguments.precision or "fp32"
    if arguments.list:
        print("\n".join(list_configs()))
        return 0
    if arguments.config is None and arguments.checkpoint is None:
        raise ExportError("give --config NAME, --checkpoint FILE, or both (--list shows the names)")
    folder = require_writable_dir(arguments.output_dir)
    model = _load_model(arguments)
    stem = arguments.name or model.config.name + ("_fp16" if arguments.precision == "fp16" else "")
    target = folder / f"{stem}.onnx"
    if target.exists() and not arguments.force:
        raise ExportError(f"{target} exists; choose another --output-dir or --name, or replace it with --force")
    report = _export(model, target, arguments)
    if report is None:
        print(f"WARNING: {target} was NOT verified (--no-verify)", file=sys.stderr)
        print(target)
        return 0
    _show(report, target, arguments)
    print(target)
    return 0 if report.passed else 1


def _load_model(arguments: argparse.Namespace) -> DeepLab:
    from deeplab_infer import checkpoints
    from deeplab_infer.models import build_model

    config = load_config(arguments.config, arguments.overrides) if arguments.config else None
    source = arguments.checkpoint or "auto"
    if source == "random":
        if config is None:
            raise ExportError("--checkpoint random needs --config")
        import torch

        torch.manual_seed(0)
        _log.warning("random weights: the file has the right shape and speed, but its labels mean nothing")
        model = build_model(config).eval()
    else:
        model = checkpoints.load(source, config, trust=arguments.trust_checkpoint, progress=not arguments.quiet)
        if config is None and arguments.overrides:
            from deeplab_infer.configs import apply_overrides

            model = checkpoints.with_config(model, apply_overrides(model.config, arguments.overrides))
    if arguments.output_stride is not None:
        model = checkpoints.with_config(model, model.config.with_output_stride(arguments.output_stride))
    return model


def _export(model: DeepLab, target: Path, arguments: argparse.Namespace) -> VerificationReport | None:
    """Write the file and its report; a file that fails its verification stays, its report says so."""
    from .onnx_export import export_onnx
    from .verify import THRESHOLDS, verify

    console = make_console(stderr=True, quiet=arguments.quiet)
    sizes = {name: getattr(arguments, name) for name in ("batch", "height", "width") if getattr(arguments, name)}
    with atomic_path(target) as temporary:
        with console.status(f"exporting {model.config.name} ({arguments.precision})"):
            manifest = export_onnx(
                model,
                temporary,
                input=arguments.input,
                output=arguments.output,
                precision=arguments.precision,
                opset=arguments.opset,
                **sizes,
            )
        if arguments.no_verify:
            return None
        limits = THRESHOLDS[arguments.precision]
        if arguments.min_agreement is not None:
            limits = replace(limits, agreement=arguments.min_agreement)
        if arguments.max_drop is not None:
            limits = replace(limits, miou_drop=arguments.max_drop)
        with console.status("verifying"):
            report = verify(
                model,
                temporary,
                samples=_samples(arguments, model),
                runtimes=arguments.runtime or ("onnxruntime",),
                thresholds=limits,
            )
        _embed_report(temporary, replace(manifest, report=_summary(report)))
    return replace(report, file=str(target))


def _embed_report(path: Path, manifest) -> None:  # type: ignore[no-untyped-def]
    import onnx

    from .onnx_export import write_onnx

    write_onnx(onnx.load(str(path)), path, manifest)


def _summary(report: VerificationReport) -> dict[str, object]:
    errors = [case.logits_error for case in report.cases if case.logits_error is not None]
    return {
        "passed": report.passed,
        "runtimes": sorted({case.runtime for case in report.cases}),
        "max_logits_error": max(errors, default=None),
        "min_label_agreement": min(case.agreement for case in report.cases),
    }


def _samples(arguments: argparse.Namespace, model: DeepLab) -> list[Sample] | None:
    from deeplab_infer.images import list_images, read_image

    from .verify import Sample

    if arguments.images:
        return [Sample(path.name, read_image(path)) for path in list_images(arguments.images)]
    if model.config.dataset.name != "synthetic_streets" or arguments.height or arguments.width:
        return None
    from deeplab_infer.data.synthetic_streets import generate_street

    # The bundled model knows these scenes, so its mIoU can be judged too.
    sizes = ((512, 1024), (257, 513), (384, 256))
    return [Sample(f"street {i}", *generate_street(1_000_000 + i, *size)) for i, size in enumerate(sizes)]


def _show(report: VerificationReport, target: Path, arguments: argparse.Namespace) -> None:
    text = json.dumps(report.to_dict(), indent=1)
    report_path = target.with_suffix(".report.json")
    with atomic_write(report_path, "w") as stream:
        stream.write(text + "\n")
    if arguments.json == "-":
        print(text)
    elif arguments.json:
        with atomic_write(arguments.json, "w") as stream:
            stream.write(text + "\n")
    console = make_console(stderr=True)
    if not arguments.quiet:
        console.print(report.table())
        if not report.judged_labels:
            console.print("random weights: label agreement is shown but does not decide")
    verdict = "PASSED" if report.passed else "FAILED"
    console.print(f"{verdict}: {target} ({report.precision}), report in {report_path.name}", soft_wrap=True)


def _range(text: str) -> tuple[int, int, int]:
    try:
        parts = [int(part) for part in text.split(":")]
    except ValueError:
        parts = []
    if len(parts) == 1:
        parts *= 3
    if len(parts) != 3 or not 1 <= parts[0] <= parts[1] <= parts[2]:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a size nor min:typical:max with 1 <= min <= typical <= max"
        )
    return parts[0], parts[1], parts[2]


if __name__ == "__main__":
    sys.exit(main())
