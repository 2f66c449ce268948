# SPDX-License-Identifier: Apache-2.0
"""The verification finds what is wrong and passes what is right."""

import json

import numpy as np
import onnx
import pytest
from deeplab_export import export_onnx, verify
from deeplab_export.verify import Sample, Thresholds, default_samples
from onnx import numpy_helper

from deeplab_infer.manifest import read_onnx_manifest

from ..networks import random_images


@pytest.fixture(scope="module")
def exported(tmp_path_factory, streets):
    path = tmp_path_factory.mktemp("verify") / "model.onnx"
    export_onnx(streets, path, height=(1, 96, 128), width=(1, 128, 256))
    return path


def test_a_good_export_passes_on_every_runtime(streets, exported):
    report = verify(streets, exported, runtimes=("onnxruntime", "openvino"))
    assert report.passed
    assert {case.runtime for case in report.cases} == {"onnxruntime cpu", "openvino cpu"}
    assert len({(case.height, case.width) for case in report.cases}) >= 3
    assert all(case.logits_error < 1e-4 for case in report.cases)
    assert json.loads(json.dumps(report.to_dict()))["passed"] is True
    assert report.table().row_count == len(report.cases)


def damage(path, target, factor):
    """Change one convolution's weights, as a wrong conversion would."""
    model = onnx.load(str(path))
    weight = next(i for i in model.graph.initializer if "classifier.weight" in i.name)
    values = numpy_helper.to_array(weight) * np.float32(factor)
    weight.CopyFrom(numpy_helper.from_array(values.astype(np.float32), weight.name))
    target.write_bytes(model.SerializeToString())


def test_a_damaged_export_fails_with_a_reason(tmp_path, streets, exported):
    damage(exported, tmp_path / "bad.onnx", 1.01)
    report = verify(streets, tmp_path / "bad.onnx")
    assert not report.passed
    assert all("logits error" in report.reasons(case)[0] for case in report.cases)
    damage(exported, tmp_path / "nan.onnx", float("nan"))
    report = verify(streets, tmp_path / "nan.onnx")
    assert not report.passed


def test_given_images_are_fitted_and_miou_is_judged(streets, exported):
    image = random_images(1, 140, 300)[0]
    labels = np.random.default_rng(1).integers(0, 10, (140, 300)).astype(np.uint8)
    report = verify(streets, exported, samples=[Sample("mine", image, labels)])
    case = report.cases[0]
    assert (case.height, case.width) == (128, 256)
    assert case.miou == pytest.approx(case.miou_reference, abs=1e-3)
    strict = verify(streets, exported, samples=[Sample("mine", image, labels)], thresholds=Thresholds(1e-4, 0.9, -0.1))
    assert not strict.passed
    assert strict.quality[0].images == 1
    assert not strict.reasons(strict.cases[0]), "the loss of mIoU is judged over all images"


def test_label_agreement_decides_only_for_trained_weights(streets, exported):
    report = verify(streets, exported, thresholds=Thresholds(1e-4, 1.1))
    assert not report.judged_labels
    assert report.passed
    streets.checkpoint_source = "somewhere"
    try:
        judged = verify(streets, exported, thresholds=Thresholds(1e-4, 1.1))
    finally:
        streets.checkpoint_source = ""
    assert judged.judged_labels
    assert not judged.passed
    assert "agreement" in judged.reasons(judged.cases[0])[0]


def test_labels_and_fixed_batches_are_verified_too(tmp_path, streets):
    export_onnx(streets, tmp_path / "labels.onnx", output="labels", batch=2, height=48, width=64)
    report = verify(streets, tmp_path / "labels.onnx")
    assert report.passed
    assert {(c.batch, c.height, c.width) for c in report.cases} == {(2, 48, 64)}
    assert all(case.logits_error is None and case.agreement > 0.99 for case in report.cases)


def test_default_samples_stay_within_the_file_s_limits(exported):
    manifest = read_onnx_manifest(exported)
    for sample in default_samples(manifest):
        height, width = sample.image.shape[:2]
        assert manifest.height[0] <= height <= manifest.height[2]
        assert manifest.width[0] <= width <= manifest.width[2]
