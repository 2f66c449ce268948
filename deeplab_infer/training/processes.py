# SPDX-License-Identifier: Apache-2.0
"""The processes of a run: one, or those that ``torchrun`` started."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from ..errors import DataError


@dataclass(frozen=True)
class Processes:
    """Who takes part.

    Attributes:
        rank: this process, counted from 0.
        world: number of processes.
        local: this process on its machine, which is also its GPU.
    """

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def average(self, value: Tensor) -> Tensor:
        """Mean of a tensor over all processes."""
        if self.world == 1:
            return value
        value = value.clone()
        dist.all_reduce(value)
        return value / self.world

    def add_counts(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sum of integers over all processes."""
        if self.world == 1:
            return counts
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        total = torch.from_numpy(counts).to(device)
        dist.all_reduce(total)
        return total.cpu().numpy()

    def any(self, flag: bool) -> bool:
        """Whether a flag is up in any process; all must ask."""
        return bool(self.add_counts(np.array([flag], np.int64))[0]) if self.world > 1 else flag

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            dist.barrier()


def torch_device(text: str, local: int = 0) -> torch.device:
    """The device of an option: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.

    Raises:
        DataError: no such device here.
    """
    if text == "auto":
        text = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(text)
    except RuntimeError as error:
        raise DataError(f"device {text!r} is not auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise DataError(f"device {text!r} is not auto, cpu, cuda or cuda:N")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise DataError("this machine has no CUDA GPU that torch can use; train with --device cpu")
        index = local if device.index is None else device.index
        if index >= torch.cuda.device_count():
            raise DataError(f"there is no GPU {index}; this machine has {torch.cuda.device_count()}")
        return torch.device("cuda", index)
    return device


@contextlib.contextmanager
def joined_processes(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun started; alone where it did not.

    Raises:
        DataError: a GPU was asked for that is not there.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield Processes()
        return
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local = int(os.environ.get("LOCAL_RANK", rank))
    chosen = torch_device(device, local)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Processes(rank, world, local)
    finally:
        dist.destroy_process_group()
