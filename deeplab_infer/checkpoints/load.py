# SPDX-License-Identifier: Apache-2.0
"""One entry for checkpoints of every origin."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from ..assets import asset_path
from ..configs import ModelConfig
from ..errors import CheckpointError
from ..models import DeepLab, build_model
from . import mmseg, ours, smp, timm, torchvision
from .download import download, is_url
from .reading import Checkpoint, read_checkpoint

_log = logging.getLogger(__name__)

ORIGINS: dict[str, ModuleType] = {
    "mmsegmentation": mmseg,
    "torchvision": torchvision,
    "segmentation_models_pytorch": smp,
    "deeplab-infer": ours,
    "timm": timm,
}
_SHOWN = 6
_CLASSIFIERS = {"classifier.weight", "classifier.bias", "auxiliary.classifier.weight", "auxiliary.classifier.bias"}


def load(
    source: str | os.PathLike[str],
    config: ModelConfig | None = None,
    *,
    trust: bool = False,
    progress: bool = True,
    other_classes: bool = False,
) -> DeepLab:
    """A network with the weights of a checkpoint.

    The origin is recognised from the names of the tensors: mmsegmentation (0.x, 1.x), torchvision's DeepLabV3,
    segmentation_models_pytorch, timm's ImageNet ResNet and Xception (backbone only, the rest stays random), or ours.

    Args:
        source: a path, an http(s) address, ``"asset:NAME"`` for a bundled file, or ``"auto"`` for the config's own.
        config: the network; None takes it from the file (or, where the origin allows only one, from the origin).
        trust: also load pickles that **can run code**; only for files you made.
        progress: show a bar while downloading.
        other_classes: where the file has other classes than the config (another number, or other names where it says
            them), leave the classifiers random instead of refusing it: the start of fine-tuning.

    Returns:
        The network in eval mode, with ``config``, ``checkpoint_source`` and ``checkpoint_sha256`` set.

    Raises:
        CheckpointError: unreadable, untrusted, of unknown origin, or it does not fit the config.
    """
    path, origin_text = _resolve(source, config, progress)
    checkpoint = read_checkpoint(path, trust)
    name, origin = _recognise(checkpoint)
    if config is None:
        config = origin.infer_config(checkpoint)
    model = build_model(config)
    state = origin.convert(checkpoint.state, config)
    if other_classes:
        state = _without_other_classes(state, model, _class_names(origin, checkpoint), path)
    _fill(model, state, checkpoint, backbone_only=origin is timm)
    model.checkpoint_source = origin_text
    model.checkpoint_sha256 = checkpoint.sha256
    _log.info("%s: %s weights as %s", path.name, name, config.name)
    if origin is timm:
        model.checkpoint_source += " (backbone only)"
        _log.warning("%s holds an ImageNet backbone: ASPP, decoder and classifier are random until trained", path.name)
    return model.eval()


def with_config(model: DeepLab, config: ModelConfig) -> DeepLab:
    """The same weights under another config, for example another output stride.

    Raises:
        CheckpointError: the config needs weights of other shapes.
    """
    other = build_model(config)
    checkpoint = Checkpoint(Path(model.checkpoint_source or "weights"), "", model.state_dict())
    _fill(other, checkpoint.state, checkpoint, backbone_only=False)
    other.checkpoint_source, other.checkpoint_sha256 = model.checkpoint_source, model.checkpoint_sha256
    return other.train(model.training)


def _resolve(source: str | os.PathLike[str], config: ModelConfig | None, progress: bool) -> tuple[Path, str]:
    text, sha256 = os.fspath(source), ""
    if text == "auto":
        if config is None:
            raise CheckpointError("checkpoint 'auto' is the config's own; give a config too (--config NAME)")
        if not config.checkpoint:
            raise CheckpointError(
                f"config {config.name!r} has no official weights; give --checkpoint FILE, or --checkpoint random"
            )
        text, sha256 = config.checkpoint, config.checkpoint_sha256
    if text.startswith("asset:"):
        return asset_path(text.removeprefix("asset:")), text
    if is_url(text):
        return download(text, sha256, progress), text
    return Path(text), text


def _recognise(checkpoint: Checkpoint) -> tuple[str, ModuleType]:
    for name, origin in ORIGINS.items():
        if origin.matches(checkpoint.state):
            return name, origin
    names = ", ".join(list(checkpoint.state)[:_SHOWN])
    raise CheckpointError(
        f"{checkpoint.path}: not a DeepLab of a known origin ({', '.join(ORIGINS)}); its first tensors are {names}"
    )


def _class_names(origin: ModuleType, checkpoint: Checkpoint) -> tuple[str, ...]:
    """The classes as the file names them; none where it does not."""
    try:
        classes: tuple[str, ...] = origin.infer_config(checkpoint).classes
    except CheckpointError:
        return ()
    return () if all(name.startswith("class_") for name in classes) else classes


def _without_other_classes(
    state: dict[str, Tensor], model: DeepLab, names: tuple[str, ...], path: Path
) -> dict[str, Tensor]:
    """The classifiers as the new network has them, where the file's are for other classes."""
    own, wanted = model.state_dict(), model.config.classes
    weight = state.get("classifier.weight")
    if weight is None or weight.shape[1:] != own["classifier.weight"].shape[1:]:
        return state
    if len(weight) == len(wanted) and (not names or list(map(_plain, names)) == list(map(_plain, wanted))):
        return state
    _log.info(
        "%s has %d classes%s, the config %d others: classifiers start from random weights",
        path.name,
        len(weight),
        f" ({_some(names)})" if names else "",
        len(wanted),
    )
    return {**state, **{key: own[key] for key in _CLASSIFIERS if key in own and key in state}}


