# SPDX-License-Identifier: Apache-2.0
"""Engines that TensorRT-RTX really builds here, without a GPU; and what the builder refuses."""

import importlib.util
import json
import os
import signal
import threading
from dataclasses import replace

import onnx
import pytest
from deeplab_export.calibration import Calibration
from deeplab_export.engine import EngineOptions, build_engine, default_profile, resolve_options
from deeplab_export.engine_layers import layers_table, parse_inspector, types_of
from deeplab_export.graph import Signature
from deeplab_export.onnx_export import TracedNetwork
from deeplab_export.precision import choose_precision
from deeplab_export.trtexec import trtexec_command
from onnx import helper

from deeplab_infer import Segmenter
from deeplab_infer.engine_manifest import (
    EngineManifest,
    Profile,
    manifest_path,
    read_engine_manifest,
    write_engine_manifest,
)
from deeplab_infer.errors import BackendError, ExportError, ModelFileError
from deeplab_infer.manifest import read_onnx_manifest
from deeplab_infer.runtime import tensorrt_flavour
from deeplab_infer.runtime.tensorrt_engine import check_version, explain_refusal, weights_manifest
from deeplab_infer.runtime.tensorrt_flavour import Flavour, load_flavour

from ..networks import make_network
from .conftest import FAMILIES

if importlib.util.find_spec("tensorrt_rtx") is None:
    pytest.skip("tensorrt_rtx is not installed", allow_module_level=True)
SMALL = Signature(batch=(1, 1, 2), height=(64, 64, 64), width=(96, 96, 96))


@pytest.fixture(scope="module")
def traced(streets):
    return TracedNetwork(streets, SMALL, calibration=Calibration(count=1))


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory, traced):
    path = tmp_path_factory.mktemp("engine") / "model.onnx"
    traced.write(path, choose_precision("fp16"))
    return path


@pytest.fixture(scope="module")
def engine(onnx_file):
    path = onnx_file.with_suffix(".engine")
    return path, build_engine(onnx_file, path, command="deeplab-export again")


# Both resizes of the labels; the rest of a family's graph does not depend on the output.
OUTPUTS = [(family, "logits") for family in FAMILIES] + [
    ("mobilenet", "labels"),
    ("v3plus-r18-align-corners", "labels"),
]


@pytest.mark.parametrize(("family", "output"), OUTPUTS)
def test_every_family_builds(tmp_path, family, output):
    name, overrides = FAMILIES[family]
    signature = Signature(output=output, batch=(1, 1, 1), height=(64, 64, 64), width=(96, 96, 96))
    TracedNetwork(make_network(name, overrides), signature).write(tmp_path / "model.onnx", choose_precision("fp16"))
    built = build_engine(tmp_path / "model.onnx", tmp_path / "model.engine")
    assert built.manifest.layers["half"] > 20
    assert read_engine_manifest(tmp_path / "model.engine") == built.manifest


@pytest.mark.parametrize(
    ("precision", "rest", "types"),
    [
        ("fp32", "fp32", {"float"}),
        ("tf32", "fp32", {"float"}),
        ("fp16", "fp32", {"half", "float"}),
        ("bf16", "fp32", {"bf16", "float"}),
        ("int8", "fp32", {"int8", "float"}),
        ("int8", "fp16", {"int8", "half", "float"}),
        ("fp8", "fp16", {"fp8", "half", "float"}),
    ],
)
def test_every_precision_builds_and_is_what_the_layers_say(tmp_path, traced, precision, rest, types):
    traced.write(tmp_path / "model.onnx", choose_precision(precision, rest))
    built = build_engine(tmp_path / "model.onnx", tmp_path / "model.engine")
    convolutions = [layer for layer in built.layers if layer.kind == "CONVOLUTION"]
    assert types <= set(types_of(built.layers))
    assert set(types_of(convolutions)) <= types
    dense = {"fp32": "float", "tf32": "float", "fp16": "half"}.get(precision, precision)
    assert types_of(convolutions)[dense] >= len(convolutions) // 2
    assert built.manifest.tf32 == (precision == "tf32")


