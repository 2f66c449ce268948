# SPDX-License-Identifier: Apache-2.0
"""The torch backend: precisions, the switches it sets, compiled networks, and a GPU's passes driven on the CPU."""

import functools
import gc
import logging
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from deeplab_infer import _C, Segmenter, build_model, checkpoints
from deeplab_infer.configs import load_config
from deeplab_infer.errors import BackendError, DeepLabError
from deeplab_infer.optimize import fold_batchnorm, fuse
from deeplab_infer.preprocess import resize_image
from deeplab_infer.runtime import open_runner, torch_compiled, torch_passes, torch_precision, torch_runner
from deeplab_infer.runtime.torch_compiled import SHAPES_COMPILED, CompiledNetwork
from deeplab_infer.runtime.torch_passes import PASSES_KEPT, Captured, CaptureError
from deeplab_infer.runtime.torch_precision import arithmetic, cast
from deeplab_infer.runtime.torch_runner import TorchGpuRunner, TorchRunner
from deeplab_infer.runtime.windows import Window, place_windows

from ..networks import STREETS, random_images

SIZE = (40, 56)
needs_emulation = pytest.mark.skipif(not _C.build_info()["cuda"], reason="this build has no CUDA kernels (no nvcc)")


class HostHardware:
    """The CPU as a GPU: kernels are emulated, and a capture runs nothing that can be seen before it is replayed."""

    device = torch.device("cpu")
    uses_cudnn = False

    def __init__(self, refuses=False):
        self.refuses = refuses
        self.captured = []  # (graph, the one whose memory it shares)
        self.replays = 0

    def stream(self):
        return nullcontext()

    def kernel_options(self):
        return {"emulate": True}

    def staging(self, shape, dtype):
        return torch.empty(shape, dtype=dtype)

    def synchronise(self):
        pass

    def capture(self, work, beside):
        if self.refuses:
            raise CaptureError("operation not permitted when stream is capturing")
        results = [result.zero_() for result in work()]

        def replay():
            self.replays += 1
            for result, new in zip(results, work(), strict=True):
                result.copy_(new)

        made = Captured(results, replay, len(self.captured))
        self.captured.append((made, beside))
        return made


def gpu_runner(network, **options):
    hardware = HostHardware(options.pop("refuses", False))
    return TorchGpuRunner(network, "cpu", hardware=hardware, **options), hardware


def on_passes(model, **options):
    """A Segmenter whose runner goes from pixels to labels in one pass, as on a GPU."""
    segmenter = Segmenter(model, backend="torch", device="cpu", threads=1, **options)
    segmenter._runner, hardware = gpu_runner(model)
    return segmenter, hardware


def assert_same(found, wanted):
    """The labels of two roads to the same logits: near ties are the only pixels that may differ."""
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    assert np.mean(found == wanted) >= 0.999


# -- precisions


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-6), ("fp16", 2e-3), ("bf16", 1e-2)])
@pytest.mark.parametrize("fused", [True, False])
def test_precisions_on_a_cpu(network, precision, tolerance, fused):
    images = random_images(2, *SIZE)
    wanted = open_runner(network, backend="torch").run(images)
    runner = open_runner(network, backend="torch", precision=precision, fused=fused)
    found = runner.run(images)
    assert found.dtype == np.float32
    assert np.abs(found - wanted).max() <= tolerance * (wanted.max() - wanted.min())
    assert runner.manifest.precision == precision
    weights = open_runner(network, backend="torch").memory()["weights_mib"]
    share = runner.memory()["weights_mib"] / weights
    assert share == 1 if precision == "fp32" else 0.5 <= share < 0.55
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters()), "the caller's stay"
    with pytest.raises(AttributeError):
        runner.cuda_graphs  # noqa: B018 (describe() asks for it)


def test_segmenter_says_its_precision(network):
    with Segmenter(network, backend="torch", precision="bf16", threads=1) as segmenter:
        assert segmenter.describe()["precision"] == "bf16"
        assert segmenter.predict(random_images(1, *SIZE)[0]).metadata["precision"] == "bf16"
    assert Segmenter(network, backend="torch").describe()["precision"] == "fp32"


