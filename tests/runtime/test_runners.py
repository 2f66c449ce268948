# SPDX-License-Identifier: Apache-2.0
"""Backends agree with each other, and refuse what they cannot run."""

import importlib.util

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from deeplab_infer.errors import BackendError, DeepLabError, ModelFileError
from deeplab_infer.runtime import BACKENDS, available_backends, open_runner

from ..networks import random_images, reference_logits


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "torch"])
def test_backends_give_the_network_s_logits(backend, network, model_file):
    runner = open_runner(network if backend == "torch" else model_file, backend=backend, threads=1)
    images = random_images(2, 50, 67)
    expected = reference_logits(network, images)
    found = runner.run(images)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= 1e-4 * (expected.max() - expected.min())
    assert runner.name == backend
    assert runner.device == "cpu"
    first = found.copy()
    runner.run(random_images(2, 50, 67, seed=1))
    assert np.array_equal(first, found), "a later run must not change an earlier result"
    runner.close()


def test_auto_picks_by_what_is_given(network, model_file):
    assert open_runner(model_file).name == "onnxruntime"
    assert open_runner(network).name == "openvino"
    assert open_runner(network, backend="torch").name == "torch"
    assert set(available_backends()) < set(BACKENDS)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (np.zeros((1, 8, 8, 3), np.float32), "needs uint8"),
        (np.zeros((8, 8, 3), np.uint8), "needs uint8"),
        (np.zeros((1, 3, 8, 8), np.uint8), "needs uint8"),
        (np.zeros((9, 8, 8, 3), np.uint8), r"batch 9 is outside .*--batch 1:9:9"),
    ],
)
def test_bad_batches(model_file, batch, message):
    runner = open_runner(model_file)
    with pytest.raises(BackendError, match=message):
        runner.run(batch)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "tflite"}, "unknown backend 'tflite'"),
        ({"device": "tpu"}, "no device 'tpu'"),
        ({"device": "cuda"}, "CUDAExecutionProvider"),
        ({"backend": "openvino", "device": "npu"}, "has no device 'npu'"),
        ({"backend": "torch"}, "runs checkpoints, not .onnx"),
        ({"threads": 0}, "threads must be at least 1"),
    ],
)
def test_bad_options(model_file, options, message):
    with pytest.raises(BackendError, match=message):
        open_runner(model_file, **options)


def test_what_is_not_a_model(network, tmp_path):
    with pytest.raises(BackendError, match="cannot run a dict"):
        open_runner({})
    with pytest.raises(BackendError, match="needs an exported .onnx"):
        open_runner(network, backend="onnxruntime")
    with pytest.raises(BackendError, match="does not run TensorRT engines"):
        open_runner(tmp_path / "model.engine", backend="onnxruntime")
    with pytest.raises(BackendError, match="'tensorrt' needs an engine"):
        open_runner(tmp_path / "model.onnx", backend="tensorrt")
    with pytest.raises(ModelFileError, match="no such file"):
        open_runner(tmp_path / "model.engine")
    with pytest.raises(DeepLabError, match="no such"):
        open_runner("missing.pth")
    with pytest.raises(BackendError, match="no device 'tpu'"):
        open_runner(network, device="tpu")
    with pytest.raises(BackendError, match="no CUDA GPU"):
        open_runner(network, device="cuda")


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_damaged_files(tmp_path, model_file, backend):
    path = tmp_path / "model.onnx"
    with pytest.raises(ModelFileError, match="no such file"):
        open_runner(path, backend=backend)
    path.write_bytes(b"")
    with pytest.raises(ModelFileError, match="not an ONNX file"):
        open_runner(path, backend=backend)
    path.write_bytes(model_file.read_bytes()[:5000])
    with pytest.raises(ModelFileError, match="truncated"):
        open_runner(path, backend=backend)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_graph_that_the_runtime_refuses(tmp_path, model_file, backend):
    """The manifest is whole, the graph is not."""
    model = onnx.load(str(model_file))
    for node in model.graph.node:
        node.input[:] = ["other" if name == "image" else name for name in node.input]
    model.graph.node.insert(0, helper.make_node("NoSuchOperator", ["image"], ["other"]))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match="cannot load it"):
        open_runner(tmp_path / "model.onnx", backend=backend)


def test_foreign_onnx_files(tmp_path):
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])])  # fmt: skip
    (tmp_path / "other.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(ModelFileError, match="without our manifest"):
        open_runner(tmp_path / "other.onnx")


MISSING = ("onnxruntime", "openvino", "torch", "tensorrt", "tensorrt_rtx")


def test_missing_packages_name_the_command_that_installs_them(monkeypatch, model_file, network):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in MISSING else find(name))
    assert available_backends() == []
    with pytest.raises(BackendError, match=r"pip install 'deeplab-infer\[onnxruntime\]'"):
        open_runner(model_file)
    with pytest.raises(BackendError, match=r"pip install 'deeplab-infer\[openvino\]'"):
        open_runner(model_file, backend="openvino")
    with pytest.raises(BackendError, match="needs torch to run"):
        open_runner("weights.pth")
