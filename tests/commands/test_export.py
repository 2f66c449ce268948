# SPDX-License-Identifier: Apache-2.0
"""``deeplab-export`` as a user runs it."""

import errno
import json
import subprocess
import sys

import pytest
from deeplab_export import command, onnx_export

from deeplab_infer import checkpoints
from deeplab_infer.manifest import read_onnx_manifest

SMALL = ["--height", "1:64:128", "--width", "1:96:128"]
STREETS = "deeplabv3plus_mobilenetv2_streets"


def export(tmp_path, *arguments):
    return command.main([*arguments, *SMALL, "-o", str(tmp_path / "out")])


def test_the_bundled_model_is_exported_and_verified(tmp_path, capfd):
    code = subprocess.run(
        [sys.executable, "-m", "deeplab_export.command", "--config", STREETS, "--fp16", "-o", str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert code.returncode == 0, code.stderr
    assert code.stdout.strip() == str(tmp_path / f"{STREETS}_fp16.onnx")
    assert "PASSED" in code.stderr
    report = json.loads((tmp_path / f"{STREETS}_fp16.report.json").read_text())
    assert report["passed"]
    assert all(case["agreement"] >= 0.999 for case in report["cases"])
    manifest = read_onnx_manifest(tmp_path / f"{STREETS}_fp16.onnx")
    assert manifest.report["passed"]
    assert manifest.checkpoint_sha256
    assert manifest.precision == "fp16"


def test_random_weights_say_so(tmp_path, capsys, caplog):
    assert export(tmp_path, "--config", STREETS, "--checkpoint", "random", "--set", "num_classes=3", "--json", "-") == 0
    captured = capsys.readouterr()
    assert "random weights" in caplog.text
    assert json.loads(captured.out[: captured.out.rindex("}") + 1])["judged_labels"] is False
    assert read_onnx_manifest(tmp_path / "out" / f"{STREETS}.onnx").checkpoint_source == "random weights"


def test_output_stride_and_options(tmp_path):
    assert (
        export(tmp_path, "--config", STREETS, "--output-stride", "8", "--output", "labels", "--name", "os8", "-q") == 0
    )
    manifest = read_onnx_manifest(tmp_path / "out" / "os8.onnx")
    assert manifest.config.output_stride == 8
    assert manifest.config.aspp_rates == (12, 24, 36)
    assert manifest.output_kind == "labels"
    assert manifest.height == (1, 64, 128)


def test_a_checkpoint_brings_its_own_config(tmp_path):
    model = checkpoints.load("asset:deeplabv3plus_mobilenetv2_streets.safetensors")
    checkpoints.save(model, tmp_path / "mine.safetensors")
    assert export(tmp_path, "--checkpoint", str(tmp_path / "mine.safetensors"), "--no-verify") == 0


def test_failed_verification_is_exit_code_1(tmp_path, capsys):
    assert export(tmp_path, "--config", STREETS, "--min-agreement", "1.1") == 1
    assert "FAILED" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / f"{STREETS}.report.json").read_text())["passed"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --config NAME"),
        (["--config", "deeplabv3plus_r50"], "did you mean"),
        (["--checkpoint", "random"], "needs --config"),
        (["--config", STREETS, "--set", "num_classes=8"], "the checkpoint has 10 classes"),
        (["--config", "deeplabv3plus_xception65"], "has no official weights"),
        (["--config", STREETS, "--checkpoint", "missing.pth"], "no such checkpoint file"),
        (["--config", STREETS, "--images", "nothing/*.png"], "no such file, folder or pattern"),
        (["--config", "missing.yaml"], "no such config file"),
    ],
)
def test_wrong_use(tmp_path, capsys, arguments, message):
    assert export(tmp_path, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*.onnx")) if (tmp_path / "out").exists() else True


@pytest.mark.parametrize(
    "arguments",
    [
        ["--fp16", "--precision", "fp32"],
        ["--precision", "int8"],
        ["--height", "9:3:4"],
        ["--opset", "11"],
        ["--batch", "x"],
    ],
)
def test_usage_errors(arguments):
    with pytest.raises(SystemExit) as stop:
        command.main(["--config", STREETS, *arguments])
    assert stop.value.code == 2


def test_existing_files_are_kept_without_force(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f"{STREETS}.onnx").write_text("precious")
    assert export(tmp_path, "--config", STREETS) == 2
    assert "--force" in capsys.readouterr().err
    assert (tmp_path / "out" / f"{STREETS}.onnx").read_text() == "precious"


def test_output_folder_that_is_a_file(tmp_path, capsys):
    (tmp_path / "out").write_text("")
    assert export(tmp_path, "--config", STREETS) == 2
    assert "is a file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 2, "the disk is full"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_nothing_half_written_is_left(tmp_path, capsys, monkeypatch, error, code, message):
    def fail(*arguments, **keywords):
        raise error

    monkeypatch.setattr(onnx_export, "write_onnx", fail)
    assert export(tmp_path, "--config", STREETS) == code
    assert message in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_list_and_help(capsys):
    assert command.main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 90
    with pytest.raises(SystemExit):
        command.main(["--help"])
    text = capsys.readouterr().out
    assert "--fp16" in text
    assert "exit code" in text
