# SPDX-License-Identifier: Apache-2.0
"""OpenVINO's own files: what is in them, what they compute, what is refused, and that they are whole."""

import math
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from deeplab_export import verify
from deeplab_export.openvino_export import export_openvino
from deeplab_export.precision import PRECISIONS, choose_precision
from deeplab_export.quantize import layers

from deeplab_infer import Segmenter
from deeplab_infer.errors import BackendError, ExportError, ModelFileError
from deeplab_infer.runtime import open_runner

from ..networks import random_images, reference_logits
from .tiny import SIZE, relative_rms

openvino = pytest.importorskip("openvino")
pytest.importorskip("nncf")
from deeplab_infer.runtime.openvino_core import shared_core  # noqa: E402
from deeplab_infer.runtime.openvino_runner import read_ir_manifest  # noqa: E402

PRECISION_NAMES = ("fp32", "fp16", "bf16", "int8")
# Per convolution one rounding of its weights and one of its result: float32 (with sums of up to 216 terms), float16,
# bfloat16, and int8's step, 1/127 of a peak of some four standard deviations. Roundings are independent and their
# squares add; a factor of 4 (2 for int8, whose calibration also clips) is for layers whose terms cancel.
ROUNDING = {"fp32": 4 * 2.0**-24 * math.sqrt(216), "fp16": 4 * 2.0**-11, "bf16": 4 * 2.0**-8, "int8": 2 * 4 / 127}


