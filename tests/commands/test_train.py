# SPDX-License-Identifier: Apache-2.0
"""``deeplab-train``, as a user runs it."""

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deeplab_infer import checkpoints
from deeplab_infer.commands import evaluate, train
from deeplab_infer.commands.train_journal import draw_samples
from deeplab_infer.configs import load_config
from deeplab_infer.training.step import TrainingStep

from ..data.trees import coco_tables, make_coco, make_street_folder
from ..networks import STREETS, make_network

ROOT = Path(__file__).parents[2]
SIZE = ["--iterations", "2", "--batch", "2", "--crop", "32x64"]
TINY = [*SIZE, "--scenes", "2", "--scene-size", "32x64", "--val-scenes", "1", "--val-size", "32x64", "--eval-every", "1",
        "--log-every", "1", "--previews", "1", "-q"]  # fmt: skip
COMMAND = [sys.executable, "-m", "deeplab_infer.commands.train"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run(where, *arguments, base=TINY):
    return train.main(["--config", STREETS, *base, *map(str, arguments), "-o", str(where)])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_a_run_leaves_behind(tmp_path, capsys):
    where = tmp_path / "run"
    assert run(where) == 0
    assert names(where) == [
        "best.safetensors", "last.safetensors", "log.csv", "log.jsonl", "previews", "run.json", "state.pt"
    ]  # fmt: skip
    entries = [json.loads(line) for line in (where / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [1, 2] and 0 <= entries[1]["miou"] <= 1
    with open(where / "log.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["step"] for row in rows] == ["1", "2"] and float(rows[0]["images_per_s"]) > 0
    assert names(where / "previews") == ["0_step_000001.jpg", "0_step_000002.jpg"]
    assert Image.open(where / "previews" / "0_step_000001.jpg").size == (3 * 64, 32)
    record = json.loads((where / "run.json").read_text())
    assert record["options"]["iterations"] == 2 and record["recipe"] == "streets"
    assert "best mIoU on 1 held-out images" in capsys.readouterr().out
    assert checkpoints.load(where / "last.safetensors").config.name == STREETS
    assert run(tmp_path / "b", "--init", where / "last.safetensors") == 0


def test_a_run_is_not_overwritten_unless_asked(tmp_path, capsys):
    assert run(tmp_path) == 0
    assert run(tmp_path) == 2
    assert "holds a run already; add --resume" in capsys.readouterr().err
    assert run(tmp_path, "--overwrite", "--val-split", "none") == 0
    assert not {"best.safetensors", "previews"} & set(names(tmp_path))
    assert run(tmp_path, "--resume", "--lr", "0.5") == 2
    assert "lr 0.5, was 0.003" in capsys.readouterr().err
    assert run(tmp_path, "--resume", "--set", "dropout=0.3") == 2
    assert "config dropout 0.3, was 0.1" in capsys.readouterr().err
    assert run(tmp_path, "--resume", "--scenes", "3") == 2
    assert "scenes 3, was 2" in capsys.readouterr().err
    assert run(tmp_path, "--resume", "--overwrite") == 2
    assert run(tmp_path / "none", "--resume") == 2
    assert "no such file; a run writes its state" in capsys.readouterr().err


def test_interrupted_and_resumed_is_the_same_run(tmp_path):
    arguments = ["--config", STREETS, *TINY, "--iterations", "30", "--eval-every", "10", "--threads", "1"]
    whole = subprocess.run([*COMMAND, *arguments, "-o", str(tmp_path / "a")], env=ENVIRONMENT, check=False, cwd=ROOT)
    assert whole.returncode == 0
    where = tmp_path / "b"
    process = subprocess.Popen(
        [*COMMAND, *arguments, "-o", str(where)], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    limit = time.monotonic() + 120
    while not ((where / "log.csv").exists() and len((where / "log.csv").read_text().splitlines()) > 3):
        assert time.monotonic() < limit and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "--resume goes on from there" in said and "removed" not in said
    done = subprocess.run([*COMMAND, *arguments, "-o", str(where), "--resume"], env=ENVIRONMENT, check=False, cwd=ROOT)
    assert done.returncode == 0
    first, second = (checkpoints.load(folder / "last.safetensors").state_dict() for folder in (tmp_path / "a", where))
    assert all(torch.equal(first[key], second[key]) for key in first)
    for name in ("log.csv", "log.jsonl"):
        assert len((tmp_path / "a" / name).read_text().splitlines()) == len((where / name).read_text().splitlines())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "deeplabv3plus_mobile"], "unknown config"),
        (["--config", STREETS, "--crop", "64"], "is not a size"),
        (["--config", STREETS, "--crop", "8x8"], "at least 32 x 32"),
        (["--config", STREETS, "--iterations", "0"], "iterations must be at least 1"),
        (["--config", STREETS, "--eval-every", "0"], "--eval-every"),
        (["--config", STREETS, "--scenes", "0"], "--scenes must be at least 1"),
        (["--config", STREETS, "--init", "missing.pth"], "no such checkpoint"),
        (["--config", STREETS, "--recipe", "papper"], "unknown recipe 'papper'"),
        (["--config", STREETS, "-o", "/proc/x"], "cannot write to folder"),
        (["--config", "deeplabv3plus_mobilenetv2"], "needs images: give --dataset voc12aug --data DIR"),
        (["--config", STREETS, "--data", "x"], "needs --dataset"),
        (["--config", STREETS, "--dataset", "streets", "--data", "x"], "have no folder"),
        (["--config", STREETS, "--dataset", "folder", "--data", "x", "--scenes", "3"], "--scenes is for generated"),
        (["--config", STREETS, "--dataset", "cityscape", "--data", "x"], "cityscapes"),
        (["--config", STREETS, *TINY, "--class-weights", "1,2"], "has 2 values, the data has 10 classes"),
        (["--config", STREETS, *TINY, "--class-weights", "equal"], "neither inverse_log nor median_frequency"),
        (["--config", STREETS, *TINY, "--bootstrap", "dragon"], "dragon"),
        (["--config", "deeplabv3plus_mobilenetv2", *TINY, "--init", "auto"], "no official weights"),
    ],
)
def test_wrong_use(tmp_path, capsys, arguments, message):
    where = [] if "-o" in arguments else ["-o", str(tmp_path / "run")]
    assert train.main([*arguments, *where]) == 2
    assert message in capsys.readouterr().err


def test_a_config_takes_the_classes_of_the_data(tmp_path):
    assert train.main(["--config", "deeplabv3plus_mobilenetv2", *TINY, "-o", str(tmp_path)]) == 0
    config = checkpoints.load(tmp_path / "last.safetensors").config
    assert config.name == "deeplabv3plus_mobilenetv2_synthetic_streets"
    assert config.num_classes == 10 and config.classes[0] == "sky"


def test_images_of_other_data_keep_their_size(tmp_path, caplog):
    name = "deeplabv3plus_r18-d8_4xb4-80k_loveda-512x512"
    assert load_config(name).test_scale == (1024, 1024)
    arguments = [*TINY[:-1], "--crop", "64x64", "--val-split", "none"]
    assert train.main(["--config", name, *arguments, "-o", str(tmp_path / "a")]) == 0
    assert checkpoints.load(tmp_path / "a" / "last.safetensors").config.test_scale is None
    assert "evaluated at their own size" in caplog.text
    kept = [*arguments, "--set", "test_scale=[512, 256]"]
    assert train.main(["--config", name, *kept, "-o", str(tmp_path / "b")]) == 0
    assert checkpoints.load(tmp_path / "b" / "last.safetensors").config.test_scale == (512, 256)


def folder_arguments(root, *more):
    return ["--dataset", "folder", "--data", str(root), "--workers", "0", "--eval-every", "2", *more]


def test_fine_tuning_on_a_folder(tmp_path, capsys, caplog):
    make_street_folder(tmp_path / "data", train=3, val=2, size=(64, 96))
    other = make_network(overrides=["num_classes=3"])
    checkpoints.save(other, tmp_path / "three.safetensors")
    where = tmp_path / "run"
    arguments = folder_arguments(tmp_path / "data", "--init", str(tmp_path / "three.safetensors"), "--name", "mine")
    extra = ["--ema", "0.9", "--amp", "bf16", "--head-lr", "10", "--bn", "frozen", "--class-weights", "inverse_log"]
    assert run(where, *arguments, *extra, "--bootstrap", "car", "--tensorboard", base=SIZE) == 0
    assert "classifiers start from random weights" in caplog.text
    record = json.loads((where / "run.json").read_text())
    assert record["checked"]["training"]["checked"] == 3
    assert record["data"]["bootstrap"] == "car"
    assert len(record["options"]["class_weights"]) == 10
    assert list((where / "tensorboard").iterdir())
    model = checkpoints.load(where / "best.safetensors")
    assert model.config.name == "mine" and model.config.num_classes == 10
    capsys.readouterr()
    data = ["--dataset", "folder", "--data", str(tmp_path / "data"), "--json", "-", "-q"]
    assert evaluate.main([str(where / "last.safetensors"), *data]) == 0
    found = json.loads(capsys.readouterr().out)
    last = json.loads((where / "log.jsonl").read_text().splitlines()[-1])
    # The same protocol on the same images, but for rounding where the normalisation is folded.
    assert found["miou"] == pytest.approx(last["miou"], abs=1e-3)


def test_the_plan_says_what_is_seldom_meant(tmp_path, capsys):
    make_street_folder(tmp_path / "data", train=2, val=1, size=(64, 96))
    arguments = folder_arguments(tmp_path / "data", "--dry-run")
    assert run(tmp_path / "run", *arguments, "--recipe", "finetune", base=SIZE) == 0
    said = capsys.readouterr().err
    assert "no --init: it starts from random weights" in said
    assert "start: random weights" in said and f"folder in {tmp_path / 'data'}, train and val" in said
    assert "checked training: 2 of 2 images, height x width 64x96 (2)" in said
    assert run(tmp_path / "run", *arguments, "--init", "auto", base=SIZE) == 0
    assert "for one trained before: --recipe finetune" in capsys.readouterr().err


def test_a_coco_folder(tmp_path):
    make_coco(tmp_path / "data", coco_tables())
    data = ["--dataset", "coco", "--data", str(tmp_path / "data"), "--val-split", "none", "--workers", "1", "-q"]
    assert run(tmp_path / "run", *data, base=SIZE) == 0
    assert checkpoints.load(tmp_path / "run" / "last.safetensors").config.num_classes > 1


def test_dry_run_writes_a_picture_only(tmp_path, capsys):
    assert run(tmp_path, "--dry-run") == 0
    assert names(tmp_path) == ["dry_run.png"]
    assert Image.open(tmp_path / "dry_run.png").size == (2 * 64, 2 * 32)
    assert "one step: loss" in capsys.readouterr().out


def test_a_diverged_run_leaves_the_batch(tmp_path, capsys):
    assert run(tmp_path, "--optimizer", "sgd", "--lr", "1e30", "--clip", "0", "--warmup", "0", "--iterations", "4") == 2
    said = capsys.readouterr().err
    (saved,) = tmp_path.glob("diverged_step_*.npz")
    assert "training has diverged" in said and str(saved) in said and "scene " in said
    with np.load(saved) as batch:
        assert batch["images"].shape == (2, 32, 64, 3)


def test_full_memory(tmp_path, capsys, monkeypatch):
    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TrainingStep, "__call__", full)
    assert run(tmp_path) == 2
    assert "--batch 1 --accumulate 2" in capsys.readouterr().err


