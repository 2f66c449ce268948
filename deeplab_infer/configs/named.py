# SPDX-License-Identifier: Apache-2.0
"""The named configs as one table of data: published tables, papers' models, the bundled example."""

from __future__ import annotations

import functools
from typing import Any

from ..errors import ConfigError
from .datasets import dataset_spec
from .reference import ReferenceRow, reference_rows
from .schema import IMAGENET_MEAN, IMAGENET_STD, ModelConfig
from .suggest import suggest

# Label in the published tables -> what it means for the network.
_BACKBONES: dict[str, dict[str, Any]] = {
    "R-18-D8": {"depth": 18, "stem": "v1c"},
    "R-50-D8": {"depth": 50, "stem": "v1c"},
    "R-101-D8": {"depth": 101, "stem": "v1c"},
    "R-18b-D8": {"depth": 18, "stem": "v1"},
    "R-50b-D8": {"depth": 50, "stem": "v1"},
    "R-101b-D8": {"depth": 101, "stem": "v1"},
    "R-101-D16-MG124": {"depth": 101, "stem": "v1c"},
}
# The narrow head that goes with ResNet-18.
_NARROW = {"aspp_channels": 128, "decoder_channels": 128, "auxiliary_channels": 64}

# What the models of the DeepLabv3 and DeepLabv3+ papers share: 513x513 crops, VOC, output stride 16.
_PAPER: dict[str, Any] = {
    "dataset": "voc12aug",
    "output_stride": 16,
    "multi_grid_absolute": False,
    "contract_dilation": False,
    "aspp_channels": 256,
    "aspp_rates": (6, 12, 18),
    "projection_kernel": 1,
    "decoder_channels": 256,
    "align_corners": True,
    "auxiliary": False,
    "bn_eps": 1e-5,
    "bn_momentum": 0.0003,
    "crop_size": (513, 513),
    "resize_logits_twice": False,
}
_RESNET_BETA = {"backbone": "resnet", "stem": "beta", "multi_grid": (1, 2, 4)}
_XCEPTION = {"backbone": "xception", "bn_eps": 1e-3, "mean": (127.5,) * 3, "std": (127.5,) * 3}
_MOBILENET = {
    "backbone": "mobilenet_v2",
    "depth": 0,
    "contract_dilation": True,
    "bn_eps": 1e-3,
    "mean": (127.5,) * 3,
    "std": (127.5,) * 3,
}
_DENSE = {"aspp_separable": False, "decoder_separable": False}
_V3 = {"architecture": "deeplabv3", "aspp_separable": False}
_CASCADE = {"architecture": "deeplabv3", "aspp": False, "image_pooling": False, "aspp_rates": ()}

# name -> the layers of settings it is made of; later ones win. Sources: DeepLabv3 (arXiv 1706.05587)
# tables 1 to 5, DeepLabv3+ (arXiv 1802.02611) tables 3 and 5, the TensorFlow model zoo for MobileNetV2.
_PAPER_MODELS: dict[str, tuple[dict[str, Any], ...]] = {
    "deeplabv3plus_resnet50-beta": (_RESNET_BETA, {"depth": 50}),
    "deeplabv3plus_resnet101-beta": (_RESNET_BETA, {"depth": 101}),
    "deeplabv3plus_resnet50-beta_dense": (_RESNET_BETA, {"depth": 50}, _DENSE),
    "deeplabv3plus_resnet101-beta_dense": (_RESNET_BETA, {"depth": 101}, _DENSE),
    "deeplabv3plus_xception65": (_XCEPTION, {"depth": 65}),
    "deeplabv3plus_xception71": (_XCEPTION, {"depth": 71}),
    "deeplabv3plus_xception65_dense": (_XCEPTION, {"depth": 65}, _DENSE),
    "deeplabv3plus_xception71_dense": (_XCEPTION, {"depth": 71}, _DENSE),
    "deeplabv3plus_mobilenetv2": (_MOBILENET,),
    "deeplabv3_resnet50-beta": (_RESNET_BETA, {"depth": 50}, _V3),
    "deeplabv3_resnet101-beta": (_RESNET_BETA, {"depth": 101}, _V3),
    "deeplabv3_resnet50-beta_no-pooling": (_RESNET_BETA, {"depth": 50}, _V3, {"image_pooling": False}),
    "deeplabv3_resnet101-beta_no-pooling": (_RESNET_BETA, {"depth": 101}, _V3, {"image_pooling": False}),
    "deeplabv3_xception65": (_XCEPTION, {"depth": 65}, _V3),
    "deeplabv3_xception71": (_XCEPTION, {"depth": 71}, _V3),
    "deeplabv3_mobilenetv2": (_MOBILENET, _V3),
    # The model zoo's small model: image pooling and a 1x1 branch, no atrous branches, no decoder.
    "deeplabv3_mobilenetv2_no-aspp": (_MOBILENET, _V3, {"aspp_rates": ()}),
    **{
        f"deeplabv3_resnet{depth}-beta_block{4 + extra}": (
            _RESNET_BETA,
            {"depth": depth, "cascade_blocks": extra, "multi_grid": (1, 1, 1)},
            _CASCADE,
        )
        for depth in (50, 101)
        for extra in (0, 1, 2, 3)
    },
    # Table 3 of the DeepLabv3 paper: the multi-grid that works best in the cascade.
    **{
        f"deeplabv3_resnet{depth}-beta_block7-mg121": (
            _RESNET_BETA,
            {"depth": depth, "cascade_blocks": 3, "multi_grid": (1, 2, 1)},
            _CASCADE,
        )
        for depth in (50, 101)
    },
}

