# SPDX-License-Identifier: Apache-2.0
"""The result object: areas, pictures, polygons, run lengths, files."""

import io
import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from deeplab_infer.configs import dataset_spec, generic_dataset
from deeplab_infer.errors import DataError, DeepLabError
from deeplab_infer.masks import encode_rle, find_polygons
from deeplab_infer.segmentation import Segmentation

SPEC = dataset_spec("synthetic_streets")


def make(labels, spec=SPEC, **options):
    return Segmentation(labels=labels, classes=spec.classes, palette=spec.palette, **options)


@pytest.fixture
def result(rng):
    labels = np.zeros((60, 80), np.uint8)
    labels[20:50, 10:40] = 6
    labels[30:40, 20:30] = 7
    return make(labels, image=rng.integers(0, 256, (60, 80, 3), dtype=np.uint8), scores=np.ones((60, 80), np.float32))


def test_areas(result):
    assert result.areas("pixels")["car"] == 800
    assert result.areas()["person"] == pytest.approx(100 / 4800)
    assert sum(result.areas().values()) == pytest.approx(1)
    assert result.mask("car").sum() == 800
    assert "sky 81%" in repr(result)
    with pytest.raises(DeepLabError, match="did you mean 'car'"):
        result.mask("cars")
    with pytest.raises(DeepLabError, match="unit 'km2'"):
        result.areas("km2")


def decode_rle(rle):
    """COCO's format, written independently: characters to runs to a mask."""
    runs, position, text = [], 0, rle["counts"]
    while position < len(text):
        value, shift = 0, 0
        while True:
            code = ord(text[position]) - 48
            position += 1
            value |= (code & 31) << shift
            shift += 5
            if not code & 32:
                if code & 16:
                    value -= 1 << shift
                break
        if len(runs) > 2:
            value += runs[-2]
        runs.append(value)
    flat = np.concatenate([np.full(n, i % 2, bool) for i, n in enumerate(runs)])
    return flat.reshape(rle["size"], order="F")


@settings(max_examples=200, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_run_lengths_round_trip(mask):
    assert np.array_equal(decode_rle(encode_rle(mask)), mask)


def test_run_lengths_are_those_of_pycocotools(rng):
    peer = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    for share in (0, 0.02, 0.5, 0.98, 1):
        mask = rng.random((37, 53)) < share
        assert encode_rle(mask)["counts"].encode() == peer.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]


def test_run_lengths_of_long_runs(result):
    assert np.array_equal(decode_rle(result.to_coco_rle("car")), result.mask("car"))
    for mask in (np.ones((500, 700), bool), np.zeros((500, 700), bool)):
        assert np.array_equal(decode_rle(encode_rle(mask)), mask)
    json.dumps(result.to_coco_rle("car"))


@settings(max_examples=60, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 25), st.integers(1, 25))))
def test_polygons_cover_the_mask(mask):
    drawn = np.zeros(mask.shape, np.uint8)
    for region in sorted(find_polygons(mask), key=lambda r: -r["area"]):
        one = np.zeros(mask.shape, np.uint8)
        cv2.fillPoly(one, [np.array(region["outline"])], 1)
        for hole in region["holes"]:
            # A hole's outline runs over pixels of the region.
            inner = np.zeros(mask.shape, np.uint8)
            cv2.fillPoly(inner, [np.array(hole)], 1)
            cv2.polylines(inner, [np.array(hole)], True, 0)
            one[inner > 0] = 0
        drawn |= one
    assert (drawn.astype(bool) | ~mask).all(), "every pixel of the mask is in a polygon"


def test_polygons_with_holes(result):
    regions = result.polygons("car")
    assert len(regions) == 1
    assert regions[0]["area"] == 800
    assert len(regions[0]["holes"]) == 1
    assert [10, 20] in regions[0]["outline"]
    assert result.polygons("car", min_area=801) == []
    assert result.polygons("sign") == []


def test_pictures(result):
    overlay = result.plot()
    assert overlay.shape == (60, 80, 3)
    assert overlay.dtype == np.uint8
    plain = result.plot(alpha=0, legend=False, outlines=False)
    assert np.array_equal(plain, result.image)
    assert np.array_equal(result.plot(alpha=1, legend=False, outlines=False), result.color_map())
    assert result.color_map()[0, 0].tolist() == list(SPEC.palette[0])
    assert make(np.zeros((1, 1), np.uint8)).plot().shape == (1, 1, 3)
    with pytest.raises(DeepLabError, match="alpha"):
        result.plot(alpha=2)
    big = make(np.zeros((400, 800), np.uint8), image=np.zeros((400, 800, 3), np.uint8))
    assert not np.array_equal(big.plot(), big.plot(legend=False)), "there is room for a legend"


def test_a_tall_overlay_is_drawn_in_bands_without_seams(rng):
    labels = rng.integers(0, 3, (600, 21)).astype(np.uint8)
    image = rng.integers(0, 256, (600, 21, 3), dtype=np.uint8)
    drawn = make(labels, image=image).plot(alpha=0.25, legend=False)
    expected = image * 0.75 + np.asarray(SPEC.palette, np.float64)[labels] * 0.25
    border = np.zeros(labels.shape, bool)  # a pixel whose right or lower neighbour has another label
    border[:-1] |= np.diff(labels.astype(int), axis=0) != 0
    border[:, :-1] |= np.diff(labels.astype(int), axis=1) != 0
    expected[border] *= 0.35
    assert np.abs(drawn - expected).max() <= 0.5 + 1e-4, "rounded once, from float32"


