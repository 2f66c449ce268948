# SPDX-License-Identifier: Apache-2.0
"""Training crops against independent computations; the reference itself is compared in tests/parity."""

import colorsys
from dataclasses import asdict, replace

import cv2
import numpy as np
import pytest

from deeplab_infer.configs import load_config
from deeplab_infer.data.recipes import AUGMENTATIONS, Augmentation, base_scale, named_augmentation
from deeplab_infer.data.transforms import augment
from deeplab_infer.errors import DataError

IGNORE = 255
RANDOM_CROP = Augmentation(random_position=True)


def noise(rng, height, width, classes=5):
    image = rng.integers(1, 256, (height, width, 3), dtype=np.uint8)
    return image, rng.integers(0, classes, (height, width), dtype=np.uint8)


def located(height, width):
    """A picture whose pixels say where they are: row, column, and their sum for labels."""
    rows, columns = np.indices((height, width))
    image = np.stack([rows, columns, rows + columns], 2).astype(np.uint8)
    return image, ((rows + columns) % 250).astype(np.uint8)


class Scripted:
    """A generator that gives what it was told to, and takes down what it was asked for."""

    def __init__(self, **numbers):
        self.numbers = {name: list(values) for name, values in numbers.items()}
        self.asked = []

    def random(self):
        return self.numbers["random"].pop(0)

    def integers(self, low, high):
        self.asked.append((low, high))
        value = self.numbers["integers"].pop(0)
        assert low <= value < high
        return value

    def uniform(self, low, high):
        self.asked.append((low, high))
        return self.numbers["uniform"].pop(0)


# Streets: what trained the bundled example.


def old_street_crop(pair, crop, rng, ignore_index):
    """The crops of version 0.1, written down again step by step."""
    image, labels = pair
    scale = rng.uniform(0.75, 1.6)
    width, height = (max(1, round(side * float(scale))) for side in (labels.shape[1], labels.shape[0]))
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    labels = cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST)
    top = rng.integers(0, max(1, height - crop[0] + 1))
    left = rng.integers(0, max(1, width - crop[1] + 1))
    flip = rng.random() < 0.5
    gain = rng.uniform(0.8, 1.2)
    offset = rng.uniform(-16, 16)
    found = np.zeros((*crop, 3), np.uint8)
    found_labels = np.full(crop, ignore_index, np.uint8)
    rows, columns = min(crop[0], height), min(crop[1], width)
    for row in range(rows):
        source = slice(left, left + columns)
        line, line_labels = image[top + row, source], labels[top + row, source]
        if flip:
            line, line_labels = line[::-1], line_labels[::-1]
        light = line.astype(np.float32) * np.float32(gain) + np.float32(offset)
        found[row, :columns] = np.minimum(np.maximum(light, 0), 255).astype(np.uint8)
        found_labels[row, :columns] = line_labels
    return found, found_labels


@pytest.mark.parametrize("size", [(64, 96), (30, 200), (131, 37), (1, 1)])
def test_streets_repeat_the_crops_of_old(rng, size):
    ours, old = (np.random.Generator(np.random.PCG64(3)) for _ in range(2))
    for _ in range(50):
        pair = noise(rng, *size)
        sample = augment(pair, AUGMENTATIONS["streets"], (48, 56), ours, IGNORE)
        image, labels = old_street_crop(pair, (48, 56), old, IGNORE)
        assert np.array_equal(sample.image, image)
        assert np.array_equal(sample.labels, labels)
    assert ours.bit_generator.state == old.bit_generator.state


# Sizes.


