# SPDX-License-Identifier: Apache-2.0
"""The synthetic streets as a dataset, and any dataset kept in memory."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from ..configs import DatasetSpec, dataset_spec
from ..errors import DataError
from .base import LabelledImages, Pair
from .synthetic_streets import generate_street

# Held-out scenes have seeds that no training run reaches.
HELD_OUT_SEED = 1_000_000


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

    def name(self, index: int) -> str:
        """The scene's seed."""
        return f"scene {self.first_seed + index}"


class InMemory:
    """A dataset drawn once, by several processes, and kept."""

    def __init__(self, source: LabelledImages, workers: int = 0) -> None:
        self.spec = source.spec
        workers = workers or len(os.sched_getaffinity(0))
        with ProcessPoolExecutor(workers) as pool:
            self._names = [source.name(index) for index in range(len(source))]
            self._pairs = list(pool.map(source.__getitem__, range(len(source)), chunksize=4))

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Pair:
        return self._pairs[index]

    def name(self, index: int) -> str:
        """As the source calls it."""
        return self._names[index]
