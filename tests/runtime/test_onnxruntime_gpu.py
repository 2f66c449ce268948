# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime with its tensors in memory that is given to it; the CPU provider stands in for the GPU's."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from deeplab_infer import Segmenter
from deeplab_infer.engine_manifest import Profile
from deeplab_infer.errors import BackendError
from deeplab_infer.manifest import read_onnx_manifest
from deeplab_infer.runtime import onnxruntime_runner, open_runner
from deeplab_infer.runtime.gpu_runner import GpuRunner
from deeplab_infer.runtime.onnxruntime_gpu import CUDA, RTX, TENSORRT, OnnxRuntimeEngine, provider_options

from ..networks import random_images
from .fake_gpu import FakeCuda

PROFILE = Profile((1, 2, 4), (64, 64, 64), (32, 96, 128))


def make_runner(path):
    cuda, manifest = FakeCuda(), read_onnx_manifest(path)
    engine = OnnxRuntimeEngine(onnxruntime.InferenceSession(str(path)), manifest, ("cpu", 0), cuda.synchronise)
    return GpuRunner(engine, manifest, cuda, "onnxruntime", contexts=1, cuda_graphs=False), cuda


@pytest.mark.parametrize("name", ["model_file", "labels_file"])
def test_bound_memory_gives_what_the_plain_session_gives(request, monkeypatch, name):
    path = request.getfixturevalue(name)
    runner, cuda = make_runner(path)
    reference = open_runner(path)
    sizes = [(1, 48, 64)] if name == "labels_file" else [(1, 48, 64), (2, 97, 131), (1, 33, 35)]
    for size in sizes:
        images = random_images(*size)
        assert np.array_equal(runner.run(images), reference.run(images))
    monkeypatch.setattr("deeplab_infer.segmenter.open_runner", lambda *_, **__: runner)
    image = random_images(1, 48, 64)[0]
    with Segmenter("model.onnx") as segmenter:
        found = segmenter.predict(image)
        assert found.metadata["one_pass"]
        assert found.metadata["cuda_graphs"] is False
    monkeypatch.undo()
    with Segmenter(path) as wanted:
        assert np.mean(found.labels == wanted.predict(image).labels) > 0.999
    assert cuda.is_clean


def test_errors_of_the_session_are_ours(model_file):
    runner, cuda = make_runner(model_file)
    context = runner._engine.create_context()
    context.prepare(0, (1, 48, 64, 5), 0)  # five channels
    addresses = {"image": cuda.malloc(48 * 64 * 5), "logits": cuda.malloc(1 << 16)}
    with pytest.raises(BackendError, match="ONNX Runtime could not run the model"):
        context.enqueue(addresses, 0)


@pytest.mark.parametrize(
    ("provider", "wanted"),
    [
        (CUDA, {"device_id": "1"}),
        (TENSORRT, {"trt_profile_min_shapes": "image:1x64x32x3", "trt_engine_cache_path": "folder",
                    "trt_profile_max_shapes": "image:4x64x128x3"}),
        (RTX, {"device_id": "1", "nv_profile_opt_shapes": "image:2x64x96x3"}),
    ],
)  # fmt: skip
def test_providers_that_build_engines_get_limits_and_a_cache(model_file, provider, wanted):
    options = provider_options(provider, read_onnx_manifest(model_file), Path("folder/model.onnx"), 1, PROFILE)
    assert wanted.items() <= options.items()
    floats = replace(read_onnx_manifest(model_file), input_kind="float")
    if provider != CUDA:
        assert "image:1x3x64x32" in provider_options(provider, floats, Path("x.onnx"), 0, PROFILE).values()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "onnxruntime-tensorrt"}, "has no TensorrtExecutionProvider .*onnxruntime-gpu"),
        ({"backend": "onnxruntime-rtx"}, "has no NvTensorRTRTXExecutionProvider"),
        ({"backend": "onnxruntime-rtx", "device": "cpu"}, "has no device 'cpu'"),
        ({"device": "cuda:1"}, "has no CUDAExecutionProvider"),
        ({"device": "cuda:x"}, "has no device 'cuda:x'"),
    ],
)
def test_what_is_not_there(model_file, options, message):
    with pytest.raises(BackendError, match=message):
        open_runner(model_file, **options)


def test_auto_says_why_it_runs_on_the_cpu(model_file, monkeypatch, caplog):
    """A CUDA build of ONNX Runtime on a machine without a driver."""
    available = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime_runner.onnxruntime, "get_available_providers", lambda: available)
    assert open_runner(model_file).device == "cpu"
    assert "running on the CPU: CUDA could not" in caplog.text
    with pytest.raises(BackendError, match="CUDA could not"):
        open_runner(model_file, device="cuda")