@pytest.mark.parametrize(
    ("size", "base", "factor", "expected"),
    [
        ((1024, 2048), (2048, 1024), 0.5, (512, 1024)),
        ((1024, 2048), (2048, 1024), 2.0, (2048, 4096)),
        ((1024, 2048), (2049, 1025), 1.0, (1025, 2049)),  # facts: what the 769 configs resize to
        ((375, 500), (2048, 512), 1.0, (512, 683)),
        ((600, 3000), (2048, 512), 1.0, (410, 2048)),
        ((500, 375), (2048, 512), 0.5, (341, 256)),  # 256 / 375 * 500 = 341.3
        ((375, 500), (520, 520), 1.5, (585, 780)),
        ((10, 21), None, 0.5, (5, 11)),  # 10.5 is rounded up
        ((1, 1), None, 0.5, (1, 1)),
        ((1, 1), (2, 1), 0.5, (1, 1)),  # a limit of 0 pixels still leaves one
    ],
)
def test_size_after_the_resize(rng, size, base, factor, expected):
    recipe = Augmentation(scales=(factor, factor), base_scale=base)
    assert augment(noise(rng, *size), recipe, expected, rng, IGNORE).valid == expected
    larger = (expected[0] + 3, expected[1] + 1)
    assert augment(noise(rng, *size), recipe, larger, rng, IGNORE).valid == expected


