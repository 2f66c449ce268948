# SPDX-License-Identifier: Apache-2.0
"""The recipes of training crops: all their numbers, in one table."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..configs import ModelConfig
from ..configs.suggest import suggest
from ..errors import DataError
from ..preprocess import Size

Range = tuple[float, float]

NO_CHANGE: Range = (1.0, 1.0)


@dataclass(frozen=True)
class Augmentation:
    """All numbers of a recipe; a step that changes nothing draws no random number.

    Attributes:
        scales: smallest and largest factor of the random resize.
        scale_step: distance between the factors that may come; 0 for any factor between the two.
        base_scale: limits (width, height) that the factor multiplies, for a resize by `network_size`'s keep-ratio
            rule; None multiplies the image's own size.
        random_position: the crop lies anywhere; False takes the centre.
        class_share: a crop where one class has this share of the labelled pixels, or more, is drawn again; so is one
            with a single class. 1 takes any crop.
        crop_tries: how many crops are looked at; the one drawn after the last of them is taken as it is.
        flip: probability of a left-right flip.
        distortion: probability of each of the next four.
        brightness: largest number of grey levels added or taken away.
        contrast: range of the factor on the grey levels, before or after the next two with equal probability.
        saturation: range of the factor on the S of HSV.
        hue: a change in -hue .. hue - 1 to the H of HSV in OpenCV's 8 bits, where the circle has 180 steps.
        gain, offset: ranges of factor and summand on the grey levels, on every image.
    """

    scales: Range = NO_CHANGE
    scale_step: float = 0.0
    base_scale: Size | None = None
    random_position: bool = False
    class_share: float = 1.0
    crop_tries: int = 10
    flip: float = 0.0
    distortion: float = 0.0
    brightness: float = 0.0
    contrast: Range = NO_CHANGE
    saturation: Range = NO_CHANGE
    hue: int = 0
    gain: Range = NO_CHANGE
    offset: Range = (0.0, 0.0)

    def __post_init__(self) -> None:
        for name, lowest, highest in _LIMITS:
            values = getattr(self, name)
            for value in values if isinstance(values, tuple) else (values,):
                if not lowest <= value <= highest:
                    raise DataError(f"augmentation: {name} must be in {lowest:g}..{highest:g}, got {values}")
        for name in ("scales", "contrast", "saturation", "gain", "offset"):
            low, high = getattr(self, name)
            if low > high:
                raise DataError(f"augmentation: {name} is (smallest, largest), got ({low}, {high})")
        if self.base_scale is not None and min(self.base_scale) < 1:
            raise DataError(f"augmentation: base_scale is (width, height) in pixels, got {self.base_scale}")
        steps = (self.scales[1] - self.scales[0]) / self.scale_step if self.scale_step else 0
        if not math.isclose(steps, round(steps), abs_tol=1e-6):
            raise DataError(
                f"augmentation: scale_step {self.scale_step} does not lead from {self.scales[0]} to {self.scales[1]}; "
                "give one that divides the distance, or 0 for any factor"
            )


# Field, smallest and largest value of it or of each of its two ends.
_LIMITS: tuple[tuple[str, float, float], ...] = (
    ("scales", 0.01, 100),
    ("scale_step", 0, 100),
    ("class_share", 0, 1),
    ("crop_tries", 0, 1000),
    ("flip", 0, 1),
    ("distortion", 0, 1),
    ("brightness", 0, 255),
    ("contrast", 0, 255),
    ("saturation", 0, 255),
    ("hue", 0, 90),
    ("gain", 0, 255),
    ("offset", -255, 255),
)

# "reference": the training pipelines of mmsegmentation (1.2.2, configs/_base_/datasets), where the factor multiplies
#     the data set's base scale: `named_augmentation` puts it in.
# "paper": DeepLabv3 section 4 and DeepLabv3+ section 4: scales 0.5 to 2.0, left-right flips, and 513 x 513 crops. The
#     papers do not say which scales lie between; steps of 0.25 are the default of the authors' TensorFlow code
#     (models/research/deeplab/train.py), which pads with the mean pixel and changes no colours.
# "streets": what the bundled example was trained with.
# "none": the centre as it is, to look at data or to see whether a network can learn a few images by heart.
AUGMENTATIONS: dict[str, Augmentation] = {
    "reference": Augmentation(
        scales=(0.5, 2.0),
        random_position=True,
        class_share=0.75,
        flip=0.5,
        distortion=0.5,
        brightness=32,
        contrast=(0.5, 1.5),
        saturation=(0.5, 1.5),
        hue=18,
    ),
    "paper": Augmentation(scales=(0.5, 2.0), scale_step=0.25, random_position=True, flip=0.5),
    "streets": Augmentation(scales=(0.75, 1.6), random_position=True, flip=0.5, gain=(0.8, 1.2), offset=(-16.0, 16.0)),
    "none": Augmentation(),
}
_ON_BASE_SCALE = frozenset({"reference"})

# Training scale (width, height) by data set, as mmsegmentation 1.2.2's configs/_base_/datasets have it. It is not
# always the test scale: LoveDA is tested at 1024 x 1024.
_BASE_SCALES: dict[str, Size] = {
    "cityscapes": (2048, 1024),
    "ade20k": (2048, 512),
    "voc12aug": (2048, 512),
    "pascal_context": (520, 520),
    "pascal_context_59": (520, 520),
    "loveda": (2048, 512),
    "potsdam": (512, 512),
}
# Crops that have a training scale of their own.
_BASE_SCALES_BY_CROP: dict[tuple[str, Size], Size] = {("cityscapes", (769, 769)): (2049, 1025)}


def base_scale(config: ModelConfig) -> Size | None:
    """The scale (width, height) that the reference's random factor multiplies, by data set and training crop.

    None for a data set that the reference's tables do not have: the factor then multiplies the image's own size.
    """
    name = config.dataset.name
    if config.crop_size is not None and (name, config.crop_size) in _BASE_SCALES_BY_CROP:
        return _BASE_SCALES_BY_CROP[name, config.crop_size]
    return _BASE_SCALES.get(name)


def named_augmentation(name: str, config: ModelConfig | None = None) -> Augmentation:
    """A recipe of `AUGMENTATIONS`, with the base scale of the config where the recipe uses one.

    Raises:
        DataError: no recipe has this name.
    """
    if name not in AUGMENTATIONS:
        raise DataError(
            f"unknown augmentation {name!r}{suggest(name, list(AUGMENTATIONS))} (known: {', '.join(AUGMENTATIONS)})"
        )
    recipe = AUGMENTATIONS[name]
    if config is None or name not in _ON_BASE_SCALE:
        return recipe
    return replace(recipe, base_scale=base_scale(config))