def test_open_sizes_and_several_profiles(tmp_path, streets):
    signature = Signature(batch=(1, 1, 4), height=(32, 64, 256), width=(32, 96, 256))
    TracedNetwork(streets, signature).write(tmp_path / "model.onnx", choose_precision("fp16"))
    profiles = (Profile((1, 1, 1), (32, 64, 128), (32, 96, 128)), Profile((1, 2, 4), (64, 64, 64), (96, 96, 96)))
    built = build_engine(tmp_path / "model.onnx", tmp_path / "model.engine", EngineOptions(profiles=profiles))
    assert built.manifest.profiles == profiles
    manifest = built.manifest.manifest
    assert (manifest.batch, manifest.height, manifest.width) == ((1, 1, 4), (32, 64, 128), (32, 96, 128))
    with pytest.raises(ExportError, match=r"height 32:64:512 is not within the 32\.\.256 .* --height 32:64:512"):
        build_engine(
            tmp_path / "model.onnx",
            tmp_path / "other.engine",
            EngineOptions(profiles=(Profile((1, 1, 1), (32, 64, 512), (32, 96, 128)),)),
        )
    assert not (tmp_path / "other.engine").exists()


def test_the_plan_is_pure_and_its_manifest_is_beside_it(engine):
    path, built = engine
    assert path.read_bytes()[:4] in (b"ftrt", b"ptrt") or path.read_bytes()[:1] != b"{"
    assert json.loads(manifest_path(path).read_text())["plan_sha256"] == built.manifest.plan_sha256
    assert built.manifest.layers_from == "network definition"
    assert built.manifest.gpu is None
    assert built.manifest.onnx == "model.onnx"


def test_progress_is_told_and_ctrl_c_cancels(tmp_path, onnx_file):
    phases = []
    build_engine(onnx_file, tmp_path / "model.engine", progress=lambda *step: phases.append(step))
    assert {done <= total for _, done, total in phases} == {True}
    assert len({phase for phase, _, _ in phases}) > 2
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        build_engine(
            onnx_file,
            tmp_path / "cancelled.engine",
            progress=lambda *step: os.kill(os.getpid(), signal.SIGINT) if step[1] == 3 else None,
        )
    assert signal.getsignal(signal.SIGINT) is before
    assert not list(tmp_path.glob("cancelled*"))


def test_a_build_in_another_thread(tmp_path, onnx_file):
    thread = threading.Thread(target=build_engine, args=(onnx_file, tmp_path / "model.engine"))
    thread.start()
    thread.join()
    assert read_engine_manifest(tmp_path / "model.engine").flavour == "tensorrt_rtx"


def test_an_operator_that_tensorrt_does_not_have_is_named(tmp_path, onnx_file):
    model = onnx.load(str(onnx_file))
    old = model.graph.node[-1].output[0]
    model.graph.node[-1].output[0] = "before"
    model.graph.node.append(helper.make_node("StringNormalizer", ["before"], [old], name="odd_one"))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match=r"node 'odd_one' \(StringNormalizer\)") as caught:
        build_engine(tmp_path / "model.onnx", tmp_path / "model.engine")
    assert "update TensorRT" in str(caught.value) or "--plugin" in str(caught.value)
    assert not list(tmp_path.glob("*.engine*"))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"hardware_compatibility": "ampere+"}, ExportError, "tensorrt_rtx .* has no hardware compatibility"),
        ({"version_compatible": True}, ExportError, "has no version compatibility"),
        ({"strip_weights": True}, BackendError, "needs an NVIDIA GPU to build an engine without its weights"),
        ({"refit": True}, BackendError, "needs an NVIDIA GPU to build an engine that can be refitted"),
        (
            {"compute_capabilities": ("9.0",)},
            ExportError,
            r"does not build for compute capability 9.0; it knows .*8\.9",
        ),
        ({"plugins": ("missing.so",)}, BackendError, "missing.so: no such plugin library"),
        ({"flavour": "tensorrt"}, BackendError, "tensorrt is not installed"),
        ({"flavour": "trt"}, BackendError, "unknown TensorRT flavour"),
    ],
)
def test_what_the_builder_refuses(tmp_path, onnx_file, options, error, message):
    with pytest.raises(error, match=message):
        build_engine(onnx_file, tmp_path / "model.engine", EngineOptions(**options))
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_is_no_plugin(tmp_path, onnx_file):
    (tmp_path / "bad.so").write_bytes(b"not a library")
    with pytest.raises(BackendError, match="cannot load this plugin library"):
        build_engine(onnx_file, tmp_path / "model.engine", EngineOptions(plugins=(str(tmp_path / "bad.so"),)))


