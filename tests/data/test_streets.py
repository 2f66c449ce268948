# SPDX-License-Identifier: Apache-2.0
"""The generated streets, and their crops."""

import numpy as np
import pytest

from deeplab_infer.data.scenes import HELD_OUT_SEED, InMemory, StreetScenes
from deeplab_infer.data.synthetic_streets import generate_street
from deeplab_infer.data.transforms import AUGMENTATIONS, augment
from deeplab_infer.errors import DataError


def test_a_seed_is_a_scene():
    first, again, other = (generate_street(seed, 96, 192) for seed in (5, 5, 6))
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[1], other[1])
    assert first[0].shape == (96, 192, 3)
    assert first[0].dtype == first[1].dtype == np.uint8


@pytest.mark.parametrize("size", [(16, 16), (17, 301), (211, 33), (131, 257)])
def test_any_size(size):
    image, labels = generate_street(3, *size)
    assert image.shape == (*size, 3)
    assert labels.shape == size
    assert labels.max() <= 9


def test_every_class_occurs_and_looks_its_own_way():
    scenes = [generate_street(seed, 128, 256) for seed in range(12)]
    counts = sum(np.bincount(labels.ravel(), minlength=10) for _, labels in scenes)
    assert (counts > 0).all()
    assert (counts / counts.sum())[[1, 3, 5]].min() > 0.05, "houses, road and pavement make a street"


def test_labels_are_exact_to_the_pixel():
    """Markings are brighter than the road right up to their edge (the picture's blur is under a pixel)."""
    image, labels = generate_street(1, 384, 768)
    marking = labels == 4
    inside = marking.copy()
    inside[1:-1, 1:-1] &= marking[:-2, 1:-1] & marking[2:, 1:-1] & marking[1:-1, :-2] & marking[1:-1, 2:]
    near = np.zeros_like(marking)
    near[300:] = True
    brightness = image.mean(2)
    assert brightness[inside & near].mean() > brightness[(labels == 3) & near].mean() + 30


@pytest.mark.parametrize("arguments", [(-1, 64, 64), (0, 15, 64), (0, 64, 3)])
def test_bad_scenes(arguments):
    with pytest.raises(DataError):
        generate_street(*arguments)


def test_datasets():
    scenes = StreetScenes(3, 32, 48, first_seed=7)
    assert len(scenes) == 3
    kept = InMemory(scenes, workers=2)
    for index in range(3):
        assert np.array_equal(kept[index][0], scenes[index][0])
    assert np.array_equal(scenes[1][1], generate_street(8, 32, 48)[1])
    with pytest.raises(IndexError):
        scenes[3]
    with pytest.raises(DataError, match="at least 1 scene"):
        StreetScenes(0, 32, 48)
    assert HELD_OUT_SEED > 100_000


def test_crops_keep_image_and_labels_together(rng):
    labels = rng.integers(0, 5, (6, 8), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    image = np.repeat(labels[..., None] * np.uint8(40), 3, 2)
    for _ in range(20):
        crop, found, _ = augment((image, labels), AUGMENTATIONS["streets"], (40, 90), rng, 255)
        assert crop.shape == (40, 90, 3)
        assert found.shape == (40, 90)
        padding = found == 255
        assert (crop[padding] == 0).all()
        # Light changes the values, not their order: each label has one brightness away from resized edges.
        values = {label: np.median(crop[found == label]) for label in np.unique(found[~padding])}
        assert list(values.values()) == sorted(values.values())
