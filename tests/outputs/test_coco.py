# SPDX-License-Identifier: Apache-2.0
"""coco.json, read back by our own reader and by pycocotools."""

import json

import numpy as np
import pytest
from PIL import Image

from deeplab_infer.data.coco import CocoDataset
from deeplab_infer.outputs import OutputOptions, Outputs

from .results import NAMES, make_result


def write(folder, options, count=3, **keywords):
    (folder / "images").mkdir()
    (folder / "out").mkdir()
    results = []
    for number in range(count):
        path = folder / "images" / f"p {number}.png"
        result = make_result(path, 30 + number, 44, seed=number, **keywords)
        Image.fromarray(result.image).save(path)
        results.append(result)
    with Outputs(folder / "out", options, results[0].classes, results[0].palette) as outputs:
        for number, result in enumerate(results):
            outputs.write(result, f"p {number}")
    return results, folder / "out" / "coco.json"


@pytest.mark.parametrize("coco", ["rle", "polygons"])
@pytest.mark.parametrize("per", ["class", "region", None])
def test_our_reader_gives_the_labels_back(tmp_path, coco, per):
    results, file = write(tmp_path, OutputOptions(masks=False, coco=coco, coco_per=per))
    data = CocoDataset(tmp_path, "train", annotations=file, uncovered="ignore")
    assert data.spec.classes == NAMES
    assert [data.name(i) for i in range(3)] == ["p 0.png", "p 1.png", "p 2.png"]
    for number, result in enumerate(results):
        image, labels = data[number]
        assert np.array_equal(labels, result.labels)
        assert np.array_equal(image, result.image)


def test_structure(tmp_path):
    (result, *_), file = write(tmp_path, OutputOptions(masks=False, coco="rle"), 1)
    content = json.loads(file.read_text())
    assert list(content) == ["info", "licenses", "categories", "images", "annotations"]
    assert content["categories"] == [{"id": i + 1, "name": name} for i, name in enumerate(NAMES)]
    assert content["images"] == [{"id": 1, "file_name": "p 0.png", "height": 30, "width": 44}]
    assert [a["id"] for a in content["annotations"]] == [1, 2, 3]
    for annotation in content["annotations"]:
        mask = result.labels == annotation["category_id"] - 1
        assert annotation["image_id"] == 1 and annotation["iscrowd"] == 0
        assert annotation["area"] == mask.sum()
        x, y, width, height = annotation["bbox"]
        assert mask[y : y + height, x : x + width].sum() == mask.sum()
        assert annotation["segmentation"] == result.to_coco_rle(NAMES[annotation["category_id"] - 1])


@pytest.mark.parametrize("coco", ["rle", "polygons"])
def test_pycocotools_reads_it(tmp_path, coco):
    peer = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    results, file = write(tmp_path, OutputOptions(masks=False, coco=coco))
    data = peer.COCO(str(file))
    for number, result in enumerate(results, 1):
        labels = np.full(result.labels.shape, 255, np.uint8)
        for annotation in data.loadAnns(data.getAnnIds(imgIds=[number])):
            mask = data.annToMask(annotation).astype(bool)
            assert mask.sum() == annotation["area"]
            labels[mask] = annotation["category_id"] - 1
        assert np.array_equal(labels, result.labels)


def test_pixels_without_a_class_and_small_regions_are_in_no_annotation(tmp_path):
    options = OutputOptions(masks=False, coco="polygons", classes=("sky",), threshold=0.5, min_area=6)
    results, file = write(tmp_path, options, scores=True)
    content = json.loads(file.read_text())
    assert {a["category_id"] for a in content["annotations"]} == {3}
    assert min(a["area"] for a in content["annotations"]) >= 6
    unfiltered = sum((r.labels == 2).sum() for r in results)
    assert 0 < sum(a["area"] for a in content["annotations"]) < unfiltered


def test_no_image_is_a_valid_file_too(tmp_path):
    with Outputs(tmp_path, OutputOptions(coco="rle"), NAMES, ((0, 0, 0),) * 3):
        pass
    content = json.loads((tmp_path / "coco.json").read_text())
    assert content["images"] == [] and content["annotations"] == []
