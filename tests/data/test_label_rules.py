# SPDX-License-Identifier: Apache-2.0
"""From stored label values to class indices, and label files of every kind."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from deeplab_infer.configs import DatasetSpec, dataset_spec
from deeplab_infer.configs.datasets import generic_dataset
from deeplab_infer.data.label_files import read_label_picture
from deeplab_infer.data.label_rules import make_rule
from deeplab_infer.errors import DataError

from .trees import CITYSCAPES_IDS, voc_colormap, write_palettised

THREE = DatasetSpec("three", ("a", "b", "c"), ((0, 0, 0), (255, 0, 0), (0, 128, 9)))


def every(*values, dtype=np.uint8):
    return np.array([values], dtype)


def test_identity():
    rule = make_rule("identity", THREE)
    assert rule.apply(every(0, 1, 2, 255), "x").tolist() == [[0, 1, 2, 255]]
    assert rule.apply(every(0, 1, 2, 255, dtype=np.uint16), "x").tolist() == [[0, 1, 2, 255]]
    assert rule.apply(every(2), "x").dtype == np.uint8


def test_reduce_zero_label():
    rule = make_rule("reduce_zero_label", THREE)
    assert rule.apply(every(0, 1, 2, 3, 255), "x").tolist() == [[255, 0, 1, 2, 255]]


def test_cityscapes_label_ids():
    rule = make_rule("label_ids", dataset_spec("cityscapes"))
    for label_id, train_id in CITYSCAPES_IDS:
        assert rule.apply(every(label_id), "x")[0, 0] == train_id
    assert rule.apply(every(255), "x")[0, 0] == 255


def test_another_ignore_index():
    spec = DatasetSpec("other", ("a", "b"), ((0, 0, 0), (1, 1, 1)), ignore_index=200)
    assert make_rule("identity", spec).apply(every(0, 1, 200, 255), "x").tolist() == [[0, 1, 200, 200]]
    assert make_rule("reduce_zero_label", spec).apply(every(0, 1, 2, 255), "x").tolist() == [[200, 0, 1, 200]]


@pytest.mark.parametrize(
    ("rule", "values", "message"),
    [
        ("identity", every(0, 3, 3, 7), r"dir/m.png: value 3 at 2 pixels, 7 at 1 pixels: no label of three with its 3 classes \(allowed: 0..2, and 255"),
        ("identity", every(9, 8, 7, 6, 5), "value 5 at 1 pixels, 6 at 1 pixels, 7 at 1 pixels and 2 other values"),
        ("reduce_zero_label", every(4), r"value 4 at 1 pixels: .*allowed: 1..3, 0 for ignored pixels, and 255"),
        ("identity", every(1, 300, dtype=np.uint16), "value 300 at 1 pixels"),
    ],
)  # fmt: skip
def test_values_out_of_range(rule, values, message):
    with pytest.raises(DataError, match=message):
        make_rule(rule, THREE).apply(values, "dir/m.png")


def test_label_ids_out_of_range():
    with pytest.raises(DataError, match=r"value 34 at 1 pixels: .*label ids 0..33, and 255"):
        make_rule("label_ids", dataset_spec("cityscapes")).apply(every(34), "x")


def test_colours(rng):
    labels = rng.integers(0, 3, (9, 11), dtype=np.uint8)
    picture = np.array(THREE.palette, np.uint8)[labels]
    assert np.array_equal(make_rule("identity", THREE).apply(picture, "x"), labels)
    # Colours are those of the classes, whatever grey values would mean.
    assert np.array_equal(make_rule("reduce_zero_label", THREE).apply(picture, "x"), labels)
    picture[0, 0] = (9, 9, 200)
    assert make_rule("identity", THREE, ignore_colour=(9, 9, 200)).apply(picture, "x")[0, 0] == 255


def test_wrong_colours():
    rule = make_rule("identity", THREE)
    picture = np.zeros((4, 5, 3), np.uint8)
    picture[1:3, 2] = (255, 0, 1)
    with pytest.raises(
        DataError, match="m.png: colour #ff0001 at 2 pixels: no class of three; colours must match exactly"
    ):
        rule.apply(picture, "m.png")
    with pytest.raises(DataError, match="looks like class indices saved as RGB"):
        rule.apply(np.full((2, 2, 3), 1, np.uint8), "m.png")
    with pytest.raises(DataError, match="classes.txt gives no colours"):
        make_rule("identity", THREE, colours=False).apply(picture, "m.png")
    double = DatasetSpec("double", ("a", "b"), ((5, 5, 5), (5, 5, 5)))
    with pytest.raises(DataError, match=r"colour #050505 is that of several classes \(a, b\)"):
        make_rule("identity", double).apply(np.full((2, 2, 3), 5, np.uint8), "m.png")


def test_rules_that_cannot_be():
    with pytest.raises(DataError, match="unknown label rule 'none'"):
        make_rule("none", THREE)
    with pytest.raises(DataError, match="256 classes are more than the 255"):
        make_rule("identity", generic_dataset(256))
    assert make_rule("identity", generic_dataset(255)).apply(every(254, 255), "x").tolist() == [[254, 255]]
    with pytest.raises(DataError, match="at most 254"):
        make_rule("reduce_zero_label", generic_dataset(255))
    with pytest.raises(DataError, match="stand for 19 classes, not 3"):
        make_rule("label_ids", THREE)
    with pytest.raises(DataError, match="ignore_index -100 does not fit"):
        make_rule("identity", DatasetSpec("t", ("a",), ((0, 0, 0),), ignore_index=-100))


def png(path, depth, colour_type, rows, width):
    """A PNG of any bit depth, chunk by chunk."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour_type, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(range(200, 248))) if colour_type == 3 else b""
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("colour_type", [0, 3])
@pytest.mark.parametrize(
    ("depth", "row", "stored"),
    [(1, b"\xa0", [1, 0, 1, 0]), (2, b"\x1b", [0, 1, 2, 3]), (4, b"\x12\x3f", [1, 2, 3, 15]), (8, b"\0\1\7\x0f", [0, 1, 7, 15])],
)  # fmt: skip
def test_every_bit_depth_is_read_as_stored(tmp_path, depth, colour_type, row, stored):
    png(tmp_path / "m.png", depth, colour_type, [row], 4)
    raw = read_label_picture(tmp_path / "m.png")
    assert raw.tolist() == [stored]
    assert raw.dtype == np.uint8


