# SPDX-License-Identifier: Apache-2.0
"""Reports on data sets, class weights, and the order with hard classes repeated."""

import json
import math

import numpy as np
import pytest

from deeplab_infer.configs import DatasetSpec, dataset_spec
from deeplab_infer.data.checking import check_dataset, hard_class_order, presence
from deeplab_infer.data.opening import open_dataset
from deeplab_infer.data.scenes import StreetScenes
from deeplab_infer.errors import DataError

from . import trees

SPEC = DatasetSpec("abc", ("apple", "banana", "cherry"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))


class Given:
    """Label maps as a data set; counts how often images are read."""

    def __init__(self, *rows, spec=SPEC):
        self.maps = [np.array([row], np.uint8) for row in rows]
        self.spec = spec
        self.read = []

    def __len__(self):
        return len(self.maps)

    def __getitem__(self, index):
        self.read.append(index)
        if self.maps[index].size == 0:
            raise DataError("file is gone")
        return np.zeros((*self.maps[index].shape, 3), np.uint8), self.maps[index]

    def name(self, index):
        return f"item {index}"


DATA = Given([0, 0, 0, 1], [0, 255, 255, 255], [0, 0, 0, 0, 0, 0])


def test_a_report():
    calls = []
    report = check_dataset(DATA, progress=lambda *done: calls.append(done))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert (report.images, report.checked, report.problems) == (3, 3, ())
    assert report.pixels.tolist() == [10, 1, 0]
    assert report.images_with.tolist() == [3, 1, 0]
    assert report.pixels_with.tolist() == [11, 4, 0]
    assert report.ignored == 3
    assert report.ignored_share == 3 / 14
    assert report.sizes == {(1, 4): 2, (1, 6): 1}
    assert report.absent == ("cherry",)
    assert report.warnings() == ["1 classes occur in no image read: cherry"]
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["classes"][1] == {"name": "banana", "pixels": 1, "images": 1}
    assert plain["sizes"][0] == {"height": 1, "width": 4, "images": 2}
    text = str(report)
    assert "abc: 3 of 3 images read, 0 with problems" in text
    assert "banana    9.09% of pixels, in 1 of 3 images" in text
    assert "warning: 1 classes occur in no image read: cherry" in text


def test_class_weights():
    report = check_dataset(DATA)
    shares = [10 / 11, 1 / 11, 0]
    assert report.class_weights("inverse_log") == pytest.approx([1 / math.log(1.02 + p) for p in shares], rel=1e-14)
    frequency = [10 / 11, 1 / 4]
    median = sum(frequency) / 2
    rare = median / frequency[1]
    assert report.class_weights("median_frequency") == pytest.approx([median / frequency[0], rare, rare], rel=1e-14)
    with pytest.raises(DataError, match=r"unknown class weights 'log' \(known: inverse_log, median_frequency\)"):
        report.class_weights("log")
    with pytest.raises(DataError, match="no labelled pixels in 1 images"):
        check_dataset(Given([255, 255])).class_weights("inverse_log")


def test_problems_do_not_stop_it(tmp_path, rng):
    trees.make_potsdam(tmp_path, count=5, rng=rng)
    dataset = open_dataset("potsdam", tmp_path, "train")
    dataset.files(1)[0].write_bytes(b"")
    dataset.files(3)[1].write_bytes(b"")
    report = check_dataset(dataset)
    assert [item.file for item in report.problems] == [dataset.name(1), dataset.name(3)]
    assert "empty file" in report.problems[0].problem
    assert "the label file is empty" in report.problems[1].problem
    labels = np.concatenate([dataset[index][1].ravel() for index in (0, 2, 4)])
    assert report.pixels.tolist() == [(labels == k).sum() for k in range(6)]
    assert report.ignored == (labels == 255).sum()
    assert "problem: img_dir/train/item_train_00000001.png: " in str(report)
    assert report.to_dict()["problems"][0]["file"] == dataset.name(1)


def test_many_problems():
    report = check_dataset(Given(*[[]] * 14))
    assert len(report.problems) == 14
    assert "and 4 more problems" in str(report)
    assert report.warnings() == []
    (problem,) = check_dataset(Given([0, 7])).problems
    assert (problem.file, problem.problem) == ("item 0", "label 7 is none of the 3 classes")


def test_a_part_evenly_spread():
    data = Given(*[[0]] * 11)
    assert check_dataset(data, limit=3).checked == 3
    assert sorted(data.read) == [0, 5, 10]
    assert check_dataset(data, limit=1).images == 11
    assert check_dataset(data, limit=50).checked == 11
    with pytest.raises(DataError, match="at least 1 image, got a limit of 0"):
        check_dataset(data, limit=0)


def test_warnings():
    binary = DatasetSpec("two", ("no", "yes"), ((0, 0, 0), (1, 1, 1)))
    assert "masks of 0 and 255 must be saved as 0 and 1" in check_dataset(Given([0, 255], spec=binary)).warnings()[1]
    assert check_dataset(Given([0, 1, 2, *[255] * 7])).warnings() == ["70% of the pixels are ignored"]


@pytest.mark.parametrize("threads", [1, 3, None])
def test_presence(threads):
    calls = []
    found = presence(DATA, lambda *done: calls.append(done), threads)
    assert found.dtype == bool
    assert found.tolist() == [[True, True, False], [True, False, False], [True, False, False]]
    assert calls == [(1, 3), (2, 3), (3, 3)]
    with pytest.raises(DataError, match="item 0: label 3 is none"):
        presence(Given([3]))


def test_presence_reads_labels_only(tmp_path, rng):
    expected = trees.make_potsdam(tmp_path, count=2, rng=rng)["train"]
    dataset = open_dataset("potsdam", tmp_path, "train")
    for index in range(2):
        dataset.files(index)[0].write_bytes(b"")
    assert presence(dataset).tolist() == [[bool((m == k).any()) for k in range(6)] for m in expected.values()]


def test_generated_scenes():
    report = check_dataset(StreetScenes(2, 32, 48))
    assert int(report.pixels.sum()) == 2 * 32 * 48
    assert report.classes == dataset_spec("synthetic_streets").classes


def test_hard_classes_are_repeated():
    data = Given([0], [1, 0], [2, 255], [0, 0], [1, 2])
    assert hard_class_order(data, ["banana"]) == [0, 1, 1, 2, 3, 4, 4]
    assert hard_class_order(data, ["banana", "cherry"], repeat=3) == [0, 1, 1, 1, 2, 2, 2, 3, 4, 4, 4]
    assert hard_class_order(data, ["cherry"], repeat=1) == [0, 1, 2, 3, 4]
    with pytest.raises(
        DataError, match=r"abc has no class 'bananna'; did you mean 'banana'\? \(known: apple, banana, cherry\)"
    ):
        hard_class_order(data, ["bananna"])
    with pytest.raises(DataError, match="at least once, got 0"):
        hard_class_order(data, ["apple"], repeat=0)
    with pytest.raises(DataError, match="no hard classes given"):
        hard_class_order(data, [])
    with pytest.raises(DataError, match="no image of the 1 of abc holds any of banana, cherry"):
        hard_class_order(Given([0]), ["banana", "cherry"])


def test_stopping_early():
    data = Given(*[[0]] * 500)

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        presence(data, stop, threads=2)
    assert len(data.read) <= 500
