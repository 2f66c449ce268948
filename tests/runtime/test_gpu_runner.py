# SPDX-License-Identifier: Apache-2.0
"""The engine's runner on a GPU made of host memory: buffers, profiles, graphs, threads; see `fake_gpu`."""

import threading
from dataclasses import replace

import numpy as np
import pytest
from deeplab_export import export_onnx

from deeplab_infer import Segmenter
from deeplab_infer.engine_manifest import Profile
from deeplab_infer.errors import BackendError, DeepLabError, ImageError
from deeplab_infer.manifest import read_onnx_manifest
from deeplab_infer.runtime import open_runner
from deeplab_infer.runtime.gpu_runner import GpuRunner
from deeplab_infer.runtime.windows import place_windows

from ..networks import make_network, random_images
from .fake_gpu import FakeCuda, FakeEngine

PROFILE = Profile((1, 1, 2), (32, 48, 96), (32, 64, 128))


def make_runner(path, profiles=(PROFILE,), cuda=None, **options):
    manifest = read_onnx_manifest(path)
    sizes = {
        name: (
            min(getattr(p, name)[0] for p in profiles),
            getattr(profiles[0], name)[1],
            max(getattr(p, name)[2] for p in profiles),
        )
        for name in ("batch", "height", "width")
    }
    cuda = cuda or FakeCuda()
    engine = FakeEngine(path, cuda, profiles)
    options = {"profiles": profiles, "command": "deeplab-export x", **options}
    return GpuRunner(engine, replace(manifest, **sizes), cuda, "tensorrt", **options), engine, cuda


@pytest.fixture(scope="session")
def float_file(tmp_path_factory, network):
    path = tmp_path_factory.mktemp("exported") / "float.onnx"
    export_onnx(network, path, input="float")
    return path


def on_fake(monkeypatch, path, **options):
    """A Segmenter whose engine is the fake one; Segmenters made later have real backends."""
    runner, engine, cuda = make_runner(path, **options.pop("runner", {}))
    with monkeypatch.context() as patch:
        patch.setattr("deeplab_infer.segmenter.open_runner", lambda *_, **__: runner)
        return Segmenter("model.engine", **options), engine, cuda


def test_logits_are_those_of_the_graph_and_memory_goes_back(model_file):
    runner, engine, cuda = make_runner(model_file)
    reference = open_runner(model_file)
    for batch, height, width in [(1, 48, 64), (2, 96, 128), (1, 33, 35), (1, 48, 64)]:
        images = random_images(batch, height, width, seed=height)
        assert np.array_equal(runner.run(images), reference.run(images))
    assert engine.contexts == 3, "one context a shape"
    runner.close()
    runner.close()
    assert engine.closed
    assert cuda.is_clean
    with pytest.raises(BackendError, match="closed"):
        runner.run(random_images(1, 48, 64))


def test_the_third_run_replays_a_graph(model_file):
    runner, _, cuda = make_runner(model_file)
    answers = [runner.segment(random_images(1, 48, 64, seed), (48, 64), (48, 64))[0] for seed in (1, 2, 3, 4)]
    assert cuda.log.count("launch") == 3, "the first run is eager, the second is captured and launched"
    reference = make_runner(model_file, cuda=FakeCuda(graphs=False), cuda_graphs=False)[0]
    for seed, answer in zip((1, 2, 3, 4), answers, strict=True):
        assert np.array_equal(answer, reference.segment(random_images(1, 48, 64, seed), (48, 64), (48, 64))[0])


def test_a_driver_without_capture_is_said_and_survived(model_file, caplog):
    runner, _, cuda = make_runner(model_file, cuda=FakeCuda(graphs=False))
    images = random_images(1, 48, 64)
    answers = [runner.segment(images, (48, 64), (48, 64))[0] for _ in range(3)]
    assert np.array_equal(answers[0], answers[2])
    assert not runner.cuda_graphs
    assert "without CUDA graphs" in caplog.text
    assert "launch" not in cuda.log