_EXAMPLES: dict[str, dict[str, Any]] = {
    "deeplabv3plus_mobilenetv2_streets": {
        **_MOBILENET,
        "dataset": "synthetic_streets",
        "output_stride": 16,
        "aspp_channels": 128,
        "aspp_rates": (6, 12, 18),
        "projection_kernel": 1,
        "decoder_channels": 128,
        "low_level_channels": 32,
        "auxiliary": False,
        "bn_eps": 1e-5,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "crop_size": (320, 320),
        "checkpoint": "asset:deeplabv3plus_mobilenetv2_streets.safetensors",
    },
}


@functools.cache
def _table() -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, Any]] = {row.name: _reference_settings(row) for row in reference_rows()}
    for name, layers in _PAPER_MODELS.items():
        table[name] = {key: value for layer in (_PAPER, *layers) for key, value in layer.items()}
    return {**table, **_EXAMPLES}


@functools.cache
def _legacy_names() -> dict[str, str]:
    return {row.legacy_name: row.name for row in reference_rows()}


def list_configs() -> list[str]:
    """All names that `named_config` knows (modern ones)."""
    return list(_table())


def named_config(name: str) -> ModelConfig:
    """A config by its name, modern or legacy, with or without ``.py``.

    Raises:
        ConfigError: no such name; near misses are suggested.
    """
    key = name.removesuffix(".py")
    key = _legacy_names().get(key, key)
    if key not in _table():
        near = suggest(key, [*_table(), *_legacy_names()])
        raise ConfigError(f"unknown config {name!r}{near} (`deeplab-export --list` shows all {len(_table())})")
    settings = dict(_table()[key])
    settings["dataset"] = dataset_spec(settings["dataset"])
    return ModelConfig(name=key, **settings)


def _reference_settings(row: ReferenceRow) -> dict[str, Any]:
    plus = row.method == "DeepLabV3+"
    settings: dict[str, Any] = {
        "dataset": row.dataset,
        "architecture": "deeplabv3plus" if plus else "deeplabv3",
        "aspp_separable": plus,
        "backbone": "resnet",
        **_BACKBONES[row.backbone],
        "output_stride": row.output_stride,
        "aspp_rates": (12, 24, 36) if row.output_stride == 8 else (6, 12, 18),
        "multi_grid": row.multi_grid,
        "align_corners": row.align_corners,
        "test_mode": row.test_mode,
        "window": row.window,
        "window_stride": row.window_stride,
        "test_scale": row.test_scale,
        "crop_size": row.crop,
        "checkpoint": row.checkpoint_url,
        "checkpoint_sha256": row.checkpoint_sha256,
    }
    if "R-18" in row.backbone:
        settings |= _NARROW | ({"low_level_channels": 12} if plus else {})
    return settings
