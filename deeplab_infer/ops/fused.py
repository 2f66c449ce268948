# SPDX-License-Identifier: Apache-2.0
"""The fused operators as functions: of torch tensors (differentiable, on their device) or of any other arrays.

Other arrays are numpy, ``__cuda_array_interface__`` (CuPy, Numba, PyCUDA), DLPack, or buffers. Results are allocated
for numpy; elsewhere pass ``out``, because nothing here allocates on a device. GPU arrays are worked on in ``stream``, a
``cudaStream_t`` as an integer, without waiting for it.

All are memory-bound: each reads its inputs once and writes its outputs once. An [N, C, H, W] array may be contiguous or
channels-last (a transposed view of [N, H, W, C]); the result is laid out alike (`merge_windows` says what it takes).
float32, float16 and bfloat16 sum in float32; float64 works on the CPU. Parameters (weight, scale, shift) are float32,
or float64 with a float64 input.

Raises everywhere: TypeError for a dtype or object that is not accepted, ValueError for shapes, layouts, devices or
values that do not fit, RuntimeError for GPU arrays where this build or machine has no CUDA; the message names the
argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _C
from .resize_taps import check_size

ACTIVATIONS = ("none", "relu", "relu6")


def depthwise_conv_bn_relu(
    x: Any,
    weight: Any,
    scale: Any,
    shift: Any,
    *,
    stride: int = 1,
    dilation: int = 1,
    activation: str = "relu",
    out: Any = None,
    threads: int | None = None,
    stream: int = 0,
) -> Any:
    """Atrous depthwise convolution, batch normalisation as scale and shift, activation, in one pass.

    ``activation(scale * conv(x) + shift)`` with zero padding of ``dilation * (k // 2)``; DeepLabv3+ section 3.1.

    Args:
        x: [N, C, H, W].
        weight: [C, 1, k, k] or [C, k, k]; k of 1, 3, 5, 7.
        scale, shift: [C]; ``gamma / sqrt(var + eps)`` and ``beta - mean * scale``.
        stride: 1 to 8.
        dilation: atrous rate, at least 1; may exceed the image.
        activation: ``"none"``, ``"relu"`` or ``"relu6"``.
        out: where to write; None allocates (torch and numpy). Not for torch tensors.
        threads: CPU threads; None takes all (numpy), torch's own number (torch).
        stream: CUDA stream of GPU arrays; torch tensors use their current one.

    Returns:
        [N, C, ceil(H / stride), ceil(W / stride)] in x's type and layout.
    """
    if _is_tensor(x):
        from . import tensors

        _no_out(out)
        return tensors.depthwise_conv_bn_relu(x, weight, scale, shift, stride, dilation, activation)
    if out is None:
        batch, channels, height, width = _numpy_shape(x, "x")
        check_size("stride", stride)
        out = _allocate(x, (batch, channels, (height - 1) // stride + 1, (width - 1) // stride + 1))
    _C.depthwise(x, weight, scale, shift, out, stride, [dilation], activation, stream, _threads(threads))
    return out


def aspp_depthwise(
    x: Any,
    weight: Any,
    scale: Any,
    shift: Any,
    rates: Sequence[int],
    *,
    activation: str = "relu",
    out: Any = None,
    threads: int | None = None,
    stream: int = 0,
) -> Any:
    """`depthwise_conv_bn_relu` for all atrous rates of an ASPP, over one read of the input.

    Args:
        x: [N, C, H, W].
        weight: [R, C, k, k], one set of kernels a rate.
        scale, shift: [R, C].
        rates: R atrous rates, up to 8.
        activation, out, threads, stream: as in `depthwise_conv_bn_relu`.

    Returns:
        [R, N, C, H, W]; ``result[r]`` belongs to ``rates[r]``.
    """
    if _is_tensor(x):
        from . import tensors

        _no_out(out)
        return tensors.aspp_depthwise(x, weight, scale, shift, rates, activation)
    if out is None:
        out = _allocate(x, (len(rates), *_numpy_shape(x, "x")))
    _C.depthwise(x, weight, scale, shift, out, 1, list(rates), activation, stream, _threads(threads))
    return out


def upsample_concat(
    x: Any, low: Any, *, align_corners: bool, out: Any = None, threads: int | None = None, stream: int = 0
) -> Any:
    """``concat(interpolate(x, size of low, mode="bilinear"), low)`` without the interpolated tensor in memory.

    Args:
        x: [N, C, h, w].
        low: [N, C_low, H, W], laid out as x is.
        align_corners: corner rule of the resize.
        out, threads, stream: as in `depthwise_conv_bn_relu`.

    Returns:
        [N, C + C_low, H, W].
    """
    if _is_tensor(x):
        from . import tensors

        _no_out(out)
        return tensors.upsample_concat(x, low, align_corners)
    if out is None:
        out = _allocate(low, _concat_shape(x, low))
    _C.upsample_concat(x, low, out, align_corners, stream, _threads(threads))
    return out


def upsample_concat_depthwise(
    x: Any,
    low: Any,
    weight: Any,
    scale: Any,
    shift: Any,
    *,
    align_corners: bool,
    dilation: int = 1,
    activation: str = "relu",
    out: Any = None,
    threads: int | None = None,
    stream: int = 0,
) -> Any:
    """``depthwise_conv_bn_relu(upsample_concat(x, low), ...)`` without the concatenation in memory.

    Args:
        x: [N, C, h, w].
        low: [N, C_low, H, W], laid out as x is.
        weight: [C + C_low, 1, k, k] or [C + C_low, k, k].
        scale, shift: [C + C_low].
        align_corners: corner rule of the resize.
        dilation, activation, out, threads, stream: as in `depthwise_conv_bn_relu`.

    Returns:
        [N, C + C_low, H, W].
    """
    if _is_tensor(x):
        from . import tensors

        _no_out(out)
        return tensors.upsample_concat_depthwise(x, low, weight, scale, shift, align_corners, dilation, activation)
    if out is None:
        out = _allocate(low, _concat_shape(x, low))
    _C.upsample_concat_depthwise(
        x, low, weight, scale, shift, out, align_corners, dilation, activation, stream, _threads(threads)
    )
    return out


def preprocess(
    images: Any,
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    reverse_channels: bool = False,
    out: Any = None,
    threads: int | None = None,
    stream: int = 0,
) -> Any:
    """uint8 pixels resized, reordered and normalised in one pass: ``(resize(images) - mean) / std``.

    The resize is OpenCV's ``INTER_LINEAR`` in 8 bits, bit for bit, which is what the networks were evaluated with.

    Args:
        images: uint8 [N, H, W, 3], contiguous.
        size: (h, w) of the result.
        mean, std: three values each, in 0..255 units, in the order of the result's channels.
        reverse_channels: swap red and blue.
        out: float32, float16 or bfloat16 [N, 3, h, w], contiguous or channels-last; None allocates float32 (numpy).
        threads, stream: as in `depthwise_conv_bn_relu`.

    Returns:
        [N, 3, h, w].
    """
    if out is None:
        if not isinstance(images, np.ndarray) or images.ndim != 4:
            raise TypeError(f"images: got {_describe(images)}, needs a numpy array [N, H, W, 3], or pass out")
        shape = (len(images), 3, check_size("size[0]", size[0]), check_size("size[1]", size[1]))
        out = np.empty(shape, np.float32)
    elif tuple(out.shape[-2:]) != tuple(size):
        raise ValueError(f"out: got shape {list(out.shape)}, needs the size {list(size)} in its last two axes")
    _C.preprocess(images, out, list(mean), list(std), reverse_channels, stream, _threads(threads))
    return out


def merge_windows(
    logits: Any,
    size: tuple[int, int],
    *,
    window: tuple[int, int],
    stride: tuple[int, int],
    align_corners: bool,
    out: Any = None,
    threads: int | None = None,
    stream: int = 0,
) -> Any:
    """One map of logits from those of sliding windows: each pixel the mean over the windows that cover it.

    Every window is resized bilinearly to its size on the map; none of the resized ones is in memory. Values are added
    in the order of the windows. It has no gradient.

    Args:
        logits: [n, C, h, w] of all windows, in the order of `deeplab_infer.runtime.windows.place_windows`: float32 (in
            numpy and torch also float16); on a GPU also float16, bfloat16 and channels-last.
        size: (H, W) of the map.
        window, stride: (height, width) of the windows and their distance; at most the window, so that none is missed.
        align_corners: corner rule of the resize.
        out: float32 [C, H, W]; None allocates (torch and numpy). Not for torch tensors.
        threads, stream: as in `depthwise_conv_bn_relu`.

    Returns:
        float32 [C, H, W].
    """
    if _is_tensor(logits):
        from . import tensors

        _no_out(out)
        return tensors.merge_windows(logits, size, window, stride, align_corners)
    if out is None:
        channels = _numpy_shape(logits, "logits", "[n, C, h, w]")[1]
        logits = np.ascontiguousarray(logits, np.float32) if logits.dtype == np.float16 else logits
        out = np.empty((channels, check_size("size[0]", size[0]), check_size("size[1]", size[1])), np.float32)
        _C.prefer_huge_pages(out)
    elif tuple(out.shape[-2:]) != tuple(size):
        raise ValueError(f"out: got shape {list(out.shape)}, needs the size {list(size)} in its last two axes")
    _C.merge_windows(
        logits, out, (window[0], window[1]), (stride[0], stride[1]), align_corners, stream, _threads(threads)
    )
    return out


def _is_tensor(x: Any) -> bool:
    return type(x).__module__.partition(".")[0] == "torch" or hasattr(x, "__torch_function__")


def _no_out(out: Any) -> None:
    if out is not None:
        raise ValueError("out: is not for torch tensors; use the result")


def _threads(threads: int | None) -> int:
    return 0 if threads is None else check_size("threads", threads)


def _describe(x: Any) -> str:
    return f"{type(x).__name__} of shape {list(x.shape)}" if hasattr(x, "shape") else type(x).__name__


def _numpy_shape(x: Any, name: str, axes: str = "[N, C, H, W]") -> tuple[int, int, int, int]:
    if not isinstance(x, np.ndarray):
        raise TypeError(f"{name}: got {_describe(x)}, for which no result can be allocated; pass out")
    if x.ndim != 4:
        raise ValueError(f"{name}: got shape {list(x.shape)}, needs {axes}")
    batch, channels, height, width = x.shape
    return batch, channels, height, width


def _concat_shape(x: Any, low: Any) -> tuple[int, ...]:
    channels = _numpy_shape(x, "x")[1]
    batch, low_channels, height, width = _numpy_shape(low, "low")
    return batch, channels + low_channels, height, width


def _allocate(like: np.ndarray[Any, Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """A result [..., N, C, H, W] in the layout of `like`."""
    *lead, channels, height, width = shape
    made = np.empty(shape if like.flags.c_contiguous else (*lead, height, width, channels), like.dtype)
    if made.size:
        _C.prefer_huge_pages(made)
    return made if like.flags.c_contiguous else np.moveaxis(made, -1, -3)
