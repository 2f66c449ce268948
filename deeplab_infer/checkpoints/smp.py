# SPDX-License-Identifier: Apache-2.0
"""segmentation_models_pytorch's ``DeepLabV3`` and ``DeepLabV3Plus``."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..configs import ModelConfig, generic_dataset
from ..errors import CheckpointError
from .reading import Checkpoint
from .renaming import Rules, pool_first, rename, resnet_depth, xception_depth

# timm's feature extractors write stem_0 for stem.0.
_ENCODER: Rules = (
    (r"encoder\.model\.(stem|blocks)_(\d+)\.", r"backbone.\1.\2."),
    (r"encoder\.model\.", "backbone."),
    (r"encoder\.", "backbone."),
)
_CLASSIFIER: Rules = ((r"segmentation_head\.0\.", "classifier."),)


def _aspp(prefix: str) -> Rules:
    return (
        (prefix + r"convs\.4\.1\.", "aspp.image_pool.conv."),
        (prefix + r"convs\.4\.2\.", "aspp.image_pool.bn."),
        (prefix + r"convs\.0\.0\.", "aspp.branches.0.conv."),
        (prefix + r"convs\.0\.1\.", "aspp.branches.0.bn."),
        (prefix + r"convs\.(\d)\.0\.0\.", r"aspp.branches.\1.depthwise.conv."),
        (prefix + r"convs\.(\d)\.0\.1\.", r"aspp.branches.\1.pointwise.conv."),
        (prefix + r"convs\.(\d)\.0\.", r"aspp.branches.\1.conv."),
        (prefix + r"project\.0\.", "aspp.project.conv."),
        (prefix + r"project\.1\.", "aspp.project.bn."),
    )


# Before version 0.5 the decoder of DeepLabV3 was a numbered sequence.
_V3_PREFIXES = (r"decoder\.aspp\.", r"decoder\.0\.")
_DEEPLABV3: Rules = (
    *_aspp(_V3_PREFIXES[0]),
    *_aspp(_V3_PREFIXES[1]),
    (r"decoder\.(conv|1)\.", "post_aspp.0.conv."),
    (r"decoder\.(bn|2)\.", "post_aspp.0.bn."),
)
_DEEPLABV3PLUS: Rules = (
    *_aspp(r"decoder\.aspp\.0\."),
    (r"decoder\.aspp\.1\.0\.", "post_aspp.0.depthwise.conv."),
    (r"decoder\.aspp\.1\.1\.", "post_aspp.0.pointwise.conv."),
    (r"decoder\.aspp\.2\.", "post_aspp.0.pointwise.bn."),
    (r"decoder\.block1\.0\.", "decoder.low_level.conv."),
    (r"decoder\.block1\.1\.", "decoder.low_level.bn."),
    (r"decoder\.block2\.0\.0\.", "decoder.convs.0.depthwise.conv."),
    (r"decoder\.block2\.0\.1\.", "decoder.convs.0.pointwise.conv."),
    (r"decoder\.block2\.1\.", "decoder.convs.0.pointwise.bn."),
)


def matches(state: dict[str, Tensor]) -> bool:
    """Whether the names are those of segmentation_models_pytorch's DeepLabs."""
    return "segmentation_head.0.weight" in state and (_has_plus(state) or _v3_prefix(state) is not None)


def _v3_prefix(state: dict[str, Tensor]) -> str | None:
    return next((name for name in ("decoder.aspp.", "decoder.0.") if f"{name}convs.0.0.weight" in state), None)


def _has_plus(state: dict[str, Tensor]) -> bool:
    return "decoder.aspp.0.convs.0.0.weight" in state


def convert(state: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Our names and our order of the ASPP's branches."""
    head = _DEEPLABV3PLUS if _has_plus(state) else _DEEPLABV3
    renamed = rename(state, (*_ENCODER, *head, *_CLASSIFIER))
    separable = "aspp.branches.1.depthwise.conv.weight" in renamed
    # The normalisation of a branch has one name in both kinds; ours is at the pointwise half of a separable one.
    place = "pointwise.bn." if separable else "bn."
    prefixes = (r"decoder\.aspp\.0\.",) if _has_plus(state) else _V3_PREFIXES
    renamed = rename(renamed, tuple((p + r"convs\.([1-3])\.1\.", r"aspp.branches.\1." + place) for p in prefixes))
    return pool_first(renamed, config.aspp_channels)


def infer_config(checkpoint: Checkpoint) -> ModelConfig:
    """The network that the library builds by default: DeepLabV3 at output stride 8, DeepLabV3Plus at 16.

    Both have rates 12, 24, 36. Weights trained with other values need their own config.

    Raises:
        CheckpointError: the encoder is not a ResNet, MobileNetV2 or timm Xception.
    """
    state = checkpoint.state
    plus = _has_plus(state)
    prefix = "decoder.aspp.0." if plus else _v3_prefix(state)
    low_level = state.get("decoder.block1.0.weight")
    classes = state["segmentation_head.0.weight"].shape[0]
    width = state[f"{prefix}project.0.weight"].shape[0]
    return ModelConfig(
        name=checkpoint.path.stem,
        dataset=generic_dataset(classes),
        architecture="deeplabv3plus" if plus else "deeplabv3",
        output_stride=16 if plus else 8,
        contract_dilation=False,
        basic_block_dilation="both",
        aspp_channels=width,
        aspp_rates=(12, 24, 36),
        aspp_separable=f"{prefix}convs.1.0.1.weight" in state,
        separable_bn="after",
        projection_kernel=1,
        post_aspp_convs=1,
        post_aspp_separable=plus,
        decoder_channels=width,
        low_level_channels=low_level.shape[0] if low_level is not None else 48,
        decoder_convs=1,
        # The library's UpsamplingBilinear2d aligns corners, in the decoder and on the logits.
        align_corners=True,
        auxiliary=False,
        resize_logits_twice=False,
        **_encoder(checkpoint),
    )


def _encoder(checkpoint: Checkpoint) -> dict[str, Any]:
    state = checkpoint.state
    depth = resnet_depth(state, "encoder.")
    if depth is not None and "encoder.conv1.weight" in state:
        return {"backbone": "resnet", "depth": depth, "stem": "v1"}
    if "encoder.features.18.0.weight" in state:
        return {"backbone": "mobilenet_v2", "depth": 0, "mobilenet_last_conv": True}
    depth = xception_depth(state, "encoder.model.")
    if depth is not None:
        half = (127.5, 127.5, 127.5)
        return {"backbone": "xception", "depth": depth, "backbone_bn_eps": 1e-3, "mean": half, "std": half}
    raise CheckpointError(
        f"{checkpoint.path}: this encoder is not supported; there are resnet18 to resnet152, mobilenet_v2, "
        "tu-xception41, tu-xception65 and tu-xception71"
    )
