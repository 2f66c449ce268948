# SPDX-License-Identifier: Apache-2.0
"""`Segmenter` against a straightforward float64 computation, on every backend and kind of input."""

import io
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from deeplab_infer import Segmenter, checkpoints
from deeplab_infer.errors import BackendError, DeepLabError, ImageError
from deeplab_infer.preprocess import network_size, normalise, resize_image
from deeplab_infer.runtime.windows import place_windows

from ..networks import random_images, reference_logits


def resize(maps, size, align_corners):
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=align_corners)


def assert_labels(found, full):
    """Equal wherever the winner leads by more than rounding; ``full`` is float64 [C, H, W]."""
    top = full.topk(2, 0).values
    clear = ((top[0] - top[1]) > 1e-4 * (full.max() - full.min())).numpy()
    assert found.shape == tuple(full.shape[1:])
    assert (found == full.argmax(0).numpy())[clear].all()
    assert clear.mean() > 0.95


def logits_of(network, image):
    return torch.from_numpy(reference_logits(network, image[None])).double()


def with_backend(backend, network, model_file, **options):
    return Segmenter(network if backend == "torch" else model_file, backend=backend, threads=1, **options)


BACKENDS = ["torch", "onnxruntime", "openvino"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_whole_image(network, model_file, backend):
    image = random_images(1, 50, 67)[0]
    result = with_backend(backend, network, model_file).predict(image, scores=True, probabilities=True)
    full = resize(logits_of(network, image), (50, 67), network.config.align_corners)[0]
    assert_labels(result.labels, full)
    softmax = full.softmax(0).numpy()
    assert np.abs(result.probabilities - softmax).max() < 1e-4
    assert np.abs(result.scores - softmax.max(0)).max() < 1e-4
    assert result.metadata["backend"] == backend
    assert set(result.timings_ms) == {"preprocess", "inference", "postprocess"}


@pytest.mark.parametrize("twice", [True, False])
@pytest.mark.parametrize("align_corners", [True, False])
def test_resize_before_and_after_the_network(network, twice, align_corners):
    config = network.config.replace(test_scale=(96, 48), resize_logits_twice=twice, align_corners=align_corners)
    model = checkpoints.with_config(network, config)
    image = random_images(1, 40, 71)[0]
    size = network_size(40, 71, (96, 48))
    assert size == (48, 85)
    result = Segmenter(model).predict(image)
    logits = logits_of(model, cv2.resize(image, (85, 48), interpolation=cv2.INTER_LINEAR))
    full = resize(logits, size, align_corners) if twice else logits
    assert_labels(result.labels, resize(full, (40, 71), align_corners)[0])
    assert result.metadata["network_input"] == [48, 85]


def slide_reference(network, image, window, stride):
    total = torch.zeros(network.config.num_classes, *image.shape[:2], dtype=torch.float64)
    visits = torch.zeros(image.shape[:2], dtype=torch.float64)
    for w in place_windows(*image.shape[:2], window, stride):
        crop = image[w.top : w.bottom, w.left : w.right]
        total[:, w.top : w.bottom, w.left : w.right] += resize(logits_of(network, crop), w.size, False)[0]
        visits[w.top : w.bottom, w.left : w.right] += 1
    return total / visits


@pytest.mark.parametrize("backend", BACKENDS)
def test_sliding_windows(network, model_file, backend):
    image = random_images(1, 60, 81)[0]
    segmenter = with_backend(
        backend, network, model_file, mode="slide", window=(40, 48), window_stride=(30, 32), window_batch=3
    )
    result = segmenter.predict(image)
    assert_labels(result.labels, slide_reference(network, image, (40, 48), (30, 32)))
    assert result.metadata["windows"] == 6


@pytest.mark.parametrize("backend", BACKENDS)
def test_several_scales_and_flip(network, model_file, backend):
    image = random_images(1, 48, 64)[0]
    result = with_backend(backend, network, model_file, scales=(0.5, 1.0), flip=True).predict(image, scores=True)
    total = torch.zeros(network.config.num_classes, 48, 64, dtype=torch.float64)
    for height, width in ((24, 32), (48, 64)):
        resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        for flip in (False, True):
            logits = logits_of(network, np.ascontiguousarray(resized[:, ::-1]) if flip else resized)
            # Two resizes, as the reference: to the network's input, then to the image.
            full = resize(resize(logits, (height, width), False), (48, 64), False)[0].softmax(0)
            total += full.flip(2) if flip else full
    assert_labels(result.labels, total / 4)
    assert np.abs(result.scores - (total / 4).max(0).values.numpy()).max() < 1e-4
    assert result.metadata["passes"] == 4


def test_every_kind_of_image_gives_the_same(tmp_path, model_file):
    segmenter = Segmenter(model_file, threads=1)
    image = random_images(1, 40, 56)[0]
    expected = segmenter.predict(image).labels
    Image.fromarray(image).save(tmp_path / "a b.png")
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    kinds = [
        tmp_path / "a b.png", str(tmp_path / "a b.png"), buffer.getvalue(), Image.fromarray(image),
        np.dstack([image, np.full(image.shape[:2], 7, np.uint8)]), image.astype(np.uint16) * 257,
        image.astype(np.float32) / 255, torch.from_numpy(image).permute(2, 0, 1),
        torch.from_numpy(image).permute(2, 0, 1).float() / 255, image[:, ::-1].copy()[:, ::-1],
    ]  # fmt: skip
    for kind in kinds:
        assert np.array_equal(segmenter.predict(kind).labels, expected)
    assert np.array_equal(segmenter.predict(image[..., ::-1], color="bgr").labels, expected)
    assert np.array_equal(Segmenter(model_file, color="bgr").predict(image[..., ::-1]).labels, expected)
    assert segmenter.predict(tmp_path / "a b.png").path == str(tmp_path / "a b.png")


def test_lists_are_run_in_batches(model_file):
    segmenter = Segmenter(model_file, threads=1)
    images = [*random_images(10, 40, 56), *random_images(2, 33, 20), *random_images(1, 40, 56, seed=5)]
    results = segmenter.predict(images)
    assert [r.metadata["batch"] for r in results] == [8] * 8 + [2] * 2 + [2] * 2 + [1]
    for image, result in zip(images, results, strict=True):
        assert (result.labels == segmenter.predict(image).labels).mean() > 0.999
    assert segmenter.predict([]) == []


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (2, 3), (17, 1)])
def test_tiny_images(model_file, network, shape):
    image = random_images(1, *shape)[0]
    assert Segmenter(model_file).predict(image).labels.shape == shape
    assert Segmenter(network, mode="slide", window=(8, 8), window_stride=(4, 4)).predict(image).labels.shape == shape


