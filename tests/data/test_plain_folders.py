# SPDX-License-Identifier: Apache-2.0
"""The plain folder format in all its variants, and what it refuses."""

import hashlib
import logging
import pickle

import numpy as np
import pytest

from deeplab_infer.configs import DatasetSpec, dataset_spec
from deeplab_infer.data.class_files import check_class_names, read_classes
from deeplab_infer.data.folders import FolderDataset
from deeplab_infer.data.opening import open_dataset
from deeplab_infer.data.splits import hash_split
from deeplab_infer.errors import DataError

from . import trees
from .test_known_layouts import assert_same, contents

COLOURS = ((128, 64, 128), (250, 170, 30), (70, 130, 180))


@pytest.mark.parametrize("split", ["folders", "outer", "lists"])
@pytest.mark.parametrize(
    ("masks", "colours"), [("grey", None), ("palette", None), ("palette", COLOURS), ("colours", COLOURS)]
)
def test_every_variant(tmp_path, rng, split, masks, colours):
    expected = trees.make_folder(tmp_path, rng=rng, split=split, masks=masks, colours=colours)
    for part in ("train", "val"):
        dataset = open_dataset("folder", tmp_path, part)
        assert dataset.spec.classes == ("road", "traffic light", "sky")
        assert dataset.spec.ignore_index == 255
        assert colours is None or dataset.spec.palette == colours
        assert_same(contents(dataset), expected[part])
        assert_same(contents(pickle.loads(pickle.dumps(dataset))), expected[part])


def test_streets(tmp_path):
    expected = trees.make_street_folder(tmp_path, train=2, val=1, size=(32, 48))
    dataset = open_dataset("folder", tmp_path, "train")
    assert dataset.spec.classes == dataset_spec("synthetic_streets").classes
    assert dataset.spec.palette == dataset_spec("synthetic_streets").palette
    assert dataset.spec.name == tmp_path.name
    assert_same(contents(dataset), expected["train"])
    assert len(open_dataset("folder", tmp_path, "all")) == 3


