# SPDX-License-Identifier: Apache-2.0
"""Winograd's convolutions against float64 torch, and the graphs that they may and may not change."""

import logging

import numpy as np
import pytest
import torch
from deeplab_export import export_onnx
from torch.nn import functional as F

from deeplab_infer.optimize import unfuse
from deeplab_infer.runtime import open_runner

from ..networks import make_network, random_images, reference_logits

openvino = pytest.importorskip("openvino")
from openvino import opset13 as ops  # noqa: E402

from deeplab_infer.runtime import openvino_winograd as winograd  # noqa: E402
from deeplab_infer.runtime.openvino_core import shared_core  # noqa: E402

# batch, channels, filters, height, width, rate
SIZES = [
    (1, 7, 5, 1, 1, 1),
    (1, 16, 24, 8, 12, 1),
    (2, 9, 11, 13, 22, 1),
    (1, 8, 8, 16, 17, 2),
    (2, 5, 6, 31, 19, 4),
    (1, 4, 3, 9, 40, 12),
]


@pytest.fixture
def everything(monkeypatch):
    """Rewrite narrow layers and small maps too."""
    monkeypatch.setattr(winograd, "MIN_CHANNELS", 1)
    monkeypatch.setattr(winograd, "MAX_SHARE", float("inf"))


def weights(channels, filters, kernel=3, seed=0):
    values = np.random.default_rng(seed).standard_normal((filters, channels, kernel, kernel))
    return (values / np.sqrt(kernel * kernel * channels)).astype(np.float32)


def images(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def graph_of(shape, weight, rate=1, stride=1, pad=None):
    """Convolution, bias, ReLU."""
    image = ops.parameter(shape, np.float32)
    pads = [rate if pad is None else pad] * 2
    result = ops.convolution(image, weight, [stride] * 2, pads, pads, [rate] * 2)
    bias = np.linspace(-0.5, 0.5, result.get_output_partial_shape(0)[1].get_length(), dtype=np.float32)
    return openvino.Model([ops.relu(ops.add(result, ops.constant(bias.reshape(1, -1, 1, 1))))], [image]), bias


def run(model, batch):
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 2}
    return shared_core().compile_model(model, "CPU", settings)(batch)[0]


def error_bound(batch, weight):
    """Of float32: every step's rounding, worst signs throughout (Higham, "Accuracy and Stability", 3.1)."""
    output, matrix, input_ = winograd.matrices()
    filters = np.abs(np.einsum("ai,kcij,bj->abck", matrix, weight, matrix)).sum(2)
    reach = np.abs(input_).sum(1)
    products = (filters * np.outer(reach, reach)[..., None] * np.abs(batch).max()).max((0, 1))
    steps = weight.shape[1] + 2 * 36 + 8
    return steps * 2**-24 * np.abs(output).sum(1).max() ** 2 * products.max()


def test_the_identity_holds_in_float64():
    output, filter_, input_ = winograd.matrices()
    tile, kernel = images(6, 6).astype(np.float64), weights(1, 1)[0, 0].astype(np.float64)
    result = output @ ((filter_ @ kernel @ filter_.T) * (input_ @ tile @ input_.T)) @ output.T
    expected = F.conv2d(torch.from_numpy(tile)[None, None], torch.from_numpy(kernel)[None, None])[0, 0].numpy()
    assert np.abs(result - expected).max() < 1e-13


@pytest.mark.parametrize(("batch", "channels", "filters", "height", "width", "rate"), SIZES)
def test_results(everything, batch, channels, filters, height, width, rate):
    weight, batch_of_images = weights(channels, filters), images(batch, channels, height, width)
    model, bias = graph_of(batch_of_images.shape, weight, rate)
    assert len(winograd.rewrite(model)) == 1
    result = run(model, batch_of_images)
    exact = F.conv2d(
        torch.from_numpy(batch_of_images).double(),
        torch.from_numpy(weight).double(),
        torch.from_numpy(bias).double(),
        padding=rate,
        dilation=rate,
    ).relu()
    assert result.shape == exact.shape
    assert np.abs(result - exact.numpy()).max() <= error_bound(batch_of_images, weight)


