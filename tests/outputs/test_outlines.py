# SPDX-License-Identifier: Apache-2.0
"""Polygons of regions with holes have the pixels of the region, by three rasterisers that are not ours to change."""

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from deeplab_infer.masks import decode_rle, encode_rle, encode_rle_patch, fill_polygons
from deeplab_infer.outputs.outlines import border_polygon, centre_polygon
from deeplab_infer.outputs.regions import Region, connected_regions, whole_classes


def random_masks(count=150):
    rng = np.random.default_rng(5)
    for number in range(count):
        height, width = rng.integers(1, 28, 2)
        noise, level = rng.random((height, width)).astype(np.float32), rng.uniform(0.2, 0.97)
        yield (cv2.blur(noise, (3, 3)) if number % 3 == 0 else noise) < level
    yield np.ones((4, 7), bool)
    yield np.eye(6, dtype=bool)
    yield ~np.eye(6, dtype=bool)  # holes that touch at their corners


def regions_of(mask, min_area=0):
    for whole in whole_classes(np.where(mask, 0, 255).astype(np.uint8), 1):
        yield from connected_regions(whole, min_area)


def as_labelme_draws(points, height, width):
    picture = Image.new("L", (width, height))
    ImageDraw.Draw(picture).polygon([tuple(point) for point in points], outline=1, fill=1)
    return np.asarray(picture, bool)


def test_regions_cover_the_mask_once():
    for mask in random_masks():
        count = np.zeros(mask.shape, int)
        for region in regions_of(mask):
            height, width = region.mask.shape
            assert region.bbox == [region.left, region.top, width, height]
            assert region.mask.any(0)[[0, -1]].all() and region.mask.any(1)[[0, -1]].all()
            count[region.top : region.top + height, region.left : region.left + width] += region.mask
        assert np.array_equal(count, mask)


def test_borders_enclose_the_pixels():
    for mask in random_masks():
        for region in regions_of(mask):
            expected = np.zeros(mask.shape, bool)
            box = np.s_[region.top : region.top + region.bbox[3], region.left : region.left + region.bbox[2]]
            expected[box] = region.mask
            points = np.array(border_polygon(region), float)
            assert len(points) >= 4
            assert np.array_equal(fill_polygons([points], *mask.shape), expected)


def test_borders_are_the_same_pixels_for_pycocotools():
    peer = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    for mask in random_masks(60):
        height, width = map(int, mask.shape)
        polygons = [np.ravel(border_polygon(region)).astype(float).tolist() for region in regions_of(mask)]
        drawn = peer.decode(peer.merge(peer.frPyObjects(polygons, height, width))) if polygons else mask * 0
        assert np.array_equal(drawn, mask)


def test_centres_are_the_same_pixels_for_labelme():
    for mask in random_masks():
        drawn = np.zeros(mask.shape, bool)
        for region in regions_of(mask):
            points = centre_polygon(region)
            assert len(points) >= 3
            drawn |= as_labelme_draws(points, *mask.shape)
        assert np.array_equal(drawn, mask)


def test_small_holes_are_filled_and_large_ones_kept():
    mask = np.ones((20, 30), bool)
    mask[3, 4] = mask[8:11, 10:13] = mask[15:17, 2:28] = False
    (region,) = regions_of(mask)
    for least, holes in ((0, 62), (2, 61), (9, 61), (10, 52), (53, 0)):
        drawn = fill_polygons([np.array(border_polygon(region, 0, least), float)], 20, 30)
        assert (~drawn).sum() == holes
        assert (~as_labelme_draws(centre_polygon(region, 0, least), 20, 30)).sum() == holes


def test_simplified_outlines_stay_near():
    yy, xx = np.mgrid[:80, :90]
    mask = (np.hypot(yy - 40, xx - 45) < 30) & (np.hypot(yy - 40, xx - 45) > 12)
    (region,) = regions_of(mask)
    exact, fewer = border_polygon(region), border_polygon(region, 1.5)
    assert len(fewer) < len(exact) / 2
    wrong = fill_polygons([np.array(fewer, float)], 80, 90) != mask
    border = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8)) > 0
    assert not wrong[~border].any()
    tiny = Region(0, 3, 4, np.ones((1, 1), bool))
    assert sorted(border_polygon(tiny, 50.0)) == [[4, 3], [4, 4], [5, 3], [5, 4]]
    assert centre_polygon(tiny, 50.0) == [[4, 3]] * 3


def test_thousands_of_holes_that_hang_on_one_another():
    mask = np.ones((5, 9001), bool)
    mask[2, 1::2] = False
    (region,) = regions_of(mask)
    assert np.array_equal(fill_polygons([np.array(border_polygon(region), float)], *mask.shape), mask)


def test_run_lengths_of_a_patch_are_those_of_the_whole():
    for mask in random_masks():
        for whole in whole_classes(np.where(mask, 0, 255).astype(np.uint8), 1):
            rle = encode_rle_patch(whole.mask, whole.top, whole.left, mask.shape)
            assert rle == encode_rle(mask)
            assert np.array_equal(decode_rle(rle), mask)
