# SPDX-License-Identifier: Apache-2.0
"""Winograd's minimal filtering F(4x4, 3x3) for the wide 3x3 convolutions of an OpenVINO graph, in its own operators.

A 4x4 tile of the output takes 36 products a pair of channels instead of 144 (Lavin and Gray, "Fast Algorithms for
Convolutional Neural Networks", CVPR 2016): ``Y = A^T [(G g G^T) * (B^T d B)] A`` with the tile's 6x6 inputs d. The sum
over input channels is one matrix product for each of the 36. A convolution of rate r is r * r ordinary ones, each over
every r-th row and column.

The matrices follow from five points and infinity. 0, +-3/4, +-3/2 round less than the usual 0, +-1, +-2, and their
powers are exact in float32 (tests/runtime/test_openvino_winograd.py bounds the error). For float32 on CPUs only: in
lower precisions the transforms would lose more than the products save.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray
from openvino import opset13 as ops

_log = logging.getLogger(__name__)

TILE = 4
_TAPS = 3
_SPAN = TILE + _TAPS - 1  # inputs under a tile, along one axis
_POINTS = tuple(Fraction(value) for value in ("0", "3/4", "-3/4", "3/2", "-3/2"))
# Below, moving the tiles costs what the products save (docs/optimisations.md).
MIN_CHANNELS = 256
# Share of the products that may be left; 0.25 where tiles fit the map, more where they hang over its border.
MAX_SHARE = 0.4
# Tiles of a layer that are in memory at once; wider maps are computed in bands of rows.
BAND_BYTES = 256 << 20


@dataclass(frozen=True)
class _Layer:
    """Sizes of one convolution of stride 1 whose output is as large as its input."""

    batch: int
    channels: int
    height: int
    width: int
    filters: int
    rate: int

    @property
    def tiles(self) -> tuple[int, int]:
        """Tiles down and across, of each of the rate * rate interleaved maps."""
        step = self.rate * TILE
        return -(-self.height // step), -(-self.width // step)

    @property
    def share(self) -> float:
        """Products that are left, of those of the plain convolution."""
        down, across = self.tiles
        products = down * across * (self.rate * _SPAN) ** 2
        return products / (self.height * self.width * _TAPS**2)

    @property
    def band(self) -> int:
        """Rows of tiles that are computed at once."""
        a_row = self.batch * self.tiles[1] * (self.rate * _SPAN) ** 2 * self.channels * 4
        return max(1, min(self.tiles[0], BAND_BYTES // a_row))


def rewrite(model: Any) -> list[str]:
    """Replace convolutions where that saves time, in place.

    Args:
        model: an ``openvino.Model`` that is to run in float32 on a CPU; convolutions whose sizes are open stay.

    Returns:
        Names of the convolutions that were replaced.
    """
    replaced = []
    for node in model.get_ordered_ops():
        layer = _layer_of(node)
        if layer is None:
            continue
        weight = node.input_value(1).get_node().get_data()
        result = _convolution(node.input_value(0), weight, layer).output(0)
        for target in node.output(0).get_target_inputs():
            target.replace_source_output(result)
        replaced.append(node.get_friendly_name())
    if replaced:
        model.validate_nodes_and_infer_types()
        _log.info("%d wide 3x3 convolutions take a quarter of their products (Winograd)", len(replaced))
    return replaced


def matrices() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """A^T [4, 6], G [6, 3] and B^T [6, 6] of F(4, 3) by Cook and Toom's construction."""
    others = [[point for point in _POINTS if point != one] for one in _POINTS]
    scales = [
        reduce(lambda a, b: a * b, [one - point for point in rest]) for one, rest in zip(_POINTS, others, strict=True)
    ]
    outputs = [[point**power for point in _POINTS] + [Fraction(power == TILE - 1)] for power in range(TILE)]
    filters = [[point**tap / scale for tap in range(_TAPS)] for point, scale in zip(_POINTS, scales, strict=True)]
    filters.append([Fraction(tap == _TAPS - 1) for tap in range(_TAPS)])
    inputs = [[*_polynomial(rest), Fraction(0)] for rest in others] + [_polynomial(list(_POINTS))]
    output, filter_, input_ = (np.array(rows, dtype=np.float64) for rows in (outputs, filters, inputs))
    return output, filter_, input_


def _polynomial(roots: list[Fraction]) -> list[Fraction]:
    """Coefficients of ``(x - root) * ...``, lowest power first."""
    product = [Fraction(1)]
    for root in roots:
        shifted, scaled = [Fraction(0), *product], [*(-root * value for value in product), Fraction(0)]
        product = [a + b for a, b in zip(shifted, scaled, strict=True)]
    return product