def test_a_file_that_cannot_be_read_is_passed_over_up_to_a_limit(tmp_path, capsys, caplog):
    make_street_folder(tmp_path / "data", train=3, val=1, size=(64, 96))
    image = sorted((tmp_path / "data" / "images").rglob("*.png"))[0]
    broken = next(p for p in sorted((tmp_path / "data").rglob("*.png")) if "images" in p.parts and "train" in p.parts)
    broken.write_bytes(image.read_bytes()[:50])
    arguments = folder_arguments(tmp_path / "data", "--iterations", "6")
    assert run(tmp_path / "a", *arguments, base=SIZE) == 2
    assert broken.name in capsys.readouterr().err, "checked before training"
    assert run(tmp_path / "b", *arguments, "--check", "0", base=SIZE) == 0
    assert f"{broken.name} cannot be read, another image takes its place" in caplog.text
    last = json.loads((tmp_path / "b" / "log.jsonl").read_text().splitlines()[-1])
    assert any(broken.name in name for name in last["skipped"])
    assert run(tmp_path / "c", *arguments, "--check", "0", "--skip-limit", "0", base=SIZE) == 2
    assert "at most 0 may be missing" in capsys.readouterr().err
    assert (tmp_path / "c" / "state.pt").exists(), "what was reached is saved"