def test_a_wide_layer_as_it_comes():
    weight, batch = weights(256, 256), images(1, 256, 16, 24)
    model, _ = graph_of(batch.shape, weight, 2)
    plain = run(model.clone(), batch)
    names = [op.get_friendly_name() for op in model.get_ops() if op.get_type_name() == "Convolution"]
    assert winograd.rewrite(model) == names
    assert not [op for op in model.get_ops() if op.get_type_name() == "Convolution"]
    assert np.abs(run(model, batch) - plain).max() <= 2 * error_bound(batch, weight)


def test_bands_make_no_difference(everything, monkeypatch):
    weight, batch = weights(6, 5), images(2, 6, 45, 20)
    whole, _ = graph_of(batch.shape, weight, 2)
    banded = whole.clone()
    winograd.rewrite(whole)
    monkeypatch.setattr(winograd, "BAND_BYTES", 1)
    winograd.rewrite(banded)
    assert len(banded.get_ops()) > len(whole.get_ops())
    assert np.abs(run(banded, batch) - run(whole, batch)).max() <= 2 * error_bound(batch, weight)


def _through_half():
    half = ops.constant(weights(4, 4).astype(np.float16))
    return graph_of([1, 4, 16, 16], ops.convert(half, "f32"))[0]


def _quantised():
    low, high = (ops.constant(np.float32(value)) for value in (-1, 1))
    weight = ops.fake_quantize(ops.constant(weights(4, 4)), low, high, low, high, 255)
    return graph_of([1, 4, 16, 16], weight)[0]


def _grouped():
    image = ops.parameter([1, 4, 16, 16], np.float32)
    weight = ops.constant(weights(2, 4).reshape(2, 2, 2, 3, 3))
    return openvino.Model([ops.group_convolution(image, weight, [1, 1], [1, 1], [1, 1], [1, 1])], [image])


LEFT_ALONE = {
    "open height": lambda: graph_of([1, 4, -1, 16], weights(4, 4))[0],
    "1x1": lambda: graph_of([1, 4, 16, 16], weights(4, 4, kernel=1), pad=0)[0],
    "5x5": lambda: graph_of([1, 4, 16, 16], weights(4, 4, kernel=5), pad=2)[0],
    "stride": lambda: graph_of([1, 4, 16, 16], weights(4, 4), stride=2)[0],
    "no padding": lambda: graph_of([1, 4, 16, 16], weights(4, 4), pad=0)[0],
    "float16 weights": _through_half,
    "eight bits": _quantised,
    "groups": _grouped,
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_others_stay(everything, name):
    model = LEFT_ALONE[name]()
    before = [op.get_friendly_name() for op in model.get_ordered_ops()]
    assert winograd.rewrite(model) == []
    assert [op.get_friendly_name() for op in model.get_ordered_ops()] == before


@pytest.mark.parametrize(("channels", "size", "rate"), [(255, 16, 1), (256, 9, 4)], ids=["narrow", "tiles overhang"])
def test_what_would_not_gain_stays(channels, size, rate):
    model, _ = graph_of([1, channels, size, size], weights(channels, 256), rate)
    assert winograd.rewrite(model) == []


def test_a_network_whose_images_keep_a_size(caplog):
    network = make_network("deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024")
    unfuse(network)
    batch = random_images(1, 128, 256)
    exact = reference_logits(network, batch, torch.float64)
    runner = open_runner(network, backend="openvino", device="cpu", threads=2)
    with caplog.at_level(logging.INFO, logger="deeplab_infer"):
        plain = runner.run(batch)
        assert "Winograd" not in caplog.text
        results = [runner.run(batch) for _ in range(8)]
    assert caplog.text.count("Winograd") == 1
    rewritten = results[-1]
    assert not np.array_equal(plain, rewritten)
    assert np.array_equal(plain.argmax(1), rewritten.argmax(1))
    # Twenty layers behind each other, each within a few units in the last place of its range.
    assert np.abs(rewritten - exact).max() <= 20 * 2**-20 * np.abs(exact).max()


def test_not_fused_leaves_convolutions_alone(tmp_path, caplog):
    network = make_network("deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024")
    path = tmp_path / "fixed.onnx"
    export_onnx(network, path, height=128, width=256, batch=1)
    batch = random_images(1, 128, 256)
    results = {}
    for fused in (True, False):
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="deeplab_infer"):
            results[fused] = open_runner(path, backend="openvino", threads=2, fused=fused).run(batch)
        assert ("Winograd" in caplog.text) == fused
    assert not np.array_equal(results[True], results[False])
    assert np.array_equal(results[True].argmax(1), results[False].argmax(1))
