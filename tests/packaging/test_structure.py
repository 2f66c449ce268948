# SPDX-License-Identifier: Apache-2.0
"""Rules about the sources that no type checker knows."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "deeplab_infer": ROOT / "deeplab_infer",
    "deeplab_export": ROOT / "export" / "deeplab_export",
    "deeplab_bench": ROOT / "benchmarks" / "deeplab_bench",
}
MAY_IMPORT = {
    "deeplab_infer": {"deeplab_infer"},
    "deeplab_export": {"deeplab_infer", "deeplab_export"},
    "deeplab_bench": {"deeplab_infer", "deeplab_export", "deeplab_bench"},
}
CPP = sorted(path for path in (ROOT / "csrc").rglob("*") if path.suffix in {".h", ".cpp", ".cu", ".cuh"})


def imported_packages(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield str(node.module).split(".")[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package):
    wrong = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in PACKAGES[package].rglob("*.py")
        for name in imported_packages(path)
        if name in PACKAGES and name not in MAY_IMPORT[package]
    }
    assert not wrong


def test_kernels_include_no_torch_header():
    assert CPP
    for path in CPP:
        includes = re.findall(r'#\s*include\s*[<"]([^>"]+)', path.read_text())
        assert not [name for name in includes if re.match(r"torch|ATen|c10|caffe2", name)], path


def test_only_the_bindings_know_python():
    for path in CPP:
        if "bindings" not in path.parts:
            assert "pybind11" not in path.read_text(), path


@pytest.mark.parametrize("folder", ["export", "benchmarks"])
def test_rooms_are_not_packages_themselves(folder):
    assert not (ROOT / folder / "__init__.py").exists()


def test_every_source_file_names_its_licence():
    sources = [path for folder in PACKAGES.values() for path in folder.rglob("*.py")]
    sources += [*CPP, *(ROOT / "tests").rglob("*.py"), ROOT / "setup.py", ROOT / "CMakeLists.txt"]
    missing = [
        str(path.relative_to(ROOT))
        for path in sources
        if "SPDX-License-Identifier: Apache-2.0" not in path.read_text()[:200]
    ]
    assert not missing


def test_running_an_engine_needs_no_torch():
    """A deployment image has numpy, OpenCV, TensorRT and cuda-python."""
    code = (
        "import sys, deeplab_infer, deeplab_infer.runtime.tensorrt_runner, deeplab_infer.runtime.onnxruntime_gpu\n"
        "from deeplab_infer import Segmenter\n"
        "assert not {'torch', 'onnx', 'onnxscript'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