def test_refused_precisions_and_devices(network, monkeypatch):
    with pytest.raises(BackendError, match="no precision 'int8'; use fp32, tf32, fp16, bf16"):
        open_runner(network, backend="torch", precision="int8")
    with pytest.raises(BackendError, match="tf32 is what an NVIDIA GPU"):
        open_runner(network, backend="torch", precision="tf32")
    for device in ("tpu", "cuda:first", "cpu:0"):
        with pytest.raises(BackendError, match=f"no device '{device}'"):
            open_runner(network, backend="torch", device=device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    with pytest.raises(BackendError, match=r"no GPU 3 for torch; the last one is cuda:0"):
        open_runner(network, backend="torch", device="cuda:3")
    assert torch_runner._device("auto") == torch_runner._device("cuda") == "cuda:0"


def test_a_cpu_without_low_precision_says_so(network, monkeypatch, caplog):
    monkeypatch.setattr(torch_precision, "_cpu_supports", lambda check: check.endswith("bf16_supported"))
    with caplog.at_level(logging.WARNING):
        open_runner(network, backend="torch", precision="bf16")
        assert not caplog.messages
        open_runner(network, backend="torch", precision="fp16")
    assert caplog.messages == ["this CPU has no fp16 arithmetic: the results are right, but slower than fp32"]


@pytest.mark.parametrize("name", ["deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024", STREETS])
def test_what_fused_kernels_read_stays_float32(name):
    model = fold_batchnorm(build_model(load_config(name)).eval())
    fusion = fuse(model)
    cast(model, torch.float16, fusion)
    kinds = {path: layer.weight.dtype for path, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}
    kept = {path for path, kind in kinds.items() if kind == torch.float32}
    depthwise = {p for p in kinds if model.get_submodule(p).groups > 1}
    assert kept == depthwise, "all of them run fused"
    assert kinds["classifier"] == torch.float16
    layer = model.get_submodule(next(iter(kept)))
    assert layer.bias is None or layer.bias.dtype == torch.float32


# -- torch's switches


def switches():
    return {
        "conv": torch.backends.cudnn.conv.fp32_precision,
        "rnn": torch.backends.cudnn.rnn.fp32_precision,
        "matmul": torch.backends.cuda.matmul.fp32_precision,
        "onednn": torch.backends.mkldnn.matmul.fp32_precision,
        "all": torch.backends.fp32_precision,
        "benchmark": torch.backends.cudnn.benchmark,
    }


def set_nothing():
    pass


def set_older():
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.benchmark = True


def set_medium():
    torch.set_float32_matmul_precision("medium")


def set_newer():
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    torch.backends.cuda.matmul.fp32_precision = "tf32"


needs_newer = pytest.mark.skipif(
    not hasattr(torch.backends.cudnn, "conv"), reason="torch before 2.9 has the older switches only"
)


@needs_newer
@pytest.mark.parametrize("tf32", [True, False])
@pytest.mark.parametrize("chosen", [set_nothing, set_older, set_medium, set_newer])
def test_switches_are_set_for_the_call_only(chosen, tf32):
    initial = switches()
    try:
        chosen()
        before = switches()
        with arithmetic(tf32=tf32, benchmark=True):
            inside = switches()
            assert (inside["conv"] == "tf32") == (inside["matmul"] == "tf32") == tf32
            assert inside["benchmark"] is True
            if chosen is not set_newer:
                assert torch.backends.cuda.matmul.allow_tf32 == tf32, "torch.compile reads this one"
            with arithmetic(tf32=not tf32):
                assert (switches()["conv"] == "tf32") == (not tf32)
            assert switches() == inside
        assert switches() == before
        with pytest.raises(ZeroDivisionError), arithmetic(tf32=tf32):
            raise ZeroDivisionError
        assert switches() == before
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = True
        for owner, name in ((torch.backends.cudnn.conv, "conv"), (torch.backends.cuda.matmul, "matmul"),
                            (torch.backends.mkldnn.matmul, "onednn")):  # fmt: skip
            owner.fp32_precision = initial[name]
        torch.backends.cudnn.benchmark = initial["benchmark"]
    assert switches() == initial


@pytest.mark.parametrize("tf32", [True, False])
def test_switches_of_an_older_torch(monkeypatch, tf32):
    cudnn = SimpleNamespace(allow_tf32=True, benchmark=False)
    matmul = SimpleNamespace(allow_tf32=False)
    monkeypatch.setattr(torch_precision.torch, "backends", SimpleNamespace(
        cudnn=cudnn, cuda=SimpleNamespace(matmul=matmul)
    ))  # fmt: skip
    with arithmetic(tf32=tf32, benchmark=True):
        assert (cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark) == (tf32, tf32, True)
    assert (cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark) == (True, False, False)


# -- passes


@needs_emulation
@pytest.mark.parametrize("options", [{}, {"test_scale": (96, 48)}, {"align_corners": True}])
def test_one_pass_gives_the_labels_of_the_cpu(network, options):
    model = checkpoints.with_config(network, network.config.replace(**options))
    reference = Segmenter(model, backend="torch", device="cpu", threads=1)
    segmenter, hardware = on_passes(model)
    for seed in range(3):  # as it is, captured, replayed
        image = random_images(1, *SIZE, seed=seed)[0]
        wanted, found = (one.predict(image, scores=True) for one in (reference, segmenter))
        assert_same(found.labels, wanted.labels)
        assert np.abs(found.scores - wanted.scores).max() < 1e-4
        assert found.metadata["one_pass"] is True
        assert found.metadata["cuda_graphs"] is True
        assert found.metadata["network_input"] == wanted.metadata["network_input"]
    assert (len(hardware.captured), hardware.replays) == (1, 2)
    images = list(random_images(3, *SIZE))
    for found, wanted in zip(segmenter.predict(images), reference.predict(images), strict=True):
        assert_same(found.labels, wanted.labels)
    assert_same(
        segmenter.predict(images[0], probabilities=True).labels, reference.predict(images[0]).labels
    )  # logits to the host


@needs_emulation
def test_images_are_resized_in_the_pass_to_the_pixel(network):
    runner, _ = gpu_runner(network)
    images, size = random_images(2, 75, 101), (48, 64)
    resized = np.stack([resize_image(image, size) for image in images])
    one, _ = runner.segment(images, size, (75, 101), via=size)
    other, _ = runner.segment(resized, size, (75, 101), via=size)
    assert runner.resizes
    assert np.array_equal(one, other)


@needs_emulation
@pytest.mark.parametrize("batch", [1, 4, 9])
def test_sliding_windows_in_one_pass(network, batch):
    image, placed = random_images(1, 60, 81)[0], {"window": (40, 48), "window_stride": (30, 32)}
    with Segmenter(network, backend="torch", device="cpu", threads=1, mode="slide", **placed) as reference:
        wanted = reference.predict(image, scores=True)
    segmenter, _ = on_passes(network, mode="slide", **placed)
    found = segmenter.predict(image, scores=True)
    assert_same(found.labels, wanted.labels)
    assert found.metadata["one_pass"] is True
    runner, hardware = gpu_runner(network)
    windows = place_windows(60, 81, (40, 48), (30, 32))
    for _ in range(3):
        labels, scores = runner.segment_windows(image, windows, (60, 81), batch=batch, scores=True)
        assert_same(labels, wanted.labels)
        assert np.abs(scores - wanted.scores).max() < 1e-4
    assert hardware.replays == 2
    other, none = runner.segment_windows(image, windows, (30, 41), batch=batch)
    assert other.shape == (30, 41)
    assert none is None
    with pytest.raises(DeepLabError, match="no regular grid"):
        runner.segment_windows(image, [*windows, Window(0, 0, 60, 81)], (60, 81), batch=batch)
    with pytest.raises(DeepLabError, match=r"an image of \[60, 81\], got one of \[40, 81\]"):
        runner.segment_windows(image[:40], windows, (60, 81), batch=batch)
    with pytest.raises(BackendError, match="needs uint8"):
        runner.segment_windows(image.astype(np.float32), windows, (60, 81), batch=batch)


@needs_emulation
def test_old_shapes_make_room(network):
    runner, hardware = gpu_runner(network)
    sizes = [(8, 8 + index) for index in range(PASSES_KEPT + 1)]

    def run(size):
        return runner.segment(random_images(1, *size), size, size)[0]

    first = run(sizes[0])
    assert np.array_equal(run(sizes[0]), first)
    assert len(hardware.captured) == 1
    assert hardware.captured[0][1] is None
    for size in sizes[1:-1]:
        run(size)
    run(sizes[1])
    assert hardware.captured[1][1] is hardware.captured[0][0], "memory is shared with a recording that is kept"
    run(sizes[0])
    run(sizes[-1])  # the third size is the one that was not used longest
    kept = [job.network for job in runner._passes._kept]
    assert kept == [*sizes[3:-1], sizes[1], sizes[0], sizes[-1]]
    captured = len(hardware.captured)
    assert np.array_equal(run(sizes[0]), first)
    assert len(hardware.captured) == captured
    untimed = [job.network for job, one in runner._passes._kept.items() if not one.benchmark]
    assert untimed == [sizes[-1]], "images of ever new sizes do not time cuDNN's algorithms"


@needs_emulation
def test_recordings_that_are_gone_share_no_memory(network):
    runner, hardware = gpu_runner(network)
    for index in range(PASSES_KEPT + 1):
        size = (8, 8 + index)
        for _ in range(2 if index in (0, PASSES_KEPT) else 1):
            runner.segment(random_images(1, *size), size, size)
    assert [beside for _, beside in hardware.captured] == [None, None]


@needs_emulation
def test_a_failed_capture_is_said_once(network, caplog):
    segmenter, _ = on_passes(network)
    segmenter._runner, hardware = gpu_runner(network, refuses=True)
    image = random_images(1, *SIZE)[0]
    assert segmenter.describe()["cuda_graphs"] is True
    with caplog.at_level(logging.WARNING):
        found = [segmenter.predict(image).labels for _ in range(4)]
        segmenter.predict(image[:30])
        segmenter.predict(image[:30])
    assert all(np.array_equal(found[0], one) for one in found)
    assert [m for m in caplog.messages if "CUDA graphs" in m] == [
        "running without CUDA graphs, a little slower: operation not permitted when stream is capturing"
    ]
    assert segmenter.describe()["cuda_graphs"] is False
    assert not hardware.captured


@needs_emulation
def test_without_graphs_nothing_is_captured(network):
    runner, hardware = gpu_runner(network, cuda_graphs=False)
    for _ in range(3):
        runner.segment(random_images(1, *SIZE), SIZE, SIZE)
    assert runner.cuda_graphs is False
    assert not hardware.captured


@needs_emulation
def test_threads_take_turns(network):
    runner, _ = gpu_runner(network)
    images = [random_images(1, 24, 32 + 8 * (seed % 3), seed=seed) for seed in range(6)]
    wanted = [runner.segment(image, image.shape[1:3], image.shape[1:3])[0] for image in images]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            found = pool.map(lambda image: runner.segment(image, image.shape[1:3], image.shape[1:3])[0], images)
            assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))


