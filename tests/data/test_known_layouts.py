# SPDX-License-Identifier: Apache-2.0
"""The known data sets in their real folder trees."""

import logging
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deeplab_infer.configs import DatasetSpec, dataset_spec, load_config
from deeplab_infer.configs.datasets import generic_dataset
from deeplab_infer.data.layouts import layouts
from deeplab_infer.data.opening import dataset_formats, default_splits, open_dataset
from deeplab_infer.errors import DataError, ImageError

from . import trees

PARENTS = {
    "cityscapes": "cityscapes",
    "ade20k": "ADEChallengeData2016",
    "pascal_context": "VOCdevkit/VOC2010",
    "loveda": "loveDA",
    "potsdam": "potsdam",
}
MAKERS = {
    "cityscapes": trees.make_cityscapes,
    "ade20k": trees.make_ade20k,
    "pascal_context": trees.make_pascal_context,
    "loveda": trees.make_loveda,
    "potsdam": trees.make_potsdam,
}


def contents(dataset):
    return {dataset.name(index): dataset[index][1] for index in range(len(dataset))}


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, labels in expected.items():
        assert found[name].dtype == np.uint8
        assert np.array_equal(found[name], labels), name


@pytest.mark.parametrize("name", MAKERS)
def test_reads_what_was_written(name, tmp_path, rng):
    expected = MAKERS[name](tmp_path / PARENTS[name], count=3, rng=rng)
    for root in (tmp_path, tmp_path / PARENTS[name]):
        for split in ("train", "val"):
            dataset = open_dataset(name, root, split)
            assert dataset.spec == dataset_spec(name)
            assert_same(contents(dataset), expected[split])
            image = dataset[0][0]
            with Image.open(tmp_path / PARENTS[name] / dataset.name(0)) as picture:
                assert np.array_equal(image, np.asarray(picture))
    with pytest.raises(IndexError):
        dataset[3]


def test_table_and_specs_agree():
    for name, layout in layouts().items():
        rules = {place.rule for tree in layout.trees for place in tree.labels.values()}
        assert ("reduce_zero_label" in rules) == dataset_spec(name).reduce_zero_label
        assert set(layout.default_splits) <= set(layout.splits)
    assert set(dataset_formats()) == {*layouts(), "folder", "coco"}
    assert len(layouts()) == 7
    assert default_splits("voc") == ("trainaug", "val")
    assert default_splits("folder") == default_splits("coco") == default_splits("ADE20K") == ("train", "val")


def test_page_names_every_format_and_split():
    page = (Path(__file__).parents[2] / "docs/datasets.md").read_text()
    rows = {line.split("|")[1].strip(" `"): line for line in page.splitlines() if line.startswith("| `")}
    assert list(rows) == ["--dataset", *dataset_formats()]
    for name, layout in layouts().items():
        assert f"| {len(dataset_spec(name).classes)} |" in rows[name]
        splits = [word.strip(" *") for word in rows[name].split("|")[3].split(",")]
        assert splits == list(layout.splits)
        assert all(f"**{split}**" in rows[name] for split in layout.default_splits)
    for config in re.findall(r"--config (deeplab\S+)", page):
        load_config(config)


def test_cityscapes_prefers_train_ids(tmp_path, rng):
    expected = trees.make_cityscapes(tmp_path, rng=rng, files=("labelIds", "labelTrainIds"))
    assert_same(contents(open_dataset("cityscapes", tmp_path, "train")), expected["train"])
    # Where an image has no labelTrainIds its labelIds are used; the others keep theirs.
    train_ids = sorted((tmp_path / "gtFine/train").rglob("*labelTrainIds.png"))
    train_ids[0].unlink()
    Image.fromarray(np.zeros(trees.SIZE, np.uint8)).save(train_ids[1])
    found = contents(open_dataset("cityscapes", tmp_path, "train"))
    names = list(expected["train"])
    assert np.array_equal(found[names[0]], expected["train"][names[0]])
    assert (found[names[1]] == 0).all()


def test_cityscapes_lacks_labels(tmp_path, rng):
    trees.make_cityscapes(tmp_path, rng=rng)
    next((tmp_path / "gtFine/val/lindau").glob("*labelIds.png")).unlink()
    with pytest.raises(
        DataError,
        match=r"1 of 3 images have no label file .*labelTrainIds.png' or .*labelIds.png'.*lindau_000000.*gtFine/val' holds lindau/, munster/.*side by side",
    ):
        open_dataset("cityscapes", tmp_path, "val")
    (tmp_path / "gtFine").rename(tmp_path / "elsewhere")
    with pytest.raises(
        DataError,
        match=r"3 of 3 images.*there is no folder .*gtFine/train.*gtFine_trainvaltest.zip and leftImg8bit_trainvaltest.zip",
    ):
        open_dataset("cityscapes", tmp_path, "train")
    with pytest.raises(DataError, match="'test' has no labels: .*not published"):
        open_dataset("cityscapes", tmp_path, "test")
    with pytest.raises(DataError, match=r"no split 'trian'; did you mean 'train'\? \(splits: train, val\)"):
        open_dataset("cityscapes", tmp_path, "trian")