@pytest.fixture(scope="module")
def exported(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("openvino")
    return {name: (folder / f"{name}.xml", export_openvino(tiny, folder / f"{name}.xml", PRECISIONS[name]))
            for name in PRECISION_NAMES}  # fmt: skip


def convolutions(path):
    """The IR's convolutions by the name of their node in the ONNX graph."""
    model = shared_core().read_model(path)
    found = [op for op in model.get_ordered_ops() if op.get_type_name() in ("Convolution", "GroupConvolution")]
    return {op.get_friendly_name().partition("/")[0]: op for op in found}


def source_types(op):
    """Types of the operators right before one."""
    return [port.get_source_output().get_node().get_type_name() for port in op.inputs()]


@pytest.mark.parametrize("precision", PRECISION_NAMES)
def test_files_compute_what_the_network_does(tiny, exported, precision):
    path, manifest = exported[precision]
    runner = open_runner(path, threads=1)
    assert (runner.name, runner.device) == ("openvino", "cpu")
    assert runner.manifest == manifest
    # Scales hold on what they were calibrated for.
    images = tiny.calibration_inputs[0] if precision == "int8" else random_images(1, *SIZE)
    found = runner.run(images)
    kept = found.copy()
    runner.run(random_images(1, *SIZE, seed=1))
    assert np.array_equal(found, kept), "a later run must not change an earlier result"
    runner.close()
    exact = reference_logits(tiny.model, images, torch.float64)
    assert found.dtype == np.float32
    assert found.shape == exact.shape
    assert relative_rms(found, exact) < ROUNDING[precision] * math.sqrt(2 * len(layers(tiny.graph)))


@pytest.mark.parametrize("precision", PRECISION_NAMES)
def test_the_manifest_is_inside(tiny, exported, precision):
    path, manifest = exported[precision]
    assert read_ir_manifest(path) == manifest
    assert manifest.precision == precision
    assert manifest.config == tiny.model.config
    assert (manifest.height, manifest.width) == ((SIZE[0],) * 3, (SIZE[1],) * 3)
    assert (manifest.calibration is not None) == (precision == "int8")
    assert manifest.kept_layers == ()


def test_files_are_a_pair_and_nothing_else(exported):
    folder = exported["fp32"][0].parent
    wanted = {f"{name}{suffix}" for name in PRECISION_NAMES for suffix in (".xml", ".bin")}
    assert {path.name for path in folder.iterdir()} == wanted
    sizes = {name: (folder / f"{name}.bin").stat().st_size for name in PRECISION_NAMES}
    # bf16 is chosen when the model is compiled; float16 is in the file, eight bits for all but the depthwise weights.
    assert sizes["bf16"] == sizes["fp32"]
    assert sizes["fp16"] < 0.6 * sizes["fp32"]
    assert sizes["int8"] < sizes["fp16"]


def test_bf16_says_what_it_computes_in(exported):
    capable = "BF16" in shared_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert open_runner(exported["bf16"][0]).compute == ("bf16" if capable else "f32")
    assert all(open_runner(exported[name][0]).compute == "f32" for name in ("fp32", "int8"))


def test_int8_quantises_convolutions_but_not_those_that_are_kept(tiny, exported, tmp_path):
    nodes = {name: node.name for name, node in layers(tiny.graph).items()}
    before = convolutions(exported["int8"][0])
    assert set(before) == set(nodes.values())
    for name in ("block.first", "block.second"):
        assert "FakeQuantize" in source_types(before[nodes[name]]), name
    manifest = export_openvino(tiny, tmp_path / "kept.xml", PRECISIONS["int8"], keep=["block.second"])
    assert manifest.kept_layers == read_ir_manifest(tmp_path / "kept.xml").kept_layers == ("block.second",)
    after = convolutions(tmp_path / "kept.xml")
    data, weight = after[nodes["block.second"]].inputs()
    assert data.get_source_output().get_node().get_type_name() != "FakeQuantize"
    assert weight.get_source_output().get_node().get_type_name() == "Constant"
    assert weight.get_element_type() == openvino.Type.f32
    # `conv2d_1` must not stand for `conv2d_10` too: everybody else is as before.
    for name, node in nodes.items():
        if name != "block.second":
            assert source_types(after[node]) == source_types(before[node]), name
    runner = open_runner(tmp_path / "kept.xml")
    assert runner.run(tiny.calibration_inputs[0]).shape == (1, tiny.model.config.num_classes, 16, 24)


def test_int8_scales_depthwise_kernels_by_channel(exported):
    """OpenVINO has no eight-bit depthwise convolution whose scales differ within a kernel."""
    model = shared_core().read_model(exported["int8"][0])
    depthwise = [op for op in model.get_ops() if op.get_type_name() == "GroupConvolution"]
    assert depthwise
    for op in depthwise:
        values, scale = op.input_value(1).get_node().inputs()
        assert values.get_source_output().get_node().input_value(0).get_element_type() == openvino.Type.i8
        channels = op.input_value(1).get_shape()[0]
        assert list(scale.get_source_output().get_shape()) == [channels, 1, 1, 1, 1]


def test_a_kept_name_is_not_a_prefix_of_others(tiny, exported, tmp_path):
    """depthwise is ``conv2d_1``, classifier ``conv2d_10``."""
    nodes = {name: node.name for name, node in layers(tiny.graph).items()}
    assert nodes["classifier"].startswith(nodes["depthwise"])
    export_openvino(tiny, tmp_path / "kept.xml", PRECISIONS["int8"], keep=["depthwise"])
    before, after = convolutions(exported["int8"][0]), convolutions(tmp_path / "kept.xml")
    assert source_types(after[nodes["depthwise"]]) != source_types(before[nodes["depthwise"]])
    assert source_types(after[nodes["classifier"]]) == source_types(before[nodes["classifier"]])


def test_fp16_keeps_layers_in_float32(tiny, tmp_path):
    nodes = {name: node.name for name, node in layers(tiny.graph).items()}
    export_openvino(tiny, tmp_path / "kept.xml", PRECISIONS["fp16"], keep=["stem", "classifier"])
    for name, op in convolutions(tmp_path / "kept.xml").items():
        kept = name in (nodes["stem"], nodes["classifier"])
        assert op.get_output_element_type(0) == (openvino.Type.f32 if kept else openvino.Type.f16), name


def test_labels_and_the_verification(tiny_labels, tmp_path):
    export_openvino(tiny_labels, tmp_path / "labels.xml", PRECISIONS["fp32"])
    images = random_images(1, *SIZE)
    labels = open_runner(tmp_path / "labels.xml").run(images)
    assert labels.dtype == np.uint8
    full = F.interpolate(
        torch.from_numpy(reference_logits(tiny_labels.model, images, torch.float64)), size=SIZE, mode="bilinear"
    ).numpy()
    top = np.sort(full, axis=1)
    clear = top[:, -1] - top[:, -2] > 1e-3 * np.ptp(full)
    assert (labels == full.argmax(1))[clear].all()
    assert clear.mean() > 0.9
    report = verify(tiny_labels.model, tmp_path / "labels.xml")
    assert report.passed
    assert {case.runtime for case in report.cases} == {"openvino cpu"}


def test_the_verification_takes_logits_too(tiny, exported):
    report = verify(tiny.model, exported["fp16"][0])
    assert report.passed
    assert report.precision == "fp16"
    assert 0 < max(case.logits_error for case in report.cases) < report.thresholds.logits


def test_a_segmenter_predicts_on_the_xml(tiny, exported):
    image = random_images(1, *SIZE)[0]
    with Segmenter(exported["fp32"][0], threads=1) as segmenter:
        found = segmenter.predict(image)
        assert segmenter.classes == tiny.model.config.classes
    assert found.labels.shape == SIZE
    full = F.interpolate(
        torch.from_numpy(reference_logits(tiny.model, image[None], torch.float64)), size=SIZE, mode="bilinear"
    ).numpy()[0]
    top = np.sort(full, axis=0)
    clear = top[-1] - top[-2] > 1e-3 * np.ptp(full)
    assert (found.labels == full.argmax(0))[clear].all()


# -- what is refused


@pytest.mark.parametrize(
    ("name", "precision", "keep", "message"),
    [
        ("a.xml", "fp8", (), "OpenVINO files are fp32, bf16, fp16, int8; fp8 is for engines and ONNX files"),
        ("a.xml", "tf32", (), "tf32 is for engines and ONNX files"),
        ("a.onnx", "fp32", (), "an OpenVINO file ends in .xml, got a.onnx"),
        ("a", "fp32", (), "an OpenVINO file ends in .xml, got a"),
        ("a.xml", "fp32", ("stme",), "no layer 'stme' in this model; --list-layers shows them"),
        ("a.xml", "fp16", ("stme",), "no layer 'stme' in this model"),
        ("a.xml", "int8", ("stem", "stme"), "no layer 'stme' in this model"),
        ("a.xml", "bf16", ("stme",), "no layer 'stme' in this model"),
        ("a.xml", "bf16", ("stem",), "no layer can be kept"),
    ],
)
def test_wrong_options(tmp_path, tiny, name, precision, keep, message):
    with pytest.raises(ExportError, match=message):
        export_openvino(tiny, tmp_path / name, choose_precision(precision), keep)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("package", "precision", "command"),
    [
        ("openvino", "fp32", r"pip install 'deeplab-infer\[openvino\]'"),
        ("nncf", "int8", r"pip install 'deeplab-infer\[openvino-int8\]'"),
    ],
)
def test_missing_packages_name_the_command_that_installs_them(tmp_path, tiny, monkeypatch, package, precision, command):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExportError, match=command):
        export_openvino(tiny, tmp_path / "a.xml", PRECISIONS[precision])
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_what_was_there(tmp_path, tiny, monkeypatch):
    def interrupted(model, path, **_):
        path.with_suffix(".bin").write_bytes(b"half of it")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(openvino, "save_model", interrupted)
        with pytest.raises(KeyboardInterrupt):
            export_openvino(tiny, tmp_path / "model.xml", PRECISIONS["fp32"])
        assert list(tmp_path.iterdir()) == []
    export_openvino(tiny, tmp_path / "model.xml", PRECISIONS["fp32"])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(before) == {"model.xml", "model.bin"}
    monkeypatch.setattr(openvino, "save_model", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_openvino(tiny, tmp_path / "model.xml", PRECISIONS["fp16"])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_is_replaced(tmp_path, tiny):
    for name in ("fp32", "fp16"):
        export_openvino(tiny, tmp_path / "model.xml", PRECISIONS[name])
        assert read_ir_manifest(tmp_path / "model.xml").precision == name


# -- files that are not whole


@pytest.fixture
def pair(exported, tmp_path):
    source = exported["fp32"][0]
    for suffix in (".xml", ".bin"):
        (tmp_path / f"model{suffix}").write_bytes(source.with_suffix(suffix).read_bytes())
    return tmp_path / "model.xml"


@pytest.mark.parametrize("suffix", [".xml", ".bin"])
def test_half_a_pair(pair, suffix):
    pair.with_suffix(suffix).unlink()
    with pytest.raises(ModelFileError, match=rf"model\{suffix}: no such file"):
        open_runner(pair)
    with pytest.raises(ModelFileError, match=rf"model\{suffix}: no such file"):
        read_ir_manifest(pair)


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.99])
@pytest.mark.parametrize("suffix", [".xml", ".bin"])
def test_truncated_files(pair, suffix, keep):
    part = pair.with_suffix(suffix)
    whole = part.read_bytes()
    part.write_bytes(whole[: keep if isinstance(keep, int) else int(len(whole) * keep)])
    with pytest.raises(ModelFileError, match=r"model\.xml: OpenVINO cannot read it"):
        open_runner(pair)