@needs_emulation
def test_results_are_the_caller_s(network):
    runner, _ = gpu_runner(network)
    results = [runner.run(random_images(1, *SIZE, seed=seed)) for seed in range(4)]
    again = [TorchRunner(network, "cpu").run(random_images(1, *SIZE, seed=seed)) for seed in range(4)]
    assert all(np.array_equal(a, b) for a, b in zip(results, again, strict=True))


@pytest.mark.parametrize("make", [lambda network: TorchRunner(network, "cpu"), lambda network: gpu_runner(network)[0]])
def test_closed_networks_say_so(network, make):
    runner = make(network)
    assert runner.memory()["weights_mib"] > 1
    weights = weakref.ref(runner._model)
    runner.close()
    gc.collect()
    assert weights() is None, "its memory is free"
    runner.close()
    with pytest.raises(BackendError, match="closed; open it again"):
        runner.run(random_images(1, *SIZE))
    with pytest.raises(BackendError, match="closed"):
        runner.memory()


def test_full_memory_is_an_error_with_advice(network, monkeypatch):
    runner, hardware = gpu_runner(network)

    def full(shape, dtype):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(hardware, "staging", full)
    with pytest.raises(BackendError, match="the GPU's memory is full"):
        runner.run(random_images(1, *SIZE))


