# SPDX-License-Identifier: Apache-2.0
"""``deeplab-export`` as a user runs it."""

import errno
import json
import subprocess
import sys

import pytest
from deeplab_export import command, onnx_export

from deeplab_infer import checkpoints
from deeplab_infer.engine_manifest import read_engine_manifest
from deeplab_infer.manifest import read_onnx_manifest

SMALL = ["--height", "96", "--width", "128"]  # fixed: tracing open sizes takes five times as long
OPEN = ["--height", "1:64:128", "--width", "1:96:128"]
STREETS = "deeplabv3plus_mobilenetv2_streets"


def export(tmp_path, *arguments):
    kind = [] if "--format" in arguments else ["--format", "onnx"]
    sizes = [] if "--height" in arguments else SMALL
    return command.main([*arguments, *kind, *sizes, "-o", str(tmp_path / "out")])


def test_the_bundled_model_ends_in_a_verified_engine(tmp_path):
    code = subprocess.run(
        [sys.executable, "-m", "deeplab_export.command", "--config", STREETS, "--fp16", "-o", str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert code.returncode == 0, code.stderr
    stem = tmp_path / f"{STREETS}_fp16"
    assert code.stdout.split() == [f"{stem}.onnx", f"{stem}.engine"]
    assert "PASSED" in code.stderr
    engine = read_engine_manifest(f"{stem}.engine")
    assert engine.layers["half"] > 100
    assert engine.command.startswith("deeplab-export --config")
    assert {path.suffix for path in tmp_path.iterdir()} == {".onnx", ".engine", ".json"}
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
        export(
            tmp_path, "--config", STREETS, "--output-stride", "8", "--output", "labels", "--name", "os8", "-q", *OPEN
        )
        == 0
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
        (["--config", STREETS, "--fp16", "--keep", "no.such.layer"], "no layer 'no.such.layer' in this model"),
        (["--config", STREETS, "--int8", "--calibration", "nothing"], "no such file, folder or pattern"),
        (["--config", STREETS, "--int8", "--calibration-images", "0"], "must be at least 1"),
        (["--config", STREETS, "--format", "openvino", "--fp8"], "OpenVINO files are fp32, bf16, fp16, int8"),
        (["--config", STREETS, "--format", "engine", "--optimization-level", "9"], "0 to 5"),
        (["--config", STREETS, "--format", "engine", "--workspace", "-1"], "above 0 GiB"),
        (["--config", STREETS, "--format", "engine", "--flavour", "tensorrt"], "pip install 'deeplab-infer[tensorrt]'"),
        (["--config", STREETS, "--save-command"], "add --format engine"),
        (["--config", STREETS, "--format", "engine", "--custom-ops"], "no TensorRT plugin library"),
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
        ["--precision", "int4"],
        ["--fp16", "--int8"],
        ["--profile", "1,2"],
        ["--profile", "1,2,3:2:1"],
        ["--format", "coreml"],
        ["--hardware-compatibility", "all"],
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


def test_a_low_precision_that_misses_keeps_layers(tmp_path, capsys):
    """int8 at a threshold that int8 alone misses: the search keeps some layers, and the file says which."""
    assert export(tmp_path, "--config", STREETS, "--int8", "--calibration-images", "2", "--min-agreement", "0.998") == 0
    said = capsys.readouterr().err
    assert "thresholds missed" in said
    assert "PASSED" in said
    manifest = read_onnx_manifest(tmp_path / "out" / f"{STREETS}_int8.onnx")
    report = json.loads((tmp_path / "out" / f"{STREETS}_int8.report.json").read_text())
    assert manifest.kept_layers
    assert list(manifest.kept_layers) == report["search"]["kept"]
    assert 0 < report["search"]["cost"] < 1
    assert manifest.calibration == {"source": ["streets"], "count": 2, "method": "minmax"}


def test_layers_that_are_kept_by_hand(tmp_path, capsys):
    assert export(tmp_path, "--config", STREETS, "--bf16", "--keep", "classifier", "--no-search") == 0
    manifest = read_onnx_manifest(tmp_path / "out" / f"{STREETS}_bf16.onnx")
    assert manifest.kept_layers == ("classifier",)
    assert "bfloat16 emulated" in manifest.report["runtimes"][0]
    assert command.main(["--config", STREETS, "--list-layers", *SMALL]) == 0
    layers = capsys.readouterr().out.splitlines()
    assert "classifier" in layers
    assert "decoder.convs.0.depthwise.conv  (never in eight bits)" in layers


def test_quality_on_images_with_labels(tmp_path, capsys):
    from PIL import Image

    from deeplab_infer.data.synthetic_streets import generate_street

    (tmp_path / "masks").mkdir()
    for seed in range(2):
        image, labels = generate_street(3_000_000 + seed, 96, 128)
        Image.fromarray(image).save(tmp_path / f"{seed}.png")
        Image.fromarray(labels.astype("uint8")).save(tmp_path / "masks" / f"{seed}.png")
    images = ["--images", str(tmp_path / "?.png"), "--labels", str(tmp_path / "masks")]
    assert export(tmp_path, "--config", STREETS, "--fp16", *images) == 0
    assert "mIoU over 2 images" in capsys.readouterr().err
    report = json.loads((tmp_path / "out" / f"{STREETS}_fp16.report.json").read_text())
    assert report["quality"][0]["images"] == 2
    assert abs(report["quality"][0]["drop"]) < 0.5
    (tmp_path / "masks" / "1.png").unlink()
    assert export(tmp_path, "--config", STREETS, *images) == 2
    assert "no such mask" in capsys.readouterr().err
    Image.fromarray(labels.astype("uint8") + 100).save(tmp_path / "masks" / "1.png")
    assert export(tmp_path, "--config", STREETS, *images) == 2
    assert "not a mask of class numbers 0..9" in capsys.readouterr().err


def test_an_openvino_file(tmp_path, capsys):
    assert export(tmp_path, "--config", STREETS, "--format", "openvino", "--fp16") == 0
    captured = capsys.readouterr()
    assert "PASSED" in captured.err
    assert captured.out.strip().endswith("_fp16.xml")
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".xml", ".bin", ".json"}


def test_no_engine_from_a_file_that_failed(tmp_path, capsys, caplog):
    (tmp_path / "out").mkdir()
    old = tmp_path / "out" / f"{STREETS}.engine"
    old.write_text("of an earlier run")
    arguments = ["--config", STREETS, "--format", "engine", "--min-agreement", "1.1", "--force"]
    assert export(tmp_path, *arguments) == 1
    assert not old.exists()
    assert "no engine is built" in caplog.text
    assert capsys.readouterr().out.strip().endswith(".onnx")


def test_the_line_for_trtexec(tmp_path, capsys):
    options = ["--format", "engine", "--fp16", "--save-command", "--workspace", "2", *OPEN]
    assert export(tmp_path, "--config", STREETS, *options) == 0
    words = capsys.readouterr().out.split()
    assert words[0] == "tensorrt_rtx"
    assert "--minShapes=image:1x1x1x3" in words
    assert "--maxShapes=image:1x128x128x3" in words
    assert "--memPoolSize=workspace:2048M" in words
    assert "--noTF32" in words
    assert not (tmp_path / "out").exists()


def test_layers_of_an_engine_as_a_table(tmp_path, capsys):
    profiles = ["--profile", "1,32:64:128,96", "--profile", "1:2:4,64,96"]
    assert (
        export(tmp_path, "--config", STREETS, "--format", "engine", "--fp16", "--layers", *profiles, "--no-verify") == 0
    )
    captured = capsys.readouterr()
    assert "layers of deeplabv3plus_mobilenetv2_streets_fp16.engine (network definition)" in captured.out
    assert "CONVOLUTION" in captured.out
    assert "NOT verified" in captured.err
    found = read_engine_manifest(tmp_path / "out" / f"{STREETS}_fp16.engine")
    assert [str(profile) for profile in found.profiles] == ["1 x 32:64:128 x 96", "1:2:4 x 64 x 96"]
    assert found.manifest.batch == (1, 1, 4)


def test_without_tensorrt_it_says_so_and_writes_onnx(tmp_path, monkeypatch, caplog, capsys):
    monkeypatch.setattr("deeplab_infer.runtime.tensorrt_flavour.installed_flavours", list)
    with caplog.at_level("INFO"):
        assert export(tmp_path, "--config", STREETS, "--format", "auto", "--no-verify") == 0
    assert "writing ONNX only: TensorRT is not installed" in caplog.text
    assert capsys.readouterr().out.strip().endswith(".onnx")


def test_list_and_help(capsys):
    assert command.main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 90
    with pytest.raises(SystemExit):
        command.main(["--help"])
    text = capsys.readouterr().out
    assert "--fp16" in text
    assert "exit code" in text
