# SPDX-License-Identifier: Apache-2.0
"""Where and with what something was measured."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from deeplab_infer import __version__

_PACKAGES = (
    "torch", "onnxruntime", "onnxruntime-gpu", "openvino", "nncf", "tensorrt", "tensorrt_rtx", "tensorrt-rtx",
    "cuda-python", "numpy", "opencv-python-headless",
)  # fmt: skip


def describe_machine() -> dict[str, Any]:
    """CPU, GPU, driver, versions and the commit; JSON-able."""
    gpu, driver = _gpu()
    installed = {d.name: d.version for d in importlib.metadata.distributions() if d.name in _PACKAGES}
    return {
        "cpu": _cpu(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": gpu,
        "driver": driver,
        "system": platform.platform(),
        "python": platform.python_version(),
        "deeplab-infer": __version__,
        "commit": _commit(),
        "versions": dict(sorted(installed.items())),
    }


def _gpu() -> tuple[str | None, str | None]:
    """Names of the GPUs and the driver's version."""
    answer = _ask(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"])
    if answer is None:
        return None, None
    found = [line.rpartition(", ") for line in answer.splitlines()]
    return "; ".join(name for name, _, _ in found), found[0][2]


def _commit() -> str | None:
    """The commit of this code, with ``-dirty`` where files differ from it; None for an installed package."""
    here = Path(__file__)
    git = ["git", "-C", str(here.parent)]
    # An environment inside another project's checkout must not report that project's commit.
    if _ask([*git, "ls-files", here.name]) is None:
        return None
    return _ask([*git, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"])


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _ask(command: list[str]) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return answer.stdout.strip() or None if answer.returncode == 0 else None