def test_a_damaged_xml(pair):
    pair.write_text(pair.read_text().replace('type="Convolution"', 'type="NoSuchOperator"'))
    with pytest.raises(ModelFileError, match=r"model\.xml: OpenVINO cannot read it"):
        open_runner(pair)
    pair.write_bytes(random_images(1, 8, 8).tobytes())
    with pytest.raises(ModelFileError, match=r"model\.xml: OpenVINO cannot read it"):
        open_runner(pair)


def test_a_foreign_ir(tmp_path):
    x = openvino.opset13.parameter([1, 3, 4, 4], np.float32, name="image")
    model = openvino.Model([openvino.opset13.relu(x)], [x], "foreign")
    openvino.save_model(model, tmp_path / "foreign.xml")
    with pytest.raises(ModelFileError, match="without our manifest; write it with deeplab-export"):
        open_runner(tmp_path / "foreign.xml")


def test_a_manifest_that_is_none(pair):
    model = shared_core().read_model(pair)
    model.set_rt_info("not a manifest", ["deeplab_infer"])
    openvino.save_model(model, pair.with_name("other.xml"))
    with pytest.raises(ModelFileError, match=r"other\.xml: "):
        open_runner(pair.with_name("other.xml"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "onnxruntime"}, "only openvino runs OpenVINO files, not onnxruntime"),
        ({"backend": "torch"}, "only openvino runs OpenVINO files, not torch"),
        ({"device": "npu"}, "OpenVINO has no device 'npu' on this machine"),
    ],
)
def test_what_cannot_run_it(exported, options, message):
    with pytest.raises(BackendError, match=message):
        open_runner(exported["fp32"][0], **options)


def test_batches_are_checked(exported):
    runner = open_runner(exported["fp32"][0])
    with pytest.raises(BackendError, match="height 65 is outside"):
        runner.run(random_images(1, 65, 96))
    with pytest.raises(BackendError, match="needs uint8"):
        runner.run(np.zeros((1, 3, *SIZE), np.float32))
