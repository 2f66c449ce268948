# SPDX-License-Identifier: Apache-2.0
"""A wheel built from a copy of the sources, and an environment that holds it and only what it declares."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
SOURCES = ["csrc", "deeplab_infer", "export", "benchmarks", "CMakeLists.txt", "setup.py", "pyproject.toml"]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without network; from a copy, because a build folder keeps files that are gone."""
    copy = tmp_path_factory.mktemp("sources")
    for name in [*SOURCES, "README.md", "LICENSE"]:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info")
            shutil.copytree(source, copy / name, ignore=ignored)
        else:
            shutil.copy(source, copy / name)
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index"]
    run([*command, "-q", "-w", str(target), str(copy)], cwd=copy)
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def bare_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment with our wheel, the dependencies it declares and ONNX Runtime; no torch.

    The dependencies are links to the ones installed here, so no network is needed.
    """
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    run(
        [
            sys.executable,
            "-m",
            "pip",
            f"--python={python}",
            "install",
            "-q",
            "--no-deps",
            "--no-index",
            str(wheel),
        ]
    )
    linked = set(closure(["deeplab-infer", "onnxruntime"])) - {"deeplab-infer"}
    for name in linked:
        for top in top_level_paths(name):
            os.symlink(top, site / top.name)
    return python


def closure(names: Iterable[str]) -> Iterator[str]:
    """Names of the distributions and of all that they require, without extras."""
    seen: set[str] = set()
    waiting = [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        yield name
        for line in metadata.requires(name) or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(requirement.name))


def top_level_paths(name: str) -> set[Path]:
    """What the distribution put directly into site-packages."""
    distribution = metadata.distribution(name)
    site = Path(str(distribution.locate_file(""))).resolve()
    tops = {file.parts[0] for file in distribution.files or [] if file.parts[0] not in ("..", "__pycache__")}
    return {site / top for top in tops if (site / top).exists()}


def run(command: list[str], cwd: Path | None = None) -> str:
    """Standard output; on failure everything it said."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    # One architecture will do: the installed module has them all.
    environment.setdefault("CMAKE_ARGS", "-DCMAKE_CUDA_ARCHITECTURES=90-real")
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        pytest.fail(f"{' '.join(command)} exited {done.returncode}\n{done.stdout}\n{done.stderr}", pytrace=False)
    return done.stdout
