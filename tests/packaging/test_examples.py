# SPDX-License-Identifier: Apache-2.0
"""Every program in examples/, run as a user runs it, on a small copy of the bundled picture."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from deeplab_export import export_onnx
from PIL import Image

from deeplab_infer import Segmenter, checkpoints
from deeplab_infer.assets import asset_path
from deeplab_infer.manifest import read_onnx_manifest

from ..checkpoints.test_load import mmseg_names
from ..networks import STREETS, make_network

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    with Image.open(asset_path("street.png")) as street:
        for name, size in (("street", (128, 64)), ("wide", (200, 90))):
            street.resize(size).save(folder / f"{name}.png")
    model = checkpoints.load(f"asset:{STREETS}.safetensors")
    export_onnx(model, folder / "model.onnx", batch=1, height=64, width=128)
    return folder


def run(program, *arguments, folder, code=0):
    done = subprocess.run(
        [sys.executable, EXAMPLES / program, *map(str, arguments)],
        cwd=folder, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_predict_folder(files, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("street", "wide"):
        Image.open(files / f"{name}.png").save(photos / f"{name}.png")
    (photos / "cut.png").write_bytes((photos / "wide.png").read_bytes()[:200])
    said = run("predict_folder.py", files / "model.onnx", photos, "-o", "out", folder=tmp_path, code=1)
    assert re.search(r"passed over: \S*cut\.png", said)
    with open(tmp_path / "out" / "areas.csv") as stream:
        header, *rows = csv.reader(stream)
    assert header[1:] == list(read_onnx_manifest(files / "model.onnx").config.classes)
    assert [Path(row[0]).name for row in rows] == ["street.png", "wide.png"]
    assert all(abs(sum(map(float, row[1:])) - 1) < 1e-3 for row in rows)
    with Image.open(tmp_path / "out" / "wide.png.mask.png") as mask:
        assert mask.size == (200, 90)
    assert (tmp_path / "out" / "street.png.overlay.jpg").exists()


def test_predict_folder_without_pictures(files, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "holds no image" in run("predict_folder.py", files / "model.onnx", "empty", folder=tmp_path, code=2)


def test_compare_backends(files):
    said = run("compare_backends.py", "model.onnx", "street.png", "--runs", 1, folder=files)
    assert "onnxruntime: " in said and "openvino: " in said


@pytest.mark.parametrize("picture", ["street", "wide"])
def test_onnxruntime_only_gives_our_labels(files, tmp_path, picture):
    run(
        "onnxruntime_only.py", files / "model.onnx", files / f"{picture}.png", "-o", tmp_path / "m.png", folder=tmp_path
    )
    with Segmenter(files / "model.onnx", backend="onnxruntime") as segmenter:
        expected = segmenter.predict(files / f"{picture}.png")
    with Image.open(tmp_path / "m.png") as mask:
        found = np.asarray(mask)
        assert tuple(mask.getpalette()[:3]) == expected.palette[0]
    # At its own size: rounding of two orders of summation. Resized before: Pillow's filter is not OpenCV's.
    assert (found == expected.labels).mean() > (0.999 if picture == "street" else 0.9)


@pytest.mark.parametrize(("twice", "corners"), [("true", "false"), ("false", "true")])
def test_onnxruntime_only_resizes_as_the_config_says(tmp_path, twice, corners):
    overrides = [f"resize_logits_twice={twice}", f"align_corners={corners}", "test_scale=[96,48]"]
    export_onnx(make_network(overrides=overrides), tmp_path / "model.onnx", batch=1, height=48, width=96)
    # Smooth, and shrunk by two: what the two resizes of the picture make of it is nearly the same.
    y, x = np.mgrid[0:96, 0:192]
    pixels = np.stack([128 + 100 * np.sin(x / 17), 128 + 100 * np.cos(y / 13), 128 + 90 * np.sin((x + y) / 23)], -1)
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "p.png")
    run("onnxruntime_only.py", "model.onnx", "p.png", "-o", "m.png", folder=tmp_path)
    with Segmenter(tmp_path / "model.onnx", backend="onnxruntime") as segmenter:
        expected = segmenter.predict(tmp_path / "p.png").labels
    assert (np.asarray(Image.open(tmp_path / "m.png")) == expected).mean() > 0.95


def test_onnxruntime_only_needs_nothing_of_ours():
    names = set(re.findall(r"^(?:import|from) (\w+)", (EXAMPLES / "onnxruntime_only.py").read_text(), re.MULTILINE))
    assert names == {"__future__", "argparse", "json", "itertools", "typing", "numpy", "onnxruntime", "PIL"}


def test_custom_checkpoint_of_mmsegmentation(tmp_path):
    model = make_network("deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024")
    torch.save({"state_dict": mmseg_names(model.state_dict())}, tmp_path / "mine.pth")
    (tmp_path / "classes.txt").write_text("\n".join(f"kind {i}" for i in range(19)) + "\n")
    arguments = ["mine.pth", "--config", model.config.name, "--size", 33, 65]
    # Random weights are near ties: whether the labels agree is not what is tried here.
    done = subprocess.run(
        [sys.executable, EXAMPLES / "custom_checkpoint.py", *map(str, arguments), "--classes", "classes.txt"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1) and "mine.onnx: kind 0, kind 1" in done.stdout, done.stdout + done.stderr
    assert read_onnx_manifest(tmp_path / "mine.onnx").config.classes[18] == "kind 18"
    (tmp_path / "classes.txt").write_text("one\ntwo\n")
    said = run("custom_checkpoint.py", *arguments, "--classes", "classes.txt", folder=tmp_path, code=2)
    assert "2 classes" in said


def test_gpu_arrays_says_that_it_needs_a_gpu(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert "needs an NVIDIA GPU" in run("gpu_arrays.py", "a.engine", "p.png", folder=tmp_path, code=2)


@pytest.mark.gpu
def test_gpu_arrays(files, tmp_path):
    engine = tmp_path / "m.engine"
    from deeplab_export import build_engine

    build_engine(files / "model.onnx", engine)
    assert "road: " in run("gpu_arrays.py", engine, files / "street.png", folder=tmp_path)


def test_every_example_is_in_the_table():
    table = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.glob("*.py"):
        assert f"[{path.name}]({path.name})" in table, path.name
