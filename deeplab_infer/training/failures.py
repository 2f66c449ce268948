# SPDX-License-Identifier: Apache-2.0
"""What can end a run, as sentences that say what to do."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from ..data.loading import Batch
from ..errors import DataError, first_line
from ..files import atomic_write
from .options import TrainOptions

_CPU_MEMORY = ("can't allocate memory", "DefaultCPUAllocator", "std::bad_alloc")


class Diverged(DataError):
    """The loss stopped being a number; `batch` is what it came from."""

    def __init__(self, message: str, batch: Batch) -> None:
        super().__init__(message)
        self.batch = batch


class OutOfMemory(DataError):
    """A step did not fit into memory."""


def diverged(value: float, batch: Batch, step: int, options: TrainOptions) -> Diverged:
    """The error for a loss that is not a number at a step, counted from 1."""
    advice = f"try a lower learning rate (now {options.lr:g}) or a longer warm-up (now {options.warmup})"
    if options.amp == "fp16":
        advice += ", or bf16 instead of fp16"
    return Diverged(f"the loss is {value} at step {step}: training has diverged; {advice}", batch)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is full, of a GPU or of the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _CPU_MEMORY)


def out_of_memory(error: BaseException, options: TrainOptions) -> OutOfMemory:
    """The error for a step that does not fit, with what would make it smaller, the cheapest first."""
    height, width = options.crop
    ways = []
    if options.amp == "off":
        ways.append("half precision (--amp bf16)")
    if options.recompute != "units":
        ways.append("computing activations again (--recompute)")
    if options.batch > 1:
        half = options.batch // 2
        ways.append(f"a smaller batch with the same step (--batch {half} --accumulate {options.accumulate * 2})")
    ways.append(f"a smaller crop (--crop {max(32, height // 4 * 3)}x{max(32, width // 4 * 3)})")
    return OutOfMemory(
        f"out of memory with batch {options.batch} of {height}x{width} ({first_line(Exception(str(error)))[:160]}); "
        f"what helps: {', '.join(ways)}. Nothing that was saved is lost: the last state can be resumed"
    )


def save_batch(path: str | os.PathLike[str], batch: Batch) -> Path:
    """Write a batch as ``.npz``: ``images`` uint8 [N, h, w, 3], ``labels`` uint8 [N, h, w], ``valid``, ``names``."""
    with atomic_write(path) as stream:
        np.savez_compressed(
            stream,
            images=batch.images.numpy(),
            labels=batch.labels.numpy(),
            valid=batch.valid.numpy(),
            names=np.array(batch.names),
        )
    return Path(path)
