# SPDX-License-Identifier: Apache-2.0
"""Shapes that try the operators: odd sizes, channels between vectors, single pixels, huge rates, no images."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DepthwiseCase:
    """[N, C, H, W], kernel size, stride, rates, activation."""

    shape: tuple[int, int, int, int]
    kernel: int = 3
    stride: int = 1
    rates: tuple[int, ...] = (1,)
    activation: str = "relu"


@dataclass(frozen=True)
class ConcatCase:
    """x [N, C, h, w], channels and size of low, corner rule, rate of the convolution behind it."""

    shape: tuple[int, int, int, int]
    low_channels: int
    size: tuple[int, int]
    align_corners: bool = False
    rate: int = 1


@dataclass(frozen=True)
class WindowsCase:
    """Classes and size of a window's logits, size of the map, window, stride, corner rule."""

    logits: tuple[int, int, int]
    size: tuple[int, int]
    window: tuple[int, int]
    stride: tuple[int, int]
    align_corners: bool = False


DEPTHWISE = (
    DepthwiseCase((1, 8, 16, 16)),
    DepthwiseCase((2, 3, 5, 7), activation="none"),
    DepthwiseCase((1, 1, 1, 1), rates=(1, 12)),
    DepthwiseCase((0, 5, 4, 4)),
    DepthwiseCase((2, 17, 13, 19), rates=(2,), activation="relu6"),
    DepthwiseCase((1, 16, 24, 48), rates=(6, 12, 18)),
    DepthwiseCase((1, 70, 9, 11), rates=(4, 8, 100)),
    DepthwiseCase((1, 24, 40, 33), rates=(12, 24, 36)),
    DepthwiseCase((1, 130, 6, 64), rates=(8, 16)),
    DepthwiseCase((2, 16, 33, 17), stride=2),
    DepthwiseCase((1, 5, 8, 8), stride=2, rates=(2,), activation="none"),
    DepthwiseCase((1, 9, 7, 1), stride=3, rates=(3,)),
    DepthwiseCase((1, 8, 12, 10), kernel=5, rates=(2,)),
    DepthwiseCase((1, 4, 9, 20), kernel=7, stride=2),
    DepthwiseCase((1, 12, 5, 6), kernel=1, activation="none"),
    DepthwiseCase((1, 8, 2, 70), rates=(1, 2, 3)),
)

CONCAT = (
    ConcatCase((1, 8, 6, 8), 8, (12, 16)),
    ConcatCase((2, 3, 4, 5), 2, (13, 17)),
    ConcatCase((1, 64, 6, 8), 24, (12, 16), align_corners=True, rate=2),
    ConcatCase((1, 24, 1, 1), 16, (9, 14), align_corners=True),
    ConcatCase((2, 70, 9, 7), 6, (4, 3)),
    ConcatCase((1, 5, 7, 9), 3, (7, 9), align_corners=True),
    ConcatCase((1, 16, 5, 6), 1, (20, 24), rate=30),
    ConcatCase((0, 4, 3, 3), 4, (6, 6)),
    ConcatCase((1, 32, 33, 33), 8, (129, 129), align_corners=True),
    ConcatCase((1, 1, 1, 7), 1, (1, 28)),
)

WINDOWS = (
    WindowsCase((3, 5, 7), (30, 41), (17, 19), (9, 11)),
    WindowsCase((19, 25, 25), (129, 257), (97, 97), (65, 65), align_corners=True),
    WindowsCase((8, 12, 16), (48, 64), (48, 64), (32, 48)),  # one window
    WindowsCase((17, 4, 4), (16, 90), (40, 16), (20, 16)),  # lower than a window; windows that only touch
    WindowsCase((9, 6, 6), (25, 25), (12, 12), (3, 1)),  # up to 4 x 12 windows a pixel
    WindowsCase((1, 1, 1), (1, 1), (5, 5), (5, 5)),
    WindowsCase((2, 1, 3), (5, 40), (2, 3), (1, 2), align_corners=True),
    WindowsCase((5, 20, 22), (37, 29), (20, 22), (13, 22)),  # logits at the window's size
    WindowsCase((21, 30, 40), (33, 50), (15, 20), (15, 20), align_corners=True),  # made smaller
)
