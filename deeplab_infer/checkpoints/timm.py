# SPDX-License-Identifier: Apache-2.0
"""timm's ImageNet classifiers, whose backbone can start a training."""

from __future__ import annotations

from torch import Tensor

from ..configs import ModelConfig, named_config
from ..errors import CheckpointError
from .reading import Checkpoint
from .renaming import resnet_depth, xception_depth

_HEADS = ("fc.", "head.")


def matches(state: dict[str, Tensor]) -> bool:
    """Whether the names are those of a timm (or torchvision) ResNet or Xception classifier."""
    return "layer1.0.conv1.weight" in state or "blocks.0.stack.conv1.conv_dw.weight" in state


def convert(state: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Our names, without the ImageNet classifier."""
    return {f"backbone.{key}": value for key, value in state.items() if not key.startswith(_HEADS)}


def infer_config(checkpoint: Checkpoint) -> ModelConfig:
    """DeepLabV3+ on this backbone: the papers' for Xception, Cityscapes at output stride 8 for ResNet.

    Raises:
        CheckpointError: a variant of ResNet or Xception that is not ours.
    """
    state = checkpoint.state
    depth = xception_depth(state, "")
    if depth is not None:
        named = named_config("deeplabv3plus_xception65").replace(depth=depth)
    else:
        depth = resnet_depth(state, "")
        plain = "conv1.weight" in state and "layer2.0.downsample.0.weight" in state
        if depth is None or not plain:
            raise CheckpointError(
                f"{checkpoint.path}: this backbone is not supported; there are resnet18 to resnet152 with a 7x7 stem, "
                "xception41, xception65 and xception71"
            )
        base = "r18b-d8" if depth < 50 else "r50b-d8"
        named = named_config(f"deeplabv3plus_{base}_4xb2-80k_cityscapes-512x1024").replace(depth=depth)
    return named.replace(name=f"deeplabv3plus_{checkpoint.path.stem}", checkpoint="", checkpoint_sha256="")
