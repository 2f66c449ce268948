# SPDX-License-Identifier: Apache-2.0
"""The state of a run: everything that makes its continuation the same as if it had not stopped."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..configs import ModelConfig
from ..errors import CheckpointError, first_line
from ..files import atomic_path
from .ema import WeightAverage
from .options import TrainOptions
from .step import TrainingStep

VERSION = 1
_KEYS = frozenset(
    ("version", "config", "options", "data", "step", "best", "model", "optimizer", "scaler", "average", "random")
)


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        step: steps done.
        best: highest mIoU of the evaluations so far; -1 before the first.
        data: what it trains on, as `describe` of the command says; a resumed run must say the same.
    """

    step: int = 0
    best: float = -1.0
    data: dict[str, Any] = field(default_factory=dict)


def save_state(
    path: str | os.PathLike[str], training: TrainingStep, average: WeightAverage | None, progress: Progress
) -> None:
    """Write a run's state, whole or not at all.

    Raises:
        OSError: it cannot be written; an earlier file stays as it was.
    """
    content = {
        "version": VERSION,
        "config": training.model.config.to_dict(),
        "options": training.options.to_dict(),
        "data": progress.data,
        "step": progress.step,
        "best": progress.best,
        "model": training.model.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "scaler": training.scaler.state_dict(),
        "average": None if average is None else average.state_dict(),
        "random": _random_state(training.device),
    }
    with atomic_path(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:
            # torch's writer says "file write failed" and hides the reason that the system gave.
            raise _as_os_error(error, temporary) from error
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())


def read_state(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `save_state` wrote, without running anything in it.

    Raises:
        CheckpointError: missing, damaged, or something else.
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file; a run writes its state to state.pt in its output folder")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, OSError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{file}: damaged, or not the state of a run ({first_line(error)[:200]}); start again from the weights "
            "beside it: --init best.safetensors"
        ) from error
    if not isinstance(content, dict) or set(content) != _KEYS:
        raise CheckpointError(f"{file}: not the state of a run; --resume takes state.pt, --init takes weights")
    if content["version"] != VERSION:
        raise CheckpointError(f"{file}: version {content['version']} of a run's state is not {VERSION}")
    return content


def check_same_run(
    content: dict[str, Any], config: ModelConfig, options: TrainOptions, data: dict[str, Any], path: str
) -> None:
    """Refuse to go on with other settings.

    Raises:
        CheckpointError: config, options or data differ; the message has the differences.
    """
    mine, theirs = config.to_dict(), content["config"]
    differences = [f"config {k} {mine.get(k)}, was {theirs.get(k)}" for k in mine if mine.get(k) != theirs.get(k)]
    differences += options.differences(content["options"])
    earlier = content["data"]
    differences += [f"{k} {data.get(k)}, was {earlier.get(k)}" for k in data if data.get(k) != earlier.get(k)]
    if differences:
        shown = "; ".join(_shortened(text) for text in differences[:5])
        more = f" and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise CheckpointError(
            f"{path}: the run to resume was another one: {shown}{more}. Give the options it was started with, or start "
            "a new run from its weights (--init)"
        )


def restore_state(content: dict[str, Any], training: TrainingStep, average: WeightAverage | None) -> Progress:
    """Put a run back to where it was, but for its random numbers."""
    training.model.load_state_dict(content["model"])
    training.optimizer.load_state_dict(content["optimizer"])
    training.scaler.load_state_dict(content["scaler"])
    if average is not None:
        average.load_state_dict(content["average"])
    return Progress(content["step"], content["best"], content["data"])


def restore_random_state(content: dict[str, Any], device: torch.device) -> None:
    """Put torch's generators, which dropout draws from, back to where they were."""
    random = content["random"]
    torch.set_rng_state(random["cpu"])
    if random["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(random["cuda"], device)


def _random_state(device: torch.device) -> dict[str, torch.Tensor | None]:
    on_gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"cpu": torch.get_rng_state(), "cuda": on_gpu}


def _as_os_error(error: RuntimeError, path: Path) -> OSError:
    import errno
    import shutil

    free = shutil.disk_usage(path.parent).free
    if free < 64 << 20 or "write" in str(error).lower():
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    return OSError(errno.EIO, first_line(error), str(path))


def _shortened(text: str) -> str:
    return text if len(text) <= 120 else text[:117] + "..."
