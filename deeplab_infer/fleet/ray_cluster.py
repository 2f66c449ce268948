# SPDX-License-Identifier: Apache-2.0
"""The way to a Ray cluster: one of this process's own, or one that runs."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
from collections.abc import Iterator
from typing import Any

from ..errors import BackendError, DeepLabError, first_line

LOCAL_ADDRESS = "local"
_NAMED = (LOCAL_ADDRESS, "auto")
_ADDRESS = re.compile(r"(?:ray://)?(\[[0-9a-fA-F:]+\]|[\w.-]+):(\d{1,5})")
# Names of files and outcomes go through the object store, never pixels; what does not fit goes to the disk.
_STORE_BYTES = 256 << 20
_REACH_S = 10.0


def check_address(address: str) -> None:
    """Refuse what is no address before anything is begun.

    Raises:
        DeepLabError: what is one.
    """
    if address not in _NAMED and _ADDRESS.fullmatch(address) is None:
        raise DeepLabError(
            f"--ray {address!r} is no address like auto, 10.0.0.5:6379 or ray://10.0.0.5:10001; for a run on this "
            "machine give --ray last or --ray=local"
        )


def require_ray() -> Any:
    """The package.

    Raises:
        BackendError: it is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise BackendError(f"--ray needs Ray Data ({first_line(error)}): pip install 'deeplab-infer[ray]'") from error
    return ray


@contextlib.contextmanager
def connected(address: str, verbose: bool) -> Iterator[Any]:
    """The package ``ray``, connected; disconnected at the end where it was not before.

    A cluster of this process's own ends with the block, and with the process however that ends.

    Args:
        address: see `check_address`.
        verbose: let Ray say what it does.

    Raises:
        BackendError: Ray is not installed, or the cluster cannot be reached.
    """
    check_address(address)
    ray = require_ray()
    mine = not ray.is_initialized()
    with _quiet(ray, verbose):
        if mine:
            _connect(ray, address, verbose)
        try:
            yield ray
        finally:
            if mine:
                ray.shutdown()


def _connect(ray: Any, address: str, verbose: bool) -> None:
    options: dict[str, Any] = {
        "address": address,
        "log_to_driver": verbose,
        "logging_level": logging.INFO if verbose else logging.ERROR,
    }
    if address == LOCAL_ADDRESS:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
        options |= {"include_dashboard": False, "object_store_memory": _STORE_BYTES}
    else:
        _reach(address)
    try:
        ray.init(**options)
    except Exception as error:  # whatever Ray raises, also Exception itself
        ray.shutdown()
        what = "Ray did not start on this machine" if address == LOCAL_ADDRESS else f"no Ray cluster at {address!r}"
        raise BackendError(f"{what}: {first_line(error)}") from error


def _reach(address: str) -> None:
    """Ray itself tries for a minute and more before it says that nobody is there."""
    found = _ADDRESS.fullmatch(address)
    if found is None:
        return
    try:
        socket.create_connection((found[1].strip("[]"), int(found[2])), _REACH_S).close()
    except (OSError, OverflowError) as error:
        raise BackendError(
            f"no Ray cluster at {address!r}: {first_line(error)}; start one with `ray start --head`, and give its "
            "address and port"
        ) from error


@contextlib.contextmanager
def _quiet(ray: Any, verbose: bool) -> Iterator[None]:
    """Ray Data's bars and reports only where they are asked for."""
    context = ray.data.DataContext.get_current()
    before = context.enable_progress_bars
    levels = {name: logging.getLogger(name).level for name in ("ray", "ray.data")}
    if not verbose:
        context.enable_progress_bars = False
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.enable_progress_bars = before
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
