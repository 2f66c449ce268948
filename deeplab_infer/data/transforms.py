# SPDX-License-Identifier: Apache-2.0
"""What training sees of an image: a random scale, a crop, a flip, other light."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..preprocess import Size, network_size
from .base import Pair
from .recipes import AUGMENTATIONS, NO_CHANGE, Augmentation, base_scale, named_augmentation

__all__ = ["AUGMENTATIONS", "Augmentation", "Sample", "augment", "base_scale", "named_augmentation"]

Pixels = NDArray[np.uint8]

_LEVELS = np.arange(256, dtype=np.float32)


class Sample(NamedTuple):
    """One crop.

    Attributes:
        image: uint8 [h, w, 3] RGB; 0 where nothing is valid.
        labels: uint8 [h, w]; the data set's ``ignore_index`` where nothing is valid.
        valid: (rows, columns) from the top left corner that hold picture; the rest is padding. A training step sets
            it to 0 after normalising, which is padding with the mean, as papers and reference have it.
    """

    image: Pixels
    labels: Pixels
    valid: tuple[int, int]


def augment(pair: Pair, augmentation: Augmentation, crop: Size, rng: np.random.Generator, ignore_index: int) -> Sample:
    """One training crop: scale, crop, flip, colours, padding, in that order.

    Images are resized bilinearly and labels by nearest neighbour, in 8 bits as OpenCV does, like the reference.

    Args:
        pair: uint8 [H, W, 3] RGB and uint8 [H, W], any size; they are not changed.
        augmentation: what may happen.
        crop: (height, width) of the result.
        rng: every random number is drawn from it, in the order of the steps.
        ignore_index: label of padding; pixels with it count nothing in the class-share rule.

    Returns:
        A sample of exactly ``crop``, in memory of its own.

    Raises:
        DataError: image and labels do not belong together, or crop or ignore_index cannot be.
    """
    image, labels = _checked(pair, crop, ignore_index)
    size = _draw_size(labels.shape[0], labels.shape[1], augmentation, rng)
    labels = _resized(labels, size, cv2.INTER_NEAREST)
    top, left = _draw_corner(labels, augmentation, crop, rng, ignore_index)
    window = np.s_[top : top + crop[0], left : left + crop[1]]
    image, labels = _resized(image, size, cv2.INTER_LINEAR)[window], labels[window]
    if augmentation.flip > 0 and rng.random() < augmentation.flip:
        image, labels = image[:, ::-1], labels[:, ::-1]
    image = _relit(np.ascontiguousarray(image), augmentation, rng)
    return _padded(image, labels, crop, ignore_index)


def _checked(pair: Pair, crop: Size, ignore_index: int) -> Pair:
    image, labels = pair
    if image.ndim != 3 or image.shape[2] != 3 or labels.shape != image.shape[:2] or labels.size == 0:
        raise DataError(
            f"an image [H, W, 3] and labels [H, W] of its size are needed, got {image.shape} and {labels.shape}"
        )
    if image.dtype != np.uint8 or labels.dtype != np.uint8:
        raise DataError(f"image and labels must be uint8, got {image.dtype} and {labels.dtype}")
    if min(crop) < 1:
        raise DataError(f"a crop is (height, width) of at least 1 x 1, got {crop[0]} x {crop[1]}")
    if not 0 <= ignore_index <= 255:
        raise DataError(f"labels are uint8, so ignore_index must be in 0..255, got {ignore_index}")
    return pair


def _draw_size(height: int, width: int, augmentation: Augmentation, rng: np.random.Generator) -> Size:
    factor = _draw_factor(augmentation, rng)
    if augmentation.base_scale is None:
        return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))
    across, down = augmentation.base_scale
    return network_size(height, width, (int(across * factor), int(down * factor)))


def _draw_factor(augmentation: Augmentation, rng: np.random.Generator) -> float:
    low, high = augmentation.scales
    if low == high:
        return low
    if augmentation.scale_step:
        return low + augmentation.scale_step * int(rng.integers(0, round((high - low) / augmentation.scale_step) + 1))
    return float(rng.uniform(low, high))


def _resized(pixels: Pixels, size: Size, interpolation: int) -> Pixels:
    if pixels.shape[:2] == size:
        return pixels
    return np.asarray(cv2.resize(pixels, (size[1], size[0]), interpolation=interpolation), np.uint8)


def _draw_corner(
    labels: Pixels, augmentation: Augmentation, crop: Size, rng: np.random.Generator, ignore_index: int
) -> tuple[int, int]:
    """Row and column where the crop begins."""
    down, across = max(0, labels.shape[0] - crop[0]), max(0, labels.shape[1] - crop[1])
    if not augmentation.random_position:
        return down // 2, across // 2

    def draw() -> tuple[int, int]:
        return int(rng.integers(0, down + 1)), int(rng.integers(0, across + 1))

    top, left = draw()
    for _ in range(augmentation.crop_tries if augmentation.class_share < 1 else 0):
        share = _largest_share(labels[top : top + crop[0], left : left + crop[1]], ignore_index)
        if share < augmentation.class_share:
            break
        top, left = draw()
    return top, left


def _largest_share(labels: Pixels, ignore_index: int) -> float:
    """Share of the most frequent class among the labelled pixels; 1 where there is none."""
    counts = np.bincount(labels.ravel(), minlength=256)
    counts[ignore_index] = 0
    return float(counts.max() / counts.sum()) if counts.any() else 1.0


def _relit(image: Pixels, augmentation: Augmentation, rng: np.random.Generator) -> Pixels:
    if augmentation.distortion > 0:
        image = _distorted(image, augmentation, rng)
    if augmentation.gain == NO_CHANGE and augmentation.offset == (0, 0):
        return image
    gain, offset = rng.uniform(*augmentation.gain), rng.uniform(*augmentation.offset)
    return _linear(image, gain, offset)


def _distorted(image: Pixels, augmentation: Augmentation, rng: np.random.Generator) -> Pixels:
    """Brightness, contrast, saturation and hue in the reference's order, in 8 bits after every step."""

    def chosen() -> bool:
        return rng.random() < augmentation.distortion

    if chosen():
        image = _linear(image, 1.0, rng.uniform(-augmentation.brightness, augmentation.brightness))
    contrast_first = rng.random() < 0.5
    if contrast_first and chosen():
        image = _linear(image, rng.uniform(*augmentation.contrast), 0.0)
    if chosen():
        image = _with_saturation(image, rng.uniform(*augmentation.saturation))
    if chosen():
        image = _with_hue(image, int(rng.integers(-augmentation.hue, max(1, augmentation.hue))))
    if not contrast_first and chosen():
        image = _linear(image, rng.uniform(*augmentation.contrast), 0.0)
    return image


