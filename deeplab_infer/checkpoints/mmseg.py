# SPDX-License-Identifier: Apache-2.0
"""mmsegmentation's names, and the config that its checkpoints carry."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from ..configs import DatasetSpec, ModelConfig, generic_dataset
from ..configs.mmseg_import import parse_mmseg_config_text
from ..errors import CheckpointError, ConfigError
from .reading import Checkpoint
from .renaming import Rules, rename

_RULES: Rules = (
    (r"decode_head\.image_pool\.1\.", r"aspp.image_pool."),
    (r"decode_head\.aspp_modules\.(\d+)\.depthwise_conv\.", r"aspp.branches.\1.depthwise."),
    (r"decode_head\.aspp_modules\.(\d+)\.pointwise_conv\.", r"aspp.branches.\1.pointwise."),
    (r"decode_head\.aspp_modules\.(\d+)\.", r"aspp.branches.\1."),
    (r"decode_head\.bottleneck\.", r"aspp.project."),
    (r"decode_head\.c1_bottleneck\.", r"decoder.low_level."),
    (r"decode_head\.sep_bottleneck\.(\d+)\.depthwise_conv\.", r"decoder.convs.\1.depthwise."),
    (r"decode_head\.sep_bottleneck\.(\d+)\.pointwise_conv\.", r"decoder.convs.\1.pointwise."),
    (r"decode_head\.conv_seg\.", r"classifier."),
    (r"auxiliary_head\.convs\.0\.", r"auxiliary.block."),
    (r"auxiliary_head\.conv_seg\.", r"auxiliary.classifier."),
)
_MOBILENET_LAYERS = (1, 2, 3, 4, 3, 3, 1)


def matches(state: dict[str, Tensor]) -> bool:
    """Whether the names are mmsegmentation's."""
    return "decode_head.conv_seg.weight" in state


def convert(state: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Our names; values are unchanged."""
    renamed = rename(state, _RULES)
    return (
        {_mobilenet_name(key): value for key, value in renamed.items()}
        if config.backbone == "mobilenet_v2"
        else renamed
    )


def infer_config(checkpoint: Checkpoint) -> ModelConfig:
    """The config whose text lies in the file.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    text = checkpoint.meta.get("config") or checkpoint.meta.get("cfg")
    if not isinstance(text, str):
        raise CheckpointError(
            f"{checkpoint.path}: the weights do not say their output stride and rates, and the file carries no config; "
            "pass the config it was trained with (--config NAME or your_config.py)"
        )
    try:
        return parse_mmseg_config_text(text, checkpoint.path.stem, _dataset(checkpoint.meta))
    except ConfigError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}. Or pass --config") from error


def _dataset(meta: dict[str, Any]) -> DatasetSpec | None:
    newer = meta.get("dataset_meta")
    named = newer if isinstance(newer, dict) else {"classes": meta.get("CLASSES"), "palette": meta.get("PALETTE")}
    classes, palette = named.get("classes"), named.get("palette")
    if not isinstance(classes, (list, tuple)) or not classes:
        return None
    names = tuple(str(name).strip() for name in classes)
    if not isinstance(palette, (list, tuple)) or len(palette) != len(names):
        return generic_dataset(len(names), names)
    return DatasetSpec(
        name="checkpoint",
        classes=names,
        palette=tuple((int(r), int(g), int(b)) for r, g, b in palette),
        reduce_zero_label=bool(named.get("reduce_zero_label", False)),
    )


def _mobilenet_name(key: str) -> str:
    """``backbone.layer3.1.conv.2.bn.weight`` is ``backbone.features.5.conv.3.weight``."""
    key = re.sub(r"^backbone\.conv1\.conv\.", "backbone.features.0.0.", key)
    key = re.sub(r"^backbone\.conv1\.bn\.", "backbone.features.0.1.", key)
    found = re.match(r"^backbone\.layer(\d)\.(\d+)\.conv\.(\d)\.(conv|bn)\.(.+)$", key)
    if found is None:
        return key
    layer, unit, part, kind, rest = found.groups()
    index = 1 + sum(_MOBILENET_LAYERS[: int(layer) - 1]) + int(unit)
    last = 1 if layer == "1" else 2
    if int(part) == last:
        place = str(last + (kind == "bn"))
    else:
        place = f"{part}.{0 if kind == 'conv' else 1}"
    return f"backbone.features.{index}.conv.{place}.{rest}"
