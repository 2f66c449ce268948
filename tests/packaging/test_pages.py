# SPDX-License-Identifier: Apache-2.0
"""Every command and every line of Python in the documentation, run page by page in a folder of small files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from deeplab_bench import command as bench
from deeplab_bench.records import write_record
from deeplab_export import Calibration, Signature, TracedNetwork
from deeplab_export import command as export
from deeplab_export.openvino_export import export_openvino
from deeplab_export.precision import PRECISIONS
from PIL import Image

from deeplab_infer import build_model, checkpoints, load_config
from deeplab_infer.assets import asset_path
from deeplab_infer.commands import doctor, evaluate, predict, train
from deeplab_infer.configs import dataset_spec, save_yaml

from ..bench.records import all_records
from ..data import trees
from ..networks import STREETS
from .pages import PAGES, ROOT, commands, is_synopsis, name_of, parts, words

MAINS = {
    "deeplab-export": export.main,
    "deeplab-bench": bench.main,
    "deeplab-predict": predict.main,
    "deeplab-eval": evaluate.main,
    "deeplab-train": train.main,
    "deeplab-doctor": doctor.main,
}
# Framed blocks of these pages are run there.
ELSEWHERE = {
    "docs/finetune.md": "tests/packaging/test_finetune.py",
    "docs/training.md": "tests/packaging/test_finetune.py",
    "docs/serving.md": "tests/serving/test_guide.py",
    "docs/cpp.md": "tests/native/test_runtime.py",
}
# Lines that hold this are not run, and why. All have their options checked by test_docs.py.
NOT_RUN = {
    "pip install": "installs: test_wheel.py has an environment of its own",
    "make ": "is what runs this test",
    "scripts/gpu_check.sh": "needs an NVIDIA GPU; tests/packaging/test_gpu_check.py reads it",
    "torchrun": "several processes: tests/training/test_processes.py",
    "--device cuda": "needs an NVIDIA GPU",
    ".engine": "needs an NVIDIA GPU to run an engine",
    "--path tensorrt": "needs an NVIDIA GPU",
    "--compile": "compiles for minutes; tests/bench/test_train.py",
    "python examples/": "tests/packaging/test_examples.py runs each, and looks at what it made",
    "deeplab-bench kernels": "every operator in every runtime, a process each: tests/bench/test_kernels.py",
    "--train-memory": "whole training steps of all rows: tests/bench/test_table.py",
    "deeplab-bench peers": "needs the other projects: make parity",
    "deeplab-bench report benchmarks/results": "rewrites the page of results; tests/bench/test_report.py",
    "--checkpoints my_official_files": "needs the official weights",
    "--init first.safetensors": "trained for an hour; the record of how",
    "--init second.safetensors": "trained for an hour; the record of how",
    "--lr 0.003 --warmup 150": "trained for an hour; the record of how",
    "deeplab-serve": "docs/serving.md is run by tests/serving/test_guide.py",
    "cmake ": "docs/cpp.md is run by tests/native/test_runtime.py",
    "mkdir -p ~": "writes to the home folder",
}
_SIZE = "--height 64 --width 96"
_STEP = (
    "deeplab-train --device cpu --workers 0 --iterations 1 --batch 2 --crop 33x33 --val-limit 1 --threads 1 --overwrite"
)
_FAST_BENCH = {
    "--seconds 2": "--seconds 0.05",
    "--size 512x1024": "--size 64x96",
    "--size 1024x2048": "--size 96x128",
    "--size 384x768": "--size 64x96",
}
# What a page says -> what is run: other networks and smaller numbers, nothing else.
EVERYWHERE = {f"--config {STREETS} --format": f"--config {STREETS} {_SIZE} --force --format", **_FAST_BENCH}
SMALLER: dict[str, dict[str, str]] = {
    "README.md": {
        "--checkpoint auto --fp16": f"--checkpoint auto --fp16 --format onnx {_SIZE}",
        "best.safetensors --fp16": f"best.safetensors --fp16 --format onnx {_SIZE} --min-agreement 0.1 --force",
        "deeplab-train --config deeplabv3plus_r50-d8_4xb4-20k_voc12aug-512x512 --init auto": f"{_STEP} --config {STREETS}",
        "deeplab-bench table --budget 600": "deeplab-bench table --published",
        '"model.engine"': '"model.onnx"',
        "deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024": STREETS,
    },
    "benchmarks/README.md": {
        "model_fp16.engine --batch 1 --batch 8": "--batch 1 --batch 2 --size 64x96 --seconds 0.05 --backend onnxruntime",
        "--size 1024x2048 --precision fp32 --precision bf16": "--precision fastest --seconds 0.05",
        "random:deeplabv3plus_r50-d8_4xb2-40k_cityscapes-769x769 --size 1025x2049": f"random:{STREETS} --mode slide --window 33x33 --window-stride 20x20 --seconds 0.05 --size 65x97",
        "table --budget 600": "table r18-d8_4xb2-80k_cityscapes-512x1024 --path onnxruntime --scale 0.05 --seconds 0.05 --budget 20",
        f"layers {STREETS}": f"layers {STREETS} --seconds 0.05",
        "layers model.onnx": "layers model.onnx --size 64x96 --seconds 0.05",
        "--size 720x1280": "--size 72x128",
        "deeplab-bench train --count": "deeplab-bench train deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024 --batch 2 --crop 128x256 --count",
        "deeplab-bench train": "deeplab-bench train --variant fused --crop 33x65 --rounds 1 --seconds 0.05",
        "--fail-below 0.95": "--fail-below 0.01",
    },
    "docs/cpu.md": {
        "--config NAME --checkpoint FILE": f"--config {STREETS} {_SIZE} --max-drop 100 --min-agreement 0.1 --no-search --calibration-images 2",
        "deeplab-eval FILE": "deeplab-eval --backend torch,openvino my.safetensors",
        "--min-agreement 0.99 ": "--min-agreement 0.1 ",
    },
    "docs/datasets.md": {
        "deeplab-train --config NAME": f"{_STEP} --recipe finetune --config {STREETS}",
        "deeplab-train --config deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024": f"{_STEP} --config {STREETS}",
        "deeplab-train --config deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512": f"{_STEP} --config {STREETS}",
        "deeplab-train --config deeplabv3plus_r101-d8_4xb4-20k_voc12aug-512x512": f"{_STEP} --config {STREETS}",
        "deeplab-train --config deeplabv3plus_r101-d8_4xb4-40k_pascal-context-480x480": f"{_STEP} --config {STREETS}",
        "deeplab-train --config deeplabv3plus_r50-d8_4xb4-80k_loveda-512x512": f"{_STEP} --config {STREETS}",
        "deeplab-train --config deeplabv3plus_r50-d8_4xb4-80k_potsdam-512x512": f"{_STEP} --config {STREETS}",
        "--dataset cityscapes --data DIR": "--dataset cityscapes --data cityscapes",
        "--dataset folder --data DIR": "--dataset folder --data my_data",
        "--dataset coco --data DIR --annotations DIR/": "--dataset coco --data coco --annotations coco/",
        "--dataset coco --data DIR": "--dataset coco --data coco",
    },
    "docs/evaluation.md": {
        **{f"deeplab-eval model.onnx --dataset {name}": f"deeplab-eval --backend torch {name}.safetensors --dataset {name}" for name in ("cityscapes", "voc12aug", "pascal_context")},
        "deeplab-eval model.engine --dataset ade20k": "deeplab-eval --backend torch ade20k.safetensors --dataset ade20k",
        f"{STREETS}_int8.xml": "model_int8.xml",
        f"deeplab-eval {STREETS}  ": f"deeplab-eval {STREETS} --count 2 --size 96x128  ",
        "--count 48": "--count 2 --size 96x128",
        "model.onnx model.onnx": "model.onnx model.onnx --count 2 --size 96x128",
        "--precision fp32,bf16": "--precision fp32,bf16 --backend torch",
        "--window 480x480 --window-stride 320x320": "--window 24x24 --window-stride 16x16",
        'StreetScenes(2, 128, 256': 'StreetScenes(2, 96, 128',
        "--min-agreement 0.9999": "--min-agreement 0.99",
    },
    "docs/export.md": {
        "--min-agreement 0.998": f"--min-agreement 0.5 {_SIZE}",
        "height=256, width=512": "height=64, width=96",
        # Calibrated on noise the street scenes are not represented: that the lines run is what is tried.
        'assert verify(model, "model.onnx").passed': 'verify(model, "model.onnx")',
    },
    "docs/kernels.md": {
        "deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024": STREETS,
    },
    "docs/large_images.md": {
        "512x512": "48x48",
        "(512, 512)": "(48, 48)",
        "20_000, 20_000": "96, 128",
    },
    "docs/optimisations.md": {"deeplabv3_r50-d8_4xb2-80k_cityscapes-512x1024": "deeplabv3_mobilenetv2", "(512, 1024)": "(64, 96)"},
    "docs/precision.md": {
        " --name streets": f" {_SIZE} --force --calibration-images 2 --no-search --min-agreement 0.1 --name streets",
        "--max-drop 1 ": "--max-drop 100 ",
        "--count 8 --size 384x768": "--count 2 --size 96x128",
        "height=256, width=512": "height=64, width=96",
    },
    "docs/quickstart.md": {
        "--checkpoint my_model.pth": f"--checkpoint my_model.pth {_SIZE}",
        "--count 4 --size 256x512": "--count 2 --size 96x128",
    },
    "docs/training.md": {
        f"deeplab-train --config {STREETS}": f"{_STEP} --scenes 2 --val-scenes 1 --config {STREETS}",
        "deeplab-train --config deeplabv3plus_r50b-d8_4xb2-80k_cityscapes-512x1024 --init resnet50.safetensors --data data/cityscapes": f"{_STEP} --config {STREETS} --dataset cityscapes --data data/cityscapes",
        "deeplab-bench train deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024 --batch 2 --amp bf16": f"deeplab-bench train {STREETS} --batch 2 --variant fused --crop 33x65 --rounds 1 --seconds 0.05 --amp off",
        "--crop 512x1024 --count": "--crop 64x128 --count",
        "deeplab-train --config deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512 --init auto": f"{_STEP} --config {STREETS} --init auto",
    },
    "export/README.md": {},
    "docs/tensorrt.md": {"--config NAME --checkpoint FILE": f"--config {STREETS} --no-verify", "--height 1024 --width 2048": "--height 64 --width 96"},
    "docs/tensorrt_plugins.md": {"--config NAME --checkpoint FILE --fp16 --custom-ops": f"--config {STREETS} {_SIZE} --fp16 --custom-ops --format onnx"},
}  # fmt: skip


def smaller(page, text):
    for old, new in {**SMALLER.get(page, {}), **EVERYWHERE}.items():
        text = text.replace(old, new)
    return text


def why_not(line):
    return next((reason for part, reason in NOT_RUN.items() if part in line), None)


def fixed(height, width):
    return Signature(batch=(1, 1, 1), height=(height,) * 3, width=(width,) * 3)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Files that the pages speak of, small: made once."""
    folder = tmp_path_factory.mktemp("files")
    for name in ("my_model.pth", "my.safetensors", "my.pth", "model.pth"):
        shutil.copy(asset_path(f"{STREETS}.safetensors"), folder / name)
    model = checkpoints.load(folder / "my.safetensors")
    street = Image.open(asset_path("street.png"))
    (folder / "photos").mkdir()
    for index in range(2):
        street.resize((96, 64)).save(folder / "photos" / f"{index}.png")
    shutil.copytree(folder / "photos", folder / "my_images")
    street.resize((96, 64)).save(folder / "street.png")
    street.resize((128, 96)).save(folder / "huge.tif")
    traced = TracedNetwork(model, Signature(height=(16, 64, 1024), width=(16, 96, 2048), batch=(1, 1, 8)))
    traced.write(folder / "model.onnx", PRECISIONS["fp32"])
    calibrated = TracedNetwork(model, fixed(96, 128), calibration=Calibration((str(folder / "photos"),)))
    export_openvino(calibrated, folder / "model_int8.xml", PRECISIONS["int8"])
    TracedNetwork(model, fixed(32, 48)).write(folder / "tiny.onnx", PRECISIONS["fp32"])
    for name in ("cityscapes", "ade20k", "voc12aug", "pascal_context"):
        spec = dataset_spec(name)
        changed = load_config(STREETS).replace(
            name=name, dataset=spec, num_classes=len(spec.classes), checkpoint="", checkpoint_sha256=""
        )
        checkpoints.save(build_model(changed).eval(), folder / f"{name}.safetensors")
    save_yaml(load_config(STREETS), folder / "my_config.yaml")
    (folder / "classes.txt").write_text("\n".join(model.config.classes))
    np.zeros((96, 128, 3), np.uint8).tofile(folder / "scene.rgb")
    _make_data(folder)
    made = all_records()
    for name, kind in (
        ("table", "table"),
        ("before", "table"),
        ("after", "table"),
        ("peers", "peers"),
        ("layers", "layers"),
    ):
        write_record(folder / f"{name}.json", made[kind])
    return folder