def test_sizes_that_differ(tmp_path, capsys):
    make_street_folder(tmp_path / "data", train=2, val=1, size=(64, 96))
    mask = next(p for p in sorted((tmp_path / "data").rglob("*.png")) if "masks" in p.parts and "train" in p.parts)
    Image.fromarray(np.zeros((10, 12), np.uint8)).save(mask)
    assert run(tmp_path / "run", *folder_arguments(tmp_path / "data"), base=SIZE) == 2
    said = capsys.readouterr().err
    assert mask.name in said and "64" in said and "10" in said


def test_a_full_disk_does_not_end_the_run(tmp_path, capsys, caplog, monkeypatch):
    assert run(tmp_path, "--iterations", "2") == 0
    before = (tmp_path / "state.pt").read_bytes()
    real, calls = torch.save, []

    def full(content, path):
        calls.append(path)
        real({}, path)
        raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0: file write failed")

    monkeypatch.setattr(torch, "save", full)
    assert run(tmp_path / "b", "--iterations", "3") == 2
    assert len(calls) == 3, "tried again at each evaluation"
    assert "training goes on" in caplog.text
    assert "the disk is full; free some space" in capsys.readouterr().err
    assert "last.safetensors" in names(tmp_path / "b") and not list((tmp_path / "b").glob(".state*"))
    assert (tmp_path / "state.pt").read_bytes() == before


