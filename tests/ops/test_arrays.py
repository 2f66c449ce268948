# SPDX-License-Identifier: Apache-2.0
"""The door for arrays: whose arrays come in, and what is refused with which words."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from deeplab_infer import _C
from deeplab_infer.ops import (
    aspp_depthwise,
    depthwise_conv_bn_relu,
    upsample_argmax_into,
    upsample_concat,
    upsample_concat_depthwise,
)
from deeplab_infer.testing import reference

N, C, H, W = 2, 6, 9, 11


@pytest.fixture
def case(rng):
    x = rng.standard_normal((N, C, H, W)).astype(np.float32)
    weight = rng.standard_normal((C, 1, 3, 3)).astype(np.float32)
    scale, shift = rng.standard_normal((2, C)).astype(np.float32)
    return x, weight, scale, shift


def expected(x, weight, scale, shift, rate=2):
    wide = [np.asarray(a, np.float64) for a in (x, weight.reshape(1, C, 3, 3), scale[None], shift[None])]
    return reference.depthwise(*wide, 1, [rate], "relu").value[0]


class OnlyDlpack:
    """A producer that nothing else recognises."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __dlpack__(self, **options):
        return self.tensor.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.tensor.__dlpack_device__()


class OnGpu:
    """Claims to lie on a GPU, as CuPy's and Numba's arrays do."""

    def __init__(self, shape=(N, C, H, W), typestr="<f4", strides=None, address=0):
        self.__cuda_array_interface__ = {
            "shape": shape, "typestr": typestr, "data": (address, False), "version": 3, "strides": strides,
        }  # fmt: skip


SOURCES = {
    "numpy": lambda a: a,
    "torch": torch.from_numpy,
    "dlpack": lambda a: OnlyDlpack(torch.from_numpy(a)),
    "buffer": memoryview,
}


@pytest.mark.parametrize("source", SOURCES)
def test_arrays_of_every_origin(case, source):
    out = np.full((N, C, H, W), np.nan, np.float32)
    wrapped = [SOURCES[source](a) for a in (*case, out)]
    _C.depthwise(*wrapped, 1, [2], "relu")
    np.testing.assert_allclose(out, expected(*case), atol=1e-5)


def test_functions_of_numpy_arrays(case, rng):
    x, weight, scale, shift = case
    y = depthwise_conv_bn_relu(x, weight, scale, shift, dilation=2)
    np.testing.assert_allclose(y, expected(*case), atol=1e-5)
    channels_last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    last = depthwise_conv_bn_relu(channels_last, weight, scale, shift, dilation=2)
    assert last.strides == channels_last.strides
    np.testing.assert_allclose(last, y, atol=1e-6)
    strided = depthwise_conv_bn_relu(x, weight[:, 0], scale, shift, stride=2, threads=1)
    assert strided.shape == (N, C, 5, 6)
    both = aspp_depthwise(x, np.stack([weight[:, 0]] * 2), np.stack([scale] * 2), np.stack([shift] * 2), (2, 3))
    np.testing.assert_array_equal(both[0], y)
    low = rng.standard_normal((N, 2, 18, 22)).astype(np.float32)
    concat = upsample_concat(x, low, align_corners=False)
    np.testing.assert_array_equal(concat[:, C:], low)
    kernels = rng.standard_normal((C + 2, 1, 3, 3)).astype(np.float32)
    ones = np.ones(C + 2, np.float32)
    fused = upsample_concat_depthwise(x, low, kernels, ones, ones, align_corners=False)
    np.testing.assert_allclose(fused, depthwise_conv_bn_relu(concat, kernels, ones, ones), atol=1e-5)


def test_the_result_does_not_depend_on_the_number_of_threads(rng):
    x = rng.standard_normal((2, 40, 70, 65)).astype(np.float32)
    weight, parameters = rng.standard_normal((40, 1, 3, 3)).astype(np.float32), np.ones(40, np.float32)
    one = depthwise_conv_bn_relu(x, weight, parameters, parameters, dilation=6, threads=1)
    for threads in (2, 5):
        many = depthwise_conv_bn_relu(x, weight, parameters, parameters, dilation=6, threads=threads)
        np.testing.assert_array_equal(one, many)


def test_calls_from_several_threads_at_once(case):
    first = depthwise_conv_bn_relu(*case, dilation=2)
    wrong = []

    def work():
        wrong.extend(i for i in range(30) if not np.array_equal(depthwise_conv_bn_relu(*case, dilation=2), first))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_bfloat16_of_numpy(case):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = case[0].astype(ml_dtypes.bfloat16)
    y = depthwise_conv_bn_relu(x, *case[1:], dilation=2)
    assert y.dtype == ml_dtypes.bfloat16
    np.testing.assert_allclose(y.astype(np.float64), expected(x.astype(np.float32), *case[1:]), rtol=1e-2, atol=1e-2)


