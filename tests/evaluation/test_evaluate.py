# SPDX-License-Identifier: Apache-2.0
"""A predictor over a dataset: order, bad images, parts of it."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from deeplab_infer.configs import dataset_spec
from deeplab_infer.data.scenes import StreetScenes
from deeplab_infer.errors import DataError, ImageError
from deeplab_infer.evaluation import EvenlySpread, LabelStore, evaluate
from deeplab_infer.evaluation.classes import check_classes

SPEC = dataset_spec("synthetic_streets")


@dataclass
class Numbered:
    """Images whose pixels are all their number, labelled with it; some cannot be read."""

    count: int
    bad: tuple[int, ...] = ()
    labels: dict[int, int] = field(default_factory=dict)
    spec = SPEC

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index in self.bad:
            raise ImageError("truncated file")
        value = self.labels.get(index, index % 10)
        return np.full((4, 5, 3), index, np.uint8), np.full((4, 5), value, np.uint8)

    def name(self, index):
        return f"photos/{index}.png"


def by_number(image):
    return image[..., 0] % 10


def test_a_perfect_predictor_scores_1():
    scenes = StreetScenes(2, 32, 48)
    answers = iter([scenes[0][1], scenes[1][1]])
    done = []
    scores = evaluate(lambda image: next(answers), scenes, lambda i, n: done.append((i, n))).scores()
    assert scores.miou == 1.0
    assert done == [(1, 2), (2, 2)]


@pytest.mark.parametrize("ahead", [False, True])
def test_watchers_see_every_image_in_order(ahead):
    seen = []
    watchers = [lambda i, labels, found: seen.append((i, labels[0, 0], found[0, 0]))]
    result = evaluate(by_number, Numbered(7), watchers=watchers, read_ahead=ahead)
    assert seen == [(i, i, i) for i in range(7)]
    assert (result.images, result.unreadable) == (7, ())
    assert result.seconds >= 0


def test_unreadable_images_are_all_named_and_nothing_is_predicted_in_vain():
    predicted = []

    def predict(image):
        predicted.append(image[0, 0, 0])
        return by_number(image)

    with pytest.raises(
        DataError, match=r"3 of 9 images could not be read, 1 may be left out.*--skip-unreadable 3"
    ) as error:
        evaluate(predict, Numbered(9, bad=(2, 4, 7)), skip_unreadable=1)
    for index in (2, 4, 7):
        assert f"photos/{index}.png: truncated file" in str(error.value)
    assert predicted == [0, 1, 3], "once it is lost, the rest is only read"


@pytest.mark.parametrize("ahead", [False, True])
def test_unreadable_images_may_be_left_out(ahead):
    result = evaluate(by_number, Numbered(9, bad=(2, 8)), skip_unreadable=2, read_ahead=ahead)
    assert result.images == 7
    assert result.unreadable == ("photos/2.png: truncated file", "photos/8.png: truncated file")
    assert result.matrix.counts.sum() == 7 * 20
    assert np.isnan(result.scores().iou[2])


def test_a_long_list_of_unreadable_images_is_cut():
    with pytest.raises(DataError, match="and 5 more"):
        evaluate(by_number, Numbered(30, bad=tuple(range(25))))


def test_a_wrong_label_names_its_image():
    with pytest.raises(DataError, match=r"photos/3\.png: labels hold the value 77, but there are 10 classes"):
        evaluate(by_number, Numbered(5, labels={3: 77}))
    with pytest.raises(DataError, match=r"photos/0\.png: prediction hold the value 12"):
        evaluate(lambda image: np.full((4, 5), 12), Numbered(5))


@pytest.mark.parametrize("total", [1, 2, 7, 100])
def test_a_part_is_spread_evenly(total):
    for count in (1, 2, 5, 100, 1000):
        part = EvenlySpread(Numbered(total), count)
        numbers = [int(part[i][0][0, 0, 0]) for i in range(len(part))]
        assert len(part) == min(count, total)
        assert numbers == sorted(set(numbers))
        assert [part.name(i) for i in range(len(part))] == [f"photos/{n}.png" for n in numbers]
        gaps = np.diff([-1, *numbers, total])
        assert gaps.max() <= -(-total // len(part)) + 1
    with pytest.raises(DataError, match="at least 1"):
        EvenlySpread(Numbered(total), 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_kept_labels_come_back(rng, dtype):
    store = LabelStore()
    labels = [rng.integers(0, 200 if dtype == np.uint8 else 60000, (31, 17)).astype(dtype) for _ in range(3)]
    for index, one in enumerate(labels):
        store.put(index, one)
    assert len(store) == 3
    assert all((store.get(i) == one).all() for i, one in enumerate(labels))
    with pytest.raises(DataError, match="no prediction of image 9 was kept"):
        store.get(9)
    with pytest.raises(DataError, match="65535"):
        store.put(0, np.array([[70000]]))


def test_classes_must_be_those_of_the_dataset():
    check_classes("m", SPEC.classes, SPEC)
    check_classes("m", ["bed", "Traffic_Light "], type(SPEC)("d", ("bed ", "traffic light"), SPEC.palette[:2]))
    other = tuple(f"class_{i}" for i in range(10))
    with pytest.raises(DataError, match=r"0 is 'class_0' and 'sky', 1 is .* and 7 more; .*--by-index"):
        check_classes("m", other, SPEC)
    check_classes("m", other, SPEC, by_index=True)
    with pytest.raises(DataError, match="same in another order"):
        check_classes("m", SPEC.classes[::-1], SPEC)
    with pytest.raises(DataError, match="m has 9 classes .* has 10"):
        check_classes("m", SPEC.classes[:9], SPEC, by_index=True)