def test_split_by_hash(tmp_path, rng, caplog):
    trees.make_folder(tmp_path, train=60, val=0, size=(4, 4), rng=rng, split="none")
    with caplog.at_level(logging.INFO, "deeplab_infer"):
        parts = {part: open_dataset("folder", tmp_path, part) for part in ("train", "val", "all")}
    assert "has no split: val is every name whose SHA-256 is in the lowest 10%" in caplog.text
    names = {part: [dataset.name(i) for i in range(len(dataset))] for part, dataset in parts.items()}
    assert sorted(names["train"] + names["val"]) == names["all"]
    stems = [f"train_{n:03d}" for n in range(60)]
    in_val = [s for s in stems if int(hashlib.sha256(s.encode()).hexdigest(), 16) < 16**64 // 10]
    assert names["val"] == [f"images/{stem}.png" for stem in in_val]
    assert 0 < len(in_val) < 20
    with pytest.raises(DataError, match=r"no split 'vall'; did you mean 'val'"):
        open_dataset("folder", tmp_path, "vall")


def test_hash_split_of_few():
    assert hash_split(["a"], "train") == ["a"]
    assert hash_split(["a"], "val") == []
    few = ["a", "b", "c"]
    lowest = min(few, key=lambda stem: hashlib.sha256(stem.encode()).hexdigest())
    assert hash_split(few, "val") == [lowest]
    assert hash_split(few, "train") == [stem for stem in few if stem != lowest]


def test_one_image_has_no_val(tmp_path, rng):
    trees.make_folder(tmp_path, train=1, val=0, rng=rng, split="none")
    with pytest.raises(DataError, match=r"split 'val' of .* has no images \(1 in all\)"):
        open_dataset("folder", tmp_path, "val")


def test_other_words_for_splits(tmp_path, rng):
    trees.make_folder(tmp_path, rng=rng)
    for folder in ("images", "masks"):
        (tmp_path / folder / "val").rename(tmp_path / folder / "valid")
    assert len(open_dataset("folder", tmp_path, "val")) == 3
    with pytest.raises(DataError, match=r"no split 'test'; images/ of .* has the sub-folders train, valid"):
        open_dataset("folder", tmp_path, "test")


def test_lists_take_names_and_paths(tmp_path, rng, caplog):
    trees.make_folder(tmp_path, rng=rng, split="lists")
    (tmp_path / "val.txt").write_text("# held out\nval_000\nval_001.png\nimages/val_002.png\nimages\\train_000.png\n")
    dataset = open_dataset("folder", tmp_path, "val")
    assert [dataset.name(i) for i in range(4)] == [
        f"images/{n}.png" for n in ("val_000", "val_001", "val_002", "train_000")
    ]
    assert "1 images are in val.txt and in train.txt: train_000" in caplog.text
    (tmp_path / "val.txt").write_text("val_000\nval_009\n")
    with pytest.raises(DataError, match=r"val.txt, line 2: there is no image 'val_009' in '.*images'"):
        open_dataset("folder", tmp_path, "val")
    (tmp_path / "val.txt").write_text("val_000\nval_001\nval_000.png\n")
    with pytest.raises(DataError, match=r"val.txt, line 3: 'val_000.png' is listed already on line 1"):
        open_dataset("folder", tmp_path, "val")
    (tmp_path / "val.txt").unlink()
    with pytest.raises(DataError, match="no split 'val'; .* has the lists train"):
        open_dataset("folder", tmp_path, "val")


def test_missing_masks_and_images(tmp_path, rng, caplog):
    trees.make_folder(tmp_path, train=9, rng=rng)
    (tmp_path / "images/train/train_008.png").unlink()
    assert len(open_dataset("folder", tmp_path, "train")) == 8
    assert "1 masks in" in caplog.text
    assert "have no image: train/train_008.png" in caplog.text
    for number in range(7):
        (tmp_path / f"masks/train/train_{number:03d}.png").unlink()
    with pytest.raises(
        DataError,
        match=r"7 of 8 images have no mask: train/train_000.png, .*train_004.png and 2 more \(looked for 'train/train_000.png' in '.*masks'\); 1 masks have no image: train/train_008.png; add them, or list",
    ):
        open_dataset("folder", tmp_path, "train")
    trees.write_image(tmp_path / "masks/train/train_000.jpg", np.zeros(trees.SIZE, np.uint8))
    with pytest.raises(DataError, match="JPEG files are no masks"):
        open_dataset("folder", tmp_path, "train")


def test_missing_folders(tmp_path, rng):
    with pytest.raises(DataError, match=r"nowhere' does not exist \(.*\); the folder format is images/"):
        open_dataset("folder", tmp_path / "nowhere", "train")
    with pytest.raises(DataError, match=r"classes.txt' is missing \('.*' is empty\); write one class a line"):
        open_dataset("folder", tmp_path, "train")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match=r"no images/ in .* holds classes.txt\)"):
        open_dataset("folder", tmp_path, "train")
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match=r"there is images/ but no masks/ in .*holds classes.txt, images/"):
        open_dataset("folder", tmp_path, "train")
    (tmp_path / "masks").mkdir()
    with pytest.raises(DataError, match="no image in '.*images'"):
        open_dataset("folder", tmp_path, "train")
    with pytest.raises(DataError, match="has no images"):
        FolderDataset(tmp_path, [], dataset_spec("ade20k"))


def test_two_files_of_one_name(tmp_path, rng):
    trees.make_folder(tmp_path, rng=rng)
    trees.write_image(tmp_path / "images/train/train_000.jpg", trees.draw_image(rng, trees.SIZE))
    with pytest.raises(DataError, match=r"has both 'train/train_000.jpg' and 'train/train_000.png'; keep one"):
        open_dataset("folder", tmp_path, "train")


def test_hidden_files_do_not_count(tmp_path, rng):
    trees.make_folder(tmp_path, rng=rng)
    (tmp_path / "images/train/._train_000.png").write_bytes(b"\0" * 99)
    assert len(open_dataset("folder", tmp_path, "train")) == 6


