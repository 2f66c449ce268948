# SPDX-License-Identifier: Apache-2.0
"""Networks on the fused kernels: same weights, same names, same answer, fewer passes over memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

from ..models.aspp import Aspp
from ..models.backbones.mobilenet_v2 import ConvBnRelu6
from ..models.backbones.xception import SeparableConv
from ..models.blocks import ConvBnRelu, Convolution
from ..models.decoder import Decoder
from ..models.fused import why_not_fusable

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class FusedPart:
    """One part of a network and the kernel that runs it; `reason` says why there is none."""

    name: str
    kernel: str
    reason: str = ""


@dataclass(frozen=True)
class FusionReport:
    """What `fuse` did.

    Attributes:
        fused: parts that run on a fused kernel.
        left: parts that might have but do not, with the reason.
    """

    fused: tuple[FusedPart, ...]
    left: tuple[FusedPart, ...]

    def __str__(self) -> str:
        lines = [f"{part.name}: {part.kernel}" for part in self.fused]
        lines += [f"{part.name}: not fused, {part.reason}" for part in self.left]
        return "\n".join(lines) if lines else "nothing to fuse"


def fuse(model: Network, *, backbone: bool = True) -> FusionReport:
    """Let a network run on the fused kernels, in place, wherever it can.

    Atrous depthwise convolutions with their normalisation and activation, the depthwise convolutions of an ASPP over
    one read of their input, and the decoder's upsampling, concat and first depthwise convolution become one kernel
    each, for inference and for training, on the CPU and on the GPU. State dict, parameters and hooks of the blocks
    stay as they are; forward hooks on the convolutions inside a fused part are not called. Batch normalisation in
    training uses the batch's statistics in the kernels too; `nn.SyncBatchNorm` in training runs in torch, block by
    block, and is reported as left.

    Args:
        model: a `DeepLab`, or any module made of its blocks; float32, float16, bfloat16 or float64.
        backbone: False leaves what is under ``model.backbone`` to torch, whose own kernels train small atrous rates
            faster on a CPU.

    Returns:
        What was fused, and what was not and why.
    """
    fused: list[FusedPart] = []
    left: list[FusedPart] = []
    for name, module, part in list(_parts(model)):
        if not backbone and name.partition(".")[0] == "backbone":
            module.fused = False  # type: ignore[assignment]
            continue
        module.fused = not part.reason  # type: ignore[assignment]
        (left if part.reason else fused).append(FusedPart(name, part.kernel, part.reason))
    return FusionReport(tuple(fused), tuple(left))


def unfuse(model: Network) -> Network:
    """Undo `fuse`, in place; exporters need plain convolutions."""
    for _, module, _ in list(_parts(model)):
        module.fused = False  # type: ignore[assignment]
    return model


def _parts(model: nn.Module) -> Iterator[tuple[str, nn.Module, FusedPart]]:
    """Every block that has a fused form. Parts of an ASPP or decoder that runs fused as a whole are not named again."""
    inside: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, Aspp):
            if not module.depthwise_branches():
                continue
            part = _group_part(name, "aspp_depthwise", [(c, b) for _, c, b in module.depthwise_branches()])
            inside += [f"{name}.branches.{index}.depthwise" for index, _, _ in module.depthwise_branches()]
            yield name, module, part
        elif isinstance(module, Decoder):
            first = module.first_depthwise()
            kernel = "upsample_concat" if first is None else "upsample_concat_depthwise"
            yield name, module, _group_part(name, kernel, [] if first is None else [first])
            if first is not None:
                inside.append(f"{name}.convs.0.depthwise")
        elif isinstance(module, ConvBnRelu | Convolution | ConvBnRelu6 | SeparableConv):
            conv, bn = module.conv_and_norm()
            if not isinstance(conv, nn.Conv2d) or conv.groups == 1 or name in inside:
                continue
            yield name, module, _group_part(name, "depthwise_conv_bn_relu", [(conv, bn)])


def _group_part(name: str, kernel: str, pairs: list[tuple[nn.Module, nn.Module | None]]) -> FusedPart:
    reasons = [why_not_fusable(conv, bn) for conv, bn in pairs]
    if len({_shared(conv, bn) for conv, bn in pairs}) > 1:
        reasons.append("its branches differ in kernel size, stride or the normalisation's eps")
    if any(isinstance(bn, nn.SyncBatchNorm) for _, bn in pairs):
        reasons.append("SyncBatchNorm gathers its statistics from all processes, which is torch's to do")
    return FusedPart(name, kernel, next((reason for reason in reasons if reason), ""))


def _shared(conv: nn.Module, bn: nn.Module | None) -> tuple[object, ...]:
    """What all branches of one kernel must have in common."""
    eps = bn.eps if isinstance(bn, nn.BatchNorm2d | nn.SyncBatchNorm) else None
    return getattr(conv, "kernel_size", None), getattr(conv, "stride", None), eps
