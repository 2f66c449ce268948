# SPDX-License-Identifier: Apache-2.0
"""``deeplab-export --explain``: savings against hand arithmetic, and the command as a user runs it."""

import io
import json

import numpy as np
import pytest
from deeplab_export import command
from deeplab_export.explain import change, counted_size, explain, rewrite_steps
from deeplab_export.graph import Signature
from deeplab_export.output_strides import compare_labels, rounded_rates
from deeplab_export.verify import Sample
from PIL import Image
from rich.console import Console

from deeplab_infer import Segmenter, checkpoints
from deeplab_infer.configs import load_config
from deeplab_infer.data.synthetic_streets import generate_street
from deeplab_infer.models import build_model

from ..networks import STREETS

R50 = "deeplabv3plus_r50-d8_4xb2-80k_cityscapes-512x1024"
SMALL = ["--height", "64", "--width", "96"]


@pytest.fixture
def main(tmp_path, monkeypatch):
    """The command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: command.main(["--explain", *arguments])


@pytest.fixture(scope="module")
def published():
    """Steps of the published R-50-D8 at 1024x2048 by name, in half precision."""
    steps = rewrite_steps(load_config(R50), (1024, 2048), (1024, 2048), 2)
    return {step.rewrite.name: step for step in steps}


def test_what_folding_the_pooling_saves_on_the_published_network(published):
    """512 of 2560 input channels of a 3x3 over 128x256: 77.3 of 1409 G; nine products of 512x512 take their place."""
    step = published["fold_image_pooling"]
    assert step.before.multiply_adds / 1e9 == pytest.approx(1409.26, abs=0.01)
    map_pixels, width = 128 * 256, 512
    saved = map_pixels * 9 * width * width
    products = 9 * width * width
    regions = step.after.multiply_adds - (step.before.multiply_adds - saved + products)
    assert saved / 1e9 == pytest.approx(77.309, abs=0.001)
    assert 0 <= regions < 100 * width  # 9 taps to 16 border regions
    assert step.after.parameters == step.before.parameters


def test_what_the_other_rewrites_save_on_the_published_network(published):
    removed = published["remove_training_parts"]
    # The auxiliary head: a 3x3 block on the 1024 channels of the last but one stage, and a classifier.
    assert removed.before.parameters - removed.after.parameters == 1024 * 256 * 9 + 2 * 256 + 256 * 19 + 19
    assert removed.before.multiply_adds == removed.after.multiply_adds
    norms = published["fold_batchnorm"]
    assert norms.before.multiply_adds == norms.after.multiply_adds
    assert norms.after.bytes_moved < 0.75 * norms.before.bytes_moved
    void = published["drop_void_taps"]
    assert not void.rewrite.applied
    assert void.rewrite.reason
    assert void.before == void.after


def test_taps_that_only_see_padding():
    """DeepLabV3's 3x3 branches with rates 12, 24, 36 over a map of 8x8: 1x1 each."""
    config = load_config("deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024")
    *_, fixed = rewrite_steps(config, (64, 64), (64, 64), 4)
    assert fixed.rewrite.name == "drop_void_taps"
    assert fixed.before.multiply_adds - fixed.after.multiply_adds == 3 * 8 * 64 * 512 * config.aspp_channels
    *_, open_size = rewrite_steps(config, (64, 64), None, 4)
    assert not open_size.rewrite.applied
    assert "open" in open_size.rewrite.reason


def test_without_rewrites_only_what_every_export_needs():
    steps = rewrite_steps(load_config(STREETS), (64, 96), None, 4, rewrites=False)
    applied = {step.rewrite.name for step in steps if step.rewrite.applied}
    assert applied == {"remove_training_parts", "fold_batchnorm"}
    assert {step.rewrite.reason for step in steps if not step.rewrite.applied} == {"switched off by --no-rewrites"}


@pytest.mark.parametrize(
    ("name", "overrides", "sizes", "expected", "words"),
    [
        (STREETS, [], {}, (512, 1024), "typical size of an exported file"),
        (STREETS, [], {"height": (64, 64, 64), "width": (96, 96, 96)}, (64, 96), "fixed by --height and --width"),
        (STREETS, [], {"height": (1, 64, 128)}, (64, 1024), "typical size of --height"),
        (STREETS, ["test_scale=[800, 600]"], {}, (600, 800), "test_scale"),
        (STREETS, ["test_mode=slide", "window=[96, 128]", "window_stride=[64, 64]"], {}, (96, 128), "window"),
        (R50, [], {}, (1024, 2048), "dataset gives at test time"),
    ],
)
def test_the_size_that_is_counted(name, overrides, sizes, expected, words):
    size, source = counted_size(load_config(name, overrides), Signature(**sizes))
    assert size == expected
    assert words in source


def test_changes():
    assert [change(4, 3), change(4, 5), change(4, 4)] == ["-25.0%", "+25.0%", "same"]


def test_rates_that_are_rounded():
    config = load_config("deeplabv3plus_r101-d16-mg124_4xb2-80k_cityscapes-512x1024")
    assert rounded_rates(config, 8) == rounded_rates(config, 16) == ""
    assert rounded_rates(config, 32) == "multi-grid 1, 2, 4 become 1, 1, 2, rounded"