def test_space_that_comes_back(tmp_path, monkeypatch):
    real, calls = checkpoints.ours.atomic_write, []

    def full_once(path, mode="wb"):
        calls.append(path)
        if len(calls) <= 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return real(path, mode)

    monkeypatch.setattr(checkpoints.ours, "atomic_write", full_once)
    assert run(tmp_path) == 0
    assert checkpoints.load(tmp_path / "last.safetensors")


def test_tensorboard_missing(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert run(tmp_path, "--tensorboard") == 2
    assert "pip install 'deeplab-infer[tensorboard]'" in capsys.readouterr().err


def test_two_processes_of_torchrun(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    arguments = ["--config", STREETS, *TINY, "--val-scenes", "3", "--bn", "sync", "--threads", "1", "-o", str(tmp_path)]
    done = subprocess.run(
        [*command, "-m", "deeplab_infer.commands.train", *arguments],
        env=ENVIRONMENT,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("best mIoU on 3 held-out images") == 1
    assert json.loads((tmp_path / "run.json").read_text())["processes"] == 2
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert sum(last["pixels"].values()) == 3 * 32 * 64, "every image counted once"


def test_crops_are_drawn_in_rows():
    images = np.arange(1, 6, dtype=np.uint8).repeat(2 * 3 * 3).reshape(5, 2, 3, 3)
    labels = np.full((5, 2, 3), 1, np.uint8)
    labels[4] = 255
    picture = draw_samples(images, labels, ((9, 9, 9), (20, 30, 40)), 255, columns=3)
    assert picture.shape == (2 * 4, 3 * 3, 3)
    assert [picture[row, column, 0] for row in (0, 2, 4, 6) for column in (0, 3, 6)] == [
        1,
        2,
        3,
        *[20] * 3,
        4,
        5,
        0,
        20,
        255,
        0,
    ]
    assert draw_samples(images, labels, ((9, 9, 9), (20, 30, 40)), 255).shape == (4, 15, 3)
