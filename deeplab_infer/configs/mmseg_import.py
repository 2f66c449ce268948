# SPDX-License-Identifier: Apache-2.0
"""mmsegmentation configs (0.x and 1.x) as `ModelConfig`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .datasets import DatasetSpec, dataset_spec, generic_dataset
from .python_config import read_python_config, read_python_text
from .schema import ModelConfig

_DATASET_TYPES = {
    "CityscapesDataset": "cityscapes",
    "ADE20KDataset": "ade20k",
    "PascalVOCDataset": "voc12aug",
    "PascalContextDataset": "pascal_context",
    "PascalContextDataset59": "pascal_context_59",
    "LoveDADataset": "loveda",
    "PotsdamDataset": "potsdam",
}
_STEMS = {"ResNet": "v1", "ResNetV1c": "v1c"}
_HEADS = {"DepthwiseSeparableASPPHead": True, "ASPPHead": False}
_Stages = tuple[tuple[int, ...], tuple[int, ...]]
_RESNET_STAGES: dict[_Stages, int] = {
    ((1, 2, 1, 1), (1, 1, 2, 4)): 8,
    ((1, 2, 2, 1), (1, 1, 1, 2)): 16,
    ((1, 2, 2, 2), (1, 1, 1, 1)): 32,
}
_MOBILENET_STAGES: dict[_Stages, int] = {
    ((1, 2, 2, 1, 1, 1, 1), (1, 1, 1, 2, 2, 4, 4)): 8,
    ((1, 2, 2, 2, 1, 1, 1), (1, 1, 1, 1, 1, 2, 2)): 16,
    ((1, 2, 2, 2, 1, 2, 1), (1, 1, 1, 1, 1, 1, 1)): 32,
}


def parse_mmseg_config(path: str | os.PathLike[str]) -> ModelConfig:
    """Read a mmsegmentation config file, with its ``_base_`` files, without executing it.

    Raises:
        ConfigError: unreadable, not plain data, or a model that is not DeepLabV3(+) on a supported backbone.
    """
    return from_mmseg(read_python_config(path), name=Path(path).stem)


def parse_mmseg_config_text(text: str, name: str = "custom", dataset: DatasetSpec | None = None) -> ModelConfig:
    """The same for the config text that checkpoints carry in ``meta``.

    Args:
        text: Python source with everything resolved.
        name: name of the result.
        dataset: classes that the checkpoint names, which then win over the dataset's.

    Raises:
        ConfigError: as `parse_mmseg_config`.
    """
    return from_mmseg(read_python_text(text, f"config of {name}"), name=name, dataset=dataset)


def from_mmseg(values: dict[str, Any], name: str, dataset: DatasetSpec | None = None) -> ModelConfig:
    """A `ModelConfig` from the values of a mmsegmentation config."""
    model = values.get("model")
    if not isinstance(model, dict) or model.get("type") != "EncoderDecoder":
        found = model.get("type") if isinstance(model, dict) else None
        raise ConfigError(f"config {name!r}: model.type is {found!r}, only 'EncoderDecoder' is supported")
    try:
        return ModelConfig(
            name=name,
            dataset=dataset or _dataset(values, _section(model, "decode_head", name)),
            **_backbone(_section(model, "backbone", name), name),
            **_head(_section(model, "decode_head", name), name),
            **_auxiliary(model.get("auxiliary_head")),
            **_normalisation(values, model, name),
            **_testing(values, model),
        )
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise ConfigError(f"config {name!r}: a value has an unexpected form ({error})") from error


def _section(model: dict[str, Any], key: str, name: str) -> dict[str, Any]:
    section = model.get(key)
    if isinstance(section, list) and len(section) == 1:
        section = section[0]
    if not isinstance(section, dict):
        raise ConfigError(f"config {name!r}: model.{key} is missing or not a dict")
    return section


def _backbone(backbone: dict[str, Any], name: str) -> dict[str, Any]:
    kind = backbone.get("type")
    if kind == "MobileNetV2":
        stages = _stages(backbone, (1, 2, 2, 2, 1, 2, 1), (1,) * 7)
        return {
            "backbone": "mobilenet_v2",
            "depth": 0,
            "width_mult": float(backbone.get("widen_factor", 1.0)),
            "output_stride": _output_stride(stages, _MOBILENET_STAGES, name),
            "contract_dilation": False,
        }
    if kind not in _STEMS:
        raise ConfigError(
            f"config {name!r}: backbone {kind!r} is not supported; there are {', '.join(_STEMS)}, MobileNetV2"
        )
    for key, plain in (("avg_down", False), ("dcn", None), ("plugins", None), ("num_stages", 4), ("in_channels", 3)):
        if backbone.get(key, plain) != plain:
            raise ConfigError(f"config {name!r}: backbone.{key}={backbone[key]!r} is not supported")
    stages = _stages(backbone, (1, 2, 2, 2), (1, 1, 1, 1))
    return {
        "backbone": "resnet",
        "depth": int(backbone["depth"]),
        "stem": "v1c" if backbone.get("deep_stem", kind == "ResNetV1c") else "v1",
        "output_stride": _output_stride(stages, _RESNET_STAGES, name),
        "multi_grid": tuple(backbone.get("multi_grid") or ()),
        "contract_dilation": bool(backbone.get("contract_dilation", False)),
        "stride_in": "conv1" if backbone.get("style", "pytorch") == "caffe" else "conv2",
    }


def _stages(backbone: dict[str, Any], strides: tuple[int, ...], dilations: tuple[int, ...]) -> _Stages:
    return tuple(backbone.get("strides", strides)), tuple(backbone.get("dilations", dilations))


def _output_stride(
    stages: _Stages,
    known: dict[_Stages, int],
    name: str,
) -> int:
    if stages not in known:
        raise ConfigError(
            f"config {name!r}: backbone strides {stages[0]} with dilations {stages[1]} are not an output stride of "
            f"8, 16 or 32; supported are {'; '.join(f'{s} with {d}' for s, d in known)}"
        )
    return known[stages]


def _head(head: dict[str, Any], name: str) -> dict[str, Any]:
    kind = head.get("type")
    if kind not in _HEADS:
        raise ConfigError(f"config {name!r}: decode head {kind!r} is not supported; there are {', '.join(_HEADS)}")
    dilations = tuple(head.get("dilations", (1, 6, 12, 18)))
    if not dilations or dilations[0] != 1:
        raise ConfigError(f"config {name!r}: decode_head.dilations {dilations} must start with 1, the 1x1 branch")
    separable = _HEADS[kind]
    channels = int(head["channels"])
    low_level = int(head.get("c1_channels") or 0)
    if separable and not low_level:
        raise ConfigError(f"config {name!r}: a DepthwiseSeparableASPPHead without c1 features is not supported")
    return {
        "architecture": "deeplabv3plus" if separable else "deeplabv3",
        "aspp_channels": channels,
        "aspp_rates": dilations[1:],
        "aspp_separable": separable,
        "decoder_channels": channels,
        "low_level_channels": low_level or 48,
        "num_classes": int(head["num_classes"]),
        "align_corners": bool(head.get("align_corners", False)),
        "dropout": float(head.get("dropout_ratio", 0.1)),
    }


def _auxiliary(head: Any) -> dict[str, Any]:
    if isinstance(head, list):
        head = head[0] if head else None
    if not isinstance(head, dict) or head.get("type") != "FCNHead" or head.get("num_convs", 1) != 1:
        return {"auxiliary": False}  # a training aid: the network runs the same without it
    return {"auxiliary": True, "auxiliary_channels": int(head["channels"])}


def _normalisation(values: dict[str, Any], model: dict[str, Any], name: str) -> dict[str, Any]:
    source = model.get("data_preprocessor") or values.get("data_preprocessor") or values.get("img_norm_cfg")
    if not source or "mean" not in source:
        source = next((step for step in _steps(_test_pipeline(values)) if step.get("type") == "Normalize"), None)
    if not source or "mean" not in source:
        raise ConfigError(f"config {name!r}: no mean and std found (data_preprocessor, img_norm_cfg, Normalize)")
    rgb = source.get("bgr_to_rgb", source.get("to_rgb", True))
    return {
        "mean": tuple(float(v) for v in source["mean"]),
        "std": tuple(float(v) for v in source["std"]),
        "channel_order": "rgb" if rgb else "bgr",
    }


def _testing(values: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
    test = model.get("test_cfg") or values.get("test_cfg") or {}
    result: dict[str, Any] = {"test_mode": test.get("mode", "whole")}
    if result["test_mode"] == "slide":
        result["window"] = _pair(test["crop_size"])
        result["window_stride"] = _pair(test["stride"])
    for step in _steps(_test_pipeline(values)):
        scale = step.get("scale") or step.get("img_scale")
        if step.get("type") in ("Resize", "MultiScaleFlipAug") and scale and step.get("keep_ratio", True):
            result["test_scale"] = _pair(scale[0] if isinstance(scale, list) and isinstance(scale[0], tuple) else scale)
            break
    crop = values.get("crop_size")
    if crop is not None:
        result["crop_size"] = _pair(crop)
    return result


def _test_pipeline(values: dict[str, Any]) -> list[Any]:
    """The steps before the network at test time, wherever the version keeps them."""
    dataset = _test_dataset(values)
    return dataset.get("pipeline") or values.get("test_pipeline") or []


def _test_dataset(values: dict[str, Any]) -> dict[str, Any]:
    for loader in ("test_dataloader", "val_dataloader"):
        found = values.get(loader)
        if isinstance(found, dict) and isinstance(found.get("dataset"), dict):
            return found["dataset"]
    data = values.get("data")
    if isinstance(data, dict):
        for split in ("test", "val", "train"):
            if isinstance(data.get(split), dict):
                return data[split]
    return {}


def _steps(pipeline: list[Any]) -> list[dict[str, Any]]:
    """Pipeline steps, those nested in MultiScaleFlipAug included."""
    steps = []
    for step in pipeline:
        if isinstance(step, dict):
            steps += [step, *_steps(step.get("transforms") or [])]
    return steps


def _dataset(values: dict[str, Any], head: dict[str, Any]) -> DatasetSpec:
    """The classes: as the dataset of the config names them, by its type, or made up."""
    dataset = _test_dataset(values)
    count = int(head["num_classes"])
    named = dataset.get("metainfo") or dataset
    classes, palette = named.get("classes"), named.get("palette")
    if isinstance(classes, (list, tuple)) and len(classes) == count:
        plain = generic_dataset(count, tuple(str(c) for c in classes))
        if isinstance(palette, (list, tuple)) and len(palette) == count:
            colours = tuple((int(r), int(g), int(b)) for r, g, b in palette)
            return DatasetSpec("custom", plain.classes, colours, reduce_zero_label=_reduces_zero(values, dataset))
        return plain
    known = _DATASET_TYPES.get(str(dataset.get("type", values.get("dataset_type"))))
    if known is not None and len(dataset_spec(known).classes) == count:
        return dataset_spec(known)
    return generic_dataset(count)


def _reduces_zero(values: dict[str, Any], dataset: dict[str, Any]) -> bool:
    loads = [step for step in _steps(_test_pipeline(values)) if step.get("type") == "LoadAnnotations"]
    return bool(dataset.get("reduce_zero_label") or any(step.get("reduce_zero_label") for step in loads))


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    first, second = value
    return int(first), int(second)