def _layer_of(node: Any) -> _Layer | None:
    """The sizes of a convolution that is worth it, else None."""
    if node.get_type_name() != "Convolution" or not node.get_output_partial_shape(0).is_static:
        return None
    data, weight = node.input_value(0), node.input_value(1)
    # Weights of eight bits or float16 come through a conversion.
    if weight.get_node().get_type_name() != "Constant" or weight.get_element_type().get_type_name() != "f32":
        return None
    filters, channels, *taps = weight.get_shape()
    attributes = node.get_attributes()
    rate = int(attributes["dilations"][0])
    same = [list(attributes[name]) == [rate, rate] for name in ("dilations", "pads_begin", "pads_end")]
    if taps != [_TAPS, _TAPS] or list(attributes["strides"]) != [1, 1] or not all(same):
        return None
    batch, _, height, width = data.get_shape()
    layer = _Layer(batch, channels, height, width, filters, rate)
    return layer if min(channels, filters) >= MIN_CHANNELS and layer.share <= MAX_SHARE else None


def _convolution(data: Any, weight: NDArray[np.float32], layer: _Layer) -> Any:
    """From float32 data [N, C, H, W] and weight [K, C, 3, 3] to [N, K, H, W]."""
    down, across = layer.tiles
    rows, columns = ((count + 1) * TILE * layer.rate for count in layer.tiles)
    below, right = rows - layer.rate - layer.height, columns - layer.rate - layer.width
    image = ops.transpose(data, _ints(0, 2, 3, 1))
    padded = ops.pad(image, _ints(0, layer.rate, layer.rate, 0), _ints(0, below, right, 0), "constant", np.float32(0))
    # [N, down + 1, 4, the rest of four rows of every interleaved map]
    by_tile = _reshape(padded, layer.batch, down + 1, TILE, layer.rate * columns * layer.channels)
    filters = ops.constant(_transformed_weights(weight))
    bands = [
        _band(_overlapping(by_tile, 1, first, min(first + layer.band, down)), filters, layer)
        for first in range(0, down, layer.band)
    ]
    result = bands[0] if len(bands) == 1 else ops.concat(bands, 1)
    if (down * TILE * layer.rate, across * TILE * layer.rate) != (layer.height, layer.width):
        result = ops.slice(result, _ints(0, 0), _ints(layer.height, layer.width), _ints(1, 1), _ints(1, 2))
    return ops.transpose(result, _ints(0, 3, 1, 2))


def _band(tiles: Any, filters: Any, layer: _Layer) -> Any:
    """Some rows of tiles [N, t, 6, ...] to their rows of the result, [N, t * 4 * rate, all columns, K]."""
    rate, across = layer.rate, layer.tiles[1]
    down = layer.batch * tiles.get_output_shape(0)[1]
    maps = rate * layer.channels
    both = _overlapping(_reshape(tiles, down, _SPAN * rate, across + 1, TILE, maps), 2, 0, across)
    both = _reshape(both, down, _SPAN, rate, across, _SPAN, maps)
    flat = _reshape(ops.transpose(both, _ints(1, 4, 0, 2, 3, 5)), _SPAN**2, -1)
    output, _, input_ = (np.kron(matrix, matrix).astype(np.float32) for matrix in matrices())
    points = _reshape(ops.matmul(ops.constant(input_), flat, False, False), _SPAN**2, -1, layer.channels)
    products = _reshape(ops.matmul(points, filters, False, False), _SPAN**2, -1)
    result = ops.matmul(ops.constant(output), products, False, False)
    result = _reshape(result, TILE, TILE, down, rate, across, rate * layer.filters)
    rows = ops.transpose(result, _ints(2, 0, 3, 4, 1, 5))
    return _reshape(rows, layer.batch, -1, across * TILE * rate, layer.filters)


def _overlapping(data: Any, axis: int, first: int, last: int) -> Any:
    """Along an axis of blocks of 4: blocks [first, last), each with the first two of the next."""
    whole = _slice(data, axis, first, last)
    following = _slice(_slice(data, axis, first + 1, last + 1), axis + 1, 0, _SPAN - TILE)
    return ops.concat([whole, following], axis + 1)


def _transformed_weights(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """[K, C, 3, 3] to [36, C, K], rounded once."""
    _, matrix, _ = matrices()
    filters, channels = weight.shape[:2]
    points = np.einsum("ai,kcij,bj->abck", matrix, weight.astype(np.float64), matrix, optimize=True)
    return points.reshape(_SPAN**2, channels, filters).astype(np.float32)


def _ints(*values: int) -> Any:
    return ops.constant(np.array(values, np.int64))


def _reshape(data: Any, *shape: int) -> Any:
    return ops.reshape(data, _ints(*shape), False)


def _slice(data: Any, axis: int, first: int, last: int) -> Any:
    return ops.slice(data, _ints(first), _ints(last), _ints(1), _ints(axis))
