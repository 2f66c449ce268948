# SPDX-License-Identifier: Apache-2.0
"""The operators inside torch: gradients, autocast, tracing, export."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplab_infer.ops import tensors

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
FORMATS = [torch.contiguous_format, torch.channels_last]


def leaf(*shape, dtype=torch.float64, device="cpu", memory_format=torch.contiguous_format):
    x = torch.randn(*shape, dtype=dtype, device=device)
    return (x.contiguous(memory_format=memory_format) if x.ndim == 4 else x).requires_grad_()


def arguments(device="cpu", dtype=torch.float64, memory_format=torch.contiguous_format):
    x = leaf(2, 6, 7, 9, dtype=dtype, device=device, memory_format=memory_format)
    low = leaf(2, 2, 13, 18, dtype=dtype, device=device, memory_format=memory_format)
    parameters = torch.float64 if dtype == torch.float64 else torch.float32
    weight = leaf(3, 6, 3, 3, dtype=parameters, device=device)
    a, b = leaf(3, 6, dtype=parameters, device=device), leaf(3, 6, dtype=parameters, device=device)
    kernels = leaf(8, 1, 3, 3, dtype=parameters, device=device)
    c, d = leaf(8, dtype=parameters, device=device), leaf(8, dtype=parameters, device=device)
    return {"x": x, "low": low, "weight": weight, "a": a, "b": b, "kernels": kernels, "c": c, "d": d}


FUNCTIONS = {
    "aspp_depthwise": (
        lambda x, w, a, b: tensors.aspp_depthwise(x, w, a, b, [1, 2, 5], "relu"),
        ("x", "weight", "a", "b"),
    ),
    "stride 2, relu6": (
        lambda x, w, a, b: tensors.depthwise_conv_bn_relu(x, w[0], a[0], b[0], 2, 3, "relu6"),
        ("x", "weight", "a", "b"),
    ),
    "training": (
        lambda x, w, a, b: tensors.depthwise_training(x, w, a, b, 1e-3, [1, 2, 5])[0],
        ("x", "weight", "a", "b"),
    ),
    "training, stride 2": (
        lambda x, w, a, b: tensors.depthwise_training(x, w[0], a[0], b[0], 1e-3, [2], 2, "none")[0],
        ("x", "weight", "a", "b"),
    ),
    "upsample_concat": (lambda x, low: tensors.upsample_concat(x, low, False), ("x", "low")),
    "upsample_concat_depthwise": (
        lambda x, low, w, c, d: tensors.upsample_concat_depthwise(x, low, w, c, d, True),
        ("x", "low", "kernels", "c", "d"),
    ),
    "upsample_concat_depthwise_training": (
        lambda x, low, w, c, d: tensors.upsample_concat_depthwise_training(x, low, w, c, d, 1e-3, False)[0],
        ("x", "low", "kernels", "c", "d"),
    ),
}


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_equal_numerical_ones(name, memory_format):
    function, names = FUNCTIONS[name]
    given = arguments(memory_format=memory_format)
    assert torch.autograd.gradcheck(function, [given[n] for n in names])


@pytest.mark.gpu
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_gradients_on_the_gpu_equal_float64_and_repeat_their_bits(name, dtype, memory_format):
    function, names = FUNCTIONS[name]
    given = [t for n, t in arguments("cuda", dtype, memory_format).items() if n in names]
    exact = [t.detach().cpu().double().requires_grad_() for t in given]
    y, expected = function(*given), function(*exact)
    dy = torch.randn_like(expected).to(dtype)
    first = torch.autograd.grad(y, given, dy.to("cuda"), retain_graph=True)
    for one, other in zip(first, torch.autograd.grad(y, given, dy.to("cuda")), strict=True):
        assert torch.equal(one, other)
    tolerance = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}[dtype]
    for got, want in zip(first, torch.autograd.grad(expected, exact, dy.double()), strict=True):
        assert (got.cpu().double() - want).norm() <= tolerance * want.norm() + 1e-6


OPERATORS = {
    "depthwise": ("x", "weight", "a", "b", 1, [1, 2, 5], "relu"),
    "depthwise_training": ("x", "weight", "a", "b", 1e-3, 1, [1, 2, 5], "relu"),
    "upsample_concat": ("x", "low", False),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("name", OPERATORS)
def test_torch_checks_of_operators(name, device, memory_format):
    given = arguments(device, torch.float32, memory_format)
    call = [given[a] if isinstance(a, str) and a in given else a for a in OPERATORS[name]]
    torch.library.opcheck(getattr(torch.ops.deeplab, name).default, call)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("training", [False, True])
def test_torch_checks_of_the_decoder_operators(device, training):
    given = arguments(device, torch.float32)
    weight, c, d = given["kernels"].detach().reshape(1, 8, 3, 3), given["c"].detach()[None], given["d"].detach()[None]
    parameters = [t.clone().requires_grad_() for t in (weight, c, d)]
    name = "upsample_concat_depthwise" + ("_training" if training else "")
    eps = [1e-3] if training else []
    call = (given["x"], given["low"], *parameters, *eps, False, 1, "relu")
    torch.library.opcheck(getattr(torch.ops.deeplab, name).default, call)


@pytest.mark.parametrize("device", DEVICES)
def test_torch_checks_of_the_labels(device):
    logits = torch.randn(2, 5, 6, 7, device=device)
    torch.library.opcheck(torch.ops.deeplab.upsample_argmax.default, (logits, [20, 25], [], False))
    torch.library.opcheck(torch.ops.deeplab.upsample_argmax.default, (logits, [20, 25], [12, 14], True))


@pytest.mark.parametrize("device", DEVICES)
def test_autocast_runs_images_low_and_parameters_high(device):
    given = arguments(device, torch.float32)
    with torch.autocast(device, torch.bfloat16):
        y = tensors.aspp_depthwise(given["x"], given["weight"], given["a"], given["b"], [1, 2, 5], "relu")
        concat = tensors.upsample_concat(given["x"], given["low"], False)
    assert y.dtype == concat.dtype == torch.bfloat16
    y.float().sum().backward()
    assert given["x"].grad.dtype == given["weight"].grad.dtype == torch.float32
    low = given["x"].detach().to(torch.bfloat16)
    plain = tensors.aspp_depthwise(low, given["weight"], given["a"], given["b"], [1, 2, 5], "relu")
    assert torch.equal(plain, y)


@pytest.mark.parametrize("device", DEVICES)
def test_compile_without_graph_breaks(device):
    given = arguments(device, torch.float32)
    names = ("x", "low", "weight", "a", "b", "kernels", "c", "d")

    def block(x, low, weight, a, b, kernels, c, d):
        y = tensors.depthwise_training(x * 2, weight, a, b, 1e-3, [1, 2, 5])[0].sum(0)
        return tensors.upsample_concat_depthwise(y, low, kernels, c, d, False).square().mean()

    plain, compiled = block(*given.values()), torch.compile(block, fullgraph=True)(*given.values())
    torch.testing.assert_close(plain, compiled)
    leaves = [given[n] for n in names]
    for one, other in zip(torch.autograd.grad(plain, leaves), torch.autograd.grad(compiled, leaves), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_export_keeps_the_operators():
    class Block(torch.nn.Module):
        def forward(self, x, weight, a, b):
            return tensors.aspp_depthwise(x, weight, a, b, [1, 2, 5], "relu")

    given = [arguments(dtype=torch.float32)[n].detach() for n in ("x", "weight", "a", "b")]
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(Block(), tuple(given), dynamic_shapes=({0: batch}, None, None, None))
    assert "deeplab.depthwise.default" in str(program.graph)
    other = torch.randn(5, 6, 7, 9)
    torch.testing.assert_close(program.module()(other, *given[1:]), Block()(other, *given[1:]))


@pytest.mark.parametrize("device", DEVICES)
def test_any_strides_come_in(device):
    given = arguments(device, torch.float32)
    wide = torch.randn(2, 6, 7, 18, device=device)
    strided = wide[..., ::2]
    call = (given["weight"], given["a"], given["b"], [1, 2, 5], "relu")
    torch.testing.assert_close(tensors.aspp_depthwise(strided, *call), tensors.aspp_depthwise(strided.clone(), *call))
    y = tensors.aspp_depthwise(given["x"], *call)
    (dx,) = torch.autograd.grad(y, given["x"], torch.ones(1, 1, 1, 1, 1, device=device).expand_as(y), retain_graph=True)
    (same,) = torch.autograd.grad(y, given["x"], torch.ones_like(y))
    torch.testing.assert_close(dx, same)


def test_training_equals_torch_batch_norm():
    given = arguments()
    x, weight = given["x"], given["weight"][0]
    y, mean, variance = tensors.depthwise_training(x, weight, given["a"][0], given["b"][0], 1e-5, [3])
    conv = F.conv2d(x, weight[:, None], padding=3, dilation=3, groups=6)
    expected = F.relu(F.batch_norm(conv, None, None, given["a"][0], given["b"][0], training=True, eps=1e-5))
    torch.testing.assert_close(y[0], expected)
    torch.testing.assert_close(mean[0], conv.mean((0, 2, 3)))
    torch.testing.assert_close(variance[0], conv.var((0, 2, 3), unbiased=False))


sizes = st.integers(1, 40)


@settings(deadline=None, max_examples=150)
@given(
    batch=st.integers(1, 2),
    channels=st.integers(1, 20),
    low_channels=st.integers(1, 9),
    small=st.tuples(sizes, sizes),
    large=st.tuples(sizes, sizes),
    align_corners=st.booleans(),
    channels_last=st.booleans(),
    seed=st.integers(0, 9999),
)
def test_upsample_concat_equals_interpolate_at_any_size(
    batch, channels, low_channels, small, large, align_corners, channels_last, seed
):
    torch.manual_seed(seed)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(batch, channels, *small).contiguous(memory_format=memory_format)
    low = torch.randn(batch, low_channels, *large).contiguous(memory_format=memory_format)
    got = tensors.upsample_concat(x, low, align_corners)
    up = F.interpolate(x.double(), large, mode="bilinear", align_corners=align_corners)
    torch.testing.assert_close(got.double(), torch.cat([up, low.double()], 1), rtol=0, atol=2e-6)


@pytest.mark.gpu
def test_cuda_graphs_and_streams():
    given = arguments("cuda", torch.float16, torch.channels_last)
    x = given["x"].detach()
    call = (given["weight"].detach(), given["a"].detach(), given["b"].detach(), [1, 2, 5], "relu")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        expected = tensors.aspp_depthwise(x, *call)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = tensors.aspp_depthwise(x, *call)
    x.copy_(torch.randn_like(x))
    graph.replay()
    torch.cuda.synchronize()
    assert not torch.equal(y, expected)
    assert torch.equal(y, tensors.aspp_depthwise(x, *call))