def test_wrong_labels(tmp_path, rng):
    trees.make_folder(tmp_path, rng=rng, colours=COLOURS, masks="colours")
    dataset = open_dataset("folder", tmp_path, "train")
    trees.write_image(dataset.files(0)[1], np.full((*trees.SIZE, 3), (250, 170, 31), np.uint8))
    with pytest.raises(
        DataError, match=r"masks/train/train_000.png: colour #faaa1f at 768 pixels: no class of .*; colours must match"
    ):
        dataset[0]
    trees.write_image(dataset.files(1)[1], np.full(trees.SIZE, 3, np.uint8))
    with pytest.raises(
        DataError, match=r"value 3 at 768 pixels: no label of .* with its 3 classes \(allowed: 0..2, and 255"
    ):
        dataset[1]
    (tmp_path / "classes.txt").write_text("road\nlight\nsky\n")
    with pytest.raises(DataError, match="picture in colours, but classes.txt gives no colours"):
        open_dataset("folder", tmp_path, "train")[2]


def test_classes_asked_for(tmp_path, rng):
    expected = trees.make_folder(tmp_path, rng=rng)
    spec = DatasetSpec("mine", ("road", "traffic light", "sky"), COLOURS)
    assert open_dataset("folder", tmp_path, "val", spec=spec).spec.classes == spec.classes
    other = DatasetSpec("mine", ("road", "sky"), COLOURS[:2])
    with pytest.raises(
        DataError,
        match=r"classes.txt has 3 classes \(road, traffic light, sky\), those asked for \(mine\) are 2 \(road, sky\)",
    ):
        open_dataset("folder", tmp_path, "val", spec=other)
    (tmp_path / "classes.txt").unlink()
    assert_same(contents(open_dataset("folder", tmp_path, "val", spec=spec)), expected["val"])
    shifted = DatasetSpec("mine", ("a", "b"), COLOURS[:2], reduce_zero_label=True)
    wanted = {name: np.array([255, 0, 1, *[255] * 253], np.uint8)[labels] for name, labels in expected["val"].items()}
    assert_same(contents(open_dataset("folder", tmp_path, "val", spec=shifted)), wanted)


def classes_of(tmp_path, text):
    file = tmp_path / "classes.txt"
    file.write_text(text, encoding="utf-8")
    return read_classes(file)


def test_class_files(tmp_path):
    plain = classes_of(tmp_path, "\ufeff# comment\nroad\n\n  traffic light  \n#sky,#0000ff\nstraße\n")
    assert plain.spec.classes == ("road", "traffic light", "straße")
    assert not plain.colours
    assert len(set(plain.spec.palette)) == 3
    for text in (
        "a,#ff0001\nb c #0a0B0c\n",
        "a 255 0 1\nb c 10 11 12\n",
        "a,255,0,1\nb c, 10, 11, 12\n",
        "a, #FF0001\nb c\t10 11 12",
    ):
        coloured = classes_of(tmp_path, text)
        assert coloured.spec.classes == ("a", "b c")
        assert coloured.spec.palette == ((255, 0, 1), (10, 11, 12))
        assert coloured.colours
    ignored = classes_of(tmp_path, "a 1 2 3\nignore 0 0 0\n")
    assert ignored.spec.classes == ("a",)
    assert ignored.ignore_colour == (0, 0, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there are no classes"),
        ("# only a comment\n", "there are no classes"),
        ("a\nb\na\n", "class 'a' is listed twice"),
        ("\n".join(f"c{n}" for n in range(256)), "256 classes; label maps of 8 bits hold at most 255"),
        ("a,#ff00\n", "line 1: cannot read 'a,#ff00'; a class is 'name', 'name,#rrggbb' or 'name R G B'"),
        ("a\n#00ff00\n", "line 2: cannot read '#00ff00'"),
        ("a 1 2\n", "line 1: cannot read 'a 1 2'"),
        ("1 2 3\n", "line 1: cannot read '1 2 3'"),
        ("a,b\n", "line 1: cannot read 'a,b'"),
        ("a 1 2 256\n", r"line 1: colour \(1, 2, 256\) of 'a' is not three values in 0..255"),
        ("a 1 2 3\nb\n", "class 'b' has no colour but others have"),
        ("a 1 2 3\nb 1 2 3\n", "'a' and 'b' have the same colour"),
        ("a 1 2 3\nignore 1 2 3\n", "'ignore' and 'a' have the same colour"),
        ("ignore 0 0 0\na 1 2 3\n", "line 1: 'ignore' is no class and has no index; make it the last line"),
    ],
)  # fmt: skip
def test_bad_class_files(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        classes_of(tmp_path, text)


def test_empty_class_names():
    with pytest.raises(DataError, match="the model: class 1 has an empty name"):
        check_class_names(("a", " "), "the model")
