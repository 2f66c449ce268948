# SPDX-License-Identifier: Apache-2.0
"""A job on Ray Data: names of files go to workers, outcomes come back, pixels stay where they are."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import BackendError, DeepLabError, first_line
from .job import Task
from .ledger import Ledger
from .ray_cluster import LOCAL_ADDRESS, connected
from .ray_worker import COLUMN, RayWorker, as_row, outcome_of
from .run import Tell
from .segmenting import ImageFile

_log = logging.getLogger(__name__)
_CPUS = 4  # of a worker on a CPU, where the machine has them: more of them on one network help less and less
_LONGEST_BATCH = 32


@dataclass(frozen=True)
class RayOptions:
    """Where workers run and what each gets.

    Attributes:
        address: of a cluster, ``"auto"`` for one that runs on this machine, ``"local"`` to start one for this run.
        actors: how many workers; None: as many as fit.
        cpus: of each; None: the threads of its model, else 1 beside a GPU and 4 without, or all there are.
        gpus: of each; None: 1 where the cluster has some and the device asked for may be one, else 0.
        verbose: let Ray say what it does, and print what workers print.
    """

    address: str = LOCAL_ADDRESS
    actors: int | None = None
    cpus: float | None = None
    gpus: float | None = None
    verbose: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            DeepLabError: which option.
        """
        if self.actors is not None and self.actors < 1:
            raise DeepLabError(f"--ray-actors must be at least 1, got {self.actors}")
        for name, value in (("--ray-cpus-per-actor", self.cpus), ("--ray-gpus-per-actor", self.gpus)):
            if value is not None and not 0 <= value < math.inf:
                raise DeepLabError(f"{name} is a number of at least 0, got {value}")


@dataclass(frozen=True)
class Share:
    """What the workers of a run get.

    Attributes:
        actors: how many they are; cpus, gpus: of each.
    """

    actors: int
    cpus: float
    gpus: float


def run_on_ray(task: Task, files: Sequence[ImageFile], ledger: Ledger, tell: Tell, options: RayOptions) -> None:
    """A `Runner` on a cluster.

    Raises:
        BackendError: Ray is not installed, or the cluster cannot be reached or has no room for a worker.
        DeepLabError, OSError: a worker cannot go on.
    """
    with connected(options.address, options.verbose) as ray:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        share = plan(nodes, options, task.job.segmenter, len(files))
        _log.info("%d workers with %g CPUs and %g GPUs each", share.actors, share.cpus, share.gpus)
        for row in _rows(ray, _with_threads(task, share), files, share):
            tell(outcome_of(row))


def plan(nodes: Sequence[dict[str, float]], options: RayOptions, segmenter: dict[str, Any], files: int) -> Share:
    """How many workers, and what each gets.

    Args:
        nodes: resources of each machine, ``"CPU"`` and ``"GPU"``.
        options: what was asked for.
        segmenter: options of `Segmenter`: ``device`` and ``threads``.
        files: images that are left.

    Raises:
        BackendError: there is no room for one.
    """
    there = {name: [node.get(name, 0.0) for node in nodes] for name in ("CPU", "GPU")}
    gpus = options.gpus
    if gpus is None:
        may = segmenter.get("device", "auto") != "cpu"
        gpus = 1.0 if may and max(there["GPU"], default=0.0) >= 1 else 0.0
    cpus = options.cpus
    if cpus is None:
        cpus = float(segmenter.get("threads") or (1 if gpus else min(_CPUS, max(there["CPU"], default=0.0))))
    needs = {"CPU": cpus, "GPU": gpus}
    room = sum(_room({name: amounts[index] for name, amounts in there.items()}, needs) for index in range(len(nodes)))
    if room < 1:
        most = ", ".join(f"{max(amounts, default=0.0):g} {name}s" for name, amounts in there.items())
        raise BackendError(
            f"a worker needs {cpus:g} CPUs and {gpus:g} GPUs, but the largest machine of the cluster has {most}; give "
            "--ray-cpus-per-actor and --ray-gpus-per-actor"
        )
    return Share(min(options.actors or room, files), cpus, gpus)


def _room(there: dict[str, float], needs: dict[str, float]) -> int:
    rooms = [math.floor(there[name] / need + 1e-9) for name, need in needs.items() if need > 0]
    return min(rooms) if rooms else 1


def batch_size(files: int, actors: int) -> int:
    """Images that a worker is given at once: small enough that all end at one time and little is done again."""
    return max(1, min(_LONGEST_BATCH, files // (16 * actors)))


def _with_threads(task: Task, share: Share) -> Task:
    """On a CPU a model runs on the CPUs of its worker."""
    if share.gpus or task.job.segmenter.get("threads") is not None or share.cpus < 1:
        return task
    segmenter = task.job.segmenter | {"threads": int(share.cpus)}
    return replace(task, job=replace(task.job, segmenter=segmenter))


def _rows(ray: Any, task: Task, files: Sequence[ImageFile], share: Share) -> Iterator[str]:
    """What workers say, as it comes."""
    size = batch_size(len(files), share.actors)
    given = ray.data.from_items([as_row(file) for file in files], override_num_blocks=math.ceil(len(files) / size))
    answers = given.map_batches(
        RayWorker,
        fn_constructor_args=(task,),
        batch_size=size,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=share.actors),
        num_cpus=share.cpus,
        num_gpus=share.gpus or None,
    )
    try:
        for block in answers.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"):
            yield from block[COLUMN].to_pylist()
    except ray.exceptions.RayError as error:
        raise DeepLabError(
            f"Ray ended the job: {first_line(error)}; finished images are recorded, and the same command goes on. "
            "deeplab-infer must be installed on all machines; --verbose shows the whole error"
        ) from error


def fits_ray(device: str) -> None:
    """Refuse a device that Ray hands out itself.

    Raises:
        DeepLabError: a numbered GPU.
    """
    if ":" in device:
        raise DeepLabError(f"with --ray each worker is given its GPU; give --device cuda instead of {device}")