def test_the_auxiliary_head_is_left_out():
    model = build_model(load_config("deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024")).eval()
    runner = TorchRunner(model, "cpu")
    assert model.auxiliary is not None
    assert all(not name.startswith("auxiliary") for name, _ in runner._model.named_parameters())


# -- compiled


class Head(nn.Module):
    """A little of everything: torch's convolution, a fused kernel, an activation."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.register_buffer("weight", torch.randn(4, 1, 3, 3))

    def forward(self, x):
        y = torch.ops.deeplab.depthwise(
            self.conv(x), self.weight.reshape(1, 4, 3, 3), torch.ones(1, 4), torch.zeros(1, 4), 1, [2], "relu"
        )
        return torch.sigmoid(y[0]) + 1


@pytest.mark.slow
def test_compiled_networks_give_the_same():
    model, x = Head().eval(), torch.randn(1, 3, 8, 9)
    with torch.inference_mode():
        wanted, network = model(x), CompiledNetwork(model, None)
        for _ in range(2):
            assert torch.allclose(network(x), wanted, atol=1e-6)


def compile_eagerly(monkeypatch):
    """Everything of torch.compile but code generation, which takes minutes."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))


def test_a_compiled_runner(network, monkeypatch):
    compile_eagerly(monkeypatch)
    images = random_images(1, 24, 32)
    with Segmenter(network, backend="torch", device="cpu", compiled=True, threads=1) as segmenter:
        found = segmenter.predict(images[0])
        runner = segmenter._runner
        assert runner.compiled
        assert_same(found.labels, Segmenter(network, backend="torch", device="cpu").predict(images[0]).labels)