def _linear_levels(gain: float, offset: float) -> Pixels:
    # The fraction is cut off, not rounded: so do the reference and the old streets.
    return np.clip(_LEVELS * np.float32(gain) + np.float32(offset), 0, 255).astype(np.uint8)


def _linear(image: Pixels, gain: float, offset: float) -> Pixels:
    # A pixel has 256 values: looking the result up is exact, and several times faster than computing it.
    return np.asarray(cv2.LUT(image, _linear_levels(gain, offset)), np.uint8)


def _with_saturation(image: Pixels, factor: float) -> Pixels:
    return _with_hsv_channel(image, 1, _linear_levels(factor, 0.0))


def _with_hue(image: Pixels, steps: int) -> Pixels:
    return _with_hsv_channel(image, 0, ((np.arange(256) + steps) % 180).astype(np.uint8))


def _with_hsv_channel(image: Pixels, channel: int, levels: Pixels) -> Pixels:
    tables = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, 2)
    tables[0, :, channel] = levels
    hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), tables)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)


def _padded(image: Pixels, labels: Pixels, crop: Size, ignore_index: int) -> Sample:
    rows, columns = labels.shape
    whole = np.zeros((*crop, 3), np.uint8)
    whole[:rows, :columns] = image
    whole_labels = np.full(crop, ignore_index, np.uint8)
    whole_labels[:rows, :columns] = labels
    return Sample(whole, whole_labels, (rows, columns))
