# SPDX-License-Identifier: Apache-2.0
"""What the torch backend computes in: types, layouts, and torch's process-wide switches, set for one call."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import BackendError
from ..optimize import FusionReport

_log = logging.getLogger(__name__)
_SWITCHES = threading.RLock()  # torch's switches are the process's: calls that set them take turns


@dataclass(frozen=True)
class Precision:
    """One precision.

    Attributes:
        name: as in `Manifest.precision`.
        dtype: of weights and activations.
        tf32: whether float32 products may round their factors to TF32.
        channels_last: layout on a GPU. Tensor cores read channels last; without them cuDNN's float32 kernels
            (Winograd for one) read contiguous images.
    """

    name: str
    dtype: torch.dtype
    tf32: bool = False
    channels_last: bool = True


PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("fp32", torch.float32, channels_last=False),
        Precision("tf32", torch.float32, tf32=True),
        Precision("fp16", torch.float16),
        Precision("bf16", torch.bfloat16),
    )
}
_CPU_SUPPORT = {"fp16": "_is_mkldnn_fp16_supported", "bf16": "_is_mkldnn_bf16_supported"}

# Kernel of a fused part -> its depthwise convolutions, whose parameters the kernels take in float32.
_FUSED_CONVOLUTIONS: dict[str, Callable[[Any], list[nn.Module]]] = {
    "aspp_depthwise": lambda part: [conv for _, conv, _ in part.depthwise_branches()],
    "depthwise_conv_bn_relu": lambda part: [part.conv_and_norm()[0]],
    "upsample_concat": lambda part: [],
    "upsample_concat_depthwise": lambda part: [part.first_depthwise()[0]],
}


def precision_on(name: str | None, device: str) -> Precision:
    """The precision of that name on a device; None is fp32.

    Raises:
        BackendError: no such precision, or TF32 on a CPU.
    """
    precision = PRECISIONS.get(name or "fp32")
    if precision is None:
        raise BackendError(f"the torch backend has no precision {name!r}; use {', '.join(PRECISIONS)}")
    if device == "cpu":
        if precision.tf32:
            raise BackendError("tf32 is what an NVIDIA GPU rounds to; on a CPU use fp32 or bf16")
        support = _CPU_SUPPORT.get(precision.name)
        if support is not None and not _cpu_supports(support):
            _log.warning("this CPU has no %s arithmetic: the results are right, but slower than fp32", precision.name)
    return precision


def _cpu_supports(check: str) -> bool:
    try:
        return bool(getattr(torch.ops.mkldnn, check)())
    except (AttributeError, RuntimeError):  # a torch without oneDNN
        return False


def cast(model: nn.Module, dtype: torch.dtype, fusion: FusionReport | None) -> None:
    """Weights of a folded network to a type, in place; those that fused kernels read in float32 stay exact."""
    kept = {
        id(parameter)
        for part in (fusion.fused if fusion else ())
        for conv in _FUSED_CONVOLUTIONS[part.kernel](model.get_submodule(part.name))
        for parameter in conv.parameters()
    }
    for parameter in model.parameters():
        if id(parameter) not in kept:
            parameter.data = parameter.data.to(dtype)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point():
                setattr(module, name, buffer.to(dtype))


@contextmanager
def arithmetic(*, tf32: bool, benchmark: bool = False) -> Iterator[None]:
    """Torch's switches for CUDA work that is enqueued inside; outside they are as they were.

    Work that other threads enqueue meanwhile without this function sees them too.

    Args:
        tf32: whether float32 convolutions and matrix products use TF32.
        benchmark: let cuDNN time its algorithms for a shape that it meets for the first time.
    """
    with _SWITCHES, ExitStack() as undo:
        _set_convolutions(tf32, undo)
        _set_products(tf32, undo)
        _set(torch.backends.cudnn, "benchmark", benchmark, undo)
        yield


def _set(owner: Any, name: str, value: Any, undo: ExitStack) -> None:
    before = getattr(owner, name)
    if before != value:
        undo.callback(setattr, owner, name, before)
        setattr(owner, name, value)


def _set_convolutions(tf32: bool, undo: ExitStack) -> None:
    """``fp32_precision`` where there is one (torch 2.9): beside it, the older switch may refuse to be read."""
    cudnn: Any = torch.backends.cudnn
    if not hasattr(cudnn, "conv"):
        _set(cudnn, "allow_tf32", tf32, undo)
    elif (cudnn.conv.fp32_precision == "tf32") != tf32:
        _set(cudnn.conv, "fp32_precision", _named(tf32), undo)


def _set_products(tf32: bool, undo: ExitStack) -> None:
    """The older switch where it can be read: torch.compile reads it, and raises where the two were set apart."""
    matmul: Any = torch.backends.cuda.matmul
    newer = hasattr(matmul, "fp32_precision")
    if newer and (matmul.fp32_precision == "tf32") == tf32:
        return
    try:
        before = matmul.allow_tf32
    except RuntimeError:
        _set(matmul, "fp32_precision", _named(tf32), undo)
        return
    if before == tf32:
        return
    undo.callback(_restore_products, matmul, before, matmul.fp32_precision if newer else None, _medium())
    matmul.allow_tf32 = tf32


def _restore_products(matmul: Any, allowed: bool, precision: str | None, medium: bool) -> None:
    matmul.allow_tf32 = allowed
    if precision == "none":  # the older switch writes "ieee", which no longer follows torch.backends.fp32_precision
        matmul.fp32_precision = "none"
    if medium:
        torch.set_float32_matmul_precision("medium")


def _medium() -> bool:
    """Whether ``torch.set_float32_matmul_precision("medium")`` is on, which ``allow_tf32`` cannot express."""
    try:
        return torch.get_float32_matmul_precision() == "medium"
    except RuntimeError:  # set in parts, by the newer switches
        return False


def _named(tf32: bool) -> str:
    return "tf32" if tf32 else "ieee"