@needs_emulation
def test_compiled_passes(network, monkeypatch):
    compile_eagerly(monkeypatch)
    runner, _ = gpu_runner(network, compiled=True)
    images = random_images(1, 24, 32)
    wanted, _ = gpu_runner(network)[0].segment(images, (24, 32), (24, 32))
    for _ in range(3):
        assert np.array_equal(runner.segment(images, (24, 32), (24, 32))[0], wanted)
    assert runner._compile_mode == "max-autotune-no-cudagraphs"


def test_as_many_shapes_as_torch_keeps_are_compiled(monkeypatch, caplog):
    compile_eagerly(monkeypatch)
    for _ in range(2):  # another network has programs of its own
        model = Head().eval()
        network = CompiledNetwork(model, None)
        caplog.clear()
        with caplog.at_level(logging.WARNING), torch.inference_mode():
            for width in [*range(4, 4 + SHAPES_COMPILED + 2), 4]:
                x = torch.randn(1, 3, 5, width)
                assert torch.equal(network(x), model(x))
        assert [m for m in caplog.messages if "further sizes run without" in m] == [
            f"the network was compiled for {SHAPES_COMPILED} sizes; further sizes run without torch.compile: give "
            "images of fewer sizes"
        ]


def test_a_compiler_that_fails_is_an_error_with_advice(monkeypatch):
    def broken(graph, inputs):
        raise OSError("g++: not found")

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=broken))
    network = CompiledNetwork(Head().eval(), None)
    with torch.inference_mode(), pytest.raises(BackendError, match=r"g\+\+: not found.*or run without compiled"):
        network(torch.randn(1, 3, 5, 6))


def test_an_error_of_the_network_stays_what_it_is():
    def wrong(x):
        raise KeyError("own")

    with pytest.raises(KeyError, match="own"):
        torch_compiled._call(wrong, torch.randn(1))


# -- the GPU's side of it, on a CUDA that only takes notes


class FakeCuda:
    """``torch.cuda`` as far as `CudaHardware` uses it."""

    def __init__(self):
        self.streams, self.current, self.captures = [], ["default"], []
        self.fails = False

    def Stream(self, device):
        self.streams.append(SimpleNamespace(waited=[], cuda_stream=len(self.streams) + 1))
        self.streams[-1].wait_stream = self.streams[-1].waited.append
        return self.streams[-1]

    def current_stream(self, device):
        return self.current[-1]

    @contextmanager
    def stream(self, stream):
        self.current.append(stream)
        depth = len(self.current)
        try:
            yield
        finally:
            del self.current[depth - 1 :]

    def CUDAGraph(self):
        graph = SimpleNamespace(replay=lambda: None)
        graph.pool = lambda: ("pool of", id(graph))
        return graph

    @contextmanager
    def graph(self, graph, pool, stream, capture_error_mode):
        self.captures.append((pool, stream, capture_error_mode))
        self.current.append(stream)
        yield
        if self.fails:  # as torch: its stream stays the current one
            raise RuntimeError("capture invalidated")
        self.current.pop()


def test_captures_on_a_gpu(monkeypatch):
    fake = FakeCuda()
    monkeypatch.setattr(torch_passes.torch, "cuda", fake)
    hardware = torch_passes.CudaHardware(torch.device("cuda", 1))
    first_stream = fake.streams[0]
    assert first_stream.waited == ["default"], "the weights are there before the stream starts"
    first = hardware.capture(lambda: ["result"], None)
    assert (first.results, first.replay) == (["result"], first.graph.replay)
    hardware.capture(list, first)
    assert fake.captures == [
        (None, first_stream, "thread_local"),
        (first.graph.pool(), first_stream, "thread_local"),
    ]
    with hardware.stream():
        assert hardware.kernel_options() == {"stream": 1}
    fake.fails = True
    with pytest.raises(CaptureError, match="invalidated"):
        hardware.capture(list, first)
    assert fake.current == ["default"]
    with hardware.stream():
        assert hardware.kernel_options() == {"stream": 2}, "the stream of a broken capture is not used again"
