# SPDX-License-Identifier: Apache-2.0
"""``deeplab-train`` and ``deeplab-doctor``."""

import importlib
import importlib.metadata
import json

import pytest

from deeplab_infer import checkpoints
from deeplab_infer.commands import doctor, train

from ..networks import STREETS

TINY = ["--iterations", "2", "--batch", "2", "--crop", "32x64", "--scenes", "2", "--scene-size", "32x64",
        "--val-scenes", "1", "--val-size", "32x64", "--eval-every", "1", "-q"]  # fmt: skip


def test_training_writes_checkpoints_and_a_log(tmp_path, capsys):
    assert train.main(["--config", STREETS, *TINY, "-o", str(tmp_path / "run")]) == 0
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["best.safetensors", "last.safetensors", "log.jsonl"]
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == [1, 2]
    assert "best mIoU on 1 held-out scenes" in capsys.readouterr().out
    model = checkpoints.load(tmp_path / "run" / "last.safetensors")
    assert model.config.name == STREETS
    again = [
        "--config",
        STREETS,
        "--init",
        str(tmp_path / "run" / "last.safetensors"),
        *TINY,
        "-o",
        str(tmp_path / "b"),
    ]
    assert train.main(again) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "deeplabv3plus_mobile"], "unknown config"),
        (["--config", STREETS, "--crop", "64"], "is not a size"),
        (["--config", STREETS, "--crop", "8x8"], "at least 32 x 32"),
        (["--config", STREETS, "--iterations", "0"], "iterations must be at least 1"),
        (["--config", STREETS, "--eval-every", "0"], "--eval-every"),
        (["--config", STREETS, "--scenes", "0"], "at least 1 scene"),
        (["--config", STREETS, "--init", "missing.pth"], "no such checkpoint"),
        (["--config", "deeplabv3plus_mobilenetv2", *TINY], "use --set num_classes=10"),
        (["--config", STREETS, "-o", "/proc/x"], "cannot write to folder"),
    ],
)
def test_wrong_training(tmp_path, capsys, arguments, message):
    where = [] if "-o" in arguments else ["-o", str(tmp_path / "run")]
    assert train.main([*arguments, *where]) == 2
    assert message in capsys.readouterr().err


def test_doctor(capsys):
    assert doctor.main([]) == 0
    output = capsys.readouterr().out
    assert "onnxruntime" in output
    assert "native module" in output
    assert doctor.main(["--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["packages"]["torch"]["version"]
    assert "CPU kernels" in report["native module"]


def test_doctor_names_what_to_install(capsys, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    report = doctor.examine()
    assert report["packages"]["openvino"]["missing"] == "pip install 'deeplab-infer[openvino]'"
    assert doctor.main([]) == 0
    assert "pip install 'deeplab-infer[onnxruntime]'" in capsys.readouterr().out


def test_doctor_survives_broken_packages(monkeypatch):
    def broken(name):
        raise OSError(f"lib{name}.so: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", broken)
    report = doctor.examine()
    assert "cannot open shared object" in report["packages"]["onnxruntime"]["broken"]
    assert "cannot open shared object" in report["packages"]["opencv"]["broken"]


def test_doctor_survives_damaged_metadata(monkeypatch):
    def damaged(name):
        raise KeyError("Version")

    monkeypatch.setattr(importlib.metadata, "version", damaged)
    assert "KeyError" in doctor.examine()["packages"]["onnx"]["broken"]
