# SPDX-License-Identifier: Apache-2.0
"""`ModelConfig`: everything that shapes a network, its input and its use."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import ConfigError
from .datasets import DatasetSpec, dataset_spec, generic_dataset
from .fields import coerce_to, to_plain
from .suggest import suggest

Triple = tuple[float, float, float]
Size = tuple[int, int]

IMAGENET_MEAN: Triple = (123.675, 116.28, 103.53)
IMAGENET_STD: Triple = (58.395, 57.12, 57.375)

DEPTHS = {"resnet": (18, 34, 50, 101, 152), "xception": (41, 65, 71), "mobilenet_v2": (0,)}
_STAGES = {
    8: ((1, 2, 1, 1), (1, 1, 2, 4)),
    16: ((1, 2, 2, 1), (1, 1, 1, 2)),
    32: ((1, 2, 2, 2), (1, 1, 1, 1)),
}


@dataclass(frozen=True)
class ModelConfig:
    """A DeepLabV3 or DeepLabV3+ network together with its input rule, test mode and classes.

    Frozen and validated: a contradiction raises `ConfigError` when the config is made. All sizes are
    ``(height, width)`` except ``test_scale``, which is ``(width, height)`` as in the reference's configs.

    Attributes:
        name: name of the config.
        architecture: ``"deeplabv3"`` (no decoder) or ``"deeplabv3plus"`` (with decoder).
        backbone: ``"resnet"``, ``"xception"`` or ``"mobilenet_v2"``.
        depth: 18, 34, 50, 101, 152 (resnet); 41, 65, 71 (xception); 0 (mobilenet_v2).
        stem: resnet only: ``"v1"`` one 7x7, ``"v1c"`` three 3x3 of 32, 32, 64, ``"beta"`` 64, 64, 128.
        width_mult: channel multiplier of mobilenet_v2.
        output_stride: input pixels per backbone-output pixel: 8, 16 or 32.
        multi_grid: rates of the units of the last block(s); empty for none (DeepLabv3 section 3.2.1).
        multi_grid_absolute: the multi-grid values are the dilations themselves (mmsegmentation) rather than
            multiplied with the block's rate (paper).
        contract_dilation: the first unit of a dilated stage uses half its rate (mmsegmentation, torchvision).
        basic_block_dilation: which 3x3 of a basic block is dilated: ``"first"`` or ``"both"``.
        stride_in: the strided convolution of a bottleneck: ``"conv2"`` (3x3) or ``"conv1"`` (1x1, caffe).
        cascade_blocks: extra blocks block5.. of the DeepLabv3 cascade, 0 to 3 (section 3.1).
        mobilenet_last_conv: the 320 -> 1280 1x1 convolution is part of the backbone.
        aspp: False puts the classifier on the backbone's output (cascade).
        aspp_channels: width of the ASPP branches and projection.
        aspp_rates: atrous rates of the 3x3 branches at this ``output_stride``.
        aspp_separable: 3x3 branches are depthwise-separable.
        separable_bn: ``"both"``: BN+ReLU after depthwise and pointwise; ``"after"``: only after pointwise.
        image_pooling: ASPP has the image-level branch.
        projection_kernel: kernel of the convolution that fuses the branches: 1 (paper) or 3 (mmsegmentation).
        post_aspp_convs: 3x3 blocks between projection and decoder or classifier.
        post_aspp_separable: those blocks are depthwise-separable.
        decoder_channels: width of the decoder's blocks.
        low_level_channels: channels that the stride-4 features are reduced to.
        decoder_convs: 3x3 blocks after the concat.
        decoder_separable: those blocks are depthwise-separable.
        num_classes: channels of the logits.
        align_corners: corner rule of every bilinear resize, in the network and of its logits.
        dropout: probability before the classifier, in training.
        auxiliary: training-mode auxiliary head on the stride-16 stage of the backbone.
        auxiliary_channels: width of that head.
        bn_eps: epsilon of every batch normalisation.
        backbone_bn_eps: another epsilon for the backbone's; None for the same.
        bn_momentum: momentum of batch normalisation, torch's convention.
        mean: subtracted from the 0..255 image, in the order of ``channel_order``.
        std: then divided by, in the order of ``channel_order``.
        channel_order: order of the colours that the network eats, ``"rgb"`` or ``"bgr"``.
        test_mode: ``"whole"`` image or ``"slide"`` (windows).
        window: window size of slide mode.
        window_stride: step between windows.
        test_scale: limits (width, height) of the keep-ratio resize before the network; None for none.
        crop_size: training crop.
        resize_logits_twice: logits go to the network-input (or window) size first, then to the image's size
            (the reference); False: in one step (torchvision, segmentation_models_pytorch).
        dataset: classes, palette and label rules.
        checkpoint: URL of the official weights, ``asset:NAME`` for bundled ones, or empty.
        checkpoint_sha256: first hex digits of the checkpoint file's SHA-256, or empty.
    """

    name: str
    dataset: DatasetSpec
    architecture: Literal["deeplabv3", "deeplabv3plus"] = "deeplabv3plus"
    backbone: Literal["resnet", "xception", "mobilenet_v2"] = "resnet"
    depth: int = 50
    stem: Literal["v1", "v1c", "beta"] = "v1c"
    width_mult: float = 1.0
    output_stride: int = 8
    multi_grid: tuple[int, ...] = ()
    multi_grid_absolute: bool = True
    contract_dilation: bool = True
    basic_block_dilation: Literal["first", "both"] = "first"
    stride_in: Literal["conv2", "conv1"] = "conv2"
    cascade_blocks: int = 0
    mobilenet_last_conv: bool = False
    aspp: bool = True
    aspp_channels: int = 512
    aspp_rates: tuple[int, ...] = (12, 24, 36)
    aspp_separable: bool = True
    separable_bn: Literal["both", "after"] = "both"
    image_pooling: bool = True
    projection_kernel: int = 3
    post_aspp_convs: int = 0
    post_aspp_separable: bool = False
    decoder_channels: int = 512
    low_level_channels: int = 48
    decoder_convs: int = 2
    decoder_separable: bool = True
    num_classes: int = 0
    align_corners: bool = False
    dropout: float = 0.1
    auxiliary: bool = True
    auxiliary_channels: int = 256
    bn_eps: float = 1e-5
    backbone_bn_eps: float | None = None
    bn_momentum: float = 0.1
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    channel_order: Literal["rgb", "bgr"] = "rgb"
    test_mode: Literal["whole", "slide"] = "whole"
    window: Size | None = None
    window_stride: Size | None = None
    test_scale: Size | None = None
    crop_size: Size | None = None
    resize_logits_twice: bool = True
    checkpoint: str = ""
    checkpoint_sha256: str = field(default="")

    def __post_init__(self) -> None:
        if self.num_classes == 0:
            object.__setattr__(self, "num_classes", len(self.dataset.classes))
        _check_types(self)
        _check_network(self)
        _check_input(self)

    # -- what follows from the fields

    @property
    def strides(self) -> tuple[int, int, int, int]:
        """Strides of a ResNet's four stages at this output stride."""
        return _STAGES[self.output_stride][0]

    @property
    def dilations(self) -> tuple[int, int, int, int]:
        """Atrous rates of a ResNet's four stages at this output stride."""
        return _STAGES[self.output_stride][1]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, one per channel of the logits."""
        return self.dataset.classes

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]:
        """RGB colour of each class, 0..255."""
        return self.dataset.palette

    @property
    def has_decoder(self) -> bool:
        """Whether the network is DeepLabV3+, with logits at stride 4."""
        return self.architecture == "deeplabv3plus"

    @property
    def logits_stride(self) -> int:
        """Input pixels per logits pixel."""
        return 4 if self.has_decoder else self.output_stride

    # -- changed copies

    def replace(self, **changes: Any) -> ModelConfig:
        """A copy with some fields changed; ``num_classes`` alone brings generic class names along.

        Raises:
            ConfigError: unknown field, or the result contradicts itself.
        """
        unknown = set(changes) - FIELD_NAMES
        if unknown:
            raise _unknown_field(sorted(unknown)[0])
        if "num_classes" in changes and "dataset" not in changes:
            count = changes["num_classes"]
            if isinstance(count, int) and count != len(self.dataset.classes):
                changes["dataset"] = generic_dataset(count)
        if "dataset" in changes and "num_classes" not in changes:
            changes["num_classes"] = len(changes["dataset"].classes)
        return dataclasses.replace(self, **changes)

    def with_output_stride(self, output_stride: int) -> ModelConfig:
        """The same weights run at another output stride; the ASPP rates follow (DeepLabv3 section 3.3).

        Halving the output stride doubles the rates, so that they cover the same part of the image; so does
        an absolute multi-grid, whose values are dilations.
        """
        if output_stride not in _STAGES:
            raise ConfigError(f"output_stride {output_stride!r} is not one of 8, 16, 32")

        def follow(rates: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(max(1, rate * self.output_stride // output_stride) for rate in rates)

        multi_grid = follow(self.multi_grid) if self.multi_grid_absolute else self.multi_grid
        return self.replace(output_stride=output_stride, aspp_rates=follow(self.aspp_rates), multi_grid=multi_grid)

    # -- serialisation

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values; `from_dict` reads them back unchanged."""
        return to_plain(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Build a config from plain values.

        Raises:
            ConfigError: an unknown, missing or ill-typed field, named in the message.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"a model config must be a mapping of fields, got {type(values).__name__}")
        for key in values:
            if key not in FIELD_NAMES:
                raise _unknown_field(str(key))
        if "dataset" not in values:
            raise ConfigError("a model config needs 'dataset': a dataset's name, or its name, classes and palette")
        converted = {key: coerce(key, value) for key, value in values.items()}
        converted.setdefault("name", "custom")
        return cls(**converted)


