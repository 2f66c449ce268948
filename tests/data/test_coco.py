# SPDX-License-Identifier: Apache-2.0
"""COCO-style annotations: layouts, drawing, and what is refused."""

import json
import pickle

import numpy as np
import pytest

from deeplab_infer.configs import DatasetSpec
from deeplab_infer.data.opening import open_dataset
from deeplab_infer.errors import DataError

from . import trees


def runs_of(mask):
    """Uncompressed run lengths down the columns."""
    runs, value = [0], False
    for pixel in mask.T.ravel():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


def compressed(runs):
    """COCO's string: differences to the run two before (from the fourth on) in groups of five bits."""
    text = ""
    for position, run in enumerate(runs):
        rest = run - runs[position - 2] if position > 2 else run
        while True:
            low, rest = rest & 31, rest >> 5
            last = (rest == 0 and not low & 16) or (rest == -1 and low & 16)
            text += chr(48 + low + (0 if last else 32))
            if last:
                break
    return text


def open_tables(tmp_path, tables, **options):
    trees.make_coco(tmp_path, tables)
    return open_dataset("coco", tmp_path, "train", **options)


def annotation(number, segmentation, category=7, crowd=0, image=1):
    return {"id": number, "image_id": image, "category_id": category, "iscrowd": crowd, "segmentation": segmentation}


def box(left, top, right, bottom):
    return [[left, top, right, top, right, bottom, left, bottom]]


def test_a_square(tmp_path):
    dataset = open_tables(tmp_path, trees.coco_tables())
    assert dataset.spec.classes == ("background", "cat", "dog")
    assert dataset.name(0) == "a.png"
    expected = np.zeros((20, 30), np.uint8)
    expected[3:13, 2:12] = 1
    for each in (dataset, pickle.loads(pickle.dumps(dataset))):
        image, labels = each[0]
        assert np.array_equal(labels, expected)
        assert labels.dtype == np.uint8
        assert (image == 99).all()
    with pytest.raises(IndexError):
        dataset[1]


@pytest.mark.parametrize("form", [list, compressed])
def test_run_lengths_with_a_hole(tmp_path, rng, form):
    mask = rng.random((20, 30)) < 0.3
    mask[5:15, 5:25] = True
    mask[8:11, 9:20] = False
    counts = form(runs_of(mask))
    dataset = open_tables(
        tmp_path, trees.coco_tables(annotations=[annotation(1, {"size": [20, 30], "counts": counts}, 9)])
    )
    assert np.array_equal(dataset[0][1] == 2, mask)


def test_smaller_regions_win_and_crowds_are_ignored(tmp_path):
    crowd = np.zeros((20, 30), bool)
    crowd[:, 20:] = True
    regions = [
        annotation(1, box(5, 5, 8, 8), 9),  # small, first in the file: still on top of the next
        annotation(2, box(0, 0, 16, 20), 7),
        annotation(3, box(18, 0, 24, 4), 7),  # over the crowd
        annotation(4, {"size": [20, 30], "counts": runs_of(crowd)}, 9, crowd=1),
        annotation(5, box(0, 15, 4, 19), 9),
        annotation(6, box(1, 15, 5, 19), 7),  # as large as the one before: later wins
    ]
    expected = np.zeros((20, 30), np.uint8)
    expected[:, 20:] = 255
    expected[:, :16] = 1
    expected[5:8, 5:8] = 2
    expected[0:4, 18:24] = 1
    expected[15:19, 0:4] = 2
    expected[15:19, 1:5] = 1
    assert np.array_equal(open_tables(tmp_path, trees.coco_tables(annotations=regions))[0][1], expected)


def test_parts_beyond_the_picture_are_cut_off(tmp_path):
    regions = [
        annotation(1, box(-5, -5, 3, 4)),
        annotation(2, box(25, 18, 99, 99), 9),
        annotation(3, box(200, 0, 300, 9)),
    ]
    labels = open_tables(tmp_path, trees.coco_tables(annotations=regions))[0][1]
    assert (labels[:4, :3] == 1).all()
    assert (labels[18:, 25:] == 2).all()
    assert (labels > 0).sum() == 12 + 10


def test_uncovered_pixels(tmp_path):
    tables = trees.coco_tables()
    ignored = open_tables(tmp_path, tables, uncovered="ignore")
    assert ignored.spec.classes == ("cat", "dog")
    assert np.bincount(ignored[0][1].ravel(), minlength=256)[[0, 255]].tolist() == [100, 500]
    named = trees.coco_tables(
        categories=[{"id": 3, "name": "cat"}, {"id": 7, "name": "background"}],
        annotations=[annotation(1, box(0, 0, 5, 2), 3)],
    )
    dataset = open_tables(tmp_path, named)
    assert dataset.spec.classes == ("cat", "background")
    assert np.bincount(dataset[0][1].ravel()).tolist() == [10, 590]
    with pytest.raises(DataError, match="'background' or 'ignore', not 'black'"):
        open_tables(tmp_path, tables, uncovered="black")