def good():
    x = np.zeros((N, C, H, W), np.float32)
    return {
        "x": x,
        "weight": np.zeros((1, C, 3, 3), np.float32),
        "scale": np.zeros(C, np.float32),
        "shift": np.zeros(C, np.float32),
        "out": np.zeros_like(x),
    }


BAD = [
    ({"x": [[1.0]]}, TypeError, "x: got list, needs an array"),
    ({"x": np.zeros((N, C, H, W), np.int64)}, TypeError, "x: got elements of type '<i8'"),
    ({"x": np.zeros((N, C, H, W), ">f4")}, TypeError, "x: got elements of type '>f4'"),
    ({"x": np.zeros((N, C, H, W), np.uint8)}, TypeError, "x: got dtype uint8, needs float32 or float16"),
    ({"x": torch.zeros(N, C, H, W, dtype=torch.int64)}, TypeError, "x: got dtype torch.int64"),
    ({"x": torch.zeros(N, C, H, W, device="meta")}, TypeError, "x: is on device 'meta'"),
    ({"x": np.zeros((C, H, W), np.float32)}, ValueError, r"x: got shape \[6, 9, 11\], needs \[N, C, H, W\]"),
    ({"x": np.zeros((1,) * 6, np.float32)}, ValueError, "x: has 6 axes"),
    ({"x": np.zeros((N, C, 0, W), np.float32)}, ValueError, "x: .*at least 1"),
    ({"x": np.zeros((N, C, H, 2 * W), np.float32)[..., ::2]}, ValueError, "x: is neither contiguous"),
    ({"x": np.zeros((N, C, H, W), np.float32)[:, :, ::-1]}, ValueError, "x: is neither contiguous"),
    ({"weight": np.zeros((1, C + 1, 3, 3), np.float32)}, ValueError, "weight: got shape .* the channels of x"),
    ({"weight": np.zeros((2, C, 3, 3), np.float32)}, ValueError, "weight: got shape .*one rate"),
    ({"weight": np.zeros((1, C, 3, 5), np.float32)}, ValueError, "weight: got shape"),
    ({"weight": np.zeros((1, C, 4, 4), np.float32)}, ValueError, "weight: .*k of 1, 3, 5 or 7"),
    ({"weight": np.zeros((1, C, 9, 9), np.float32)}, ValueError, "weight: .*k of 1, 3, 5 or 7"),
    ({"weight": np.zeros((1, C, 3, 3), np.float16)}, TypeError, "weight: got dtype float16, needs float32"),
    ({"weight": np.zeros((1, C, 6, 6), np.float32)[..., ::2, ::2]}, ValueError, "weight: is not C-contiguous"),
    ({"scale": np.zeros(C + 1, np.float32)}, ValueError, r"scale: got shape \[7\]"),
    ({"shift": np.zeros(C, np.float64)}, TypeError, "shift: got dtype float64, needs float32"),
    ({"out": np.zeros((N, C, H, W), np.float16)}, TypeError, "out: got dtype float16, needs float32"),
    ({"out": np.zeros((N, C, H, W + 1), np.float32)}, ValueError, "out: got shape"),
    ({"out": np.zeros((N, H, W, C), np.float32).transpose(0, 3, 1, 2)}, ValueError, "out: must be contiguous as x is"),
    ({"out": bytes(N * C * H * W * 4)}, TypeError, "out: got"),
    ({"stride": 0}, ValueError, "stride: got 0"),
    ({"rates": [0]}, ValueError, "dilation: got 0"),
    ({"rates": [-3]}, ValueError, "dilation: got -3"),
    ({"rates": []}, ValueError, "rates: got 0 of them"),
    ({"rates": [1] * 9}, ValueError, "rates: got 9 of them"),
    ({"activation": "gelu"}, ValueError, "activation: got 'gelu', accepted are none, relu, relu6"),
    ({"threads": -1}, ValueError, "threads: got -1"),
    ({"instruction_set": "mmx"}, ValueError, "instruction_set: got 'mmx'"),
]


@pytest.mark.parametrize(("changes", "error", "words"), BAD)
def test_bad_arguments_are_named(changes, error, words):
    with pytest.raises(error, match=words):
        _C.depthwise(**{**good(), **changes})


