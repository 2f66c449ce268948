# SPDX-License-Identifier: Apache-2.0
"""Scores as JSON, tables, Markdown and CSV."""

import csv
import io
import json

import numpy as np
import pytest
from rich.console import Console

from deeplab_infer.evaluation import ConfusionMatrix, ModelComparison, ModelResult, Report, Trimap

CLASSES = ("road", "a [red]|class", "never there")
TRUTH = np.array([[0] * 6 + [1] * 4 + [255] * 2] * 5)


def result(name, wrong, trimap=True):
    found = TRUTH.copy() % 255 % 2
    found[:, :wrong] = 1
    matrix, bands = ConfusionMatrix(CLASSES), Trimap(CLASSES, widths=(1, 3))
    for one in (matrix, bands):
        one.add(found, TRUTH)
    return ModelResult(
        name, matrix.scores(), 1, 0.5, bands.scores() if trimap else None, (), {"model": f"dir/{name}"}
    ), found


@pytest.fixture
def one():
    return Report("1 image", (result("a.onnx", 1)[0],), (), {"dataset": "d"})


@pytest.fixture
def two():
    (first, found_a), (second, found_b) = result("a.onnx", 1), result("b.onnx", 3)
    comparison = ModelComparison(("a.onnx", "b.onnx"), CLASSES)
    comparison.add(0, "photo.png", found_a, found_b, TRUTH)
    return Report("1 image", (first, second), (comparison.result(),), {"dataset": "d"})


def shown(report):
    stream = io.StringIO()
    console = Console(file=stream, width=160)
    for table in report.tables():
        console.print(table)
    return stream.getvalue()


def test_json_of_one_model_is_flat(one):
    found = json.loads(json.dumps(one.to_dict()), parse_constant=pytest.fail)
    assert (found["model"], found["dataset"], found["images"], found["schema_version"]) == ("dir/a.onnx", "d", 1, 1)
    assert found["iou"] == {"road": 25 / 30, "a [red]|class": 20 / 25, "never there": None}
    assert found["miou"] == (25 / 30 + 20 / 25) / 2
    assert [band["width"] for band in found["boundary"]["bands"]] == [1, 3]
    assert found["seconds"] == 0.5


def test_json_of_several_models_is_a_list(two):
    found = json.loads(json.dumps(two.to_dict()), parse_constant=pytest.fail)
    assert [model["name"] for model in found["models"]] == ["a.onnx", "b.onnx"]
    (comparison,) = found["comparisons"]
    assert comparison["agreement"] == 50 / 60
    assert comparison["miou_difference"] == pytest.approx(found["models"][1]["miou"] - found["models"][0]["miou"])
    assert "miou" not in found


def test_csv_has_a_row_a_class_and_model(two):
    rows = list(csv.DictReader(io.StringIO(two.to_csv())))
    assert len(rows) == 6
    assert rows[0] == {
        "model": "a.onnx",
        "index": "0",
        "class": "road",
        "pixels": "30",
        "iou": repr(25 / 30),
        "accuracy": repr(25 / 30),
    }
    assert rows[4]["class"] == "a [red]|class"
    assert (rows[5]["iou"], rows[5]["accuracy"]) == ("", "")


def test_tables_of_one_model(one):
    text = shown(one)
    for words in (
        "1 image",
        "a [red]|class",
        "83.33%",
        "never there",
        "all pixels 90.00%",
        "3 px",
        "between classes and of void",
    ):
        assert words in text, words
    assert "agreement" not in text


def test_tables_of_two_models(two):
    text = shown(two)
    for words in ("B: b.onnx", "-33.33", "B against A: 83.3333 % of all pixels have one label", "photo.png"):
        assert words in text, words
    assert "IoU B" in text


def test_nothing_differs_nothing_is_listed():
    (first, found), (second, _) = result("a", 2, trimap=False), result("b", 2, trimap=False)
    comparison = ModelComparison(("a", "b"), CLASSES)
    comparison.add(0, "photo.png", found, found, TRUTH)
    text = shown(Report("t", (first, second), (comparison.result(),)))
    assert "100 % of all pixels have one label, mIoU +0.00" in text
    assert "photo.png" not in text
    assert "px" not in text


def test_all_but_all_is_not_shown_as_all():
    (first, _), (second, _) = result("a", 0, trimap=False), result("b", 0, trimap=False)
    comparison = ModelComparison(("a", "b"), CLASSES)
    large = np.zeros((2000, 2000), int)
    other = large.copy()
    other[0, 0] = 1
    comparison.add(0, "photo.png", large, other, large)
    assert "99.9999 % of all pixels" in shown(Report("t", (first, second), (comparison.result(),)))


def test_markdown(two):
    lines = two.to_markdown().splitlines()
    assert lines[:7] == [
        "**1 image**",
        "",
        "- A: a.onnx",
        "- B: b.onnx",
        "",
        "| class | pixels | IoU A | IoU B | B - A |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    assert any(line.startswith("| a [red]\\|class | 20 |") for line in lines)
    assert "| **mean** |" in two.to_markdown()
