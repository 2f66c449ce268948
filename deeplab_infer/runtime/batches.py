# SPDX-License-Identifier: Apache-2.0
"""Images through a network in batches that it accepts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..preprocess import normalise
from .base import Runner


def split_batch(runner: Runner, batch: NDArray[np.uint8]) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """Batches that the network accepts, each with its number of images; a fixed one is filled up with the last."""
    low, _, high = runner.manifest.batch
    for start in range(0, len(batch), high):
        part = batch[start : start + high]
        count = len(part)
        if count < low:
            part = np.concatenate([part, np.repeat(part[-1:], low - count, axis=0)])
        yield part, count


def run_batches(runner: Runner, batch: NDArray[np.uint8], threads: int | None = None) -> NDArray[Any]:
    """What the network gives for uint8 [N, H, W, 3] RGB, N of any size: logits [N, C, h, w] or labels [N, H, W].

    ``threads`` are those of our normalisation; None for every processor this process may use.
    """
    manifest = runner.manifest
    floats = manifest.input_kind == "float"
    outputs = [
        runner.run(normalise(part, manifest.config, threads) if floats else part)[:count]
        for part, count in split_batch(runner, batch)
    ]
    return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)