def _plain(name: str) -> str:
    return name.lower().replace("_", " ").replace("-", " ").strip()


def _fill(model: DeepLab, state: dict[str, Tensor], checkpoint: Checkpoint, *, backbone_only: bool) -> None:
    """Load a state dict, or say by name what is missing, unexpected or of another shape."""
    own = model.state_dict()
    needed = {key for key in own if not backbone_only or key.startswith("backbone.")}
    # Counters and the training-only head change nothing at inference.
    optional = {key for key in needed if key.endswith("num_batches_tracked") or key.startswith("auxiliary.")}
    without_auxiliary = model.auxiliary is None
    given = {k: v for k, v in state.items() if not (k.startswith("auxiliary.") and without_auxiliary)}
    missing = sorted(needed - optional - set(given))
    unexpected = sorted(set(given) - set(own))
    misshaped = sorted(k for k in given if k in own and given[k].shape != own[k].shape)
    if missing or unexpected or misshaped:
        raise CheckpointError(_mismatch(model, given, own, checkpoint, missing, unexpected, misshaped))
    with torch.no_grad():
        merged = {key: given[key].to(value.dtype) if key in given else value for key, value in own.items()}
        model.load_state_dict(merged)
    if model.auxiliary is not None and "auxiliary.classifier.weight" not in given and not backbone_only:
        _log.info("%s has no auxiliary head; it stays random and plays no part at inference", checkpoint.path.name)


def _mismatch(
    model: DeepLab,
    given: dict[str, Tensor],
    own: dict[str, Tensor],
    checkpoint: Checkpoint,
    missing: list[str],
    unexpected: list[str],
    misshaped: list[str],
) -> str:
    weight = given.get("classifier.weight")
    only_classifiers = not missing and not unexpected and set(misshaped) <= _CLASSIFIERS
    if weight is not None and only_classifiers and weight.shape[0] != model.config.num_classes:
        return (
            f"{checkpoint.path}: the checkpoint has {weight.shape[0]} classes, config {model.config.name!r} has "
            f"{model.config.num_classes}; use --set num_classes={weight.shape[0]} or the config it was trained with"
        )
    shapes = [f"{key} {list(given[key].shape)} instead of {list(own[key].shape)}" for key in misshaped]
    parts = [
        f"{len(keys)} {what}: {_some(keys)}"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if keys
    ]
    return (
        f"{checkpoint.path}: the weights do not fit config {model.config.name!r}; {'; '.join(parts)}. "
        "Is this the config they were trained with?"
    )


def _some(keys: Iterable[str]) -> str:
    keys = list(keys)
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more