def test_one_compute_capability(tmp_path, onnx_file):
    options = EngineOptions(compute_capabilities=("8.9",))
    built = build_engine(onnx_file, tmp_path / "model.engine", options)
    assert built.manifest.compute_capabilities == ("8.9",)


@pytest.mark.parametrize("bad", [{"hardware_compatibility": "x"}, {"workspace": 0}, {"optimisation_level": 6}])
def test_bad_options(bad):
    with pytest.raises(ExportError):
        EngineOptions(**bad)


def test_the_profile_where_no_size_was_given(onnx_file):
    manifest = replace(read_onnx_manifest(onnx_file), batch=(1, 1, 8), height=(1, 512, 8192), width=(1, 1024, 8192))
    assert str(default_profile(manifest)) == "1 x 128:512:1024 x 256:1024:1024"
    native = replace(manifest, config=replace(manifest.config, test_scale=(2048, 1024)))
    assert str(default_profile(native)) == "1 x 256:1024:2048 x 512:2048:2048"
    slide = replace(
        manifest, config=replace(manifest.config, test_mode="slide", window=(769, 769), window_stride=(513, 513))
    )
    assert str(default_profile(slide)) == "1:8:8 x 769 x 769"
    fixed = replace(manifest, height=(64, 64, 64), batch=(2, 2, 2))
    assert str(default_profile(fixed)) == "2 x 64 x 256:1024:1024"


# -- the flavours, of which only RTX can be had here


class Fake:
    """What `Flavour` reads of a TensorRT module."""

    def __init__(self, version):
        self.__version__ = version
        self.NetworkDefinitionCreationFlag = type("Flags", (), {"STRONGLY_TYPED": 1})


def flavour(name, version):
    return Flavour(name, Fake(version), type("Log", (), {"errors": []})())


@pytest.mark.parametrize(
    ("name", "version", "wanted", "unwanted"),
    [
        ("tensorrt", "10.13.0", ["trtexec", "--stronglyTyped", "--versionCompatible"], ["--computeCapabilities"]),
        ("tensorrt", "11.1.0", ["trtexec", "--hardwareCompatibilityLevel=ampere+"], ["--stronglyTyped"]),
    ],
)
def test_the_line_for_trtexec(onnx_file, name, version, wanted, unwanted):
    options = EngineOptions(
        profiles=(Profile((1, 1, 2), (64, 64, 64), (96, 96, 96)),),
        version_compatible=True,
        hardware_compatibility="ampere+",
        strip_weights=True,
    )
    manifest, found = read_onnx_manifest(onnx_file), flavour(name, version)
    line = trtexec_command(manifest, "a b.onnx", "b.engine", resolve_options(options, manifest, found), found)
    assert "'--onnx=a b.onnx'" in line
    assert "--minShapes=image:1x64x96x3 --optShapes=image:1x64x96x3 --maxShapes=image:2x64x96x3" in line
    for word in [*wanted, "--stripWeights", "--noTF32"]:
        assert word in line
    for word in unwanted:
        assert word not in line