def test_sixteen_bits(tmp_path):
    png(tmp_path / "m.png", 16, 0, [b"\x01\x02\x00\x05"], 2)
    assert read_label_picture(tmp_path / "m.png").tolist() == [[258, 5]]


def test_palettes_stay_indices(tmp_path, rng):
    indices = rng.integers(0, 256, (8, 9), dtype=np.uint8)
    write_palettised(tmp_path / "m.png", indices, voc_colormap())
    assert np.array_equal(read_label_picture(tmp_path / "m.png"), indices)


def test_alpha(tmp_path, rng):
    picture = np.full((4, 4, 4), 255, np.uint8)
    picture[..., :3] = rng.integers(0, 256, (4, 4, 3))
    Image.fromarray(picture).save(tmp_path / "m.png")
    assert np.array_equal(read_label_picture(tmp_path / "m.png"), picture[..., :3])
    picture[0, 0, 3] = 0
    Image.fromarray(picture).save(tmp_path / "m.png")
    with pytest.raises(DataError, match="m.png: some label pixels are transparent"):
        read_label_picture(tmp_path / "m.png")


def test_unreadable_files(tmp_path, rng):
    good = tmp_path / "good.png"
    Image.fromarray(rng.integers(0, 256, (40, 100), dtype=np.uint8)).save(good)
    cases = {"empty.png": b"", "cut.png": good.read_bytes()[:200], "text.png": b"hello"}
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "float.tif")
    (tmp_path / "folder.png").mkdir()
    for name, message in {
        "empty.png": r"empty.png: the label file is empty \(0 bytes\)",
        "cut.png": "cut.png: damaged or truncated label file",
        "text.png": "text.png: not an image in a format that can be read",
        "float.tif": "float.tif: pictures of mode 'F' hold no labels",
        "folder.png": "folder.png: is a folder",
        "none.png": "none.png: no such label file",
    }.items():
        with pytest.raises(DataError, match=message):
            read_label_picture(tmp_path / name)
    with pytest.raises(DataError, match="40 pixels are more than the limit 100|more pixels than the limit 100"):
        read_label_picture(good, max_pixels=100)
