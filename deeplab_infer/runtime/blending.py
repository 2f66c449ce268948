# SPDX-License-Identifier: Apache-2.0
"""How much each of several overlapping windows says at a pixel.

Along an axis, window q starts at t_q and has the profile u(i) > 0 at its position i. Its share of pixel p is

    a_q(p) = u(p - t_q) / sum over r of u(p - t_r)        (windows that cover p; the shares of a pixel sum to 1)

Windows lie in a grid, and the weight of a window at a pixel is the product of its profiles along the two axes. So the
weighted mean over windows separates: the share of window (q, c) at pixel (y, x) is a_q(y) * b_c(x).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import DeepLabError

Profile = Callable[[NDArray[np.float64], int], NDArray[np.float64]]

# From pixel centres 0.5, 1.5, ... of a window of n pixels to weights: positive everywhere, the most in the middle.
_PROFILES: dict[str, Profile] = {
    "mean": lambda centre, n: np.ones_like(centre),
    "linear": lambda centre, n: np.minimum(centre, n - centre) / (n / 2),
    "hann": lambda centre, n: np.sin(np.pi * centre / n) ** 2,
}
BLENDS = tuple(_PROFILES)


def profile(blend: str, length: int) -> NDArray[np.float64]:
    """Weights along one side of a window, float64 [length], above 0 and at most 1.

    Args:
        blend: one of `BLENDS`. With i = 0..n-1 and x = i + 1/2: ``"mean"`` 1; ``"linear"`` min(x, n - x) / (n / 2), a
            tent, which fades linearly from one window to the next where no more than two overlap, each by half at
            most; ``"hann"`` sin^2(pi x / n), which also starts and ends flat.
        length: n, at least 1.

    Raises:
        DeepLabError: no such blend.
    """
    if blend not in _PROFILES:
        raise DeepLabError(f"blend {blend!r} is not one of {', '.join(BLENDS)}")
    return _PROFILES[blend](np.arange(length, dtype=np.float64) + np.float64(0.5), length)


def shares(blend: str, starts: Sequence[int], window: int, length: int) -> NDArray[np.float64]:
    """Shares a_q of every window along one axis, float64 [windows, window]; those of a pixel sum to 1.

    Args:
        blend: as in `profile`.
        starts: t_q of the windows, which cover 0..length-1.
        window: pixels of each.
        length: of the axis.
    """
    weights = profile(blend, window)
    total = np.zeros(length)
    for start in starts:
        total[start : start + window] += weights
    return np.stack([weights / total[start : start + window] for start in starts])