FIELD_NAMES = frozenset(f.name for f in dataclasses.fields(ModelConfig))
_HINTS = typing.get_type_hints(ModelConfig)


def coerce(key: str, value: Any) -> Any:
    """Turn a value from JSON, YAML or a command line into the field's type, or raise `ConfigError`."""
    return _coerce_dataset(value) if key == "dataset" else coerce_to(_HINTS[key], key, value)


def _coerce_dataset(value: Any) -> DatasetSpec:
    if isinstance(value, DatasetSpec):
        return value
    if isinstance(value, str):
        return dataset_spec(value)
    if not isinstance(value, Mapping):
        raise ConfigError(f"dataset: expected a name or a mapping, got {value!r}")
    known = {f.name for f in dataclasses.fields(DatasetSpec)}
    unknown = sorted(set(value) - known)
    if unknown:
        raise ConfigError(f"dataset: unknown field {unknown[0]!r}; known fields: {', '.join(sorted(known))}")
    missing = {"name", "classes", "palette"} - set(value)
    if missing:
        raise ConfigError(f"dataset: missing {', '.join(sorted(missing))}")
    fields: dict[str, Any] = dict(value)
    fields["classes"] = tuple(str(c) for c in value["classes"])
    try:
        fields["palette"] = tuple(tuple(int(v) for v in colour) for colour in value["palette"])
    except (TypeError, ValueError):
        raise ConfigError("dataset.palette: expected a list of [red, green, blue] colours in 0..255") from None
    return DatasetSpec(**fields)