def test_labels_stay_labels_and_images_are_smooth(rng):
    pair = noise(rng, 20, 30)
    labels = pair[1] * 50
    sample = augment((pair[0], labels), Augmentation(scales=(1.7, 1.7)), (34, 51), rng, IGNORE)
    assert set(np.unique(sample.labels)) <= set(np.unique(labels))
    # Nearest neighbour as OpenCV does it: floor(position / factor), without half a pixel.
    rows = np.minimum(np.arange(34) * 20 // 34, 19)
    columns = np.minimum(np.arange(51) * 30 // 51, 29)
    assert np.array_equal(sample.labels, labels[rows][:, columns])
    assert sample.image.std() < pair[0].std()


def test_steps_between_scales(rng):
    pair = noise(rng, 8, 16)
    sizes = [augment(pair, AUGMENTATIONS["paper"], (32, 32), rng, IGNORE).valid for _ in range(300)]
    assert {rows / 8 for rows, _ in sizes} == {0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0}
    counts = np.unique([rows for rows, _ in sizes], return_counts=True)[1]
    # 7 equally likely values: 43 each on average, standard deviation 6.
    assert counts.min() > 43 - 5 * 6 and counts.max() < 43 + 5 * 6


def test_any_scale_between(rng):
    pair = noise(rng, 100, 100)
    recipe = replace(named_augmentation("reference"), distortion=0.0)
    rows = [augment(pair, recipe, (200, 200), rng, IGNORE).valid[0] for _ in range(400)]
    assert 50 <= min(rows) < 56 and 194 < max(rows) <= 200
    assert abs(np.mean(rows) - 125) < 5 * 43.3 / 20  # uniform on 50..200: standard deviation 43.3


# Crop, flip, padding.


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_pixels_and_labels_stay_together(rng, flip):
    image, labels = located(90, 120)
    corners = set()
    for _ in range(200):
        sample = augment((image, labels), replace(RANDOM_CROP, flip=flip), (20, 33), rng, IGNORE)
        top, left = (int(sample.image[..., channel].min()) for channel in (0, 1))
        expected = image[top : top + 20, left : left + 33]
        expected_labels = labels[top : top + 20, left : left + 33]
        if flip:
            expected, expected_labels = expected[:, ::-1], expected_labels[:, ::-1]
        assert np.array_equal(sample.image, expected)
        assert np.array_equal(sample.labels, expected_labels)
        corners.add((top, left))
    tops, lefts = zip(*corners, strict=True)
    assert min(tops) < 5 and max(tops) > 65 and min(lefts) < 6 and max(lefts) > 81


def test_the_last_row_and_column_can_come(rng):
    corners = {augment(located(5, 6), RANDOM_CROP, (4, 4), rng, IGNORE).image[0, 0, :2].tobytes() for _ in range(200)}
    assert corners == {bytes((top, left)) for top in range(2) for left in range(3)}


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("size", [(1, 1), (1, 70), (70, 1), (3, 5), (40, 40), (64, 33)])
def test_padding(rng, name, size):
    for _ in range(10):
        pair = noise(rng, *size)
        image, labels, valid = augment(pair, AUGMENTATIONS[name], (40, 48), rng, IGNORE)
        assert image.shape == (40, 48, 3) and labels.shape == (40, 48)
        assert image.dtype == labels.dtype == np.uint8
        assert 1 <= valid[0] <= 40 and 1 <= valid[1] <= 48
        inside = np.zeros((40, 48), bool)
        inside[: valid[0], : valid[1]] = True
        assert (labels[inside] < 5).all() and (labels[~inside] == IGNORE).all()
        assert (image[~inside] == 0).all()


def test_none_is_the_centre(rng):
    image, labels = located(31, 50)
    state = rng.bit_generator.state
    sample = augment((image, labels), AUGMENTATIONS["none"], (21, 60), rng, IGNORE)
    assert rng.bit_generator.state == state  # nothing is drawn
    assert sample.valid == (21, 50)
    assert np.array_equal(sample.image[:, :50], image[5:26])
    assert np.array_equal(sample.labels[:, :50], labels[5:26])


def test_samples_have_memory_of_their_own(rng):
    pair = noise(rng, 16, 16)
    before = [array.copy() for array in pair]
    sample = augment(pair, AUGMENTATIONS["none"], (16, 16), rng, IGNORE)
    assert np.array_equal(sample.image, pair[0])
    sample.image[:], sample.labels[:] = 0, 9
    assert all(np.array_equal(a, b) for a, b in zip(pair, before, strict=True))
    read_only = [array.copy() for array in before]
    for array in read_only:
        array.flags.writeable = False
    for recipe in AUGMENTATIONS.values():
        augment(tuple(read_only), recipe, (12, 20), rng, IGNORE)


# The rule that one class must not fill a crop.


def fills(labels, share):
    """By the words of the rule: one class, or a class with that share of the pixels that are labelled."""
    labelled = [value for value in labels.ravel().tolist() if value != IGNORE]
    kinds = set(labelled)
    return len(kinds) < 2 or max(labelled.count(kind) for kind in kinds) / len(labelled) >= share


def test_crops_filled_by_one_class_are_drawn_again(rng):
    labels = np.zeros((40, 60), np.uint8)
    labels[:, 30:], labels[20:, :20], labels[5:9, 10:50] = 1, IGNORE, 2
    image = np.stack([*np.indices((40, 60)), np.zeros((40, 60))], 2).astype(np.uint8)
    recipe = replace(RANDOM_CROP, class_share=0.75)
    lengths = set()
    for seed in range(150):
        corners = np.random.default_rng(seed)
        tries = [(int(corners.integers(0, 26)), int(corners.integers(0, 40))) for _ in range(11)]
        expected = next(
            (c for c in tries[:10] if not fills(labels[c[0] : c[0] + 15, c[1] : c[1] + 21], 0.75)), tries[10]
        )
        lengths.add(tries.index(expected))
        sample = augment((image, labels), recipe, (15, 21), np.random.default_rng(seed), IGNORE)
        assert tuple(sample.image[0, 0, :2]) == expected
    assert {0, 1, 2} <= lengths


def test_the_share_itself_is_too_much(rng):
    labels = np.zeros((2, 8), np.uint8)
    labels[:, 0] = 1
    labels[:, 4] = 1  # a crop of 2 x 4 has a quarter of class 1, wherever it is: exactly 75 % of class 0
    generator = Scripted(integers=[0, 1] + [0, 2] * 10)
    augment((np.zeros((2, 8, 3), np.uint8), labels), replace(RANDOM_CROP, class_share=0.75), (2, 4), generator, IGNORE)
    assert len(generator.asked) == 22
    generator = Scripted(integers=[0, 1])
    recipe = replace(RANDOM_CROP, class_share=0.7500001)
    augment((np.zeros((2, 8, 3), np.uint8), labels), recipe, (2, 4), generator, IGNORE)
    assert len(generator.asked) == 2


@pytest.mark.parametrize("value", [0, IGNORE])
def test_images_of_one_class_end(rng, value):
    pair = (np.zeros((50, 50, 3), np.uint8), np.full((50, 50), value, np.uint8))
    assert (augment(pair, AUGMENTATIONS["reference"], (16, 16), rng, IGNORE).labels == value).all()


# Colours.


def only(**colours):
    return Augmentation(distortion=1.0, **colours)


def distorted(image, recipe, generator):
    labels = np.zeros(image.shape[:2], np.uint8)
    return augment((image, labels), recipe, image.shape[:2], generator, IGNORE).image


@pytest.mark.parametrize("amount", [-32.0, -0.4, 0.0, 7.9, 32.0])
def test_brightness(rng, amount):
    image, _ = noise(rng, 30, 40)
    recipe = Augmentation(distortion=0.5, brightness=32)
    # brightness yes; order; contrast, saturation and hue no.
    found = distorted(image, recipe, Scripted(random=[0.1, 0.9, 0.9, 0.9, 0.9], uniform=[amount]))
    assert np.array_equal(found, np.floor(np.clip(image + np.float64(np.float32(amount)), 0, 255)))


@pytest.mark.parametrize("first", [0.2, 0.7])
def test_contrast_comes_once_before_or_after(rng, first):
    image, _ = noise(rng, 30, 40)
    draws = [0.9, first, 0.1, 0.9, 0.9] if first < 0.5 else [0.9, first, 0.9, 0.9, 0.1]
    generator = Scripted(random=draws, uniform=[1.3])
    found = distorted(image, Augmentation(distortion=0.5, contrast=(0.5, 1.5)), generator)
    assert generator.asked == [(0.5, 1.5)]
    assert np.array_equal(found, np.clip(image.astype(np.float32) * np.float32(1.3), 0, 255).astype(np.uint8))


def test_order_of_contrast_matters(rng):
    image, _ = noise(rng, 30, 40)
    recipe = Augmentation(distortion=0.5, contrast=(0.5, 1.5), saturation=(0.5, 1.5))
    first = distorted(image, recipe, Scripted(random=[0.9, 0.1, 0.1, 0.1, 0.9], uniform=[1.5, 0.6]))
    last = distorted(image, recipe, Scripted(random=[0.9, 0.6, 0.1, 0.9, 0.1], uniform=[0.6, 1.5]))
    assert not np.array_equal(first, last)


def hsv(image):
    return np.array([colorsys.rgb_to_hsv(*pixel) for pixel in (image.reshape(-1, 3) / 255.0)])


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.0])
def test_saturation_by_the_standard_library(rng, factor):
    image, _ = noise(rng, 20, 20)
    found = distorted(
        image,
        Augmentation(distortion=0.5, saturation=(0.5, 1.5)),
        Scripted(random=[0.9, 0.9, 0.1, 0.9, 0.9], uniform=[factor]),
    )
    values = hsv(image)
    values[:, 1] *= factor
    expected = np.array([colorsys.hsv_to_rgb(*pixel) for pixel in values]) * 255
    # Half a step of H is 1 degree, 255 / 60 = 4.25 levels; S, V and the result in whole levels: at most 3 more.
    assert np.abs(found.reshape(-1, 3) - expected).max() < 8


