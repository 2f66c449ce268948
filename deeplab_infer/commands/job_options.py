# SPDX-License-Identifier: Apache-2.0
"""Options of restartable runs over many files, here or on Ray."""

from __future__ import annotations

import argparse

from ..errors import DeepLabError
from ..fleet.ray_cluster import LOCAL_ADDRESS, check_address
from ..fleet.ray_run import RayOptions

_ABOUT_RAY = ("ray_actors", "ray_cpus_per_actor", "ray_gpus_per_actor")


def add_job_options(parser: argparse.ArgumentParser) -> None:
    """Add the group of options that `wants_job` and `ray_options` read."""
    many = parser.add_argument_group("very many image files, restartable (docs/fleet.md)")
    many.add_argument(
        "--resume",
        action="store_true",
        help="record finished images in DIR/.deeplab-job, and leave out those that an earlier run finished",
    )
    many.add_argument("--restart", action="store_true", help="with --resume or --ray: do all images again")
    many.add_argument(
        "--ray",
        nargs="?",
        const=LOCAL_ADDRESS,
        metavar="ADDRESS",
        help="as --resume, with workers on Ray: of this machine, or of the cluster at auto, HOST:PORT or "
        "ray://HOST:PORT (needs ray)",
    )
    many.add_argument("--ray-actors", type=int, metavar="N", help="workers (default: as many as fit)")
    many.add_argument(
        "--ray-cpus-per-actor",
        type=float,
        metavar="N",
        help="CPUs of each (default: --threads, else 1 with a GPU and 4 without)",
    )
    many.add_argument(
        "--ray-gpus-per-actor", type=float, metavar="N", help="GPUs of each (default: 1 where there are some)"
    )


def wants_job(arguments: argparse.Namespace) -> bool:
    """Whether a restartable run is asked for.

    Raises:
        DeepLabError: options that do not go together.
    """
    if arguments.ray is None:
        given = [f"--{name.replace('_', '-')}" for name in _ABOUT_RAY if getattr(arguments, name) is not None]
        if given:
            raise DeepLabError(f"{given[0]} is about workers on Ray; give --ray with it")
        if arguments.restart and not arguments.resume:
            raise DeepLabError("--restart is about a run that is recorded; give --resume or --ray with it")
    else:
        check_address(arguments.ray)
    return arguments.resume or arguments.ray is not None


def ray_options(arguments: argparse.Namespace) -> RayOptions:
    """Those of Ray.

    Raises:
        DeepLabError: a value out of range.
    """
    return RayOptions(
        arguments.ray,
        arguments.ray_actors,
        arguments.ray_cpus_per_actor,
        arguments.ray_gpus_per_actor,
        arguments.verbose,
    )
