# SPDX-License-Identifier: Apache-2.0
"""Bilinear resizing along one axis as a table of taps: which inputs, with which weights, make each output.

A table is a pair ``(index, weight)``: int32 and float32 arrays of shape [out, K], so that
``output[i] = sum over k of weight[i, k] * input[index[i, k]]``. Weights of a row sum to 1. Two resizes in a
row are one table with up to four taps, which is how the reference's two resizes (logits to network input,
then to the original image) run in one pass.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Taps = tuple[NDArray[np.int32], NDArray[np.float32]]


def bilinear_taps(size_in: int, size_out: int, align_corners: bool) -> Taps:
    """Taps of ``torch.nn.functional.interpolate(mode="bilinear")`` along one axis.

    Output i samples the input at ``i * (in - 1) / (out - 1)`` with align_corners (0 where out is 1), else at
    ``(i + 0.5) * in / out - 0.5``, clamped at the edges. Positions are computed in double precision.

    Args:
        size_in, size_out: lengths, at least 1.

    Returns:
        index int32 [out, 2] and weight float32 [out, 2]; where the second weight is 0, the indices are equal.

    Raises:
        TypeError, ValueError: a size that is not an integer of at least 1.
    """
    size_in = check_size("size_in", size_in)
    size_out = check_size("size_out", size_out)
    steps = np.arange(size_out, dtype=np.float64)
    if align_corners:
        position = steps * ((size_in - 1) / (size_out - 1)) if size_out > 1 else steps
    else:
        position = (steps + 0.5) * (size_in / size_out) - 0.5
    position = np.clip(position, 0.0, size_in - 1)
    low = np.floor(position).astype(np.int32)
    fraction = (position - low).astype(np.float32)
    high = np.where(fraction > 0, np.minimum(low + 1, size_in - 1), low).astype(np.int32)
    index = np.stack([low, high], axis=1)
    weight = np.stack([1 - fraction, fraction], axis=1).astype(np.float32)
    return index, weight


def compose_taps(first: Taps, second: Taps) -> Taps:
    """The table of resizing with ``first`` and then ``second``, as one table.

    Args:
        first: taps from the input to the intermediate size, [mid, K1].
        second: taps from the intermediate size to the output, [out, K2], with indices below mid.

    Returns:
        Taps [out, K], K at most K1 * K2: equal inputs are merged, unused taps dropped.

    Raises:
        ValueError: ``second`` reads beyond the output of ``first``.
    """
    first_index, first_weight = first
    second_index, second_weight = second
    if second_index.size and int(second_index.max()) >= len(first_index):
        raise ValueError(
            f"second: reads position {int(second_index.max())}, but first has only {len(first_index)} outputs"
        )
    rows = len(second_index)
    index = first_index[second_index].reshape(rows, -1)
    weight = (second_weight[:, :, None].astype(np.float64) * first_weight[second_index]).reshape(rows, -1)
    return _merge(index, weight)


def _merge(index: NDArray[np.int32], weight: NDArray[np.float64]) -> Taps:
    """Add up the weights of equal inputs in a row; as many columns as the fullest row needs."""
    weight = weight.copy()
    columns = weight.shape[1]
    for later in range(1, columns):
        for earlier in range(later):
            same = index[:, later] == index[:, earlier]
            weight[same, earlier] += weight[same, later]
            weight[same, later] = 0.0
    order = np.argsort(weight == 0, axis=1, kind="stable")
    index = np.take_along_axis(index, order, axis=1)
    weight = np.take_along_axis(weight, order, axis=1)
    used = max(1, int((weight != 0).sum(axis=1).max(initial=1)))
    index, weight = index[:, :used], weight[:, :used]
    index = np.where(weight != 0, index, index[:, :1])
    return np.ascontiguousarray(index, dtype=np.int32), np.ascontiguousarray(weight, dtype=np.float32)


def resize_taps(size_in: int, size_out: int, align_corners: bool, via: int | None = None) -> Taps:
    """Taps from ``size_in`` to ``size_out``, through a first resize to ``via`` where given; fewest columns.

    Tables are kept and shared between calls (a stream of images asks for the same ones): they are read-only.

    Raises:
        TypeError, ValueError: a size that is not an integer of at least 1.
    """
    size_in, size_out = check_size("size_in", size_in), check_size("size_out", size_out)
    return _kept_taps(size_in, size_out, bool(align_corners), None if via is None else check_size("via", via))


@lru_cache(maxsize=256)
def _kept_taps(size_in: int, size_out: int, align_corners: bool, via: int | None) -> Taps:
    if via is None or via in (size_in, size_out):  # a resize to the same size changes nothing
        index, weight = bilinear_taps(size_in, size_out, align_corners)
        taps = _merge(index, weight.astype(np.float64))
    else:
        taps = compose_taps(bilinear_taps(size_in, via, align_corners), bilinear_taps(via, size_out, align_corners))
    for array in taps:
        array.flags.writeable = False
    return taps


def taps_matrix(taps: Taps, size_in: int) -> NDArray[np.float32]:
    """The table as a dense matrix float32 [out, size_in]: ``output = matrix @ input``.

    Raises:
        ValueError: the table reads beyond ``size_in``.
    """
    index, weight = taps
    if index.size and int(index.max()) >= size_in:
        raise ValueError(f"taps: read position {int(index.max())}, but size_in is {size_in}")
    matrix = np.zeros((len(index), size_in), np.float32)
    rows = np.broadcast_to(np.arange(len(index))[:, None], index.shape)
    np.add.at(matrix, (rows, index), weight)
    return matrix


def check_size(name: str, value: object) -> int:
    """``value`` as an int of at least 1, or a TypeError or ValueError that names the argument."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}: got {value!r}, needs an integer")
    if value < 1:
        raise ValueError(f"{name}: got {value}, needs at least 1")
    return int(value)
