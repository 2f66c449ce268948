# SPDX-License-Identifier: Apache-2.0
"""The operators in float64 numpy, written from their definitions and sharing no code with the kernels.

Arrays are [N, C, H, W]. Beside each value comes its magnitude: the sum of the absolute values of everything that is
added up for it, which is what rounding errors are proportional to.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
LIMITS = {"none": (-np.inf, np.inf), "relu": (0.0, np.inf), "relu6": (0.0, 6.0)}


@dataclass(frozen=True)
class Reference:
    """Values and magnitudes of one result."""

    value: F64
    magnitude: F64


def taps(x: F64, k: int, stride: int, rate: int) -> F64:
    """What each tap of a k x k kernel reads: [k * k, N, C, ceil(H / stride), ceil(W / stride)], zeros outside."""
    _, _, height, width = x.shape
    rows, columns = np.arange(0, height, stride), np.arange(0, width, stride)
    found = []
    for i in range(k):
        for j in range(k):
            y, x_at = rows + (i - k // 2) * rate, columns + (j - k // 2) * rate
            picked = x[:, :, np.clip(y, 0, height - 1)][:, :, :, np.clip(x_at, 0, width - 1)]
            inside = ((y >= 0) & (y < height))[:, None] & ((x_at >= 0) & (x_at < width))[None, :]
            found.append(np.where(inside, picked, 0.0))
    return np.stack(found)


def convolution(x: F64, weight: F64, stride: int, rate: int) -> Reference:
    """Depthwise convolution; weight [C, k, k]."""
    k = weight.shape[-1]
    read = taps(x, k, stride, rate)
    factors = weight.reshape(weight.shape[0], k * k).T[:, None, :, None, None]
    return Reference((read * factors).sum(0), np.abs(read * factors).sum(0))


def activate(z: F64, activation: str) -> F64:
    """Clamp."""
    return np.clip(z, *LIMITS[activation])


def depthwise(x: F64, weight: F64, scale: F64, shift: F64, stride: int, rates: list[int], activation: str) -> Reference:
    """All rates: [R, N, C, H', W']; weight [R, C, k, k], scale and shift [R, C]."""
    values, magnitudes = [], []
    for kernels, a, b, rate in zip(weight, scale, shift, rates, strict=True):
        conv = convolution(x, kernels, stride, rate)
        a, b = a[:, None, None], b[:, None, None]
        values.append(activate(a * conv.value + b, activation))
        magnitudes.append(np.abs(a) * conv.magnitude + np.abs(b))
    return Reference(np.stack(values), np.stack(magnitudes))


def resize_matrix(size_in: int, size_out: int, align_corners: bool) -> F64:
    """Bilinear interpolation along one axis as a dense matrix [out, in]."""
    matrix = np.zeros((size_out, size_in))
    for i in range(size_out):
        if align_corners:
            position = Fraction(i * (size_in - 1), max(size_out - 1, 1))
        else:
            position = max(Fraction(2 * i + 1, 2) * Fraction(size_in, size_out) - Fraction(1, 2), Fraction(0))
        low = min(int(position), size_in - 1)
        high = min(low + 1, size_in - 1)
        fraction = float(position - low) if high > low else 0.0
        matrix[i, low] += 1 - fraction
        matrix[i, high] += fraction
    return matrix


def resize(x: F64, size: tuple[int, int], align_corners: bool) -> Reference:
    """``interpolate(mode="bilinear")``"""
    rows = resize_matrix(x.shape[-2], size[0], align_corners)
    columns = resize_matrix(x.shape[-1], size[1], align_corners).T
    return Reference(rows @ x @ columns, rows @ np.abs(x) @ columns)


def upsample_concat(x: F64, low: F64, align_corners: bool) -> Reference:
    """``concat(interpolate(x), low)``"""
    up = resize(x, (low.shape[2], low.shape[3]), align_corners)
    return Reference(np.concatenate([up.value, low], 1), np.concatenate([up.magnitude, np.abs(low)], 1))


def upsample_concat_gradient(dy: F64, size: tuple[int, int], align_corners: bool) -> Reference:
    """The transpose of `resize`."""
    rows = resize_matrix(size[0], dy.shape[-2], align_corners).T
    columns = resize_matrix(size[1], dy.shape[-1], align_corners)
    return Reference(rows @ dy @ columns, rows @ np.abs(dy) @ columns)


@dataclass(frozen=True)
class Gradients:
    """See ``csrc/ops/depthwise_backward.h``."""

    dconv: Reference
    sum_z: Reference
    sum_z_conv: Reference
    dweight: Reference
    margin: F64  # distance of the activation's input from its limits, over its magnitude


def depthwise_gradients(
    x: F64,
    weight: F64,
    dy: F64,
    scale: F64,
    shift: F64,
    factors: tuple[F64, F64, F64],
    stride: int,
    rate: int,
    activation: str,
) -> Gradients:
    """For one rate: weight [C, k, k]; scale, shift and the three factors [C]; dy [N, C, H', W']."""
    k = weight.shape[-1]
    conv = convolution(x, weight, stride, rate)
    a, b, c = (f[:, None, None] for f in factors)
    inner = scale[:, None, None] * conv.value + shift[:, None, None]
    low, high = LIMITS[activation]
    z = np.where((inner > low) & (inner < high), dy, 0.0)
    dconv = a * z + b + c * conv.value
    size = np.abs(a * z) + np.abs(b) + np.abs(c) * conv.magnitude
    read = taps(x, k, stride, rate)
    over = (1, 3, 4)
    dweight = Reference((read * dconv).sum(over).T, (np.abs(read) * size).sum(over).T)
    axes = (0, 2, 3)
    distance = np.minimum(np.abs(inner - low), np.abs(inner - high))
    return Gradients(
        Reference(dconv, size),
        Reference(z.sum(axes), np.abs(z).sum(axes)),
        Reference((z * conv.value).sum(axes), (np.abs(z) * conv.magnitude).sum(axes)),
        Reference(dweight.value.reshape(-1, k, k), dweight.magnitude.reshape(-1, k, k)),
        distance / (np.abs(scale)[:, None, None] * conv.magnitude + np.abs(shift)[:, None, None] + 1e-300),
    )


def depthwise_input_gradient(
    dconv: F64, weight: F64, size: tuple[int, int], stride: int, rates: list[int]
) -> Reference:
    """The transpose of `convolution`, summed over rates: dconv [R, N, C, H', W'], weight [R, C, k, k]."""
    rates_count, batch, channels, out_height, out_width = dconv.shape
    value, magnitude = np.zeros((batch, channels, *size)), np.zeros((batch, channels, *size))
    k = weight.shape[-1]
    for r in range(rates_count):
        for i in range(k):
            for j in range(k):
                y = np.arange(out_height) * stride + (i - k // 2) * rates[r]
                x = np.arange(out_width) * stride + (j - k // 2) * rates[r]
                rows, columns = (y >= 0) & (y < size[0]), (x >= 0) & (x < size[1])
                share = dconv[r][:, :, rows][:, :, :, columns] * weight[r, :, i, j][:, None, None]
                where = np.ix_(range(batch), range(channels), y[rows], x[columns])
                value[where] += share
                magnitude[where] += np.abs(share)
    return Reference(value, magnitude)


def merge_windows(
    logits: F64, size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int], align_corners: bool
) -> Reference:
    """Mean of the resized windows over those that cover a pixel: [C, H, W]. The placement is mmsegmentation's.

    The magnitude counts every value that is read in full: a weight of ``1 - fraction`` near 0 is off by the roundoff of
    the fraction, which is near 1.
    """
    value, magnitude = np.zeros((logits.shape[1], *size)), np.zeros((logits.shape[1], *size))
    visits = np.zeros(size)
    counts = [max(length - w + s - 1, 0) // s + 1 for length, w, s in zip(size, window, stride, strict=True)]
    for row in range(counts[0]):
        for column in range(counts[1]):
            bottom = min(row * stride[0] + window[0], size[0])
            right = min(column * stride[1] + window[1], size[1])
            top, left = max(bottom - window[0], 0), max(right - window[1], 0)
            one = logits[row * counts[1] + column]
            rows = resize_matrix(one.shape[-2], bottom - top, align_corners)
            columns = resize_matrix(one.shape[-1], right - left, align_corners).T
            value[:, top:bottom, left:right] += rows @ one @ columns
            magnitude[:, top:bottom, left:right] += (rows > 0) @ np.abs(one) @ (columns > 0)
            visits[top:bottom, left:right] += 1
    return Reference(value / visits, magnitude / visits)


def preprocess(images: NDArray[np.uint8], size: tuple[int, int], mean: Any, std: Any, reverse: bool) -> F64:
    """OpenCV's own resize, then float64 arithmetic: [N, 3, h, w]."""
    import cv2

    resized = [cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR) for image in images]
    pixels = np.stack(resized).astype(np.float64)[..., :: -1 if reverse else 1]
    return ((pixels - np.asarray(mean)) / np.asarray(std)).transpose(0, 3, 1, 2)
