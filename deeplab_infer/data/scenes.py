# SPDX-License-Identifier: Apache-2.0
"""The synthetic streets as a dataset, and the crops that training sees."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from ..configs import DatasetSpec, dataset_spec
from ..errors import DataError
from .synthetic_streets import generate_street

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]

# Held-out scenes have seeds that no training run reaches.
HELD_OUT_SEED = 1_000_000


class LabelledImages(Protocol):
    """Images with labels, by position: uint8 [H, W, 3] RGB and uint8 [H, W]."""

    spec: DatasetSpec

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Pair: ...


@dataclass
class StreetScenes:
    """Synthetic street scenes of consecutive seeds.

    Attributes:
        count: number of scenes.
        height, width: size of each, pixels.
        first_seed: seed of the first; scenes from `HELD_OUT_SEED` on are for evaluation.
    """

    count: int
    height: int
    width: int
    first_seed: int = 0
    spec: DatasetSpec = field(default_factory=lambda: dataset_spec("synthetic_streets"))

    def __post_init__(self) -> None:
        if self.count < 1:
            raise DataError(f"a dataset needs at least 1 scene, got {self.count}")

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Pair:
        if not 0 <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}")
        return generate_street(self.first_seed + index, self.height, self.width)


class InMemory:
    """A dataset drawn once, by several processes, and kept."""

    def __init__(self, source: LabelledImages, workers: int = 0) -> None:
        self.spec = source.spec
        workers = workers or len(os.sched_getaffinity(0))
        with ProcessPoolExecutor(workers) as pool:
            self._pairs = list(pool.map(source.__getitem__, range(len(source)), chunksize=4))

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Pair:
        return self._pairs[index]


def random_crop(pair: Pair, crop: tuple[int, int], rng: np.random.Generator, ignore_index: int) -> Pair:
    """A random scale (0.75 to 1.6), crop, flip and light, in that order.

    Pixels beyond the picture are black and labelled ``ignore_index``.
    """
    image, labels = pair
    scale = float(rng.uniform(0.75, 1.6))
    size = (max(1, round(labels.shape[1] * scale)), max(1, round(labels.shape[0] * scale)))
    image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    labels = np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST), np.uint8)
    height, width = labels.shape
    top = int(rng.integers(0, max(1, height - crop[0] + 1)))
    left = int(rng.integers(0, max(1, width - crop[1] + 1)))
    image = image[top : top + crop[0], left : left + crop[1]]
    labels = labels[top : top + crop[0], left : left + crop[1]]
    if rng.random() < 0.5:
        image, labels = image[:, ::-1], labels[:, ::-1]
    gain, offset = rng.uniform(0.8, 1.2), rng.uniform(-16, 16)
    image = np.clip(image * np.float32(gain) + np.float32(offset), 0, 255).astype(np.uint8)
    padding = (crop[0] - labels.shape[0], crop[1] - labels.shape[1])
    if max(padding) > 0:
        image = np.pad(image, ((0, padding[0]), (0, padding[1]), (0, 0)))
        labels = np.pad(labels, ((0, padding[0]), (0, padding[1])), constant_values=ignore_index)
    return image, labels


def crop_batch(
    dataset: LabelledImages, indices: Sequence[int], crop: tuple[int, int], rng: np.random.Generator
) -> Pair:
    """Random crops as one batch: uint8 [N, h, w, 3] and uint8 [N, h, w]."""
    pairs = [random_crop(dataset[index], crop, rng, dataset.spec.ignore_index) for index in indices]
    return np.stack([image for image, _ in pairs]), np.stack([labels for _, labels in pairs])