@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_one_pass_gives_the_labels_of_the_other_backends(monkeypatch, model_file, float_file, kind):
    path = model_file if kind == "uint8" else float_file
    segmenter, _, cuda = on_fake(monkeypatch, path)
    with Segmenter(path) as reference:
        for seed, (height, width) in enumerate([(48, 64), (40, 90), (48, 64)]):
            image = random_images(1, height, width, seed)[0]
            found, wanted = segmenter.predict(image, scores=True), reference.predict(image, scores=True)
            assert np.mean(found.labels == wanted.labels) > 0.999  # emulated sums are ordered otherwise: near ties
            assert np.abs(found.scores - wanted.scores).max() < 1e-4
            assert found.metadata["one_pass"] and found.metadata["backend"] == "tensorrt"
    assert ("preprocess" in cuda.log) == (kind == "float")
    assert "upsample_labels" in cuda.log


def test_resizing_on_the_gpu_is_opencvs(monkeypatch, tmp_path):
    """A config with a test scale: the image is resized before the network and the labels come back at its size."""
    model = make_network(overrides=["test_scale=[128,64]", "resize_logits_twice=true"])
    export_onnx(model, tmp_path / "model.onnx", input="float")
    segmenter, _, cuda = on_fake(monkeypatch, tmp_path / "model.onnx")
    with Segmenter(tmp_path / "model.onnx") as reference:
        image = random_images(1, 90, 150)[0]
        found, wanted = segmenter.predict(image), reference.predict(image)
        assert found.labels.shape == (90, 150)
        assert np.mean(found.labels == wanted.labels) > 0.999
    assert "preprocess" in cuda.log


def test_labels_in_the_graph(monkeypatch, labels_file):
    fixed = Profile((1, 1, 4), (48, 48, 48), (64, 64, 64))
    segmenter, _, cuda = on_fake(monkeypatch, labels_file, runner={"profiles": (fixed,)})
    image = random_images(1, 48, 64)[0]
    with Segmenter(labels_file) as reference:
        assert np.array_equal(segmenter.predict(image).labels, reference.predict(image).labels)
        assert segmenter.predict(random_images(1, 60, 70)[0]).labels.shape == (60, 70)
    assert "upsample_labels" not in cuda.log


def test_batches_are_split_and_padded_to_the_profile(monkeypatch, model_file):
    pairs = Profile((2, 2, 2), (48, 48, 48), (64, 64, 64))
    segmenter, _, _ = on_fake(monkeypatch, model_file, runner={"profiles": (pairs,)})
    images = list(random_images(5, 48, 64))
    with Segmenter(model_file) as reference:
        for found, image in zip(segmenter.predict(images), images, strict=True):
            assert np.mean(found.labels == reference.predict(image).labels) > 0.999


@pytest.mark.parametrize("kind", ["uint8", "float"])
@pytest.mark.parametrize("batch", [(1, 1, 2), (1, 4, 8), (4, 4, 4), (3, 3, 5)])
def test_windows_run_through_the_engine(monkeypatch, model_file, float_file, kind, batch):
    """All of it on the GPU: one copy in, labels out, whatever batches the profile takes."""
    path = model_file if kind == "uint8" else float_file
    options = {"mode": "slide", "window": (48, 64), "window_stride": (32, 48)}
    limits = Profile(batch, (32, 48, 96), (32, 64, 128))
    segmenter, _, cuda = on_fake(monkeypatch, path, runner={"profiles": (limits,)}, **options)
    with Segmenter(path, **options) as reference:
        for seed, (height, width) in enumerate([(90, 120), (48, 64), (90, 120), (90, 120), (130, 60)]):
            image = random_images(1, height, width, seed)[0]
            cuda.log.clear()
            found, wanted = segmenter.predict(image, scores=True), reference.predict(image, scores=True)
            assert np.mean(found.labels == wanted.labels) > 0.999  # emulated sums are ordered otherwise: near ties
            assert np.abs(found.scores - wanted.scores).max() < 1e-4
            assert found.metadata["one_pass"] and found.metadata["windows"] == wanted.metadata["windows"]
            assert cuda.log.count("merge_windows") == cuda.log.count("upsample_labels") == 1
        assert "probabilities" not in found.metadata
        probabilities = segmenter.predict(image, probabilities=True).probabilities
        assert np.abs(probabilities - reference.predict(image, probabilities=True).probabilities).max() < 1e-4
    assert ("preprocess" in cuda.log) == (kind == "float")
    segmenter.close()
    assert cuda.is_clean