def test_the_bundled_model(main, tmp_path, capsys):
    assert main("--config", STREETS, *SMALL, "--json", "a.json") == 0
    said = capsys.readouterr().out
    assert "64x96: fixed by --height and --width" in said
    for words in (
        "fold_batchnorm",
        "not applied: ",
        "together: ",
        "same label",
        "mIoU",
        "12 generated streets of 64x96",
    ):
        assert words in said
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    found = json.loads((tmp_path / "a.json").read_text())
    assert (found["config"], found["size"], found["element_bytes"]) == (STREETS, [64, 96], 4)
    assert found["after"]["multiply_adds"] < found["before"]["multiply_adds"]
    assert found["rewrites"][0]["before"] == found["before"]
    strides = {row["output_stride"]: row for row in found["output_strides"]}
    own = load_config(STREETS).output_stride
    assert [stride for stride, row in strides.items() if row["trained"]] == [own]
    assert [stride for stride, row in strides.items() if row["chosen"]] == [own]
    assert strides[own]["agreement"] == 1
    assert strides[own]["work"] == found["after"]
    assert all(0.3 < row["agreement"] <= 1 and 0 < row["miou"] < 1 for row in strides.values())
    costs = [row["work"]["multiply_adds"] for row in strides.values()]
    assert costs == sorted(costs, reverse=True)
    assert strides[8]["aspp_rates"] == [2 * rate for rate in strides[16]["aspp_rates"]]


def test_the_chosen_stride_and_json_on_stdout(main, tmp_path, capsys):
    own = load_config(STREETS).output_stride
    other = next(stride for stride in (8, 16) if stride != own)
    image, _ = generate_street(7, 64, 96)
    Image.fromarray(image).save(tmp_path / "one.png")
    chosen = ["--output-stride", str(other), "--fp16", "--no-rewrites"]
    assert main("--config", STREETS, *SMALL, *chosen, "--images", "one.png", "--json", "-") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["element_bytes"] == 2
    assert found["images"] == "1 image"
    assert [row["output_stride"] for row in found["output_strides"] if row["trained"]] == [own]
    (row,) = (row for row in found["output_strides"] if row["chosen"])
    assert (row["output_stride"], row["work"], row["miou"]) == (other, found["after"], None)
    assert {step["name"] for step in found["rewrites"] if step["applied"]} == {
        "remove_training_parts",
        "fold_batchnorm",
    }


def test_a_checkpoint_knows_its_stride(main, tmp_path, capsys):
    model = checkpoints.load("asset:deeplabv3plus_mobilenetv2_streets.safetensors")
    checkpoints.save(model, tmp_path / "mine.safetensors")
    overrides = ["--checkpoint", "mine.safetensors", "--set", "output_stride=32"]
    assert main(*overrides, *SMALL, "--json", "-") == 0
    rows = json.loads(capsys.readouterr().out)["output_strides"]
    assert [row["output_stride"] for row in rows if row["trained"]] == [model.config.output_stride]
    assert [row["output_stride"] for row in rows if row["chosen"]] == [32]
    assert rows[2]["agreement"] == 1


def test_labels_are_compared_with_the_configs_own():
    """Against a comparison written out: the same images through two networks."""
    model = checkpoints.load("asset:deeplabv3plus_mobilenetv2_streets.safetensors")
    other = checkpoints.with_config(model, model.config.with_output_stride(32))
    image, truth = generate_street(3, 64, 96)
    found = compare_labels(model, Signature(), (64, 96), [Sample("a", image, truth)])
    labels = []
    for network in (model, other):
        labels.append(Segmenter(network, backend="torch", device="cpu").predict(image).labels)
    agreement, miou = found.shares[32]
    assert agreement == pytest.approx(np.mean(labels[0] == labels[1]), abs=1e-3)
    assert 0 < miou < 1


def test_random_weights_are_not_compared(main, capsys):
    assert main("--config", STREETS, "--checkpoint", "random", *SMALL) == 0
    said = capsys.readouterr().out
    assert "labels are not compared: the weights are random" in said
    assert "same label" not in said
    assert "mIoU" not in said


def test_other_classes_need_images():
    model = build_model(R50.replace("r50", "r18"))
    model.checkpoint_source = "somewhere"
    assert "give images of yours with --images" in compare_labels(model, Signature(), (64, 96)).why_not


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "nothing/*.png"], "no such file, folder or pattern"),
        (["--images", "one.png", "--labels", "."], "no such mask"),
        (["--labels", "."], "--labels are the masks of --images"),
        (["--height", "8", "--width", "8"], "a street needs at least 16 x 16"),
        (["--json", "one.png/a.json"], "is a file"),
        (["--set", "output_stride=12"], "not one of 8, 16, 32"),
    ],
)
def test_wrong_use(main, tmp_path, capsys, arguments, message):
    Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(tmp_path / "one.png")
    if "." in arguments:
        (tmp_path / "masks").mkdir()
        arguments = ["masks" if word == "." else word for word in arguments]
    assert main("--config", STREETS, *arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--height", "tall"], ["--height", "0"], ["--output-stride", "4"]])
def test_sizes_and_strides_that_do_not_exist(main, arguments):
    with pytest.raises(SystemExit) as stop:
        main("--config", STREETS, *arguments)
    assert stop.value.code == 2


@pytest.mark.parametrize("width", [80, 120])
def test_the_tables_fit_a_terminal(monkeypatch, width):
    """No figure is cut or broken."""
    console = Console(width=width, record=True, file=io.StringIO())
    explain(build_model(load_config(STREETS)).eval(), Signature()).print(console)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "…" not in text
    for words in ("fold_image_pooling", "6.61", "12,24,36", "128x256"):
        assert words in text


def test_an_export_says_what_its_rewrites_save(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    common = ["--config", STREETS, "--format", "onnx", "--no-verify", *SMALL]
    assert command.main(common) == 0
    said = capsys.readouterr().err
    assert "rewrites: remove_training_parts, fold_batchnorm, fold_image_pooling" in said
    assert "at 64x96" in said
    assert "GMAC (-" in said
    assert command.main([*common, "--no-rewrites", "--force"]) == 0
    said = capsys.readouterr().err
    assert "fold_image_pooling" not in said
    assert "GMAC (same)" in said