@pytest.mark.parametrize("steps", [-18, -5, 17])
def test_hue_by_the_standard_library(rng, steps):
    image, _ = noise(rng, 20, 20)
    generator = Scripted(random=[0.9, 0.9, 0.9, 0.1, 0.9], integers=[steps])
    found = distorted(image, Augmentation(distortion=0.5, hue=18), generator)
    assert generator.asked == [(-18, 18)]
    values = hsv(image)
    values[:, 0] = (values[:, 0] + steps / 180) % 1
    expected = np.array([colorsys.hsv_to_rgb(*pixel) for pixel in values]) * 255
    assert np.abs(found.reshape(-1, 3) - expected).max() < 8


def test_colours_stay_in_their_bounds(rng):
    """Grey stays grey under saturation and hue; brightness and contrast of a flat picture within their ranges."""
    grey = np.full((8, 8, 3), 100, np.uint8)
    reference = AUGMENTATIONS["reference"]
    colours = {key: asdict(reference)[key] for key in ("distortion", "brightness", "contrast", "saturation", "hue")}
    levels = [distorted(grey, Augmentation(**colours), rng) for _ in range(400)]
    assert all((image == image[0, 0, 0]).all() for image in levels)
    values = np.array([image[0, 0, 0] for image in levels], int)
    assert (100 - 32) * 0.5 - 1 <= values.min() < 45
    assert 180 < values.max() <= (100 + 32) * 1.5
    # Each of the two happens in half of the images: a quarter keeps its level, plus the few that are moved by less
    # than one; standard deviation of the share 0.022.
    assert 0.25 - 5 * 0.022 < (values == 100).mean() < 0.3 + 5 * 0.022


