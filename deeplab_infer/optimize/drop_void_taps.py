# SPDX-License-Identifier: Apache-2.0
"""Taps of a dense convolution that read nothing but padding at a fixed input size, dropped.

An atrous tap whose distance is the map's side or more reads zeros everywhere: its kernel becomes 1x3, 3x1 or 1x1.
Depthwise kernels are left: they are bound by memory, not by their taps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..models import DeepLab
from .work import on_meta

Size = tuple[int, int]


def drop_void_taps(model: DeepLab, size: Size | None) -> DeepLab:
    """A copy of an eval-mode network for inputs of one size, whose dense convolutions multiply less padding.

    Args:
        model: in eval mode.
        size: (height, width) of the input; at larger ones the copy computes something else.

    Raises:
        ValueError: `why_no_void_taps` has a reason.
    """
    reason = why_no_void_taps(model, size)
    if reason or size is None:
        raise ValueError(f"drop_void_taps: {reason}")
    maps = input_sizes(model, size)
    cut = copy.deepcopy(model)
    for name, void in _void_taps(model, maps).items():
        _replace(cut, name, _cut(cut.get_submodule(name), void))
    return cut


def why_no_void_taps(model: DeepLab, size: Size | None) -> str:
    """Why `drop_void_taps` changes nothing; empty where it does."""
    if size is None:
        return "the input's size is open"
    if model.training:
        return "the network is in training mode"
    if not any(_is_same_size(layer) and max(layer.kernel_size) > 1 for layer in _convolutions(model).values()):
        return "no dense convolution with padding"
    if _void_taps(model, input_sizes(model, size)):
        return ""
    return "at this size every tap of a dense convolution reads some of the map"


def input_sizes(model: nn.Module, size: Size) -> dict[str, Size]:
    """(height, width) of what every convolution reads, for an input of ``size``; nothing is computed."""
    found: dict[str, Size] = {}
    ghost = on_meta(model)
    layers = _convolutions(ghost).items()
    hooks = [layer.register_forward_pre_hook(_recorder(found, name)) for name, layer in layers]
    with torch.no_grad():
        ghost(torch.empty(1, 3, *size, device="meta", dtype=next(ghost.parameters()).dtype))
    for hook in hooks:  # a network that is without data already is not copied
        hook.remove()
    return found


def _recorder(found: dict[str, Size], name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def record(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found[name] = (inputs[0].shape[2], inputs[0].shape[3])

    return record


def _convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}


def _is_same_size(conv: nn.Conv2d) -> bool:
    """Dense, stride 1, zero padding that keeps the size."""
    same = tuple(rate * (kernel // 2) for rate, kernel in zip(conv.dilation, conv.kernel_size, strict=True))
    odd = all(kernel % 2 for kernel in conv.kernel_size)
    return odd and conv.groups == 1 and conv.stride == (1, 1) and conv.padding == same and conv.padding_mode == "zeros"


def _void_taps(model: nn.Module, maps: dict[str, Size]) -> dict[str, tuple[int, int]]:
    """Convolutions with taps that are void everywhere, and how many (rows, columns) of them at each end."""
    found = {}
    for name, conv in _convolutions(model).items():
        if name in maps and _is_same_size(conv):
            void = tuple(
                max(0, kernel // 2 - (side - 1) // rate)
                for kernel, side, rate in zip(conv.kernel_size, maps[name], conv.dilation, strict=True)
            )
            if any(void):
                found[name] = (void[0], void[1])
    return found


def _cut(conv: nn.Module, void: tuple[int, int]) -> nn.Conv2d:
    """The convolution without its (rows, columns) of void taps at each end; the weights are copied."""
    assert isinstance(conv, nn.Conv2d)
    rows, columns = (slice(gone, side - gone) for gone, side in zip(void, conv.kernel_size, strict=True))
    weight = conv.weight.detach()[:, :, rows, columns].clone(memory_format=torch.contiguous_format)
    kernel = (weight.shape[2], weight.shape[3])
    dilation = tuple(rate if taps > 1 else 1 for rate, taps in zip(conv.dilation, kernel, strict=True))
    padding = tuple(rate * (taps // 2) for rate, taps in zip(dilation, kernel, strict=True))
    made = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        kernel,
        padding=padding,  # type: ignore[arg-type]
        dilation=dilation,  # type: ignore[arg-type]
        bias=False,
        device="meta",
    )
    made.weight = nn.Parameter(weight)
    if conv.bias is not None:
        made.bias = nn.Parameter(conv.bias.detach().clone())
    return made.train(conv.training)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
