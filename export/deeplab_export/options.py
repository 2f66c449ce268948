# SPDX-License-Identifier: Apache-2.0
"""The options of ``deeplab-export``."""

from __future__ import annotations

import argparse

from deeplab_infer.commands.cli import make_parser
from deeplab_infer.engine_manifest import Profile
from deeplab_infer.manifest import Range

from .triton import BACKENDS
from .triton.config import ACCELERATORS, DEVICES

PROG = "deeplab-export"
FORMATS = ("auto", "onnx", "engine", "openvino", "triton")
PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8", "fp8")
FLAVOURS = ("auto", "tensorrt", "tensorrt_rtx")

_EPILOG = """\
examples:
  deeplab-export --config deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024 --checkpoint auto --fp16 -o exported
  deeplab-export --checkpoint my_mmseg_model.pth -o exported              the config comes from the file
  deeplab-export --config my_config.py --checkpoint my.pth --height 1024 --width 2048 --batch 1 -o exported
  deeplab-export --config my_config.py --checkpoint my.pth --int8 --calibration my_images --max-drop 0.5
  deeplab-export --config deeplabv3plus_xception65 --checkpoint random --set num_classes=8 --format onnx -o exported
  deeplab-export --config my_config.py --checkpoint my.pth --format triton --max-batch 8 --instances 2 -o repository

The exported file is run and compared with the float32 network; the report is printed and written beside it. Where a
low precision misses its thresholds, the most sensitive layers are found and kept in higher precision.
exit code: 0 verified, 1 verification failed, 2 wrong use or error, 130 interrupted
"""


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = make_parser(
        PROG,
        "Export a DeepLabV3 or DeepLabV3+ checkpoint to a verified ONNX file, TensorRT engine, OpenVINO file or Triton "
        "model repository.",
        _EPILOG,
    )
    _model_options(parser.add_argument_group("model"))
    _graph_options(parser.add_argument_group("graph"))
    _eight_bit_options(parser.add_argument_group("int8 and fp8"))
    _verification_options(parser.add_argument_group("verification"))
    _engine_options(parser.add_argument_group("TensorRT engine"))
    _triton_options(parser.add_argument_group("Triton model repository (--format triton)"))
    _output_options(parser.add_argument_group("output"))
    return parser


def _model_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--config", metavar="NAME|FILE", help="a named config, .yaml, or mmsegmentation .py (read, never run)"
    )
    group.add_argument(
        "--checkpoint",
        metavar="FILE|URL|auto|random",
        help="weights; auto: the config's official or bundled ones (default); random: none",
    )
    group.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="change a field of the config, e.g. --set num_classes=8 (repeatable)",
    )
    group.add_argument("--output-stride", type=int, choices=(8, 16, 32), help="run the weights at this output stride")
    group.add_argument(
        "--trust-checkpoint",
        action="store_true",
        help="allow a pickle that can run code when it is loaded; only for files you made",
    )
    group.add_argument("--list", action="store_true", help="print the named configs and leave")