def test_windows_are_replayed_and_their_memory_is_kept(monkeypatch, model_file):
    options = {"mode": "slide", "window": (48, 64), "window_stride": (32, 48)}
    profiles = {"profiles": (Profile((1, 2, 4), (48, 48, 48), (64, 64, 64)),)}
    segmenter, engine, cuda = on_fake(monkeypatch, model_file, runner=profiles, **options)
    image = random_images(1, 90, 120)[0]  # 3 x 3 windows: 3 + 3 + 3
    answers = [segmenter.predict(image).labels for _ in range(2)]
    held = len(cuda.held)
    cuda.log.clear()
    answers += [segmenter.predict(image).labels for _ in range(2)]
    assert all(np.array_equal(answer, answers[0]) for answer in answers)
    assert cuda.log.count("launch") == 6
    assert engine.contexts == 1
    assert len(cuda.held) == held
    assert segmenter.predict(random_images(1, 48, 64)[0]).metadata["windows"] == 1


def test_windows_that_an_engine_refuses(model_file, labels_file):
    windows = place_windows(90, 120, (48, 64), (32, 48))
    image = random_images(1, 90, 120)[0]
    runner, _, _ = make_runner(model_file, profiles=(Profile((1, 1, 2), (64, 64, 64), (64, 64, 64)),))
    with pytest.raises(BackendError, match="is outside what the engine was built for"):
        runner.segment_windows(image, windows, (90, 120), batch=4)
    with pytest.raises(DeepLabError, match="place_windows gives one"):
        runner.segment_windows(image, windows[::-1], (90, 120), batch=4)
    with pytest.raises(DeepLabError, match="of an image of"):
        runner.segment_windows(image[1:], windows, (90, 120), batch=4)
    fixed = Profile((1, 1, 4), (48, 48, 48), (64, 64, 64))
    runner, _, _ = make_runner(labels_file, profiles=(fixed,))
    with pytest.raises(BackendError, match="windows need logits"):
        runner.segment_windows(image, windows, (90, 120), batch=4)


def test_several_profiles(model_file):
    small, large = Profile((1, 1, 1), (32, 32, 48), (32, 32, 64)), Profile((1, 2, 4), (96, 96, 96), (128, 128, 128))
    runner, _, _ = make_runner(model_file, profiles=(small, large))
    assert runner.run(random_images(1, 40, 40)).shape[0] == 1
    assert runner.run(random_images(4, 96, 128)).shape[0] == 4
    assert runner.profile_of(2, (96, 128)) == 1
    with pytest.raises(BackendError, match=r"1 x 64 x 96 is outside .* 1 x 32:32:48 x 32:32:64; 1:2:4 x 96 x 128"):
        runner.run(random_images(1, 64, 96))
    with pytest.raises(BackendError, match="deeplab-export x"):
        runner.segment(random_images(2, 40, 40), (40, 40), (40, 40))


def test_many_shapes_do_not_pile_up(model_file):
    runner, engine, cuda = make_runner(model_file)
    for height in range(40, 60):
        for _ in range(2):
            runner.segment(random_images(1, height, 64), (height, 64), (height, 64))
    assert len(cuda.executables) <= 8
    assert engine.contexts == 20
    held = len(cuda.held)
    for height in range(40, 60):
        runner.segment(random_images(1, height, 64), (height, 64), (height, 64))
    assert len(cuda.held) == held, "buffers are kept, not added"


def test_threads_share_two_contexts(model_file):
    runner, engine, _ = make_runner(model_file, contexts=2, cuda_graphs=False)
    images = [random_images(1, 48, 64, seed) for seed in range(6)]
    wanted = [open_runner(model_file).run(image) for image in images]
    failures = []

    def work(offset):
        for step in range(6):
            index = (offset + step) % 6
            if not np.array_equal(runner.run(images[index]), wanted[index]):
                failures.append(index)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert engine.contexts <= 2


