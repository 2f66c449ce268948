# SPDX-License-Identifier: Apache-2.0
"""Gradients and autocast of the operators that training runs through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import native as _native  # noqa: F401  (gradients are of implemented operators)
from .schema import NAMESPACE, library

_ops = torch.ops.deeplab


def _register(name: str, backward: Callable[..., Any], setup: Callable[..., None]) -> None:
    torch.library.register_autograd(f"{NAMESPACE}::{name}", backward, setup_context=setup, lib=library)


def _depthwise_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.options = inputs[4:]


def _depthwise_backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    return (*_ops.depthwise_backward(dy, *ctx.saved_tensors, *ctx.options), None, None, None)


def _training_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:4], *output[1:])
    ctx.options = inputs[4:]


def _training_backward(ctx: Any, dy: Tensor, dmean: Tensor | None, dvariance: Tensor | None) -> tuple[Any, ...]:
    # Mean and variance are for the running statistics, which nothing is differentiated through.
    return (*_ops.depthwise_training_backward(dy, *ctx.saved_tensors, *ctx.options), None, None, None, None)


def _concat_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, _, ctx.align_corners = inputs
    ctx.shape = x.shape


def _concat_backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    return (*_split_concat(dy, ctx.shape, ctx.align_corners), None)


def _split_concat(dy: Tensor, shape: torch.Size, align_corners: bool) -> tuple[Tensor, Tensor]:
    _, channels, height, width = shape
    dx = _ops.upsample_concat_backward(dy, channels, height, width, align_corners)
    return dx, dy[:, channels:]


def _concat_depthwise_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, low, weight, scale, shift, ctx.align_corners, ctx.rate, ctx.activation = inputs
    ctx.save_for_backward(x, low, weight, scale, shift)


def _concat_depthwise_backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    x, low, weight, scale, shift = ctx.saved_tensors
    concat = _ops.upsample_concat(x, low, ctx.align_corners)
    dconcat, *parameters = _ops.depthwise_backward(
        dy[None], concat, weight, scale, shift, 1, [ctx.rate], ctx.activation
    )
    return (*_split_concat(dconcat, x.shape, ctx.align_corners), *parameters, None, None, None)


def _concat_training_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, low, weight, gamma, beta, ctx.eps, ctx.align_corners, ctx.rate, ctx.activation = inputs
    ctx.save_for_backward(x, low, weight, gamma, beta, *output[1:])


def _concat_training_backward(ctx: Any, dy: Tensor, dmean: Tensor | None, dvariance: Tensor | None) -> tuple[Any, ...]:
    x, low, *parameters = ctx.saved_tensors
    concat = _ops.upsample_concat(x, low, ctx.align_corners)
    dconcat, *gradients = _ops.depthwise_training_backward(
        dy[None], concat, *parameters, ctx.eps, 1, [ctx.rate], ctx.activation
    )
    return (*_split_concat(dconcat, x.shape, ctx.align_corners), *gradients, None, None, None, None)


_register("depthwise", _depthwise_backward, _depthwise_setup)
_register("depthwise_training", _training_backward, _training_setup)
_register("upsample_concat", _concat_backward, _concat_setup)
_register("upsample_concat_depthwise", _concat_depthwise_backward, _concat_depthwise_setup)
_register("upsample_concat_depthwise_training", _concat_training_backward, _concat_training_setup)


# Under autocast images run in the low precision; parameters stay in float32, which the kernels want them in.
_IMAGES = {
    "depthwise": 1,
    "depthwise_training": 1,
    "upsample_concat": 2,
    "upsample_concat_depthwise": 2,
    "upsample_concat_depthwise_training": 2,
}


def _autocast(name: str, device_type: str) -> Callable[..., Any]:
    operator, images = getattr(_ops, name), _IMAGES[name]

    def run(*arguments: Any) -> Any:
        dtype = torch.get_autocast_dtype(device_type)
        cast = [a if a.dtype == torch.float64 else a.to(dtype) for a in arguments[:images]]
        with torch.autocast(device_type, enabled=False):
            return operator(*cast, *arguments[images:])

    return run


for _name in _IMAGES:
    for _device_type, _key in (("cpu", "AutocastCPU"), ("cuda", "AutocastCUDA")):
        library.impl(_name, _autocast(_name, _device_type), _key)