def test_flavours_that_are_missing_broken_or_old(monkeypatch):
    monkeypatch.setattr(tensorrt_flavour, "installed_flavours", list)
    with pytest.raises(BackendError, match=r"TensorRT is not installed; run: pip install 'deeplab-infer\[tensorrt\]'"):
        load_flavour()
    with pytest.raises(BackendError, match=r"tensorrt_rtx is not installed.*\[tensorrt-rtx\]"):
        load_flavour("tensorrt_rtx")
    monkeypatch.setattr(tensorrt_flavour, "installed_flavours", lambda: ["tensorrt"])
    import_module = tensorrt_flavour.importlib.import_module

    def broken(name):
        if name == "tensorrt":
            raise ImportError("libnvinfer.so.10: cannot open shared object file")
        return import_module(name)

    monkeypatch.setattr(tensorrt_flavour.importlib, "import_module", broken)
    with pytest.raises(BackendError, match="tensorrt is installed but cannot be loaded: libnvinfer.so.10"):
        load_flavour()
    monkeypatch.setattr(tensorrt_flavour.importlib, "import_module", lambda name: Fake("8.6.1"))
    tensorrt_flavour._import.cache_clear()
    with pytest.raises(BackendError, match=r"tensorrt 8.6.1 is too old; 10.3 or newer"):
        load_flavour()
    tensorrt_flavour._import.cache_clear()


def test_a_broken_tensorrt_beside_rtx_is_said(monkeypatch, caplog):
    monkeypatch.setattr(tensorrt_flavour, "installed_flavours", lambda: ["tensorrt", "tensorrt_rtx"])
    assert load_flavour().name == "tensorrt_rtx"
    assert "taking tensorrt_rtx" in caplog.text


# -- engines and manifests


def test_an_engine_needs_a_gpu(engine):
    with pytest.raises(BackendError, match="no NVIDIA driver|no NVIDIA GPU|CUDA could not"):
        Segmenter(engine[0])


def test_damaged_and_separated_files(tmp_path, engine):
    path, built = engine
    copy = tmp_path / "model.engine"
    with pytest.raises(ModelFileError, match="no such file"):
        Segmenter(copy)
    copy.write_bytes(path.read_bytes())
    with pytest.raises(ModelFileError, match=r"its manifest model.engine.json is missing; copy both"):
        Segmenter(copy)
    write_engine_manifest(copy, built.manifest)
    assert read_engine_manifest(copy) == built.manifest
    copy.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelFileError, match=r"is not the engine that .* describes .*: deeplab-export again"):
        Segmenter(copy)
    manifest_path(copy).write_text("{")
    with pytest.raises(ModelFileError, match="cannot be read"):
        Segmenter(copy)
    manifest_path(copy).write_text(built.manifest.to_json().replace('"schema_version": 1\n', '"schema_version": 7\n'))
    with pytest.raises(ModelFileError, match="version 7"):
        Segmenter(copy)


@pytest.mark.parametrize(
    ("built", "here", "compatible", "runs"),
    [
        ("10.13.0.35", "10.13.0.35", False, True),
        ("10.13.0.35", "10.13.3.9", False, False),
        ("10.13.0.35", "11.1.0", True, False),
        ("10.3.0", "10.13.0", True, True),
        ("10.13.0", "10.3.0", True, False),
    ],
)
def test_engines_of_another_version(engine, built, here, compatible, runs):
    manifest = replace(engine[1].manifest, flavour="tensorrt", version=built, version_compatible=compatible)
    if runs:
        check_version(engine[0], manifest, flavour("tensorrt", here))
        return
    with pytest.raises(
        BackendError, match=rf"built with tensorrt {built}, this machine has {here}.*again: deeplab-export"
    ):
        check_version(engine[0], manifest, flavour("tensorrt", here))


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("Cuda Runtime (cudaError 35: driver is insufficient)", "no usable driver was found"),
        ("TensorRT-RTX does not support this compute capability", "build the engine with --flavour tensorrt"),
        (
            "the engine plan file is generated on an incompatible device",
            "it was built without a GPU: build it again here",
        ),
    ],
)
def test_why_an_engine_cannot_be_opened(engine, message, said):
    found = flavour("tensorrt_rtx", "1.7.1")
    found.logger.errors.append(message)
    assert said in explain_refusal(engine[0], engine[1].manifest, found)