def test_closing_while_a_call_waits(model_file):
    """The waiting call is told, and does not wait for ever."""
    runner, engine, cuda = make_runner(model_file, contexts=1)
    running, go_on, said = threading.Event(), threading.Event(), {}
    enqueue = cuda.do

    def slow(name, work):
        if name == "enqueue" and not running.is_set():
            running.set()
            go_on.wait(30)
        enqueue(name, work)

    cuda.do = slow

    def call(name):
        try:
            runner.run(random_images(1, 48, 64))
            said[name] = "ran"
        except BackendError as error:
            said[name] = str(error)

    first = threading.Thread(target=call, args=("first",))
    first.start()
    assert running.wait(30)
    second, closing = threading.Thread(target=call, args=("second",)), threading.Thread(target=runner.close)
    second.start()
    closing.start()
    go_on.set()
    for thread in (first, second, closing):
        thread.join(30)
        assert not thread.is_alive()
    assert said["first"] == "ran"
    assert said["second"] == "ran" or "closed" in said["second"]  # whichever of the two came first
    assert engine.closed
    assert cuda.is_clean


def test_no_memory_for_a_slot(model_file):
    with pytest.raises(BackendError, match="memory is full"):
        make_runner(model_file, cuda=FakeCuda(memory=1000))


def test_what_an_engine_refuses(monkeypatch, model_file, labels_file):
    runner, _, _ = make_runner(model_file)
    with pytest.raises(BackendError, match=r"--input float"):
        runner.segment(random_images(1, 50, 70), (48, 64), (50, 70))
    with pytest.raises(BackendError, match="needs uint8"):
        runner.run(np.zeros((1, 48, 64, 3), np.float32))
    with pytest.raises(BackendError, match="contexts must be at least 1"):
        make_runner(model_file, contexts=0)
    fixed = Profile((1, 1, 4), (48, 48, 48), (64, 64, 64))
    runner, _, _ = make_runner(labels_file, profiles=(fixed,))
    with pytest.raises(BackendError, match="no scores"):
        runner.segment(random_images(1, 48, 64), (48, 64), (48, 64), scores=True)
    segmenter, _, _ = on_fake(monkeypatch, model_file)
    with pytest.raises(DeepLabError, match="is not an array on a GPU"):
        segmenter.predict_gpu(random_images(1, 48, 64)[0])
    with Segmenter(model_file) as other, pytest.raises(DeepLabError, match="open a TensorRT engine"):
        other.predict_gpu(random_images(1, 48, 64)[0])


class OnFakeGpu:
    """What CuPy, Numba and PyCUDA arrays look like; the memory is the host's."""

    def __init__(self, pixels, **changes):
        self.pixels = pixels
        self.__cuda_array_interface__ = {
            "shape": pixels.shape, "typestr": pixels.dtype.str, "data": (pixels.ctypes.data, False), "strides": None,
            "version": 3, "stream": 7, **changes,
        }  # fmt: skip


@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_arrays_on_the_gpu_are_used_in_place(monkeypatch, model_file, float_file, kind):
    path = model_file if kind == "uint8" else float_file
    segmenter, _, cuda = on_fake(monkeypatch, path)
    image = random_images(1, 48, 64)[0]
    wanted = segmenter.predict(image).labels
    cuda.log.clear()
    labels = segmenter.predict_gpu(OnFakeGpu(image))
    assert np.array_equal(labels, wanted)
    assert "copy" not in cuda.log, "nothing crosses the bus"
    batch = random_images(2, 48, 64)
    assert segmenter.predict_gpu(OnFakeGpu(batch)).shape == (2, 48, 64)


@pytest.mark.parametrize(
    ("pixels", "changes", "message"),
    [
        (np.zeros((48, 64), np.uint8), {}, "must be uint8"),
        (np.zeros((48, 64, 3), np.float32), {}, "got float32"),
        (np.zeros((3, 48, 64), np.uint8), {}, r"got uint8 \[3, 48, 64\]"),
        (np.zeros((48, 64, 3), np.uint8), {"strides": (400, 3, 1)}, "C-contiguous"),
    ],
)
def test_arrays_on_the_gpu_that_are_no_images(monkeypatch, model_file, pixels, changes, message):
    segmenter, _, _ = on_fake(monkeypatch, model_file)
    with pytest.raises(ImageError, match=message):
        segmenter.predict_gpu(OnFakeGpu(pixels, **changes))