def test_classes_asked_for(tmp_path):
    spec = DatasetSpec("mine", ("dog", "bird", "background", "cat"), ((0, 0, 0),) * 4)
    dataset = open_tables(tmp_path, trees.coco_tables(), spec=spec)
    assert dataset.spec is spec
    assert np.bincount(dataset[0][1].ravel()).tolist() == [0, 0, 500, 100]
    bare = DatasetSpec("bare", ("cat",), ((0, 0, 0),))
    assert np.bincount(open_tables(tmp_path, trees.coco_tables(), spec=bare)[0][1].ravel())[[0, 255]].tolist() == [
        100,
        500,
    ]
    with pytest.raises(DataError, match="the classes of 'bare' have no 'background' for uncovered pixels"):
        open_tables(tmp_path, trees.coco_tables(), spec=bare, uncovered="background")
    cats = DatasetSpec("cats", ("background", "cats"), ((0, 0, 0),) * 2)
    with pytest.raises(DataError, match="annotation 5: category 'cat' is no class of 'cats'; did you mean 'cats'"):
        open_tables(tmp_path, trees.coco_tables(), spec=cats)


@pytest.mark.parametrize(
    ("json_file", "images", "split", "option"),
    [
        ("annotations/instances_train2017.json", "train2017", "train", None),
        ("annotations/instances_val2017.json", "images/val2017", "val", None),
        ("annotations/train.json", "images/train", "train", None),
        ("train/_annotations.coco.json", "train", "train", None),
        ("valid/_annotations.coco.json", "valid", "val", None),
        ("annotations/instances_default.json", "images", "all", None),
        ("result.json", ".", "all", None),
        ("other/name.json", "images", "train", "other/name.json"),
        ("other/val.json", "val", "held_out", "other/val.json"),
    ],
)
def test_layouts(tmp_path, json_file, images, split, option):
    trees.make_coco(tmp_path, trees.coco_tables(), json_file, images)
    for extra in ("person_keypoints_train2017.json", "captions_val2017.json"):
        if "2017" in json_file:
            (tmp_path / "annotations" / extra).write_text("{}")
    assert open_dataset("coco", tmp_path, split, annotations=option)[0][1].sum() == 100


def test_one_file_is_divided_by_hash(tmp_path):
    rows = [{"id": n, "file_name": f"{n:03d}.png", "height": 4, "width": 5} for n in range(40)]
    trees.make_coco(tmp_path, trees.coco_tables(images=rows, annotations=[]), "annotations/instances_default.json")
    parts = [open_dataset("coco", tmp_path, split) for split in ("train", "val", "all")]
    names = [[part.name(i) for i in range(len(part))] for part in parts]
    assert sorted(names[0] + names[1]) == names[2]
    assert len(names[2]) == 40
    assert names[1]
    assert (parts[0][0][1] == 0).all(), "an image without annotations is background"


