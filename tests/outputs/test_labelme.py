# SPDX-License-Identifier: Apache-2.0
"""Files for labelme: their structure, and the pixels that labelme draws of them."""

import json
import os

import numpy as np

from deeplab_infer.outputs import OutputOptions, Outputs

from .results import NAMES, make_result
from .test_outlines import as_labelme_draws


def write(folder, path, **options):
    result = make_result(path)
    out = folder / "out"
    out.mkdir()
    with Outputs(out, OutputOptions(masks=False, labelme=True, **options), result.classes, result.palette) as outputs:
        outputs.write(result, "a")
    assert os.listdir(out) == ["a.json"]
    return result, json.loads((out / "a.json").read_text())


def test_structure(tmp_path):
    _, content = write(tmp_path, tmp_path / "photos" / "a b\n.png")
    shapes = content.pop("shapes")
    assert content == {
        "version": "5.0.0",
        "flags": {},
        "imagePath": os.path.join("..", "photos", "a b\n.png"),
        "imageData": None,
        "imageHeight": 40,
        "imageWidth": 56,
    }
    for shape in shapes:
        assert set(shape) == {"label", "points", "group_id", "description", "shape_type", "flags"}
        assert shape["label"] in NAMES and shape["shape_type"] == "polygon" and shape["group_id"] is None
        assert all(len(point) == 2 and all(isinstance(v, (int, float)) for v in point) for point in shape["points"])


def test_labelme_draws_the_labels(tmp_path):
    result, content = write(tmp_path, tmp_path / "a.png")
    labels = np.full(result.labels.shape, 255)
    for shape in content["shapes"]:
        mask = as_labelme_draws(shape["points"], *labels.shape)
        assert (labels[mask] == 255).all()  # no region lies in the hole of another
        labels[mask] = NAMES.index(shape["label"])
    assert np.array_equal(labels, result.labels)


def test_small_regions_are_left_out(tmp_path):
    result, content = write(tmp_path, None, min_area=20.0, classes=("road",))
    assert content["imagePath"] == "a"
    assert {shape["label"] for shape in content["shapes"]} == {"road"}
    assert len(content["shapes"]) == sum(region["area"] >= 20 for region in result.polygons("road"))
