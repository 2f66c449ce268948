# SPDX-License-Identifier: Apache-2.0
"""The manifest: round trip, and files that are damaged or not ours."""

import json

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from deeplab_infer.configs import load_config
from deeplab_infer.errors import ModelFileError
from deeplab_infer.manifest import METADATA_KEY, Manifest, read_onnx_manifest


def example():
    config = load_config("deeplabv3plus_r50-d8_4xb2-40k_cityscapes-769x769")
    return Manifest(
        config,
        "uint8",
        "logits",
        "fp16",
        18,
        (1, 1, 8),
        (1, 512, 2048),
        (64, 64, 64),
        "ab" * 32,
        "x.pth",
        {"torch": "2"},
    )


def tiny_onnx(metadata):
    value = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["image"], ["y"])], "g", [value],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])])  # fmt: skip
    model = helper.make_model(graph)
    for key, text in metadata.items():
        model.metadata_props.add(key=key, value=text)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def test_round_trip(tmp_path):
    manifest = example()
    assert Manifest.from_json(manifest.to_json()) == manifest
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_onnx({"other": "x", METADATA_KEY: manifest.to_json()}))
    assert read_onnx_manifest(path) == manifest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"schema_version": 99}', "version 99"),
        ('{"schema_version": 1}', "cannot be read"),
    ],
)
def test_bad_manifests(tmp_path, text, message):
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_onnx({METADATA_KEY: text}))
    with pytest.raises(ModelFileError, match=message) as error:
        read_onnx_manifest(path)
    assert "model.onnx" in str(error.value)


def test_unknown_fields_are_refused():
    values = json.loads(example().to_json())
    values["surprise"] = 1
    with pytest.raises(ModelFileError, match="surprise"):
        Manifest.from_json(json.dumps(values))


def test_files_that_are_not_ours(tmp_path):
    path = tmp_path / "model.onnx"
    with pytest.raises(ModelFileError, match="no such file"):
        read_onnx_manifest(path)
    with pytest.raises(ModelFileError, match="is a folder"):
        read_onnx_manifest(tmp_path)
    for content in (b"", b"\x89PNG\r\n\x1a\n" + b"x" * 100, b"hello world", b"\xff" * 50):
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match="not an ONNX file"):
            read_onnx_manifest(path)
    path.write_bytes(tiny_onnx({}))
    with pytest.raises(ModelFileError, match="without our manifest"):
        read_onnx_manifest(path)


def test_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "model.onnx"
    whole = tiny_onnx({METADATA_KEY: example().to_json()})
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelFileError):
            read_onnx_manifest(path)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_an_error_never_a_crash(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fuzz") / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelFileError):
        read_onnx_manifest(path)
