# SPDX-License-Identifier: Apache-2.0
"""Options that cannot be are refused, before a model or an image is read."""

import argparse
import pickle

import pytest

from deeplab_infer.commands.output_options import add_output_options, output_options
from deeplab_infer.errors import DeepLabError
from deeplab_infer.outputs import OutputOptions


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"alpha": 1.5}, "--alpha must be in 0..1"),
        ({"threshold": -0.1}, "is a probability, 0..1"),
        ({"threshold": float("nan")}, "is a probability, 0..1"),
        ({"min_area": -1.0}, "smallest area"),
        ({"tolerance": float("inf")}, "tolerance"),
        ({"coco": "xml"}, "'xml' is not one of rle, polygons"),
        ({"coco": "rle", "coco_per": "pixel"}, "'pixel' is not one of class, region"),
        ({"coco_per": "class"}, "ask for that with --coco"),
        ({"classes": ()}, "at least one"),
    ],
)
def test_refused(values, message):
    with pytest.raises(DeepLabError, match=message):
        OutputOptions(**values)


def test_classes_are_those_of_the_model():
    options = OutputOptions(classes=("road", "cat"))
    with pytest.raises(DeepLabError, match="no class 'cat'; did you mean 'car'"):
        options.check_classes(("road", "car"))
    options.check_classes(("cat", "road"))


def test_what_needs_scores_and_what_an_annotation_is():
    assert not OutputOptions(coco="rle").needs_scores
    assert OutputOptions(npz=True).needs_scores and OutputOptions(threshold=0.0).needs_scores
    assert not OutputOptions(coco="rle").per_region and OutputOptions(coco="polygons").per_region
    assert OutputOptions(coco="rle", coco_per="region").per_region


def test_they_travel_between_processes():
    options = OutputOptions(coco="polygons", classes=("a",), threshold=0.5)
    assert pickle.loads(pickle.dumps(options)) == options


def parse(*words):
    parser = argparse.ArgumentParser()
    add_output_options(parser)
    return output_options(parser.parse_args(words))


def test_from_the_command_line():
    assert parse() == OutputOptions()
    words = "--no-mask --overlay --npz --json --alpha 0.3 --coco rle --coco-per region --labelme --cvat --geotiff"
    more = ["--classes", "a b", "c", "--threshold", "0.7", "--min-area", "9", "--tolerance", "1.5"]
    assert parse(*words.split(), *more) == OutputOptions(
        False, True, True, True, 0.3, "rle", "region", True, True, True, ("a b", "c"), 0.7, 9.0, 1.5
    )
