# SPDX-License-Identifier: Apache-2.0
"""Activations that are computed again: the same bits, less memory, and nothing else taken for them."""

import contextlib
import copy
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from deeplab_infer import build_model
from deeplab_infer.configs import load_config
from deeplab_infer.models.activations import norm_relu, recomputed_activations

NETWORKS = [
    "deeplabv3plus_mobilenetv2_streets",
    "deeplabv3plus_r18-d8_4xb4-80k_potsdam-512x512",
    "deeplabv3plus_r50b-d8_4xb2-80k_cityscapes-512x1024",
    "deeplabv3plus_xception65",
]


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors that were made in here and are alive."""

    def __init__(self):
        super().__init__()
        self.now, self.known = 0, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self.known:
                storage = tensor.untyped_storage()
                key, count = storage._cdata, storage.nbytes()
                self.now += count
                self.known[key] = weakref.ref(storage, lambda _, key=key, count=count: self.gone(key, count))
        return out

    def gone(self, key, count):
        self.now -= count
        del self.known[key]


def run(model, x, recomputed, amp=False):
    with contextlib.ExitStack() as stack:
        live = stack.enter_context(LiveBytes())
        if amp:
            stack.enter_context(torch.autocast("cpu", torch.bfloat16))
        with recomputed_activations() if recomputed else contextlib.nullcontext():
            output = model(x)
        kept = live.now
    loss = sum(part.float().square().mean() for part in output if part is not None)
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters()}, model.state_dict(), kept


@pytest.mark.parametrize("amp", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_bits_and_less_memory(name, amp):
    torch.manual_seed(0)
    model = build_model(load_config(name, ["dropout=0"])).train()
    x = torch.randn(2, 3, 64, 96)
    plain = run(copy.deepcopy(model), x, False, amp)
    again = run(model, x, True, amp)
    assert torch.equal(plain[0], again[0])
    for mine, theirs in zip(plain[1:3], again[1:3], strict=True):
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    # Under autocast the weights' copies are kept too, which are most of it for images as small as these.
    copies = 2 * sum(p.numel() for p in model.parameters() if p.ndim == 4) if amp else 0
    assert again[3] - copies < (0.99 if "xception" in name else 0.85) * (plain[3] - copies)


@pytest.mark.parametrize("training", [True, False])
def test_one_layer_keeps_its_input_only(rng, training):
    x = torch.from_numpy(rng.normal(size=(2, 3, 5, 7))).requires_grad_()
    norm, conv = nn.BatchNorm2d(3).double().train(training), nn.Conv2d(3, 4, 3).double()
    expected = torch.autograd.grad(conv(F.relu(copy.deepcopy(norm)(x))).square().sum(), x)[0]
    with recomputed_activations():
        y = norm_relu(norm, x)
        alive = weakref.ref(y.untyped_storage())
        z = conv(y)
    del y
    assert alive() is None, "nothing holds the activation"
    assert torch.equal(torch.autograd.grad(z.square().sum(), x)[0], expected)


def test_other_tensors_in_the_same_memory_are_kept(rng):
    x = torch.from_numpy(rng.normal(size=(2, 4, 6, 6))).requires_grad_()
    norm = nn.BatchNorm2d(4).double()
    with recomputed_activations():
        y = norm_relu(norm, x)
        half = y[:, :2]
        z = half * half.flip(1)  # views and copies of parts are no activation
    expected = F.relu(copy.deepcopy(norm)(x))
    reference = (expected[:, :2] * expected[:, :2].flip(1)).sum()
    assert torch.equal(torch.autograd.grad(z.sum(), x)[0], torch.autograd.grad(reference, x)[0])


def test_without_gradient_nothing_is_remembered(rng):
    x = torch.from_numpy(rng.normal(size=(2, 4, 6, 6)))
    norm = nn.BatchNorm2d(4).double().eval()
    with recomputed_activations(), torch.no_grad():
        assert torch.equal(norm_relu(norm, x), F.relu(norm(x)))
    assert norm_relu(nn.Identity(), x).min() >= 0
