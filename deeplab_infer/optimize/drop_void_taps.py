# SPDX-License-Identifier: Apache-2.0
"""Taps of a dense convolution that read nothing but padding at a fixed input size, dropped.

An atrous tap whose distance is the map's side or more reads zeros everywhere: its kernel becomes 1x3, 3x1 or 1x1. One
whose distance is less reads zeros for a part of the map: the convolution is split there (`padding_regions`).
Depthwise kernels are left: they are bound by memory, not by their taps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..models import DeepLab
from ..models.blocks import ConvBnRelu
from .padding_regions import SplitConvBnRelu, void_share, with_taps
from .work import on_meta

Size = tuple[int, int]

# Along an axis; less does not pay for the seams and for the weights that the parts hold twice.
LEAST_SHARE_SPLIT = 0.2


def drop_void_taps(model: DeepLab, size: Size | None) -> DeepLab:
    """A copy of an eval-mode network for inputs of one size, whose dense convolutions multiply less padding.

    Args:
        model: in eval mode.
        size: (height, width) of the input; at other sizes the copy computes something else or raises ValueError.

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
    for name, axes in _splits(cut, maps).items():
        block = cut.get_submodule(name)
        assert isinstance(block, ConvBnRelu)
        _replace(cut, name, SplitConvBnRelu(block, maps[f"{name}.conv"], axes).eval())
    return cut


def why_no_void_taps(model: DeepLab, size: Size | None) -> str:
    """Why `drop_void_taps` changes nothing; empty where it does."""
    if size is None:
        return "the input's size is open"
    if model.training:
        return "the network is in training mode"
    if not any(_is_same_size(layer) and max(layer.kernel_size) > 1 for layer in _convolutions(model).values()):
        return "no dense convolution with padding"
    maps = input_sizes(model, size)
    if _void_taps(model, maps) or _splits(model, maps):
        return ""
    return f"at this size no dense convolution spends {LEAST_SHARE_SPLIT:.0%} of a kernel's side on padding"


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
    assert isinstance(conv, nn.Conv2d)
    left = tuple(kernel - 2 * gone for kernel, gone in zip(conv.kernel_size, void, strict=True))
    padding = tuple(rate * (kernel // 2) for rate, kernel in zip(conv.dilation, left, strict=True))
    rows, columns = (slice(gone, gone + kernel) for gone, kernel in zip(void, left, strict=True))
    return with_taps(conv, rows, columns, padding)


def _splits(model: nn.Module, maps: dict[str, Size]) -> dict[str, tuple[bool, bool]]:
    """Blocks that are worth splitting, and along which axes."""
    found = {}
    for name, block in model.named_modules():
        if isinstance(block, ConvBnRelu) and f"{name}.conv" in maps and _is_same_size(block.conv):
            conv, size = block.conv, maps[f"{name}.conv"]
            shares = [void_share(*axis) for axis in zip(size, conv.kernel_size, conv.dilation, strict=True)]
            if max(shares) >= LEAST_SHARE_SPLIT:
                found[name] = (shares[0] >= LEAST_SHARE_SPLIT, shares[1] >= LEAST_SHARE_SPLIT)
    return found


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