def _unknown_field(key: str) -> ConfigError:
    return ConfigError(f"unknown config field {key!r}{suggest(key, FIELD_NAMES)}")


def _check_types(config: ModelConfig) -> None:
    for name, hint in _HINTS.items():
        if name != "dataset":
            coerce_to(hint, name, getattr(config, name))
    if not isinstance(config.dataset, DatasetSpec):
        raise ConfigError(f"dataset: expected a DatasetSpec, got {config.dataset!r}")


def _check_network(config: ModelConfig) -> None:
    def require(condition: bool, message: str) -> None:
        if not condition:
            raise ConfigError(f"config {config.name!r}: {message}")

    require(config.output_stride in _STAGES, f"output_stride {config.output_stride} is not one of 8, 16, 32")
    require(
        config.depth in DEPTHS[config.backbone],
        f"depth {config.depth} is not one of {DEPTHS[config.backbone]} for backbone {config.backbone!r}",
    )
    require(config.num_classes >= 1, f"num_classes must be at least 1, got {config.num_classes}")
    require(
        len(config.dataset.classes) == config.num_classes,
        f"num_classes is {config.num_classes} but dataset {config.dataset.name!r} has {len(config.dataset.classes)}",
    )
    require(all(rate >= 1 for rate in config.aspp_rates), f"aspp_rates must be positive, got {config.aspp_rates}")
    require(all(rate >= 1 for rate in config.multi_grid), f"multi_grid must be positive, got {config.multi_grid}")
    require(
        config.projection_kernel in (1, 3),
        f"projection_kernel must be 1 or 3, got {config.projection_kernel}",
    )
    require(0 <= config.cascade_blocks <= 3, f"cascade_blocks must be 0 to 3, got {config.cascade_blocks}")
    require(
        config.cascade_blocks == 0 or (config.backbone == "resnet" and config.depth >= 50),
        "cascade_blocks needs a bottleneck resnet (depth 50, 101 or 152)",
    )
    require(config.aspp or not config.has_decoder, "deeplabv3plus needs aspp: true")
    require(
        config.stem != "beta" or config.depth >= 50 or config.backbone != "resnet",
        "stem 'beta' needs a bottleneck resnet (depth 50, 101 or 152)",
    )
    for name in ("aspp_channels", "decoder_channels", "low_level_channels", "auxiliary_channels"):
        require(getattr(config, name) >= 1, f"{name} must be at least 1, got {getattr(config, name)}")
    for name in ("post_aspp_convs", "decoder_convs"):
        require(getattr(config, name) >= 0, f"{name} must not be negative, got {getattr(config, name)}")
    require(0 <= config.dropout < 1, f"dropout must be in [0, 1), got {config.dropout}")
    require(config.bn_eps > 0, f"bn_eps must be positive, got {config.bn_eps}")
    require(config.width_mult > 0, f"width_mult must be positive, got {config.width_mult}")


def _check_input(config: ModelConfig) -> None:
    def require(condition: bool, message: str) -> None:
        if not condition:
            raise ConfigError(f"config {config.name!r}: {message}")

    require(len(config.mean) == 3 and len(config.std) == 3, "mean and std need three values")
    require(all(s > 0 for s in config.std), f"std must be positive, got {config.std}")
    for name in ("window", "window_stride", "test_scale", "crop_size"):
        size = getattr(config, name)
        require(
            size is None or (len(size) == 2 and min(size) >= 1),
            f"{name} must be two positive sizes, got {size}",
        )
    if config.test_mode == "slide":
        require(
            config.window is not None and config.window_stride is not None,
            "test_mode 'slide' needs window and window_stride",
        )
