# SPDX-License-Identifier: Apache-2.0
"""What stands before and behind the network: preprocess, and upsample_argmax as the GPU runs it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deeplab_infer import _C
from deeplab_infer.ops import preprocess, upsample_argmax
from deeplab_infer.ops.tensors import preprocess as preprocess_tensor
from deeplab_infer.ops.tensors import upsample_argmax as upsample_argmax_tensor
from deeplab_infer.testing import reference
from deeplab_infer.testing.tolerances import assert_close
from tests.kernels import LAYOUTS, Bench, f64, modes, options

GPU_MODES = [mode for mode in modes() if not isinstance(mode, str)]
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
SIZES = [
    ((37, 53), (80, 91)),
    ((120, 150), (60, 75)),  # exactly half, which OpenCV treats on its own
    ((65, 64), (33, 31)),
    ((20, 30), (7, 3)),
    ((9, 11), (9, 11)),
    ((1, 1), (5, 6)),
    ((480, 640), (512, 683)),
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("mode", modes())
@pytest.mark.parametrize(("size_in", "size_out"), SIZES)
def test_preprocess_equals_opencv_and_float64(mode, dtype, layout, size_in, size_out):
    bench = Bench(mode, dtype, layout)
    images = np.random.default_rng(0).integers(0, 256, (2, *size_in, 3), dtype=np.uint8)
    pixels = torch.from_numpy(images).to(bench.device)
    for reverse in (False, True):
        out = bench.output(2, 3, *size_out)
        _C.preprocess(pixels, out, list(MEAN), list(STD), reverse, **options(mode))
        expected = reference.preprocess(images, size_out, np.float32(MEAN), np.float32(STD), reverse)
        size = np.abs(expected) + 2 * np.float64(MEAN).reshape(3, 1, 1) / np.float64(STD).reshape(3, 1, 1)
        assert_close("pixels", f64(out), expected, size, dtype, 2)
    bench.check_guards()


def test_preprocess_of_arrays_and_tensors():
    images = np.random.default_rng(0).integers(0, 256, (1, 20, 30, 3), dtype=np.uint8)
    array = preprocess(images, (40, 50), MEAN, STD)
    assert array.dtype == np.float32
    assert array.shape == (1, 3, 40, 50)
    tensor = preprocess_tensor(torch.from_numpy(images), MEAN, STD, size=(40, 50), channels_last=True)
    assert tensor.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(array, tensor.numpy())
    same = preprocess_tensor(torch.from_numpy(images), MEAN, STD, dtype=torch.bfloat16)
    assert same.shape == (1, 3, 20, 30)
    assert same.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"images": np.zeros((2, 4, 4, 3), np.float32)}, TypeError, "images: got dtype float32, needs uint8"),
        ({"images": np.zeros((2, 4, 4, 4), np.uint8)}, ValueError, r"images: got shape \[2, 4, 4, 4\]"),
        ({"images": np.zeros((2, 4, 8, 3), np.uint8)[:, :, ::2]}, ValueError, "images: is not C-contiguous"),
        ({"images": np.zeros((2, 0, 4, 3), np.uint8)}, ValueError, "images: .*at least 1"),
        ({"mean": [1.0]}, ValueError, "mean: got 1 values"),
        ({"std": [1.0, 0.0, 1.0]}, ValueError, "std: holds 0"),
        ({"mean": [1.0, float("nan"), 1.0]}, ValueError, "mean: holds nan"),
        ({"size": (0, 4)}, ValueError, r"size\[0\]"),
        ({"out": np.zeros((1, 3, 4, 4), np.float32)}, ValueError, "out: got shape"),
        ({"out": np.zeros((2, 3, 4, 4), np.int32)}, TypeError, "out: got dtype int32"),
        ({"images": [[1]]}, TypeError, "images: got list"),
        ({"threads": 0}, ValueError, "threads"),
    ],
)
def test_preprocess_names_bad_arguments(changes, error, words):
    arguments = {"images": np.zeros((2, 4, 4, 3), np.uint8), "size": (4, 4), "mean": MEAN, "std": STD, **changes}
    with pytest.raises(error, match=words):
        preprocess(**arguments)


LABEL_CASES = [
    ((1, 19, 16, 33), (64, 132), None),
    ((2, 7, 13, 17), (37, 45), (52, 70)),
    ((1, 21, 17, 17), (65, 65), None),
    ((1, 5, 60, 90), (11, 13), None),
    ((1, 150, 8, 11), (94, 125), (32, 43)),
    ((1, 4, 1, 1), (3, 50), None),
    ((1, 300, 4, 5), (16, 21), None),
    ((1, 1, 6, 6), (24, 24), None),
]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("mode", GPU_MODES)
@pytest.mark.parametrize(("shape", "size", "via"), LABEL_CASES)
def test_labels_on_the_gpu(mode, dtype, layout, shape, size, via, align_corners):
    bench = Bench(mode, dtype, layout)
    logits = bench.image(*shape)
    label_type = torch.uint8 if shape[1] <= 256 else torch.int32
    labels = torch.full((shape[0], *size), 99, dtype=label_type, device=bench.device)
    scores = bench.output(shape[0], *size, dtype=torch.float32, flat=True)
    _C.upsample_labels(logits, labels, scores, align_corners, via, **options(mode))
    values = f64(logits)
    for target in [size] if via is None else [via, size]:
        values = reference.resize(values, target, align_corners).value
    chosen = np.take_along_axis(values, labels.cpu().numpy()[:, None].astype(np.int64), axis=1)[:, 0]
    assert (values.max(1) - chosen).max() <= 1e-5
    probability = 1 / np.exp(values - values.max(1, keepdims=True)).sum(1)
    np.testing.assert_allclose(f64(scores), probability, rtol=2e-5)
    without = torch.full_like(labels, 99)
    _C.upsample_labels(logits, without, None, align_corners, via, **options(mode))
    assert torch.equal(without, labels)
    bench.check_guards()


@pytest.mark.parametrize("mode", GPU_MODES)
def test_ties_nan_and_masked_classes_on_the_gpu(mode):
    bench = Bench(mode, "float32", "nchw")
    logits = bench.image(1, 6, 9, 12)
    logits[:, 3] = logits[:, 1]
    logits[:, 0] = -np.inf
    logits[0, 2, 4, 5] = np.nan
    logits[0, 4, 2, :] = np.inf
    expected, expected_scores = upsample_argmax(logits.cpu().numpy(), (36, 48), align_corners=False, scores=True)
    labels = torch.empty((1, 36, 48), dtype=torch.uint8, device=bench.device)
    scores = torch.empty((1, 36, 48), device=bench.device)
    _C.upsample_labels(logits, labels, scores, False, None, **options(mode))
    np.testing.assert_array_equal(labels.cpu().numpy(), expected)
    finite = np.isfinite(expected_scores)
    np.testing.assert_allclose(scores.cpu().numpy()[finite], expected_scores[finite], rtol=2e-5)


def test_argmax_of_tensors_equals_that_of_arrays():
    logits = torch.randn(2, 19, 12, 17)
    expected = upsample_argmax(logits.numpy(), (48, 70), align_corners=False, via=(40, 60))
    got = upsample_argmax_tensor(logits, (48, 70), False, (40, 60))
    assert got.dtype == torch.uint8
    np.testing.assert_array_equal(got.numpy(), expected)


def test_labels_refuse_cpu_arrays_and_small_types():
    logits = np.zeros((1, 300, 4, 4), np.float32)
    with pytest.raises(ValueError, match="uint8 holds 256 classes, logits have 300"):
        _C.upsample_labels(logits, np.zeros((1, 8, 8), np.uint8), None, False, None)
    with pytest.raises(ValueError, match="upsample_argmax is the function for CPU arrays"):
        _C.upsample_labels(logits, np.zeros((1, 8, 8), np.int32), None, False, None)