def _graph_options(group: argparse._ArgumentGroup) -> None:
    precision = group.add_mutually_exclusive_group()
    precision.add_argument("--precision", choices=PRECISIONS, help="of weights and activations (default: fp32)")
    for name in ("fp16", "bf16", "int8", "fp8"):
        precision.add_argument(
            f"--{name}", action="store_const", const=name, dest="precision", help=f"same as --precision {name}"
        )
    group.add_argument(
        "--input",
        choices=("uint8", "float"),
        default="uint8",
        help="uint8: [N,H,W,3] RGB, normalised inside (default); float: [N,3,H,W], normalised outside",
    )
    group.add_argument(
        "--output",
        choices=("logits", "labels"),
        help="logits at the network's stride (default), or labels at the input's size (all that --format triton has)",
    )
    defaults = {"batch": "1:1:8, an engine 1 or in slide mode 1:8:8", "height": "open", "width": "open"}
    for name, default in defaults.items():
        group.add_argument(
            f"--{name}",
            type=parse_range,
            metavar="N|MIN:OPT:MAX",
            help=f"fixed, or open within limits (default: {default})",
        )
    group.add_argument(
        "--opset", type=int, default=18, choices=(18, 19, 20, 21, 22), help="ONNX operator set (default: 18)"
    )
    group.add_argument(
        "--keep",
        metavar="LAYER",
        action="append",
        default=[],
        help="a layer that stays in higher precision (repeatable; --list-layers names them)",
    )
    group.add_argument("--list-layers", action="store_true", help="print the model's layers and leave")
    group.add_argument(
        "--explain",
        action="store_true",
        help="print what each exact rewrite and each output stride costs and saves, with the agreement of the labels, "
        "and leave",
    )
    group.add_argument(
        "--no-rewrites",
        action="store_true",
        help="export the network as it is: only batch normalisation is folded and what training needs removed",
    )
    group.add_argument(
        "--custom-ops",
        action="store_true",
        help="our fused kernels as custom operators, for the TensorRT plugin library; other runtimes take the fallback "
        "graphs that are in the file too",
    )


def _eight_bit_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--calibration",
        metavar="PATH",
        nargs="+",
        default=["streets"],
        help="images to calibrate with: files, folders, globs, or 'streets' for generated ones (default: streets)",
    )
    group.add_argument(
        "--calibration-images", type=int, metavar="N", help="at most so many (default: 128 of those given, 16 streets)"
    )
    group.add_argument(
        "--calibration-method",
        choices=("minmax", "percentile", "entropy"),
        default="minmax",
        help="how far a scale reaches (default: minmax)",
    )
    group.add_argument(
        "--calibration-percentile", type=float, default=99.999, metavar="P", help="for percentile (default: 99.999)"
    )
    group.add_argument(
        "--rest",
        choices=("fp32", "fp16"),
        help="type of the layers that are not quantised (default: fp16 in an engine, else fp32)",
    )


def _verification_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--images", metavar="PATH", nargs="+", default=[], help="images to verify with (default: generated streets)"
    )
    group.add_argument(
        "--labels", metavar="DIR", help="masks of those images: PNGs of class numbers with the same names; for mIoU"
    )
    group.add_argument(
        "--runtime",
        action="append",
        choices=("onnxruntime", "openvino"),
        default=[],
        help="verify on this runtime (repeatable; default: onnxruntime)",
    )
    group.add_argument(
        "--min-agreement",
        type=float,
        metavar="SHARE",
        help="least share of equal labels (default: 0.9999 fp32; 0.999 tf32, fp16; 0.99 bf16; 0.98 int8; 0.97 fp8)",
    )
    group.add_argument(
        "--max-drop", type=float, metavar="POINTS", help="largest loss of mIoU, where labels are known (default: 0.5)"
    )
    group.add_argument(
        "--no-search", action="store_true", help="do not look for layers to keep when thresholds are missed"
    )
    group.add_argument("--no-verify", action="store_true", help="do not run the file after writing it")