def test_files(tmp_path, result):
    saved = Image.open(result.save(tmp_path / "labels.png"))
    assert saved.mode == "P"
    assert np.array_equal(np.asarray(saved), result.labels)
    assert tuple(saved.getpalette()[18:21]) == SPEC.palette[6]
    assert np.array_equal(np.asarray(Image.open(result.save(tmp_path / "o.png", "overlay"))), result.plot())
    assert Image.open(result.save(tmp_path / "o.jpg")).size == (80, 60)
    with np.load(result.save(tmp_path / "a.npz")) as content:
        assert np.array_equal(content["labels"], result.labels)
        assert set(content) == {"labels", "classes", "scores"}
    assert json.loads(result.save(tmp_path / "a.json").read_text()) == json.loads(result.to_json())
    for name, kind in (("a.gif", "auto"), ("a", "auto"), ("a.png", "mask"), ("a.jpg", "labels")):
        with pytest.raises(DeepLabError):
            result.save(tmp_path / name, kind)
    with pytest.raises(FileNotFoundError):
        result.save(tmp_path / "no" / "a.png")


def test_many_classes(tmp_path):
    labels = np.arange(300, dtype=np.int32).reshape(15, 20)
    many = make(labels, generic_dataset(300), image=np.zeros((15, 20, 3), np.uint8))
    assert np.array_equal(np.asarray(Image.open(many.save(tmp_path / "many.png"))), labels)
    assert len(many.to_dict()["areas"]) == 300
    assert make(np.repeat(np.repeat(labels, 30, 0), 40, 1), generic_dataset(300)).plot().shape == (450, 800, 3)


def test_comparison_with_the_truth():
    labels = np.array([[0, 0, 1, 1]], np.uint8)
    scores = make(labels).compare(np.array([[0, 1, 1, 255]]))
    assert scores.iou[0] == pytest.approx(1 / 2)
    assert scores.iou[1] == pytest.approx(1 / 2)
    assert np.isnan(scores.iou[2:]).all()
    assert scores.miou == pytest.approx(0.5)
    assert scores.aacc == pytest.approx(2 / 3)
    assert scores.confusion[:2, :2].tolist() == [[1, 0], [1, 1]]
    assert scores.confusion.sum() == 3
    with pytest.raises(DataError, match="sizes must agree"):
        make(labels).compare(np.zeros((2, 2), int))


def test_summary_is_json(result):
    summary = json.loads(json.dumps(result.to_dict()))
    assert (summary["height"], summary["width"]) == (60, 80)
    assert summary["mean_score"] == 1.0
    assert list(summary["areas"]) == ["sky", "car", "person"]


def test_fewer_classes_and_sure_pixels(rng):
    labels = rng.integers(0, 3, (6, 7)).astype(np.uint8)
    scores = rng.random((6, 7), np.float32)
    image = rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)
    result = Segmentation(labels, ("a", "b", "c"), ((9, 0, 0), (0, 9, 0), (0, 0, 9)), scores=scores, image=image)
    kept = result.keep(["c", "a"]).confident(0.5)
    gone = (labels == 1) | (scores < 0.5)
    assert np.array_equal(kept.labels, np.where(gone, 255, labels)) and kept.labels.dtype == np.uint8
    assert np.array_equal(result.labels, labels)
    assert kept.areas("pixels") == {name: int(((labels == i) & ~gone).sum()) for i, name in enumerate("abc")}
    assert not kept.mask("b").any()
    assert (kept.color_map()[gone] == (224, 224, 192)).all()
    drawn = kept.plot(legend=False, outlines=False)
    assert np.array_equal(drawn[gone], image[gone]) and (drawn != image)[~gone].any()
    picture = Image.open(io.BytesIO(kept.encode(".png")))
    assert picture.mode == "P" and np.array_equal(np.asarray(picture), kept.labels)
    assert kept.keep(["a"]).confident(0).areas()["c"] == 0


def test_pixels_without_a_class_beyond_255_classes(rng):
    for classes in (255, 256, 300):
        labels = rng.integers(0, classes, (9, 9)).astype(np.uint8 if classes <= 256 else np.int32)
        names = tuple(map(str, range(classes)))
        kept = Segmentation(labels, names, ((1, 2, 3),) * classes).keep(names[:200])
        value = 255 if classes <= 255 else 65535
        assert np.array_equal(kept.labels, np.where(labels < 200, labels.astype(np.int64), value))
        assert kept.labels.dtype == (np.uint8 if value == 255 else np.int32)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(kept.encode(".png")))), kept.labels)
        assert kept.plot().shape == (9, 9, 3)


def test_a_filter_or_threshold_that_cannot_be(rng):
    result = Segmentation(np.zeros((2, 2), np.uint8), ("a",), ((0, 0, 0),))
    with pytest.raises(DeepLabError, match="no class 'b'"):
        result.keep(["b"])
    with pytest.raises(DeepLabError, match="needs scores"):
        result.confident(0.5)
    with pytest.raises(DeepLabError, match="is a probability"):
        result.confident(1.5)