def test_labels_without_images_are_told(tmp_path, rng, caplog):
    trees.make_ade20k(tmp_path, rng=rng)
    (tmp_path / "images/training/item_train_00000001.jpg").unlink()
    with caplog.at_level(logging.WARNING):
        assert len(open_dataset("ade20k", tmp_path, "train")) == 2
    assert "1 label files have no image: item_train_00000001" in caplog.text
    assert "split 'train' has 2 images here, the published one 20210" in caplog.text


def test_loveda_as_it_unpacks(tmp_path, rng):
    expected = trees.make_loveda(tmp_path, native=True, rng=rng)
    for split in ("train", "val"):
        assert_same(contents(open_dataset("loveda", tmp_path, split)), expected[split])


def test_context_59_ignores_background(tmp_path, rng):
    expected = trees.make_pascal_context(tmp_path / "VOC2010", rng=rng)["val"]
    reduced = {name: np.where(labels == 0, 255, labels - 1).astype(np.uint8) for name, labels in expected.items()}
    assert_same(contents(open_dataset("pascal_context", tmp_path, "val")), expected)
    assert_same(contents(open_dataset("pascal_context_59", tmp_path, "val")), reduced)
    assert len(open_dataset("pcontext_59", tmp_path, "val").spec.classes) == 59


@pytest.fixture
def voc(tmp_path, rng):
    return tmp_path / "VOCdevkit/VOC2012", trees.make_voc(tmp_path / "VOCdevkit/VOC2012", rng=rng)


@pytest.mark.parametrize("parent", [0, 1, 2])
def test_voc(voc, parent):
    root, expected = voc
    place = [root, *root.parents][parent]
    for split in ("train", "val"):
        assert_same(contents(open_dataset("voc12aug", place, split)), expected["VOC"][split])
    assert_same(contents(open_dataset("voc", place, "aug")), expected["Aug"]["aug"])


def test_voc_trainaug_is_train_and_aug(voc):
    root, expected = voc
    # As published lists do, aug repeats some of train; a val image must never be trained on.
    with open(root / "ImageSets/Segmentation/aug.txt", "a") as stream:
        stream.write("2007_000000\n2009_000001\n")
    last = "JPEGImages/2007_000002.jpg"
    wanted = {**expected["Aug"]["train"], last: expected["VOC"]["train"][last], **expected["Aug"]["aug"]}
    assert_same(contents(open_dataset("voc12aug", root, "trainaug")), wanted)
    (root / "ImageSets/Segmentation/trainaug.txt").write_text("2008_000001\n2009_000000\n2007_000001\n")
    names = ["JPEGImages/2008_000001.jpg", "JPEGImages/2007_000001.jpg"]
    assert list(contents(open_dataset("voc12aug", root, "trainaug"))) == names


def test_voc_lacks_files(voc, caplog):
    root, _ = voc
    lists = root / "ImageSets/Segmentation"
    (lists / "aug.txt").unlink()
    with pytest.raises(
        DataError,
        match=r"the list '.*trainaug.txt' or '.*train.txt' with '.*aug.txt' is missing; .*holds train.txt, val.txt.*SegmentationClassAug",
    ):
        open_dataset("voc12aug", root, "trainaug")
    (lists / "train.txt").write_text("2007_000000\n2007_000077\n\n")
    with pytest.raises(DataError, match=r"1 of 2 listed images are missing in '.*JPEGImages': 2007_000077"):
        open_dataset("voc12aug", root, "train")
    (lists / "train.txt").write_text("2007_000000 1\n")
    with pytest.raises(DataError, match="train.txt, line 1: '2007_000000 1' is not one image name"):
        open_dataset("voc12aug", root, "train")
    (lists / "train.txt").write_text("\n")
    with pytest.raises(DataError, match="train.txt' names no image"):
        open_dataset("voc12aug", root, "train")
    (lists / "train.txt").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(DataError, match="is not UTF-8 text"):
        open_dataset("voc12aug", root, "train")
    (root / "SegmentationClass/2009_000000.png").unlink()
    with pytest.raises(
        DataError, match=r"1 of 3 images have no label file 'SegmentationClass/\*.png': JPEGImages/2009_000000.jpg"
    ):
        open_dataset("voc12aug", root, "val")


