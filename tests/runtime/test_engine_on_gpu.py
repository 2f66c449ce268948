# SPDX-License-Identifier: Apache-2.0
"""Engines on a real GPU: built, run, compared with ONNX Runtime; and the CUDA layer below them."""

import copy
import importlib.util

import numpy as np
import pytest
import torch
from deeplab_export import export_onnx
from deeplab_export.calibration import Calibration
from deeplab_export.engine import EngineOptions, build_engine

from deeplab_infer import Segmenter, checkpoints
from deeplab_infer.data.synthetic_streets import generate_street

pytestmark = pytest.mark.gpu
FLAVOURS = [name for name in ("tensorrt", "tensorrt_rtx") if importlib.util.find_spec(name) is not None]
needs_exporter = pytest.mark.skipif(
    importlib.util.find_spec("onnxscript") is None or not FLAVOURS, reason="needs onnxscript and a TensorRT"
)
SIZE = (256, 512)


@pytest.fixture(scope="module")
def trained():
    return checkpoints.load("asset:deeplabv3plus_mobilenetv2_streets.safetensors")


@needs_exporter
@pytest.mark.parametrize("kind", ["uint8", "float"])
@pytest.mark.parametrize(("precision", "agreement"), [("fp32", 0.999), ("fp16", 0.998), ("int8", 0.98)])
def test_engines_give_the_labels_of_the_onnx_file(tmp_path, trained, precision, agreement, kind):
    """Near ties are the only pixels that may differ; the shares are those of the verification."""
    path = tmp_path / "model.onnx"
    export_onnx(
        trained, path, input=kind, precision=precision, rest="fp16", calibration=Calibration(count=4),
        batch=(1, 1, 4), height=SIZE[0], width=SIZE[1],
    )  # fmt: skip
    built = build_engine(path, tmp_path / "model.engine")
    assert built.manifest.layers_from == "engine inspector"
    images = [generate_street(seed, *SIZE)[0] for seed in range(3)]
    with Segmenter(path, device="cpu") as reference, Segmenter(tmp_path / "model.engine") as segmenter:
        wanted = [result.labels for result in reference.predict(images)]
        for _ in range(3):  # eager, captured, replayed
            for found, labels in zip(segmenter.predict(images), wanted, strict=True):
                assert np.mean(found.labels == labels) >= agreement
        assert segmenter.describe()["cuda_graphs"] is True
        scores = segmenter.predict(images[0], scores=True).scores
        assert np.abs(scores - reference.predict(images[0], scores=True).scores).mean() < 0.02


@needs_exporter
@pytest.mark.parametrize("kind", ["uint8", "float"])
@pytest.mark.parametrize("batch", [(1, 1, 8), (4, 4, 4)])
def test_windows_give_the_labels_of_the_onnx_file(tmp_path, trained, batch, kind):
    """7 windows or fewer fill a batch up; the third run of each size replays its graph."""
    path, window = tmp_path / "model.onnx", (192, 256)
    export_onnx(trained, path, input=kind, batch=(1, 1, 8), height=window[0], width=window[1])
    if batch[0] > 1:
        path = tmp_path / "fixed.onnx"
        export_onnx(trained, path, input=kind, batch=batch, height=window[0], width=window[1])
    build_engine(path, tmp_path / "model.engine")
    options = {"mode": "slide", "window": window, "window_stride": (128, 171)}
    with Segmenter(path, device="cpu", **options) as reference:
        for cuda_graphs in (True, False):
            with Segmenter(tmp_path / "model.engine", cuda_graphs=cuda_graphs, **options) as segmenter:
                for size in ((300, 500), SIZE, SIZE, SIZE, (192, 256)):
                    image = generate_street(1, *size)[0]
                    found, wanted = segmenter.predict(image, scores=True), reference.predict(image, scores=True)
                    assert found.metadata["one_pass"] is True
                    assert np.mean(found.labels == wanted.labels) >= 0.999
                    assert np.abs(found.scores - wanted.scores).mean() < 0.02
                assert segmenter.describe()["cuda_graphs"] is cuda_graphs


@needs_exporter
@pytest.mark.parametrize("options", [{"strip_weights": True}, {"refit": True}])
def test_weights_from_an_onnx_file(tmp_path, trained, options):
    sizes = {"batch": 1, "height": SIZE[0], "width": SIZE[1], "precision": "fp16"}
    export_onnx(trained, tmp_path / "model.onnx", **sizes)
    build_engine(tmp_path / "model.onnx", tmp_path / "model.engine", EngineOptions(**options))
    image = generate_street(0, *SIZE)[0]
    other = copy.deepcopy(trained)
    with torch.no_grad():
        other.classifier.bias += torch.arange(10)  # the last class wins more often
    export_onnx(other, tmp_path / "other.onnx", **sizes)
    weights = tmp_path / "other.onnx" if "refit" in options else None
    expected = "other.onnx" if "refit" in options else "model.onnx"
    with (
        Segmenter(tmp_path / "model.engine", weights=weights) as engine,
        Segmenter(tmp_path / expected, device="cpu") as reference,
    ):
        assert np.mean(engine.predict(image).labels == reference.predict(image).labels) > 0.998


@needs_exporter
def test_torch_tensors_are_used_in_place(tmp_path, trained):
    export_onnx(trained, tmp_path / "model.onnx", batch=1, height=SIZE[0], width=SIZE[1])
    build_engine(tmp_path / "model.onnx", tmp_path / "model.engine")
    image = generate_street(0, *SIZE)[0]
    with Segmenter(tmp_path / "model.engine") as segmenter:
        wanted = segmenter.predict(image).labels
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            tensor = torch.from_numpy(image).cuda()
            labels = segmenter.predict_gpu(tensor)
            taken = torch.as_tensor(labels, device="cuda")
        stream.synchronize()
        assert np.array_equal(taken.cpu().numpy(), wanted)
        assert np.array_equal(labels.numpy(), wanted)


def test_memory_streams_events_and_graphs():
    pytest.importorskip("cuda.bindings.runtime")
    from deeplab_infer.runtime.cuda import Cuda

    cuda = Cuda()
    stream, event = cuda.create_stream(), cuda.create_event()
    host, device, back = cuda.malloc_host(1024), cuda.malloc(1024), cuda.malloc_host(1024)
    source, result = cuda.host_view(host, (256,), np.int32), cuda.host_view(back, (256,), np.int32)

    def there_and_back():
        cuda.copy(device, host, 1024, stream)
        cuda.copy(back, device, 1024, stream)

    source[:] = 7
    there_and_back()
    cuda.record(event, stream)
    cuda.wait(stream, event)
    cuda.synchronise(stream)
    assert (result == 7).all()
    cuda.begin_capture(stream)
    there_and_back()
    graph = cuda.end_capture(stream)
    source[:] = 8
    cuda.launch(graph, stream)
    cuda.synchronise(stream)
    assert (result == 8).all()
    array = cuda.new_array((256,), np.int32, stream)
    cuda.copy(array.address, host, 1024, stream)
    assert (array.numpy() == 8).all()
    cuda.copy_rows(device, 12, host, 16, 10, 3, stream)  # pitches of any size, as windows of an image have
    cuda.copy(back, device, 1024, stream)
    cuda.synchronise(stream)
    rows = source.view(np.uint8)[:48].reshape(3, 16)[:, :10]
    assert (result.view(np.uint8)[:36].reshape(3, 12)[:, :10] == rows).all()
    cuda.destroy_graph(graph)
    for address in (host, back):
        cuda.free_host(address)
    cuda.free(device)
    cuda.destroy_event(event)
    cuda.destroy_stream(stream)