def test_the_torch_backend_runs_fused_unless_told_otherwise(network):
    image = random_images(1, 65, 97)[0]
    fused, plain = Segmenter(network, backend="torch"), Segmenter(network, fused=False)
    assert fused.describe()["fused_kernels"] == 20
    assert plain.describe()["fused_kernels"] == 0
    one, other = fused.predict(image, probabilities=True), plain.predict(image, probabilities=True)
    np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-4)
    assert not any(getattr(module, "fused", False) for module in network.modules())  # the caller's stays as it was


def test_models_that_give_labels(labels_file, network):
    segmenter = Segmenter(labels_file)
    image = random_images(1, 48, 64)[0]
    assert_labels(segmenter.predict(image).labels, resize(logits_of(network, image), (48, 64), False)[0])
    other = segmenter.predict(random_images(1, 30, 40)[0])
    assert other.labels.shape == (30, 40)
    assert "note" in other.metadata
    with pytest.raises(DeepLabError, match="has no scores"):
        segmenter.predict(image, scores=True)
    with pytest.raises(DeepLabError, match="windows need logits"):
        Segmenter(labels_file, mode="slide", window=(8, 8), window_stride=(8, 8))
    with pytest.raises(DeepLabError, match="scales and flips need logits"):
        Segmenter(labels_file, flip=True)


def test_models_of_one_size(fixed_file, network):
    segmenter = Segmenter(fixed_file)
    image = random_images(1, 60, 90)[0]
    result = segmenter.predict(image)
    logits = logits_of(network, resize_image(image, (48, 64)))
    assert_labels(result.labels, resize(logits, (60, 90), False)[0])
    assert "resized to the 48 x 64" in result.metadata["note"]
    assert len(segmenter.predict([image] * 5)) == 5
    with pytest.raises(DeepLabError, match="several scales need open"):
        Segmenter(fixed_file, scales=(0.5, 1.0))