# Recipes.


def test_base_scales():
    for name, expected in {
        "deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024": (2048, 1024),
        "deeplabv3_r50-d8_4xb2-40k_cityscapes-769x769": (2049, 1025),
        "deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512": (2048, 512),
        "deeplabv3plus_r50-d8_4xb4-80k_loveda-512x512": (2048, 512),
        "deeplabv3plus_r101-d8_4xb4-40k_pascal-context-59-480x480": (520, 520),
        "deeplabv3plus_r50-d8_4xb4-80k_potsdam-512x512": (512, 512),
        "deeplabv3plus_resnet50-beta": (2048, 512),
        "deeplabv3plus_mobilenetv2_streets": None,
    }.items():
        config = load_config(name)
        assert base_scale(config) == expected
        assert named_augmentation("reference", config).base_scale == expected
        for other in ("paper", "streets", "none"):
            assert named_augmentation(other, config) is AUGMENTATIONS[other]
    assert named_augmentation("reference") is AUGMENTATIONS["reference"]


def test_unknown_recipe():
    with pytest.raises(DataError, match="unknown augmentation 'referense'.*reference"):
        named_augmentation("referense")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scales": (0.0, 1.0)}, "scales must be in 0.01..100"),
        ({"scales": (2.0, 1.0)}, "smallest, largest"),
        ({"scales": (0.5, float("nan"))}, "scales"),
        ({"scales": (0.5, 2.0), "scale_step": 0.4}, "scale_step 0.4 does not lead from 0.5 to 2.0"),
        ({"scale_step": -0.25}, "scale_step"),
        ({"base_scale": (0, 512)}, "base_scale"),
        ({"class_share": 75}, "class_share must be in 0..1"),
        ({"crop_tries": -1}, "crop_tries"),
        ({"flip": 1.5}, "flip"),
        ({"distortion": -0.5}, "distortion"),
        ({"brightness": 300}, "brightness"),
        ({"contrast": (-1.0, 1.0)}, "contrast"),
        ({"saturation": (1.5, 0.5)}, "saturation"),
        ({"hue": 180}, "hue"),
        ({"gain": (1.2, 0.8)}, "gain"),
        ({"offset": (-300.0, 0.0)}, "offset"),
    ],
)
def test_impossible_recipes(options, words):
    with pytest.raises(DataError, match=words):
        Augmentation(**options)


@pytest.mark.parametrize(
    ("image", "labels", "crop", "ignore", "words"),
    [
        ((4, 4, 3), (4, 5), (4, 4), 255, r"got \(4, 4, 3\) and \(4, 5\)"),
        ((4, 4), (4, 4), (4, 4), 255, "an image"),
        ((0, 4, 3), (0, 4), (4, 4), 255, "an image"),
        ((4, 4, 3), (4, 4), (0, 4), 255, "at least 1 x 1, got 0 x 4"),
        ((4, 4, 3), (4, 4), (4, 4), -1, "ignore_index must be in 0..255"),
    ],
)
def test_impossible_pairs(rng, image, labels, crop, ignore, words):
    with pytest.raises(DataError, match=words):
        augment((np.zeros(image, np.uint8), np.zeros(labels, np.uint8)), RANDOM_CROP, crop, rng, ignore)
    with pytest.raises(DataError, match="must be uint8, got uint8 and int64"):
        augment((np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), int)), RANDOM_CROP, (4, 4), rng, 255)
