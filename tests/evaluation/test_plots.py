# SPDX-License-Identifier: Apache-2.0
"""Pictures are written, whole, with their words in them."""

import importlib.util
import re

import numpy as np
import pytest
from PIL import Image

from deeplab_infer.configs import dataset_spec
from deeplab_infer.errors import DataError
from deeplab_infer.evaluation import ConfusionMatrix, Trimap, plot_confusion, plot_trimap


def scores_of(classes, seed=0):
    rng = np.random.default_rng(seed)
    counts = (rng.gamma(0.2, 1000, (len(classes), len(classes))) + 5000 * np.eye(len(classes))).astype(np.int64)
    counts[len(classes) // 2] *= len(classes) < 3  # a class that is not labelled
    return ConfusionMatrix.from_counts(classes, counts).scores()


def trimap_of(shift):
    truth = (np.indices((40, 60)).sum(0) // 20 % 2).astype(np.uint8)
    trimap, matrix = Trimap(("a", "b")), ConfusionMatrix(("a", "b"))
    for one in (trimap, matrix):
        one.add(np.roll(truth, shift, 1), truth)
    return trimap.scores(), matrix.scores()


def words(path):
    """Texts of an SVG: matplotlib draws letters as shapes and leaves each text as a comment."""
    return {text.strip() for text in re.findall(r"<!--(.*?)-->", path.read_text())}


@pytest.mark.parametrize("name", ["synthetic_streets", "cityscapes", "pascal_context_59"])
def test_the_confusion_matrix_names_every_class(tmp_path, name):
    classes = dataset_spec(name).classes
    path = plot_confusion(scores_of(classes), tmp_path / "c.svg", "model.onnx: 5 images")
    found = words(path)
    assert {one.strip() for one in classes} <= found
    assert {"model.onnx: 5 images", "predicted class", "true class"} <= found
    assert any(re.fullmatch(r"\d\d", word) for word in found)


def test_numbers_stand_where_they_fit(tmp_path):
    counts = np.array([[9934, 66, 0], [0, 0, 0], [4, 0, 9996]])
    scores = ConfusionMatrix.from_counts(("a", "b", "c"), counts).scores()
    found = words(plot_confusion(scores, tmp_path / "c.svg"))
    assert "99" in found
    many = tuple(f"k{i}" for i in range(30))
    diagonal = ConfusionMatrix.from_counts(many, np.eye(30, dtype=np.int64) * 37).scores()
    assert sum(word == "100" for word in words(plot_confusion(diagonal, tmp_path / "d.svg"))) <= 1, "only the bar's"


@pytest.mark.parametrize("count", [1, 2, 12, 25, 26, 150])
def test_any_number_of_classes(tmp_path, count):
    classes = tuple(f"a class with a ${i}_$ name" for i in range(count))
    path = plot_confusion(
        scores_of(classes), tmp_path / "c.png", "a title that is longer than the matrix of two is wide"
    )
    with Image.open(path) as picture:
        picture.load()
        assert min(picture.size) > 300
        assert max(picture.size) < 4500
    assert [one.name for one in tmp_path.iterdir()] == ["c.png"]


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf", ".PNG"])
def test_curves(tmp_path, suffix):
    curves = {"model $x_1$": trimap_of(2), "other": trimap_of(5)}
    path = plot_trimap(curves, tmp_path / f"t{suffix}")
    magic = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix.lower()]
    assert path.read_bytes().startswith(magic)
    if suffix == ".svg":
        assert {"model $x_1$", "other", "over all pixels", "mIoU in the band, %", "40"} <= words(path)


def test_wrong_use(tmp_path, monkeypatch):
    scores = scores_of(("a", "b"))
    with pytest.raises(DataError, match=r"a plot is written as \.png, \.svg, \.pdf, not \.jpg"):
        plot_confusion(scores, tmp_path / "c.jpg")
    with pytest.raises(DataError, match="without suffix"):
        plot_confusion(scores, tmp_path / "c")
    with pytest.raises(DataError, match="there is no folder"):
        plot_confusion(scores, tmp_path / "missing" / "c.png")
    with pytest.raises(DataError, match="no curve to draw"):
        plot_trimap({}, tmp_path / "t.png")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "matplotlib" else find(name, *a))
    with pytest.raises(DataError, match="pip install 'matplotlib"):
        plot_trimap({"a": trimap_of(1)}, tmp_path / "t.png")
    assert list(tmp_path.iterdir()) == []