def _engine_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--flavour",
        choices=FLAVOURS,
        default="auto",
        help="tensorrt for data-centre GPUs and Jetson, tensorrt_rtx for RTX GPUs (default: the one installed)",
    )
    group.add_argument(
        "--profile",
        type=parse_profile,
        action="append",
        default=[],
        metavar="BATCH,HEIGHT,WIDTH",
        help="sizes to optimise for, each N or MIN:OPT:MAX (repeatable; default: one of --batch, --height, --width)",
    )
    group.add_argument("--workspace", type=float, metavar="GIB", help="limit of temporary GPU memory")
    group.add_argument(
        "--optimization-level", type=int, metavar="0..5", help="how long to look for fast kernels (default: TensorRT's)"
    )
    group.add_argument(
        "--hardware-compatibility",
        choices=("none", "ampere+", "same"),
        default="none",
        help="GPUs that may run the engine besides this one: Ampere and newer, or of the same compute capability",
    )
    group.add_argument("--version-compatible", action="store_true", help="let later TensorRT versions run the engine")
    group.add_argument(
        "--compute-capability",
        action="append",
        default=[],
        metavar="X.Y",
        help="build for this GPU generation (repeatable; tensorrt_rtx)",
    )
    group.add_argument(
        "--strip-weights", action="store_true", help="leave the weights in the .onnx file, which then travels along"
    )
    group.add_argument("--refit", action="store_true", help="let the weights be replaced later")
    group.add_argument("--no-timing-cache", action="store_true", help="do not keep kernel times beside the engine")
    group.add_argument(
        "--plugin", action="append", default=[], metavar="LIBRARY", help="plugin library to load (repeatable)"
    )
    group.add_argument("--layers", action="store_true", help="print the engine's layers with their types")
    group.add_argument(
        "--save-command", action="store_true", help="print the line for NVIDIA's own tool and build nothing"
    )


def _triton_options(group: argparse._ArgumentGroup) -> None:
    """Without defaults: one that is given with another format is an error."""
    group.add_argument(
        "--triton-backend", choices=tuple(BACKENDS), help="what runs the model on the server (default: onnxruntime)"
    )
    group.add_argument("--triton-version", type=int, metavar="N", help="of the model; other versions stay (default: 1)")
    group.add_argument(
        "--triton-device",
        choices=DEVICES,
        help="where instances run (default: auto, a GPU where the server has one; openvino: cpu)",
    )
    group.add_argument(
        "--triton-accelerator",
        choices=ACCELERATORS,
        help="of the onnxruntime backend: TensorRT on GPUs, or OpenVINO on CPUs",
    )
    group.add_argument(
        "--triton-engine-cache", metavar="DIR", help="folder on the server for the engines of the accelerator tensorrt"
    )
    group.add_argument(
        "--instances", type=int, metavar="N", help="copies of the model, on each GPU or on the CPU (default: 1)"
    )
    group.add_argument(
        "--max-batch",
        type=int,
        metavar="N",
        help="largest batch that the server makes of several requests (default: the largest that the model takes)",
    )
    group.add_argument(
        "--queue-delay-us", type=int, metavar="US", help="microseconds that a request may wait for others (default: 0)"
    )
    group.add_argument("--triton-threads", type=int, metavar="N", help="of an instance on the CPU")
    group.add_argument(
        "--cuda-graphs",
        action="store_true",
        default=None,
        help="record the network at its typical size as CUDA graphs (tensorrt backend)",
    )
    group.add_argument(
        "--check-server",
        action="store_true",
        default=None,
        help="start the tritonserver of this machine and compare its labels before the model is put in its place",
    )


def _output_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--format",
        choices=FORMATS,
        default="auto",
        help="engine: .onnx and .engine (default where a TensorRT can build one); onnx; openvino: .xml and .bin; "
        "triton: a model in the repository that --output-dir is",
    )
    group.add_argument(
        "-o", "--output-dir", default="exported", metavar="DIR", help="folder to write to (default: exported)"
    )
    group.add_argument(
        "--name", help="stem of the files, or Triton's model name (default: config's name, and _fp16 or the like)"
    )
    group.add_argument("--force", action="store_true", help="replace files that exist")
    group.add_argument("--json", metavar="FILE", help="write the report here too ('-' for stdout)")


def parse_range(text: str) -> Range:
    """``N`` or ``MIN:OPT:MAX``."""
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


def parse_profile(text: str) -> Profile:
    """``BATCH,HEIGHT,WIDTH``."""
    parts = text.split(",")
    if len(parts) != 3:
        raise argparse.ArgumentTypeError(f"{text!r} is not BATCH,HEIGHT,WIDTH, for example 1:1:4,512,256:1024:2048")
    batch, height, width = map(parse_range, parts)
    return Profile(batch, height, width)