@pytest.mark.parametrize("name", layouts())
def test_missing_folders_say_what_to_get(name, tmp_path):
    layout = layouts()[name]
    split = layout.default_splits[0]
    with pytest.raises(DataError) as missing:
        open_dataset(name, tmp_path / "nowhere", split)
    assert "nowhere' does not exist" in str(missing.value)
    assert layout.prepare in str(missing.value)
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError) as other:
        open_dataset(name, tmp_path, split)
    assert f"no images of {name} in" in str(other.value)
    assert "holds photos/" in str(other.value)
    assert layout.prepare in str(other.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is a file, not a folder"):
        open_dataset(name, tmp_path / "file", split)


def test_an_empty_image_folder(tmp_path):
    (tmp_path / "images/training").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no file 'images/training/\*.jpg' in .*images/training' is empty"):
        open_dataset("ade20k", tmp_path, "train")


def test_damaged_files_are_named(tmp_path, rng):
    trees.make_potsdam(tmp_path, rng=rng)
    dataset = open_dataset("potsdam", tmp_path, "train")
    image, labels = dataset.files(0)
    assert image == tmp_path / dataset.name(0)
    labels.write_bytes(labels.read_bytes()[:70])
    with pytest.raises(DataError, match=r"ann_dir/train/item_train_00000000.png: damaged or truncated"):
        dataset[0]
    image.write_bytes(b"")
    with pytest.raises(ImageError, match="img_dir/train/item_train_00000000.png"):
        dataset[0]
    trees.write_image(dataset.files(1)[1], np.zeros((5, 7), np.uint8))
    with pytest.raises(
        DataError,
        match=r"img_dir/train/.*1.png has 24 x 32 pixels \(height x width\), but .*ann_dir.*1.png has 5 x 7; labels must",
    ):
        dataset[1]
    trees.write_image(dataset.files(2)[1], np.full(trees.SIZE, 7, np.uint8))
    with pytest.raises(
        DataError, match=r"value 7 at 768 pixels: no label of potsdam with its 6 classes \(allowed: 1..6, 0 for ignored"
    ):
        dataset[2]


@pytest.mark.parametrize("orientation", [6, 8])
def test_turned_images(tmp_path, rng, orientation):
    trees.make_ade20k(tmp_path, rng=rng)
    dataset = open_dataset("ade20k", tmp_path, "train")
    image, labels = dataset.files(0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(trees.draw_image(rng, trees.SIZE)).save(image, exif=exif)
    with pytest.raises(
        DataError,
        match=rf"has 32 x 24 .* has 24 x 32: the image carries EXIF orientation {orientation}.*fit the stored picture, not the turned one",
    ):
        dataset[0]
    trees.write_image(labels, np.ones((32, 24), np.uint8))
    assert dataset[0][0].shape == (32, 24, 3)
    trees.write_image(labels, np.ones((31, 24), np.uint8))
    with pytest.raises(DataError, match="EXIF orientation .* fit neither"):
        dataset[0]


def test_classes_of_another_model(tmp_path, rng):
    trees.make_potsdam(tmp_path, rng=rng)
    own = dataset_spec("potsdam")
    renamed = generic_dataset(6)
    assert open_dataset("potsdam", tmp_path, "val", spec=renamed).spec == renamed
    with pytest.raises(DataError, match=r"the labels of potsdam have 6 classes, those asked for \(custom\) are 5"):
        open_dataset("potsdam", tmp_path, "val", spec=generic_dataset(5))
    turned = DatasetSpec("mine", own.classes[::-1], own.palette[::-1])
    with pytest.raises(DataError, match="in another order: class 0 is 'clutter' instead of 'impervious_surface'"):
        open_dataset("potsdam", tmp_path, "val", spec=turned)


def test_names(tmp_path):
    with pytest.raises(
        DataError, match=r"unknown data set 'cityscape'; did you mean 'cityscapes'\? \(known: cityscapes, "
    ):
        open_dataset("cityscape", tmp_path, "val")
    with pytest.raises(DataError, match="'synthetic_streets' is generated and has no folder"):
        open_dataset("synthetic_streets", tmp_path, "val")
    with pytest.raises(DataError, match="annotations belongs to the data set format 'coco', not to 'voc12aug'"):
        open_dataset("VOC", tmp_path, "val", annotations="x.json")
    with pytest.raises(DataError, match="uncovered belongs to"):
        open_dataset("folder", tmp_path, "val", uncovered="ignore")
