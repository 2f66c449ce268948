# SPDX-License-Identifier: Apache-2.0
"""Options of slide mode: what they mean, and that a command's run follows them."""

import argparse
import json

import numpy as np
import pytest
from deeplab_export import export_onnx
from PIL import Image

from deeplab_infer.commands import predict
from deeplab_infer.commands.window_options import add_window_options, parse_bytes, window_options
from deeplab_infer.errors import DataError
from deeplab_infer.sliding import MEMORY

from ..networks import make_network, random_images


def parse(*words):
    parser = argparse.ArgumentParser()
    add_window_options(parser)  # a parser takes options as a group does
    return window_options(parser.parse_args(words))


def test_defaults_leave_everything_to_the_model():
    assert parse() == {
        "mode": None, "window": None, "window_stride": None, "windows": "reference", "blend": "mean", "memory": MEMORY,
    }  # fmt: skip


def test_every_option():
    given = "--mode slide --window 48x64 --window-stride 32x40 --windows even --blend hann --memory 1.5GiB"
    assert parse(*given.split()) == {
        "mode": "slide", "window": (48, 64), "window_stride": (32, 40), "windows": "even", "blend": "hann",
        "memory": 3 << 29,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1", 1), ("1000000", 10**6), ("512MiB", 512 << 20), (" 4 gib ", 4 << 30), ("0.5KiB", 512), ("1.5 GiB", 3 << 29)],
)
def test_amounts_of_memory(text, expected):
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "0", "0GiB", "-1", "4GB", "many", "1e9", "1.GiB", "512 M"])
def test_what_is_no_amount_of_memory(text):
    with pytest.raises(DataError, match="is not an amount of memory like 512MiB, 4GiB or a number of bytes"):
        parse_bytes(text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("windows")
    export_onnx(make_network(), where / "model.onnx")
    Image.fromarray(random_images(1, 90, 130)[0]).save(where / "a.png")
    return where


def test_a_run_in_bands_gives_the_same_mask(folder, capsys):
    slide = ["--mode", "slide", "--window", "48x64", "--window-stride", "32x40", "--windows", "even", "--json", "-q"]
    for name, memory in (("whole", "2GiB"), ("bands", "64KiB")):
        words = [str(folder / "model.onnx"), str(folder / "a.png"), "-o", str(folder / name), "--memory", memory]
        assert predict.main([*words, *slide]) == 0
    masks = [np.asarray(Image.open(folder / name / "a.png")) for name in ("whole", "bands")]
    assert np.array_equal(*masks)
    said = [json.loads((folder / name / "results.jsonl").read_text())["metadata"] for name in ("whole", "bands")]
    assert [one["mode"] for one in said] == ["slide", "slide"]
    assert said[0] != said[1], "bands are told of"
    assert predict.main([*words, *slide, "--memory", "4GB"]) == 2
    assert "'4GB' is not an amount of memory" in capsys.readouterr().err