def test_an_output_may_not_share_memory_nor_be_read_only():
    arguments = good()
    with pytest.raises(ValueError, match="out: overlaps x in memory"):
        _C.depthwise(**{**arguments, "out": arguments["x"]})
    memory = np.zeros(2 * N * C * H * W, np.float32)
    size = N * C * H * W
    shape = (N, C, H, W)
    overlapping = {"x": memory[:size].reshape(shape), "out": memory[size // 2 : size // 2 + size].reshape(shape)}
    with pytest.raises(ValueError, match="out: overlaps x in memory"):
        _C.depthwise(**{**arguments, **overlapping})
    arguments["out"].flags.writeable = False
    with pytest.raises(ValueError, match="out: is read-only"):
        _C.depthwise(**arguments)


def test_gpu_arrays_without_a_gpu_are_refused():
    with pytest.raises(ValueError, match="all arrays must be on one device"):
        _C.depthwise(**{**good(), "x": OnGpu()})
    on_gpu = {
        "x": OnGpu(address=1 << 20),
        "weight": OnGpu((1, C, 3, 3), address=2 << 20),
        "scale": OnGpu((C,), address=3 << 20),
        "shift": OnGpu((C,), address=4 << 20),
        "out": OnGpu(strides=(C * H * W * 4, H * W * 4, W * 4, 4), address=5 << 20),
    }
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    words = "cannot use a" if _C.build_info()["cuda"] else "no CUDA kernels"
    with pytest.raises(RuntimeError, match=words):
        _C.depthwise(**on_gpu)
    with pytest.raises(ValueError, match="stride of 3 bytes"):
        _C.depthwise(**{**on_gpu, "x": OnGpu(strides=(C * H * W * 4, H * W * 4, W * 4, 3))})
    with pytest.raises(TypeError, match="'<c8'"):
        _C.depthwise(**{**on_gpu, "x": OnGpu(typestr="<c8")})
    logits, labels = OnGpu((1, 3, 4, 4), address=1 << 20), OnGpu((1, 8, 8), "|u1", address=2 << 20)
    with pytest.raises(RuntimeError, match=words):
        upsample_argmax_into(logits, labels, align_corners=False)


@pytest.mark.skipif(not _C.build_info()["cuda"], reason="this build has no CUDA kernels (no nvcc)")
def test_a_missing_or_small_workspace_is_refused():
    x = torch.zeros(N, C, H, W)
    weight, mean, variance = torch.zeros(1, C, 3, 3), torch.zeros(1, C), torch.zeros(1, C)
    needed = _C.depthwise_workspace(N, C, H, W, 1, 2)
    with pytest.raises(ValueError, match=f"workspace: is missing; the CUDA kernels need {needed}"):
        _C.depthwise_statistics(x, weight, mean, variance, None, 1, [1], emulate=True)
    with pytest.raises(ValueError, match=f"workspace: has {needed - 1} values, needs {needed}"):
        _C.depthwise_statistics(x, weight, mean, variance, torch.zeros(needed - 1), 1, [1], emulate=True)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"low": np.zeros((N, 2, 18, 22), np.float16)}, TypeError, "low: got dtype float16, needs float32"),
        ({"low": np.zeros((N + 1, 2, 18, 22), np.float32)}, ValueError, "low: got a batch of 3, needs that of x, 2"),
        ({"low": np.zeros((N, 2, 0, 22), np.float32)}, ValueError, "low: .*at least 1"),
        ({"low": np.zeros((N, 18, 22, 2), np.float32).transpose(0, 3, 1, 2)}, ValueError, "low: is .*both must be"),
        ({"out": np.zeros((N, C + 3, 18, 22), np.float32)}, ValueError, r"out: got shape .*\[N, C \+ C_low, H, W\]"),
    ],
)
def test_bad_concats_are_named(changes, error, words):
    arguments = {
        "x": np.zeros((N, C, H, W), np.float32),
        "low": np.zeros((N, 2, 18, 22), np.float32),
        "out": np.zeros((N, C + 2, 18, 22), np.float32),
        "align_corners": False,
    }
    with pytest.raises(error, match=words):
        _C.upsample_concat(**{**arguments, **changes})


def test_functions_say_what_they_cannot_allocate(case):
    wrapped = OnlyDlpack(torch.from_numpy(case[0]))
    with pytest.raises(TypeError, match="x: got OnlyDlpack, for which no result can be allocated; pass out"):
        depthwise_conv_bn_relu(wrapped, *case[1:])
    with pytest.raises(ValueError, match="out: is not for torch tensors"):
        depthwise_conv_bn_relu(torch.zeros(1, C, H, W), *map(torch.from_numpy, case[1:]), out=case[0])
    with pytest.raises(ValueError, match="weight: got shape"):
        depthwise_conv_bn_relu(torch.zeros(1, C + 1, H, W), *map(torch.from_numpy, case[1:]))
    with pytest.raises(ValueError, match="x: got shape"):
        depthwise_conv_bn_relu(case[0][0], *case[1:])


def test_a_damaged_capsule_is_refused(case):
    class Damaged:
        def __dlpack_device__(self):
            return (1, 0)

        def __dlpack__(self):
            return object()

    with pytest.raises((TypeError, ValueError)):
        _C.depthwise(Damaged(), *case[1:], np.zeros_like(case[0]))
