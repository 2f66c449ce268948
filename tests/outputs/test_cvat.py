# SPDX-License-Identifier: Apache-2.0
"""cvat.xml, decoded as CVAT's documentation says."""

from xml.etree import ElementTree

import numpy as np
import pytest

from deeplab_infer.errors import ImageError
from deeplab_infer.outputs import OutputOptions, Outputs
from deeplab_infer.outputs.cvat import row_runs

from .results import NAMES, make_result


def write(folder, names, **options):
    results = [make_result(folder / name, 20 + i, 33, seed=i) for i, name in enumerate(names)]
    options = OutputOptions(masks=False, cvat=True, **options)
    with Outputs(folder, options, results[0].classes, results[0].palette, root=folder) as outputs:
        for number, result in enumerate(results):
            outputs.write(result, str(number))
    return results, ElementTree.parse(folder / "cvat.xml").getroot()


def decode(mask):
    """A picture of the box: runs along its rows, zeros first."""
    box = {key: int(mask.get(key)) for key in ("left", "top", "width", "height")}
    runs = [int(run) for run in mask.get("rle").split(",")]
    flat = np.repeat(np.arange(len(runs)) % 2, runs).astype(bool)
    return box, flat.reshape(box["height"], box["width"])


def test_structure(tmp_path):
    names = ["a.png", 'more/b & "c"\n<d>.png', "grüße.png"]
    _, root = write(tmp_path, names)
    assert root.tag == "annotations" and root.findtext("version") == "1.1"
    labels = root.findall("meta/task/labels/label")
    assert [label.findtext("name") for label in labels] == list(NAMES)
    assert [label.findtext("type") for label in labels] == ["mask"] * 3
    assert labels[1].findtext("color") == "#01005a"
    images = root.findall("image")
    assert [image.get("name") for image in images] == names
    assert [image.get("id") for image in images] == ["0", "1", "2"]
    assert [(image.get("width"), image.get("height")) for image in images] == [("33", str(20 + i)) for i in range(3)]
    for mask in root.iter("mask"):
        expected = {"label", "source", "occluded", "rle", "left", "top", "width", "height", "z_order"}
        assert set(mask.attrib) == expected and mask.get("label") in NAMES


def test_the_runs_are_the_masks(tmp_path):
    results, root = write(tmp_path, ["a.png", "b.png"])
    for result, image in zip(results, root.findall("image"), strict=True):
        labels = np.full(result.labels.shape, 255)
        for mask in image.findall("mask"):
            box, pixels = decode(mask)
            assert pixels.any(0)[[0, -1]].all() and pixels.any(1)[[0, -1]].all()
            below = labels[box["top"] : box["top"] + box["height"], box["left"] : box["left"] + box["width"]]
            assert (below[pixels] == 255).all()
            below[pixels] = NAMES.index(mask.get("label"))
        assert np.array_equal(labels, result.labels)


def test_runs_start_with_zeros():
    assert row_runs(np.array([[False, True], [True, False]])) == [1, 2, 1]
    assert row_runs(np.ones((2, 2), bool)) == [0, 4]
    assert row_runs(np.zeros((1, 3), bool)) == [3]


def test_small_regions_are_left_out(tmp_path):
    (result,), root = write(tmp_path, ["a.png"], min_area=25.0)
    for mask in root.iter("mask"):
        kept = sum(r["area"] for r in result.polygons(mask.get("label"), 25))
        assert decode(mask)[1].sum() == kept


@pytest.mark.parametrize("name", ["a\x01.png", "a\udc80.png"])
def test_names_that_xml_cannot_hold_are_refused_before_anything_is_written(tmp_path, name):
    result = make_result(tmp_path / name)
    with Outputs(tmp_path, OutputOptions(cvat=True), result.classes, result.palette) as outputs:
        with pytest.raises(ImageError, match="rename the file, or leave out --cvat"):
            outputs.write(result, "a")
        assert list(tmp_path.iterdir()) == []