def test_stripped_engines_find_their_weights(tmp_path, engine, onnx_file):
    manifest = replace(engine[1].manifest, weights="stripped", refittable=True)
    copy = tmp_path / "model.engine"
    with pytest.raises(ModelFileError, match=r"was built without its weights and needs .*model.onnx"):
        weights_manifest(copy, manifest, None)
    (tmp_path / "model.onnx").write_bytes(onnx_file.read_bytes()[:-1])
    with pytest.raises(ModelFileError, match="is not the file that"):
        weights_manifest(copy, manifest, None)
    (tmp_path / "model.onnx").write_bytes(onnx_file.read_bytes())
    assert weights_manifest(copy, manifest, None) == manifest.manifest


def test_other_weights_for_an_engine(tmp_path, engine, traced):
    path, built = engine
    other = tmp_path / "other.onnx"
    traced.write(other, choose_precision("fp16"))
    with pytest.raises(BackendError, match=r"cannot be replaced; build it with --refit"):
        Segmenter(path, weights=other)
    manifest = replace(built.manifest, refittable=True)
    assert weights_manifest(path, manifest, other).batch == manifest.manifest.batch
    traced.write(other, choose_precision("fp32"))
    with pytest.raises(ModelFileError, match="only the weights may differ"):
        weights_manifest(path, manifest, other)
    with pytest.raises(ModelFileError, match="no such file"):
        weights_manifest(path, manifest, tmp_path / "missing.onnx")
    with pytest.raises(BackendError, match="in TensorRT engines only"):
        Segmenter(other, weights=other)


# -- the inspector's JSON, in the words of each version

TEN = {
    "Layers": [
        {"Name": "conv1 + relu", "LayerType": "CaskConvolution", "TacticName": "sm90_xmma_fprop",
         "Inputs": [{"Name": "x", "Dimensions": [1, 64, 32, 48], "Format/Datatype": "Row major linear FP16 format"}],
         "Outputs": [{"Name": "y", "Dimensions": [1, 64, 32, 48],
                      "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}]},
        {"Name": "q", "LayerType": "Reformat",
         "Inputs": [{"Dimensions": [1, 3], "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
         "Outputs": [{"Dimensions": [1, 3], "Format/Datatype": "Row major linear FP32"}]},
    ],
    "Bindings": ["image", "logits"],
}  # fmt: skip
ELEVEN = {
    "Layers": [
        {"Name": "conv1", "LayerType": "gemm", "Inputs": [{"Dimensions": [1, 8], "Datatype": "BFloat16"}],
         "Outputs": [{"Dimensions": [1, 8], "Datatype": "Float"}]},
        {"Name": "conv2", "LayerType": "gemm", "Inputs": [{"Dimensions": [1, 8], "Datatype": "FP8"}], "Outputs": []},
        "a layer of an engine without detailed verbosity",
    ],
    "I/O Tensors": [],
}  # fmt: skip


def test_the_inspectors_of_10_and_11():
    ten = parse_inspector(json.dumps(TEN))
    assert [(layer.type, layer.inputs[0]) for layer in ten] == [("half", "half 1x64x32x48"), ("int8", "int8 1x3")]
    assert ten[0].tactic == "sm90_xmma_fprop"
    eleven = parse_inspector(json.dumps(ELEVEN))
    assert [layer.type for layer in eleven] == ["bf16", "fp8", ""]
    assert types_of(ten) == {"half": 1, "int8": 1}
    assert len(layers_table(ten, "layers").columns) == 6


def test_manifest_round_trip(engine):
    manifest = replace(engine[1].manifest, plugins=("a.so",), compute_capabilities=("8.9", "12.0"), weights="stripped")
    assert EngineManifest.from_json(manifest.to_json()) == manifest
