# SPDX-License-Identifier: Apache-2.0
"""A convolution split at the lines where its taps leave the map, so that no part multiplies padding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn

from ..models.activations import norm_relu
from ..models.blocks import ConvBnRelu


@dataclass(frozen=True)
class Region:
    """Outputs along one axis that read the map with the same taps.

    Attributes:
        start, stop: outputs.
        taps: (first, behind the last).
        low, high: inputs that they read, without padding.
    """

    start: int
    stop: int
    taps: tuple[int, int]
    low: int
    high: int


def regions(side: int, kernel: int, rate: int) -> list[Region]:
    """The regions of a stride-1 convolution whose padding keeps the size, along an axis of ``side`` pixels."""

    def inside(position: int) -> tuple[int, int]:
        taps = [t for t in range(kernel) if 0 <= position + (t - kernel // 2) * rate < side]
        return taps[0], taps[-1] + 1

    found = []
    for taps, group in groupby(range(side), inside):
        positions = list(group)
        low = positions[0] + (taps[0] - kernel // 2) * rate
        high = positions[-1] + (taps[1] - 1 - kernel // 2) * rate + 1
        found.append(Region(positions[0], positions[-1] + 1, taps, low, high))
    return found


def void_share(side: int, kernel: int, rate: int) -> float:
    """Which share of the taps along an axis reads padding, 0..1."""
    read = sum((one.taps[1] - one.taps[0]) * (one.stop - one.start) for one in regions(side, kernel, rate))
    return 1 - read / (kernel * side)


class SplitConvBnRelu(nn.Module):
    """A dense ``ConvBnRelu`` for maps of one size, as convolutions of its regions side by side.

    ``[N, in, height, width] -> [N, out, height, width]``
    """

    def __init__(self, block: ConvBnRelu, size: tuple[int, int], axes: tuple[bool, bool]) -> None:
        """Split along the axes (vertical, horizontal) that are marked; along the others the padding stays."""
        super().__init__()
        conv = block.conv
        sides = zip(size, conv.kernel_size, conv.dilation, axes, strict=True)
        self.rows, self.columns = (
            regions(side, kernel, rate) if split else [Region(0, side, (0, kernel), 0, side)]
            for side, kernel, rate, split in sides
        )
        halves = (rate * (kernel // 2) for kernel, rate in zip(conv.kernel_size, conv.dilation, strict=True))
        padding = tuple(0 if split else half for split, half in zip(axes, halves, strict=True))
        self.conv = nn.ModuleList(
            with_taps(conv, slice(*row.taps), slice(*column.taps), padding)
            for row in self.rows
            for column in self.columns
        )
        self.bn = block.bn
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[2:]) != self.size:
            raise ValueError(f"this network is for maps of {list(self.size)} here, got {list(x.shape[2:])}")
        parts = iter(self.conv)
        return torch.cat([self._row(x[:, :, row.low : row.high], parts) for row in self.rows], 2)

    def _row(self, x: Tensor, parts: Iterator[nn.Module]) -> Tensor:
        row = [norm_relu(self.bn, next(parts)(x[:, :, :, column.low : column.high])) for column in self.columns]
        return row[0] if len(row) == 1 else torch.cat(row, 3)


def with_taps(conv: nn.Conv2d, rows: slice, columns: slice, padding: tuple[int, ...]) -> nn.Conv2d:
    """A stride-1 convolution with some of another's taps and another padding; the weights are copied."""
    weight = conv.weight.detach()[:, :, rows, columns].clone(memory_format=torch.contiguous_format)
    kernel = (weight.shape[2], weight.shape[3])
    dilation = tuple(rate if taps > 1 else 1 for rate, taps in zip(conv.dilation, kernel, strict=True))
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