SQUARE = box(0, 0, 5, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": [annotation(8, SQUARE, image=4)]}, "annotation 8 belongs to image id 4, which is not in 'images'"),
        ({"annotations": [annotation(8, SQUARE, category=1)]}, r"annotation 8 has category id 1, which is not in 'categories' \(ids: 7, 9\)"),
        ({"annotations": [annotation(8, [[0, 0, 1, 1]])]}, "annotation 8: a polygon has 4 numbers; it needs an even count of at least 6"),
        ({"annotations": [annotation(8, [[0, 0, 1, 1, 2, 2, 3]])]}, "annotation 8: a polygon has 7 numbers"),
        ({"annotations": [annotation(8, [0, 0, 1, 1, 2, 2])]}, r"annotation 8: a polygon is a list \[x1, y1"),
        ({"annotations": [annotation(8, [[0, 0, 1, 1, 2, "2"]])]}, "annotation 8: a polygon holds what is no coordinate: .*'2'"),
        ({"annotations": [annotation(8, [[0, 0, 1, 1, 2, float("nan")]])]}, "annotation 8: a polygon holds what is no coordinate: .*nan"),
        ({"annotations": [annotation(8, [[0, 0, 1, 1, 2, 10**400]])]}, "annotation 8: a polygon holds what is no coordinate: .*1000"),
        ({"annotations": [{**annotation(8, []), "bbox": [0, 0, 3, 3]}]}, "annotation 8 has no 'segmentation' .only a box"),
        ({"annotations": [annotation(8, None)]}, "annotation 8 has no 'segmentation'"),
        ({"annotations": [annotation(8, {"size": [30, 20], "counts": [600]})]}, r"annotation 8: its run lengths have size \[30, 20\], its image \[20, 30\]"),
        ({"annotations": [{"image_id": 1}]}, "an annotation has no 'id': {'image_id': 1}"),
        ({"annotations": {}}, "no list 'annotations'"),
        ({"annotations": [3]}, "no list 'annotations'"),
        ({"categories": []}, "'categories' is empty"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, r"category id 1 is used twice \('a' and 'b'\)"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}, "class 'a' is listed twice"),
        ({"categories": [{"id": 1}]}, "needs a whole number 'id' and a 'name'"),
        ({"categories": [{"id": n, "name": str(n)} for n in range(255)]}, "256 classes; label maps of 8 bits"),
    ],
)  # fmt: skip
def test_bad_annotations(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        open_tables(tmp_path, trees.coco_tables(**changes))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"file_name": "../a.png"}, "image 1: file name '../a.png' leaves the image folder"),
        ({"file_name": "/a.png"}, "leaves the image folder"),
        ({"file_name": None}, "image 1 has no 'file_name'"),
        ({"height": 20.5}, r"image 1 \(a.png\) needs a whole 'height' and 'width', got 20.5, 30"),
        ({"height": 0}, "needs a whole 'height'"),
        ({"height": 10**6, "width": 10**6}, "has 1000000 x 1000000 pixels, the limit is"),
        ({"id": None}, "an image has no 'id'"),
    ],
)
def test_bad_images(tmp_path, row, message):
    tables = trees.coco_tables()
    trees.make_coco(tmp_path, tables)
    tables["images"][0].update(row)
    (tmp_path / "annotations/instances_train.json").write_text(json.dumps(tables))
    with pytest.raises(DataError, match=message):
        open_dataset("coco", tmp_path, "train")


def test_damaged_run_lengths_name_their_annotation(tmp_path):
    dataset = open_tables(tmp_path, trees.coco_tables(annotations=[annotation(8, {"size": [20, 30], "counts": [3]})]))
    with pytest.raises(
        DataError, match="instances_train.json: annotation 8 of a.png: the run lengths add up to 3 pixels"
    ):
        dataset[0]


def test_files_that_do_not_fit(tmp_path):
    images = [{"id": n, "file_name": f"{n}.png", "height": 20, "width": 30} for n in range(3)]
    dataset = open_tables(tmp_path, trees.coco_tables(images=images, annotations=[]))
    trees.write_image(tmp_path / "images/1.png", np.zeros((20, 31, 3), np.uint8))
    with pytest.raises(DataError, match=r"images/1.png has 20 x 31 pixels .* but .*instances_train.json has 20 x 30"):
        dataset[1]
    (tmp_path / "images/1.png").unlink()
    with pytest.raises(DataError, match=r"1 of 3 images are missing in '.*images': 1.png; add them"):
        open_dataset("coco", tmp_path, "train")
    for number in (0, 2):
        (tmp_path / f"images/{number}.png").unlink()
    with pytest.raises(DataError, match=r"none of its images \(0.png, 1.png, 2.png\) is in .*images"):
        open_dataset("coco", tmp_path, "train")


def test_annotation_files_that_are_none(tmp_path):
    trees.make_coco(tmp_path, trees.coco_tables())
    with pytest.raises(
        DataError, match=r"no annotation file for split 'val' in '.*annotations'; .* holds instances_train.json"
    ):
        open_dataset("coco", tmp_path, "val")
    with pytest.raises(DataError, match="annotation file 'x.json' does not exist, neither here nor in"):
        open_dataset("coco", tmp_path, "val", annotations="x.json")
    (tmp_path / "annotations/instances_train_b.json").write_text("{}")
    with pytest.raises(DataError, match="several annotation files .* choose one with --annotations"):
        open_dataset("coco", tmp_path, "train")
    file = tmp_path / "annotations/instances_train.json"
    for content, message in (
        (file.read_bytes()[:-40], "instances_train.json: not JSON, or cut short"),
        (b"\xff\xfe\xff", "not JSON"),
        (b"[]", "no list 'images'"),
        (b"[" * 200_000, "nested too deep|not JSON"),
        (json.dumps(trees.coco_tables(images=[])).encode(), "belongs to image id 1"),
        (json.dumps(trees.coco_tables(images=[], annotations=[])).encode(), "has no images for split 'train'"),
        (json.dumps(trees.coco_tables(images=trees.coco_tables()["images"] * 2)).encode(), "image id 1 is used twice"),
    ):
        file.write_bytes(content)
        with pytest.raises(DataError, match=message):
            open_dataset("coco", tmp_path, "train", annotations=file)
    with pytest.raises(DataError, match="nowhere' does not exist"):
        open_dataset("coco", tmp_path / "nowhere", "train")
