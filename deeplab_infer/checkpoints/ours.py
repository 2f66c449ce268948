# SPDX-License-Identifier: Apache-2.0
"""Our own files: safetensors with the config in their metadata."""

from __future__ import annotations

import json
import os
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from ..configs import ModelConfig
from ..errors import CheckpointError, ConfigError
from ..files import atomic_write
from ..models import DeepLab
from .reading import Checkpoint

METADATA_KEY = "deeplab_infer"


def matches(state: dict[str, Tensor]) -> bool:
    """Whether the names are ours."""
    return "classifier.weight" in state and any(key.startswith("backbone.") for key in state)


def convert(state: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The names are ours already."""
    return state


def infer_config(checkpoint: Checkpoint) -> ModelConfig:
    """The config in the file's metadata.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    if METADATA_KEY not in checkpoint.metadata:
        raise CheckpointError(
            f"{checkpoint.path}: the file carries no config; pass the one it was trained with (--config)"
        )
    try:
        return ModelConfig.from_dict(json.loads(checkpoint.metadata[METADATA_KEY])["config"])
    except (ValueError, KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(f"{checkpoint.path}: its config cannot be read ({error}); pass --config") from error


def save_checkpoint(
    model: DeepLab, path: str | os.PathLike[str], *, half: bool = False, record: dict[str, Any] | None = None
) -> None:
    """Write a network with its config, whole or not at all.

    Args:
        model: the network.
        path: a ``.safetensors`` file.
        half: store float weights as float16 (half the size; they are float32 again when loaded). Running
            variances stay float32: a small one would lose its precision.
        record: how the weights were made; JSON-able, kept in the metadata.

    Raises:
        CheckpointError: another suffix.
    """
    if not os.fspath(path).endswith(".safetensors"):
        raise CheckpointError(f"{os.fspath(path)}: our checkpoints are .safetensors files")
    tensors = {
        key: _stored(key, value, half)
        for key, value in model.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    entry = {"config": model.config.to_dict(), "record": record or {}}
    with atomic_write(path) as stream:
        stream.write(save(tensors, {METADATA_KEY: json.dumps(entry, separators=(",", ":"))}))


def _stored(key: str, value: Tensor, half: bool) -> Tensor:
    halved = half and value.is_floating_point() and not key.endswith("running_var")
    return value.detach().cpu().to(torch.float16 if halved else value.dtype).contiguous()