def _make_data(folder):
    trees.make_street_folder(folder / "my_data", train=4, val=2, size=(64, 96))
    for place in (folder, folder / "data"):
        trees.make_cityscapes(place / "cityscapes")
        trees.make_ade20k(place / "ADEChallengeData2016")
        trees.make_voc(place / "VOCdevkit" / "VOC2012", count=4, size=(64, 96))
        trees.make_pascal_context(place / "VOCdevkit" / "VOC2010")
    trees.make_loveda(folder / "loveDA")
    trees.make_potsdam(folder / "potsdam")
    # Named as the page has them, one file a split, over the same pictures.
    for split in ("train", "val"):
        trees.make_coco(folder / "coco", trees.coco_tables(), f"annotations/instances_{split}.json")


@pytest.fixture
def scratch(shared, tmp_path, monkeypatch):
    folder = tmp_path / "work"
    shutil.copytree(shared, folder)
    (folder / "deeplab_infer" / "assets").mkdir(parents=True)
    shutil.copy(folder / "street.png", folder / "deeplab_infer" / "assets" / "street.png")
    shutil.copytree(ROOT / "examples", folder / "examples")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(str(ROOT / name) for name in ("", "export", "benchmarks")))
    return folder


def run(line, folder, where):
    name, *arguments = words(line, folder)
    if name == "python":
        done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{where}: {line}\n{done.stdout}\n{done.stderr[-3000:]}"
        return
    assert name in MAINS, f"{where}: {line!r} is neither run nor in NOT_RUN with a reason"
    try:
        code = MAINS[name](arguments)
    except SystemExit as error:
        code = error.code
    assert code == 0, f"{where}: {line} exited {code}"