def test_threads_share_a_segmenter(model_file):
    for backend in ("onnxruntime", "openvino"):
        segmenter = Segmenter(model_file, backend=backend)
        images = list(random_images(8, 40, 56))
        expected = [segmenter.predict(image).labels for image in images]
        with ThreadPoolExecutor(8) as pool:
            for _ in range(3):
                found = list(pool.map(segmenter.predict, images))
                assert all(np.array_equal(a.labels, b) for a, b in zip(found, expected, strict=True))


def test_life_cycle_and_description(model_file):
    with Segmenter(model_file) as segmenter:
        description = json.loads(json.dumps(segmenter.describe()))
        assert description["backend"] == "onnxruntime"
        assert description["precision"] == "fp32"
        assert segmenter.classes[0] == "sky"
    for use in (lambda: segmenter.predict(np.zeros((4, 4, 3), np.uint8)), segmenter.describe):
        with pytest.raises(DeepLabError, match="closed"):
            use()
    segmenter.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "tiles"}, "mode 'tiles'"),
        ({"mode": "slide"}, "needs window"),
        ({"mode": "slide", "window": (0, 4), "window_stride": (1, 1)}, "needs window"),
        ({"color": "hsv"}, "color 'hsv'"),
        ({"scales": (0,)}, "scales must be positive"),
        ({"window_batch": 0}, "window_batch"),
        ({"mode": "slide", "window": (40, 48), "window_stride": (20, 49)}, "window_stride .* is larger than window"),
    ],
)
def test_bad_options(model_file, options, message):
    with pytest.raises(DeepLabError, match=message):
        Segmenter(model_file, **options)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("missing.png", "no such file"),
        (b"no image", "not an image"),
        (np.zeros((4, 4, 2), np.uint8), r"must be \[H, W\]"),
        (np.zeros((3, 4, 5), np.uint8), "for tensors"),
        (np.zeros((0, 4, 3), np.uint8), "is empty"),
        (np.full((4, 4, 3), np.nan, np.float32), "NaN"),
        (np.full((4, 4, 3), 200.0, np.float32), "0..1"),
        (np.zeros((4, 4, 3), np.int64), "got int64"),
        (torch.zeros(1, 3, 4, 4), "pass a batch as a list"),
        (torch.zeros(7, 4, 4), "C of 1, 3 or 4"),
        (42, "cannot use a int"),
    ],
)
def test_bad_images(model_file, image, message):
    with pytest.raises(ImageError, match=message):
        Segmenter(model_file).predict(image)


def test_sizes_outside_the_exported_range(model_file):
    with pytest.raises(BackendError, match=r"width 8200 is outside .*--width 1:8200:8200"):
        Segmenter(model_file).predict(np.zeros((2, 8200, 3), np.uint8))


def test_normalisation_against_float64(network):
    images = random_images(2, 5, 7)
    for order in ("rgb", "bgr"):
        config = network.config.replace(channel_order=order, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0))
        pixels = images[..., ::-1] if order == "bgr" else images
        expected = (pixels.astype(np.float64) - [1, 2, 3]) / [4, 5, 6]
        assert np.abs(normalise(images, config) - expected.transpose(0, 3, 1, 2)).max() < 1e-5


@pytest.mark.parametrize(
    ("image", "scale", "expected"),
    [
        ((1024, 2048), (2049, 1025), (1025, 2049)), ((512, 683), (2048, 512), (512, 683)),
        ((480, 640), (2048, 512), (512, 683)), ((256, 256), (2048, 512), (512, 512)),
        ((600, 3000), (2048, 512), (410, 2048)), ((333, 500), (2048, 512), (512, 769)),
        ((500, 375), (2048, 512), (683, 512)), ((375, 500), (520, 520), (390, 520)),
        ((333, 500), (520, 520), (346, 520)), ((5, 7), None, (5, 7)),
    ],
)  # fmt: skip
def test_resize_rule(image, scale, expected):
    assert network_size(*image, scale) == expected


def test_onnx_files_run_without_torch(model_file):
    program = f"""
import sys
for name in ("torch", "onnx", "safetensors"):
    sys.modules[name] = None  # importing it fails
import numpy as np
import deeplab_infer
from deeplab_infer import Segmenter
for backend in ("onnxruntime", "openvino"):
    result = Segmenter({str(model_file)!r}, backend=backend).predict(np.zeros((20, 30, 3), np.uint8))
    assert result.labels.shape == (20, 30)
    result.plot(), result.polygons("sky"), result.to_json()
assert sys.modules["torch"] is None
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
