# SPDX-License-Identifier: Apache-2.0
"""What is in the wheel, and that it works where nothing but its declared dependencies is installed.

One file, because pytest-xdist gives a file to one worker and the wheel is built once.
"""

from __future__ import annotations

import configparser
import email
import json
import subprocess
import zipfile

import numpy as np
import pytest

from .conftest import run

COMMANDS = {
    "deeplab-export": "deeplab_export.command:main",
    "deeplab-bench": "deeplab_bench.command:main",
    "deeplab-predict": "deeplab_infer.commands.predict:main",
    "deeplab-train": "deeplab_infer.commands.train:main",
    "deeplab-eval": "deeplab_infer.commands.evaluate:main",
    "deeplab-serve": "deeplab_infer.commands.serve:main",
    "deeplab-doctor": "deeplab_infer.commands.doctor:main",
}


@pytest.fixture(scope="module")
def archive(wheel):
    with zipfile.ZipFile(wheel) as opened:
        yield opened


def metadata_file(archive, name):
    (path,) = [n for n in archive.namelist() if n.endswith(f".dist-info/{name}")]
    return archive.read(path).decode()


def test_three_packages_and_nothing_else(archive):
    tops = {name.split("/")[0] for name in archive.namelist()}
    (info,) = [top for top in tops if top.endswith(".dist-info")]
    assert tops - {info} == {"deeplab_infer", "deeplab_export", "deeplab_bench"}


def test_no_sources_of_the_native_module_nor_tests(archive):
    assert not [n for n in archive.namelist() if n.endswith((".cpp", ".h", ".cu", ".pyc")) or "tests/" in n]


def test_data_files_travel_along(archive):
    names = set(archive.namelist())
    page = "deeplab_infer/serving/page/page.html"
    for name in ("deeplab_infer/py.typed", "deeplab_infer/_C.pyi", "deeplab_infer/assets/street.png", page):
        assert name in names
    checkout = {"deeplab_infer/configs/datasets.json", "deeplab_infer/configs/reference_table.csv"}
    assert checkout <= names
    assert [n for n in names if n.startswith("deeplab_infer/assets/") and n.endswith(".safetensors")]


def test_console_scripts(archive):
    parser = configparser.ConfigParser()
    parser.read_string(metadata_file(archive, "entry_points.txt"))
    assert dict(parser["console_scripts"]) == COMMANDS


def test_modules_of_the_console_scripts_are_in_the_wheel(archive):
    names = archive.namelist()
    for target in COMMANDS.values():
        assert target.split(":")[0].replace(".", "/") + ".py" in names


def test_metadata(archive):
    fields = email.message_from_string(metadata_file(archive, "METADATA"))
    assert fields["Name"] == "deeplab-infer"
    assert fields["License-Expression"] == "Apache-2.0"
    assert fields["Requires-Python"] == ">=3.10"
    extras = set(fields.get_all("Provides-Extra"))
    assert {"export", "openvino", "tensorrt", "train", "bench", "all", "dev"} <= extras
    plain = [line for line in fields.get_all("Requires-Dist") if "extra ==" not in line]
    assert not [line for line in plain if line.startswith(("torch", "onnx", "safetensors"))]


def test_native_module_links_neither_torch_nor_cuda(archive, tmp_path):
    (name,) = [n for n in archive.namelist() if n.startswith("deeplab_infer/_C.") and n.endswith(".so")]
    module = archive.extract(name, tmp_path)
    dynamic = subprocess.run(["readelf", "-d", module], capture_output=True, text=True, check=True).stdout
    needed = [line.split("[")[1].rstrip("]") for line in dynamic.splitlines() if "(NEEDED)" in line]
    known = ("libstdc++.so", "libgcc_s.so", "libc.so", "libm.so", "libpthread.so", "ld-linux")
    assert needed
    assert not [library for library in needed if not library.startswith(known)]
    assert "RPATH" not in dynamic
    assert "RUNPATH" not in dynamic


def test_native_module_exports_only_its_entry_point(archive, tmp_path):
    (name,) = [n for n in archive.namelist() if n.startswith("deeplab_infer/_C.") and n.endswith(".so")]
    module = archive.extract(name, tmp_path)
    symbols = subprocess.run(["readelf", "--dyn-syms", "-W", module], capture_output=True, text=True, check=True)
    ours = [line for line in symbols.stdout.splitlines() if "UND" not in line and "_ZN7deeplab" in line]
    assert not ours
    assert "PyInit__C" in symbols.stdout


PREDICT = """
import importlib.util, json, sys
import numpy as np
missing = [n for n in ("torch", "onnx", "safetensors", "openvino") if importlib.util.find_spec(n) is None]
import deeplab_infer
from deeplab_infer import Segmenter
image = np.load(sys.argv[2])
with Segmenter(sys.argv[1]) as segmenter:
    result = segmenter.predict(image, scores=True)
np.save(sys.argv[3], result.labels)
print(json.dumps({"missing": missing, "torch": "torch" in sys.modules, "file": deeplab_infer.__file__,
                  "shape": result.labels.shape, "classes": len(result.classes)}))
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A small ONNX file and what the whole installation predicts with it."""
    pytest.importorskip("torch")
    from deeplab_export import export_onnx

    from deeplab_infer import Segmenter, build_model, load_config

    folder = tmp_path_factory.mktemp("exported")
    model = build_model(load_config("deeplabv3plus_mobilenetv2_streets")).eval()
    path = folder / "model.onnx"
    export_onnx(model, path, height=96, width=128, batch=1)
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    np.save(folder / "image.npy", image)
    with Segmenter(path, backend="onnxruntime") as segmenter:
        return path, folder / "image.npy", segmenter.predict(image).labels


def test_segmenter_on_an_onnx_file(bare_python, exported, tmp_path):
    model, image, expected = exported
    labels = tmp_path / "labels.npy"
    out = run([str(bare_python), "-I", "-c", PREDICT, str(model), str(image), str(labels)], cwd=tmp_path)
    said = json.loads(out.splitlines()[-1])
    assert said["missing"] == ["torch", "onnx", "safetensors", "openvino"]
    assert said["torch"] is False
    assert "bare" in said["file"]
    np.testing.assert_array_equal(np.load(labels), expected)


@pytest.mark.parametrize(
    "command", ["deeplab-predict", "deeplab-doctor", "deeplab-eval", "deeplab-serve", "deeplab-train"]
)
def test_help_needs_no_torch(bare_python, command, tmp_path):
    assert command in run([str(bare_python.parent / command), "--help"], cwd=tmp_path)


def test_doctor_says_what_to_install(bare_python, tmp_path):
    said = run([str(bare_python.parent / "deeplab-doctor")], cwd=tmp_path)
    assert "torch" in said
    assert "pip install" in said