def to_run(page):
    """(where, kind, text) of what a page has to run here."""
    name = name_of(page)
    for part in parts(page):
        where = f"{name}, line {part.line}"
        if part.mark or (name in ELSEWHERE and part.language != "command"):
            continue
        if part.language == "python":
            yield where, "python", smaller(name, part.text)
            continue
        for line in commands(part):
            shrunk = smaller(name, f"{line}  ").strip()
            if not is_synopsis(line) and why_not(shrunk) is None:
                yield where, "command", shrunk


RUNNABLE = [page for page in PAGES if list(to_run(page))]


@pytest.mark.slow
@pytest.mark.parametrize("page", [pytest.param(page, id=name_of(page)) for page in RUNNABLE])
def test_page(page, scratch):
    namespace = {"__name__": "page"}
    for where, kind, text in to_run(page):
        if kind == "python":
            exec(compile(text, where, "exec"), namespace)
        else:
            run(text, scratch, where)


def test_pages_run_elsewhere_are():
    for page, test in ELSEWHERE.items():
        assert (ROOT / page).exists() and Path(page).name in (ROOT / test).read_text(), page


def test_replacements_still_replace():
    for page, changes in SMALLER.items():
        text = (ROOT / page).read_text()
        said = "\n".join(part.text + "  \n" for part in parts(ROOT / page))
        assert not [old for old in changes if old not in said and old not in text], page


def test_what_is_not_run_is_still_said():
    lines = [line for page in PAGES for part in parts(page) for line in commands(part)]
    assert not [part for part in NOT_RUN if not any(part in line for line in lines)]


def test_frames_have_a_language_that_is_run_or_known():
    known = {"python", "bash", "sh", "", "cmake", "cpp", "c", "nginx", "dockerfile", "yaml", "json", "text", "command"}
    for page in PAGES:
        for part in parts(page):
            assert part.language in known, f"{name_of(page)}, line {part.line}: {part.language}"
