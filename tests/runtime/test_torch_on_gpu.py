# SPDX-License-Identifier: Apache-2.0
"""The torch backend on a real GPU: precisions, graphs, windows, threads, compiled networks."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from deeplab_infer import Segmenter, checkpoints
from deeplab_infer.data.synthetic_streets import generate_street
from deeplab_infer.preprocess import resize_image
from deeplab_infer.runtime import open_runner
from deeplab_infer.runtime.torch_compiled import CompiledNetwork
from deeplab_infer.runtime.torch_passes import PASSES_KEPT

from ..networks import reference_logits

pytestmark = pytest.mark.gpu
SIZE = (256, 512)
PRECISIONS = [("fp32", 0.9995), ("tf32", 0.998), ("fp16", 0.998), ("bf16", 0.985)]


@pytest.fixture(scope="module")
def trained():
    return checkpoints.load("asset:deeplabv3plus_mobilenetv2_streets.safetensors")


@pytest.fixture(scope="module")
def images():
    return [generate_street(seed, *SIZE)[0] for seed in range(3)]


@pytest.mark.parametrize("cuda_graphs", [True, False])
@pytest.mark.parametrize(("precision", "agreement"), PRECISIONS)
def test_labels_of_the_cpu(trained, images, precision, agreement, cuda_graphs):
    """Near ties are the only pixels that may differ."""
    with (
        Segmenter(trained, backend="torch", device="cpu") as reference,
        Segmenter(trained, device="cuda", precision=precision, cuda_graphs=cuda_graphs) as segmenter,
    ):
        wanted = [reference.predict(image, scores=True) for image in images]
        for _ in range(3):  # as it is, captured, replayed
            for image, one in zip(images, wanted, strict=True):
                found = segmenter.predict(image, scores=True)
                assert np.mean(found.labels == one.labels) >= agreement
                assert np.abs(found.scores - one.scores).mean() < 0.02
        for found, one in zip(segmenter.predict(images), wanted, strict=True):
            assert np.mean(found.labels == one.labels) >= agreement
        described = segmenter.describe()
        assert (described["cuda_graphs"], described["precision"]) == (cuda_graphs, precision)
        assert described["device"].startswith("cuda:")


@pytest.mark.parametrize("process_allows", [True, False])
def test_float32_is_float32_whatever_the_process_allows(trained, images, process_allows):
    """TF32 keeps 10 bits of a factor, float32 23: their errors are far apart."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = process_allows
        wanted = reference_logits(trained, images[0][None], torch.float64)
        errors = {}
        for precision in ("fp32", "tf32"):
            runner = open_runner(trained, device="cuda", precision=precision)
            for _ in range(3):
                logits = runner.run(images[0][None])
            errors[precision] = np.abs(logits - wanted).max() / np.ptp(wanted)
        assert torch.backends.cudnn.allow_tf32 == torch.backends.cuda.matmul.allow_tf32 == process_allows
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
    assert errors["fp32"] < 2e-5
    assert errors["tf32"] > 5 * errors["fp32"]


@pytest.mark.parametrize(("precision", "agreement"), PRECISIONS)
def test_sliding_windows(trained, images, precision, agreement):
    placed = {"mode": "slide", "window": (160, 192), "window_stride": (96, 128), "window_batch": 3}
    with (
        Segmenter(trained, backend="torch", device="cpu", **placed) as reference,
        Segmenter(trained, device="cuda", precision=precision, **placed) as segmenter,
    ):
        for image in images:  # as it is, captured, replayed
            found, wanted = segmenter.predict(image, scores=True), reference.predict(image, scores=True)
            assert np.mean(found.labels == wanted.labels) >= agreement
            assert np.abs(found.scores - wanted.scores).mean() < 0.02
            assert found.metadata["one_pass"] is True


def test_images_are_resized_on_the_gpu_to_the_pixel(trained, images):
    runner, size = open_runner(trained, device="cuda"), (200, 404)
    resized = np.stack([resize_image(image, size) for image in images])
    one, _ = runner.segment(np.stack(images), size, SIZE, via=size)
    other, _ = runner.segment(resized, size, SIZE, via=size)
    assert np.array_equal(one, other)


def test_more_sizes_than_are_kept(trained, images):
    runner = open_runner(trained, device="cuda", precision="fp16")
    sizes = [(64 + 8 * index, 96) for index in range(PASSES_KEPT + 2)]

    def run(size):
        crop = images[0][None, : size[0], : size[1]]
        return runner.segment(crop, size, size)[0]

    first = {size: [run(size), run(size)][-1] for size in sizes}
    for size in [*sizes[::-1], *sizes, sizes[-1]]:
        assert np.mean(run(size) == first[size]) > 0.998
    assert runner.cuda_graphs is True


def test_threads_and_allocations_beside_captures(trained, images):
    stop = threading.Event()

    def allocate():
        while not stop.is_set():
            torch.empty(1 << 20, device="cuda").fill_(1).sum().item()

    with Segmenter(trained, device="cuda") as segmenter, ThreadPoolExecutor(5) as pool:
        wanted = [segmenter.predict(image[:, :width]).labels for image in images for width in (256, 384, 512)]
        beside = pool.submit(allocate)
        try:
            for _ in range(3):
                crops = [image[:, :width] for image in images for width in (256, 384, 512)]
                for found, labels in zip(pool.map(segmenter.predict, crops), wanted, strict=True):
                    assert np.mean(found.labels == labels) > 0.999
        finally:
            stop.set()
        beside.result()
        assert segmenter.describe()["cuda_graphs"] is True


def test_a_failed_capture_leaves_the_gpu_usable(trained, images, caplog):
    runner = open_runner(trained, device="cuda")
    enqueue = runner._passes._enqueue

    def waits(job, source):
        results = enqueue(job, source)
        torch.cuda.synchronize()  # not allowed in a capture
        return results

    runner._passes._enqueue = waits
    with caplog.at_level(logging.WARNING):
        found = [runner.segment(images[0][None], SIZE, SIZE)[0] for _ in range(4)]
    assert len([m for m in caplog.messages if "without CUDA graphs" in m]) == 1
    assert runner.cuda_graphs is False
    other = open_runner(trained, device="cuda")
    for _ in range(3):
        labels, _ = other.segment(images[0][None], SIZE, SIZE)
        assert all(np.mean(one == labels) > 0.999 for one in found)
    assert other.cuda_graphs is True


def test_memory(trained, images):
    runner = open_runner(trained, device="cuda", precision="fp16")
    for _ in range(3):
        runner.run(images[0][None])
    memory = runner.memory()
    assert 0 < memory["weights_mib"] <= memory["device_peak_mib"]
    assert memory["weights_mib"] <= memory["device_reserved_mib"]
    runner.close()


def test_compiled_without_clashing_with_captures():
    pytest.importorskip("triton")
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 1), nn.Sigmoid())
    model = model.eval().cuda().half().to(memory_format=torch.channels_last)
    x = torch.randn(1, 3, 32, 48, device="cuda", dtype=torch.half).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        network = CompiledNetwork(model, "max-autotune-no-cudagraphs")
        stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            wanted = network(x)
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                found = network(x)
            graph.replay()
        stream.synchronize()
        assert torch.allclose(found, wanted, atol=1e-3)
        assert torch.allclose(found, model(x), atol=1e-2)
