# SPDX-License-Identifier: Apache-2.0
"""The options of ``deeplab-train``, and what they make of a recipe."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from .cli import STREETS, make_parser, parse_size

if TYPE_CHECKING:
    from ..configs import ModelConfig
    from ..training import TrainOptions

PROG = "deeplab-train"
_EPILOG = """\
examples:
  deeplab-train --config deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024 --data data/cityscapes --amp bf16
  deeplab-train --config deeplabv3plus_r50-d8_4xb4-20k_voc12aug-512x512 --init auto --dataset folder --data my_data
  deeplab-train --config deeplabv3plus_mobilenetv2_streets --iterations 2600 --scenes 500 -o runs/streets
  torchrun --nproc_per_node 4 -m deeplab_infer.commands.train --config NAME --data DIR

A recipe sets all numbers, options change them: reference (mmsegmentation's, for its configs), paper and paper-os8 (the
DeepLab papers' two phases), finetune (own data), streets. --dry-run shows them, checks the data and makes one step.
Writes last.safetensors and best.safetensors (by mIoU, float16), state.pt for --resume, log.csv (steps), log.jsonl
(evaluations), previews/, run.json. Ctrl-C ends after the step and saves.
exit code: 0 done, 2 wrong use or error (a diverged loss, full memory or disk), 130 interrupted
"""


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = make_parser(PROG, "Train or fine-tune a DeepLabV3 or DeepLabV3+.", _EPILOG)
    _model_options(parser.add_argument_group("network"))
    _data_options(parser.add_argument_group("data"))
    _recipe_options(parser.add_argument_group("recipe (defaults are the recipe's)"))
    _loss_options(parser.add_argument_group("loss (defaults are the recipe's)"))
    _machine_options(parser.add_argument_group("machine"))
    _output_options(parser.add_argument_group("evaluation and output"))
    return parser


def _model_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--config", required=True, metavar="NAME|FILE", help="a named config, .yaml or mmsegmentation .py"
    )
    group.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="overrides", help="change a config field"
    )
    group.add_argument("--output-stride", type=int, choices=(8, 16, 32), help="train at this output stride")
    group.add_argument(
        "--init",
        metavar="FILE",
        help="start from this checkpoint, or from the config's own (auto); its classes may be others (default: random)",
    )
    group.add_argument("--trust-checkpoint", action="store_true", help="load a pickle that can run code; only your own")
    group.add_argument("--name", help="name of the trained config (default: the config's, with the data set's if new)")


def _data_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--dataset",
        metavar="NAME",
        help="cityscapes, ade20k, voc12aug, pascal_context, pascal_context_59, loveda, potsdam, coco, folder "
        "(images/, masks/, classes.txt), or streets (generated); default: the config's",
    )
    group.add_argument("--data", metavar="DIR", help="folder of the data set")
    group.add_argument("--split", metavar="NAME", help="part to train on (default: the data set's usual one)")
    group.add_argument("--val-split", metavar="NAME", help="part to evaluate on; 'none' for no evaluation")
    group.add_argument("--annotations", metavar="FILE", help="coco: the annotation file to train on")
    group.add_argument("--val-annotations", metavar="FILE", help="coco: the annotation file to evaluate on")
    group.add_argument("--uncovered", choices=("background", "ignore"), help="coco: pixels under no annotation")
    group.add_argument(
        "--check", type=int, default=16, metavar="N", help="read N images of each part first (default: 16; -1 for all)"
    )
    group.add_argument(
        "--bootstrap",
        metavar="CLASS,CLASS",
        help="images with these classes come more often (DeepLabv3: bicycle, chair, diningtable, pottedplant, sofa)",
    )
    group.add_argument("--bootstrap-repeat", type=int, default=2, metavar="N", help="how often (default: 2)")
    group.add_argument("--val-limit", type=int, metavar="N", help="evaluate on N images, evenly spread (default: all)")
    group.add_argument("--scenes", type=int, metavar="N", help="streets: training scenes (default: 500)")
    group.add_argument("--scene-size", metavar="HxW", help="streets: of a training scene (default: 320x640)")
    group.add_argument("--val-scenes", type=int, metavar="N", help="streets: held-out scenes (default: 24)")
    group.add_argument("--val-size", metavar="HxW", help="streets: of a held-out scene (default: 384x768)")


def _recipe_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--recipe",
        default="auto",
        metavar="NAME",
        help="reference, paper, paper-os8, finetune, streets (default: auto)",
    )
    group.add_argument("--iterations", type=int, metavar="N", help="optimiser steps")
    group.add_argument("--batch", type=int, metavar="N", help="crops a step, of each process")
    group.add_argument("--accumulate", type=int, metavar="N", help="average the gradients of N batches for a step")
    group.add_argument("--crop", metavar="HxW", help="size of a crop")
    group.add_argument("--augmentation", metavar="NAME", help="reference, paper, streets, none")
    group.add_argument("--optimizer", choices=("adamw", "sgd"), help="sgd has momentum 0.9")
    group.add_argument(
        "--lr", type=float, metavar="X", help="learning rate after the warm-up; it falls as (1 - t) ** 0.9"
    )
    group.add_argument("--min-lr", type=float, metavar="X", help="to which it falls")
    group.add_argument("--head-lr", type=float, metavar="X", help="factor on it for all but the backbone")
    group.add_argument("--warmup", type=int, metavar="STEPS", help="steps of rising learning rate")
    group.add_argument("--weight-decay", type=float, metavar="X", help="L2 penalty (sgd) or decoupled decay (adamw)")
    group.add_argument("--decay", choices=("all", "weights", "dense"), help="which parameters decay")
    group.add_argument("--clip", type=float, metavar="X", help="largest norm of the gradient; 0 for no limit")
    group.add_argument("--ema", type=float, metavar="DECAY", help="evaluate and save a running average of the weights")
    group.add_argument(
        "--bn",
        dest="batchnorm",
        choices=("train", "sync", "statistics", "frozen"),
        help="batch normalisation: of the batch, of all processes, running statistics, or wholly frozen",
    )
    group.add_argument(
        "--seed", type=int, metavar="N", default=0, help="of weights, order, crops and dropout (default: 0)"
    )


def _loss_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--auxiliary-weight", type=float, metavar="X", help="of the auxiliary head's loss")
    group.add_argument("--label-smoothing", type=float, metavar="X", help="share of the target spread over all classes")
    group.add_argument(
        "--class-weights",
        metavar="RULE|W,W,...",
        help="inverse_log or median_frequency of the data, or one value a class",
    )
    group.add_argument(
        "--ohem", type=int, dest="ohem_kept", metavar="PIXELS", help="only the hardest, an image; 0: all"
    )
    group.add_argument(
        "--ohem-threshold", type=float, metavar="P", help="and all whose true class is less probable than this"
    )
    group.add_argument("--loss-average", choices=("all", "labelled"), help="divide by all pixels, or by labelled ones")


def _machine_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    group.add_argument("--threads", type=int, metavar="N", help="CPU threads of torch")
    group.add_argument(
        "--workers", type=int, metavar="N", help="processes that cut crops (default: the cores, at most 4; streets: 0)"
    )
    group.add_argument(
        "--amp", choices=("off", "bf16", "fp16"), help="half precision where it is safe (default: recipe)"
    )
    group.add_argument("--no-fused", action="store_true", help="plain torch instead of the fused kernels")
    group.add_argument("--compile", action="store_true", dest="compiled", help="run the network through torch.compile")
    group.add_argument(
        "--recompute",
        nargs="?",
        const="units",
        default="none",
        choices=("none", "activations", "units"),
        help="compute again instead of keeping: rectified activations, or whole residual units (default without a "
        "value); less memory, more time",
    )
    group.add_argument(
        "--skip-limit", type=int, default=10, metavar="N", help="unreadable files to pass over (default: 10)"
    )


def _output_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--eval-every", type=int, metavar="STEPS", help="evaluate and save (default: a tenth of the run)"
    )
    group.add_argument("--log-every", type=int, default=20, metavar="STEPS", help="a line in log.csv (default: 20)")
    group.add_argument("--previews", type=int, default=2, metavar="N", help="pictures an evaluation (default: 2)")
    group.add_argument("--tensorboard", action="store_true", help="also write TensorBoard's files")
    group.add_argument("--resume", action="store_true", help="go on from state.pt in the output folder")
    group.add_argument("--overwrite", action="store_true", help="start anew where a run is in the output folder")
    group.add_argument(
        "--dry-run", action="store_true", help="show the plan, check the data, make one step, write nothing else"
    )
    group.add_argument("-o", "--output-dir", default="runs/train", metavar="DIR", help="default: runs/train")


# Options whose names are those of `TrainOptions`; None leaves the recipe's value.
_OVERRIDES = (
    "iterations", "batch", "accumulate", "augmentation", "optimizer", "lr", "min_lr", "head_lr", "warmup",
    "weight_decay", "decay", "clip", "ema", "batchnorm", "auxiliary_weight", "label_smoothing", "ohem_kept",
    "ohem_threshold", "loss_average", "amp",
)  # fmt: skip


def train_options(
    arguments: argparse.Namespace, config: ModelConfig, recipe: str, workers: int, class_weights: tuple[float, ...]
) -> TrainOptions:
    """The recipe for a config, changed by the options that were given.

    Args:
        arguments: of the command.
        config: the network as it was named, before it took the data's classes.
        recipe: its name.
        workers: where none were asked for.
        class_weights: of the loss.

    Raises:
        DataError: a value is out of range.
    """
    from ..training import TrainOptions, recipe_options

    values: dict[str, Any] = recipe_options(config, recipe)
    values |= {name: getattr(arguments, name) for name in _OVERRIDES if getattr(arguments, name) is not None}
    if arguments.crop:
        values["crop"] = parse_size(arguments.crop)
    return TrainOptions(
        **values,
        class_weights=class_weights,
        seed=arguments.seed,
        device=arguments.device,
        fused=not arguments.no_fused,
        compiled=arguments.compiled,
        recompute=arguments.recompute,
        workers=workers if arguments.workers is None else arguments.workers,
        skip_limit=arguments.skip_limit,
    )


def check_arguments(arguments: argparse.Namespace) -> None:
    """Refuse what no run could use, before anything is loaded.

    Raises:
        DataError: what was wrong, and what to do.
    """
    for name in ("eval_every", "log_every", "threads", "val_limit", "scenes", "val_scenes"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise DataError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if arguments.bootstrap_repeat < 2:
        raise DataError(f"--bootstrap-repeat must be at least 2, got {arguments.bootstrap_repeat}")
    if arguments.previews < 0:
        raise DataError(f"--previews must not be negative, got {arguments.previews}")
    if arguments.resume and arguments.overwrite:
        raise DataError("--resume goes on with a run, --overwrite discards it; give one of them")
    init = arguments.init
    if init and init != "auto" and "://" not in init and not init.startswith("asset:") and not Path(init).exists():
        raise DataError(f"--init {init}: no such checkpoint file")
    generated = [o for o in ("scenes", "scene_size", "val_scenes", "val_size") if getattr(arguments, o) is not None]
    is_streets = (arguments.dataset or "").lower() in STREETS
    if generated and (arguments.data or (arguments.dataset and not is_streets)):
        raise DataError(f"--{generated[0].replace('_', '-')} is for generated streets, --data for other data sets")
    if is_streets and arguments.data:
        raise DataError("the streets are generated and have no folder; leave out --data")
