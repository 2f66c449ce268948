# SPDX-License-Identifier: Apache-2.0
"""`TrainOptions`: every number of a training run, and the recipes that the published networks were trained with."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from ..configs import ModelConfig, reference_rows
from ..configs.suggest import suggest
from ..data.transforms import AUGMENTATIONS
from ..errors import DataError

OPTIMIZERS = ("sgd", "adamw")
BATCHNORM_MODES = ("train", "frozen", "statistics", "sync")
DECAYED = ("all", "weights", "dense")
AMP = ("off", "bf16", "fp16")
AVERAGES = ("all", "labelled")
RECOMPUTE = ("none", "activations", "units")
# What may differ when a run is resumed: it decides how the numbers are computed, not which ones.
MAY_CHANGE = ("device", "workers", "skip_limit", "fused", "compiled", "recompute")


@dataclass(frozen=True)
class TrainOptions:
    """How to train.

    Attributes:
        iterations: optimiser steps.
        batch: crops that one process sees at once.
        accumulate: such batches whose gradients are averaged before a step; batch normalisation sees one at a time.
        crop: (height, width) of a crop, pixels.
        augmentation: name in `deeplab_infer.data.transforms.AUGMENTATIONS`.
        optimizer: ``"sgd"`` or ``"adamw"``.
        momentum, nesterov: of SGD.
        lr: learning rate after the warm-up; it falls as (1 - t) ** ``power`` (DeepLabv3 section 4.1) to ``min_lr``.
        warmup: steps over which the learning rate rises from 0.
        head_lr: factor on the learning rate of everything but the backbone.
        weight_decay: L2 penalty (SGD) or decoupled decay (AdamW).
        decay: what it acts on: ``"all"`` parameters (mmsegmentation), ``"weights"`` of convolutions, or those of
            ``"dense"`` convolutions without the depthwise ones (the papers' code).
        clip: largest norm of the gradient; 0 for no limit.
        batchnorm: ``"train"``; ``"sync"``: statistics of all processes together; ``"statistics"``: running statistics
            stay as they are and are used; ``"frozen"``: so do the weights (DeepLabv3 section 4.1, second phase).
        auxiliary_weight: of the auxiliary head's loss.
        label_smoothing: share of the target that is spread over all classes.
        class_weights: a factor on the loss of each class; empty for none.
        ohem_kept: pixels that count, times the images of a batch: those with the largest loss; 0 for all.
        ohem_threshold: probability of the true class up to which pixels count even when they are more; None for none.
        loss_average: the sum over labelled pixels is divided by ``"all"`` pixels of the batch, ignored ones too
            (mmsegmentation), or by the ``"labelled"`` ones (weighted by their class), of all processes together.
        ema: decay of the running average of the weights that is evaluated and saved; 0 for none.
        amp: ``"off"``, ``"bf16"`` or ``"fp16"``: autocast, with gradient scaling for fp16.
        seed: of new weights, order, crops and dropout.
        device: torch device.
        fused: train through the fused kernels; on a CPU those of the head, because the backbone is faster in torch.
        compiled: run the network through ``torch.compile``.
        recompute: what is computed again for the gradient instead of kept: ``"none"``, ``"activations"`` (rectified
            outputs of normalisations: a pass over memory each), or whole residual ``"units"``. The same to the bit.
        workers: processes that cut crops; 0 for a thread.
        skip_limit: unreadable files that are passed over before training stops.
    """

    iterations: int = 2000
    batch: int = 8
    accumulate: int = 1
    crop: tuple[int, int] = (256, 256)
    augmentation: str = "streets"
    optimizer: str = "adamw"
    momentum: float = 0.9
    nesterov: bool = False
    lr: float = 2e-3
    min_lr: float = 0.0
    power: float = 0.9
    warmup: int = 100
    head_lr: float = 1.0
    weight_decay: float = 1e-4
    decay: str = "weights"
    clip: float = 10.0
    batchnorm: str = "train"
    auxiliary_weight: float = 0.4
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()
    ohem_kept: int = 0
    ohem_threshold: float | None = None
    loss_average: str = "labelled"
    ema: float = 0.0
    amp: str = "off"
    seed: int = 0
    device: str = "cpu"
    fused: bool = True
    compiled: bool = False
    recompute: str = "none"
    workers: int = 0
    skip_limit: int = 10

    def __post_init__(self) -> None:
        _check_choices(self)
        for name in ("iterations", "batch", "accumulate"):
            if getattr(self, name) < 1:
                raise DataError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("warmup", "workers", "skip_limit", "ohem_kept", "weight_decay", "clip", "min_lr", "seed"):
            if not getattr(self, name) >= 0:
                raise DataError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("lr", "power", "head_lr"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise DataError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("label_smoothing", "ema", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise DataError(f"{name} must be in 0..1, below 1, got {getattr(self, name)}")
        if self.ohem_threshold is not None and not 0 < self.ohem_threshold <= 1:
            raise DataError(f"ohem_threshold is a probability, above 0 and at most 1, got {self.ohem_threshold}")
        if self.ohem_threshold is not None and not self.ohem_kept:
            raise DataError("ohem_threshold needs ohem_kept, the pixels an image that count at least")
        if any(not (w >= 0 and math.isfinite(w)) for w in self.class_weights):
            raise DataError(f"class_weights must not be negative, got {list(self.class_weights)}")
        if self.compiled and self.recompute == "activations":
            raise DataError(
                "a compiled network decides itself which activations to recompute; leave one of the two out"
            )
        if min(self.crop) < 32:
            raise DataError(f"a crop needs at least 32 x 32 pixels, got {self.crop[0]} x {self.crop[1]}")
        if self.batch * math.prod(self.crop) < 2 * 32 * 32 and self.batchnorm in ("train", "sync"):
            raise DataError("batch normalisation needs more than one value a channel: raise batch or crop")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(self).items()}

    def differences(self, earlier: dict[str, Any]) -> list[str]:
        """Where a resumed run would compute other numbers than the earlier one: ``"lr 0.01, was 0.02"``."""
        mine = self.to_dict()
        return [
            f"{key} {mine[key]}, was {earlier.get(key)}"
            for key in mine
            if key not in MAY_CHANGE and mine[key] != earlier.get(key)
        ]


def _check_choices(options: TrainOptions) -> None:
    choices = {
        "optimizer": OPTIMIZERS,
        "batchnorm": BATCHNORM_MODES,
        "decay": DECAYED,
        "amp": AMP,
        "loss_average": AVERAGES,
        "recompute": RECOMPUTE,
        "augmentation": tuple(AUGMENTATIONS),
    }
    for name, allowed in choices.items():
        value = getattr(options, name)
        if value not in allowed:
            raise DataError(f"{name} {value!r} is not one of {', '.join(map(repr, allowed))}")


_REFERENCE_GPUS = 4
# mmsegmentation's schedules: 0.x and 1.x agree. Four GPUs took `batch` crops each.
_REFERENCE: dict[str, Any] = {
    "augmentation": "reference",
    "optimizer": "sgd",
    "lr": 0.01,
    "min_lr": 1e-4,
    "warmup": 0,
    "weight_decay": 5e-4,
    "decay": "all",
    "clip": 0.0,
    "loss_average": "all",
    "iterations": 40_000,
    "batch": 4,
    "crop": (512, 512),
}
# DeepLabv3 section 4.1, DeepLabv3+ section 4; the weight decay is that of the authors' code.
_PAPER: dict[str, Any] = {
    "augmentation": "paper",
    "optimizer": "sgd",
    "lr": 0.007,
    "warmup": 0,
    "weight_decay": 1e-4,
    "decay": "dense",
    "clip": 0.0,
    "loss_average": "labelled",
    "iterations": 30_000,
    "batch": 16,
    "crop": (513, 513),
}
_FINETUNE: dict[str, Any] = {
    "augmentation": "reference",
    "optimizer": "adamw",
    "lr": 3e-4,
    "head_lr": 5.0,
    "warmup": 50,
    "weight_decay": 1e-2,
    "decay": "weights",
    "clip": 10.0,
    "loss_average": "labelled",
    "ema": 0.998,
    "iterations": 2000,
    "batch": 4,
    "crop": (512, 512),
}
_STREETS: dict[str, Any] = {"lr": 3e-3, "warmup": 150}
RECIPES: dict[str, dict[str, Any]] = {
    "reference": _REFERENCE,
    "paper": _PAPER,
    "paper-os8": {**_PAPER, "lr": 0.001, "batchnorm": "frozen"},
    "finetune": _FINETUNE,
    "streets": _STREETS,
}
# The authors' code decays Xception's and MobileNetV2's weights less.
_SMALL_DECAY = {"xception": 4e-5, "mobilenet_v2": 4e-5}


def default_recipe(config: ModelConfig) -> str:
    """The recipe that a config was published with; ``"finetune"`` for one that was not."""
    if config.name in {row.name for row in reference_rows()}:
        return "reference"
    if config.dataset.name == "synthetic_streets":
        return "streets"
    is_paper_model = not config.multi_grid_absolute and config.dataset.name == "voc12aug"
    return "paper" if is_paper_model else "finetune"


def recipe_options(config: ModelConfig, recipe: str = "auto") -> dict[str, Any]:
    """Values of `TrainOptions` that a recipe sets for a config.

    Args:
        config: the network.
        recipe: a name in `RECIPES`, or ``"auto"`` for `default_recipe`.

    Raises:
        DataError: no such recipe.
    """
    name = default_recipe(config) if recipe == "auto" else recipe
    if name not in RECIPES:
        raise DataError(f"unknown recipe {name!r}{suggest(name, RECIPES)}; known: auto, {', '.join(RECIPES)}")
    values = dict(RECIPES[name])
    if name == "reference":
        values |= _reference_row_values(config)
    if name.startswith("paper"):
        values["weight_decay"] = _SMALL_DECAY.get(config.backbone, values["weight_decay"])
    if config.crop_size is not None and name in ("reference", "finetune"):
        values["crop"] = config.crop_size
    return values


def _reference_row_values(config: ModelConfig) -> dict[str, Any]:
    """What differs from row to row of the published tables."""
    row = next((row for row in reference_rows() if row.name == config.name), None)
    values: dict[str, Any] = {}
    if config.dataset.name.startswith("pascal_context"):
        values |= {"lr": 0.004, "weight_decay": 1e-4}
    if config.multi_grid:
        values["ohem_kept"] = 100_000
    if row is not None:
        values |= {"iterations": row.schedule, "batch": row.images_per_gpu, "crop": row.crop}
        values |= {"amp": "fp16"} if row.fp16 else {}
    return values


def train_options_note(config: ModelConfig, options: TrainOptions, world: int) -> list[str]:
    """Where a run departs from what its numbers were published for, in sentences."""
    row = next((row for row in reference_rows() if row.name == config.name), None)
    notes = []
    total = options.batch * options.accumulate * world
    published = row.images_per_gpu * _REFERENCE_GPUS if row is not None else 0
    if published and total != published:
        notes.append(
            f"note: the published run had {published} crops a step ({_REFERENCE_GPUS} GPUs), this one has {total}: "
            f"use torchrun with {_REFERENCE_GPUS} processes, --accumulate, or a learning rate in proportion"
        )
    return notes
