# SPDX-License-Identifier: Apache-2.0
"""Builds the native module ``deeplab_infer._C`` with CMake; everything else is in pyproject.toml.

Extra CMake arguments come from the environment variable CMAKE_ARGS, for example
``CMAKE_ARGS="-DCMAKE_BUILD_TYPE=Debug"``.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


class CMakeBuild(build_ext):
    """Configures and builds CMakeLists.txt, and leaves the module where setuptools wants it."""

    def build_extension(self, extension: Extension) -> None:
        module = Path(self.get_ext_fullpath(extension.name)).resolve()
        build = Path(self.build_temp).resolve() / f"cmake-{sys.implementation.cache_tag}"
        build.mkdir(parents=True, exist_ok=True)
        # cmake and ninja of an environment that is not activated lie beside its Python.
        path = os.pathsep.join([os.environ.get("PATH", ""), sysconfig.get_path("scripts")])
        cmake = shutil.which("cmake", path=path)
        if cmake is None:
            raise RuntimeError("cmake was not found; install it, for example with 'pip install cmake ninja'")
        configure = [
            cmake,
            f"-S{ROOT}",
            f"-B{build}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={module.parent}",
            f"-DCMAKE_BUILD_TYPE={'Debug' if self.debug else 'Release'}",
        ]
        if shutil.which("ninja", path=path):
            configure.append("-GNinja")
        configure += shlex.split(os.environ.get("CMAKE_ARGS", ""))
        environment = {**os.environ, "PATH": path}
        # A configured folder remembers the paths of a build environment that may be gone.
        (build / "CMakeCache.txt").unlink(missing_ok=True)
        subprocess.run(configure, check=True, env=environment)
        subprocess.run([cmake, "--build", str(build), "--parallel"], check=True, env=environment)


setup(ext_modules=[Extension("deeplab_infer._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
