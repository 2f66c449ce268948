# SPDX-License-Identifier: Apache-2.0
"""Error bounds of the operators, from the types they compute in and the number of values they add.

A sum of K products in arithmetic of unit roundoff u is off by at most about ``(K + 1) u`` times the sum of the absolute
values (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1), in any order of summation; storing the
result adds the roundoff of the storage type.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Half the distance from 1 to the next larger number; the smallest normal number, below which errors are absolute.
ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
SMALLEST = {"float64": 2.0**-1022, "float32": 2.0**-126, "float16": 2.0**-14, "bfloat16": 2.0**-126}


def error_bound(
    dtype: str, terms: int, magnitude: NDArray[np.float64], value: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Largest error of a result.

    Args:
        dtype: type it is stored in; sums are float32 for all but float64.
        terms: products added up for it, with a few more for scale, shift and interpolation weights.
        magnitude: sum of the absolute values of those products.
        value: the exact result.
    """
    compute = ROUNDOFF["float64" if dtype == "float64" else "float32"]
    storage = ROUNDOFF[dtype] * np.abs(value) + ROUNDOFF[dtype] * SMALLEST[dtype] * 2
    # The exact result is computed in float64 too: a float64 result may be off by both errors.
    both = 2 if dtype == "float64" else 1
    return both * ((terms + 1) * compute * magnitude * (1 + ROUNDOFF[dtype]) + storage)


def assert_close(name: str, got: Any, value: Any, magnitude: Any, dtype: str, terms: int) -> None:
    """Fail, with the worst place, where a result is further off than it may be, or is not a number."""
    got = np.asarray(got, np.float64)
    value, magnitude = np.asarray(value, np.float64), np.asarray(magnitude, np.float64)
    assert got.shape == value.shape, f"{name}: shape {got.shape}, expected {value.shape}"
    if got.size == 0:
        return
    excess = np.abs(got - value) - error_bound(dtype, terms, magnitude, value)
    excess[~np.isfinite(got)] = np.inf
    worst = np.unravel_index(int(np.argmax(excess)), excess.shape)
    assert excess[worst] <= 0, (
        f"{name} in {dtype}: at {tuple(int(i) for i in worst)} got {got[worst]!r}, expected {value[worst]!r}, "
        f"allowed error {error_bound(dtype, terms, magnitude, value)[worst]:.3g}"
    )
