# SPDX-License-Identifier: Apache-2.0
"""The operators as functions of numpy arrays; shapes and types in the docstrings."""

from __future__ import annotations

from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from .. import _C
from .resize_taps import Taps, check_size, resize_taps

Size = tuple[int, int]


@overload
def upsample_argmax(
    logits: NDArray[Any],
    size: Size,
    *,
    align_corners: bool,
    via: Size | None = ...,
    scores: Literal[False] = ...,
    threads: int | None = ...,
) -> NDArray[Any]: ...
@overload
def upsample_argmax(
    logits: NDArray[Any],
    size: Size,
    *,
    align_corners: bool,
    via: Size | None = ...,
    scores: Literal[True],
    threads: int | None = ...,
) -> tuple[NDArray[Any], NDArray[np.float32]]: ...
@overload
def upsample_argmax(
    logits: NDArray[Any],
    size: Size,
    *,
    align_corners: bool,
    via: Size | None = ...,
    scores: bool,
    threads: int | None = ...,
) -> NDArray[Any] | tuple[NDArray[Any], NDArray[np.float32]]: ...
def upsample_argmax(
    logits: NDArray[Any],
    size: Size,
    *,
    align_corners: bool,
    via: Size | None = None,
    scores: bool = False,
    threads: int | None = None,
) -> NDArray[Any] | tuple[NDArray[Any], NDArray[np.float32]]:
    """Class of every pixel of the full-size image, without the full-size logits in memory.

    Equals ``interpolate(logits, size, mode="bilinear").argmax(1)`` (with ``via``: interpolate to ``via``,
    then to ``size``); the lowest class wins a tie. NaN logits never win; a pixel without any class above
    -infinity gets label 0 and score NaN.

    Args:
        logits: float32 or float16, [C, h, w] or [N, C, h, w]; any strides.
        size: (H, W) of the result.
        align_corners: of every resize, as the network was trained.
        via: (H, W) of the reference's first resize, to the network's input, where it differs from ``size``.
        scores: also return the softmax probability of the winning class.
        threads: None for every processor this process may use.

    Returns:
        labels [H, W] or [N, H, W], uint8 up to 256 classes, else int32; with ``scores`` a pair (labels,
        float32 scores of the same shape in 0..1).

    Raises:
        TypeError, ValueError: an argument of the wrong type, shape or size, named in the message.
    """
    array = _as_logits(logits)
    (y_index, y_weight), (x_index, x_weight) = _axis_taps(array.shape[-2:], size, align_corners, via)
    return _C.upsample_argmax(array, y_index, y_weight, x_index, x_weight, scores, _thread_count(threads))


def upsample_argmax_into(
    logits: Any,
    labels: Any,
    *,
    align_corners: bool,
    via: Size | None = None,
    scores: Any = None,
    stream: int = 0,
) -> None:
    """`upsample_argmax` on a GPU, into arrays that are there: CuPy, Numba, PyCUDA, torch, anything with DLPack.

    Args:
        logits: float32, float16 or bfloat16 [N, C, h, w] on a GPU, contiguous or channels-last.
        labels: [N, H, W] on the same GPU, contiguous; uint8 for up to 256 classes, or int32.
        align_corners, via: as in `upsample_argmax`.
        scores: None, or float32 [N, H, W] for the softmax probabilities.
        stream: ``cudaStream_t`` as an integer; nothing waits for it.

    Raises:
        TypeError, ValueError: an argument of the wrong type, shape, device or size, named in the message.
        RuntimeError: this build or machine has no CUDA.
    """
    _C.upsample_labels(logits, labels, scores, align_corners, None if via is None else _check_pair("via", via), stream)


def upsample(
    logits: NDArray[Any],
    size: Size,
    align_corners: bool,
    *,
    via: Size | None = None,
    threads: int | None = None,
) -> NDArray[np.float32]:
    """Full-size float maps, as ``interpolate(logits, size, mode="bilinear")``.

    Args:
        logits: float32 or float16, [..., h, w].
        size: (H, W) of the result.
        align_corners: of every resize.
        via: (H, W) of a first resize, as in `upsample_argmax`.
        threads: None for every processor this process may use.

    Returns:
        float32 [..., H, W].

    Raises:
        TypeError, ValueError: an argument of the wrong type, shape or size, named in the message.
    """
    array = _as_float32(logits)
    if array.ndim < 2 or min(array.shape[-2:]) < 1:
        raise ValueError(f"logits: got shape {list(array.shape)}, needs [..., h, w] with h, w of at least 1")
    (y_index, y_weight), (x_index, x_weight) = _axis_taps(array.shape[-2:], size, align_corners, via)
    return _C.upsample(array, y_index, y_weight, x_index, x_weight, _thread_count(threads))


def _axis_taps(shape: tuple[int, ...], size: Size, align_corners: bool, via: Size | None) -> tuple[Taps, Taps]:
    height, width = _check_pair("size", size)
    via_height, via_width = (None, None) if via is None else _check_pair("via", via)
    return (
        resize_taps(shape[0], height, align_corners, via_height),
        resize_taps(shape[1], width, align_corners, via_width),
    )


def _thread_count(threads: int | None) -> int:
    return 0 if threads is None else check_size("threads", threads)


def _as_logits(logits: NDArray[Any]) -> NDArray[np.float32]:
    array = _as_float32(logits)
    if array.ndim not in (3, 4):
        raise ValueError(f"logits: got shape {list(array.shape)}, needs [C, h, w] or [N, C, h, w]")
    if min(array.shape[-3:]) < 1:
        raise ValueError(f"logits: got shape {list(array.shape)}; C, h and w must be at least 1")
    return array


def _as_float32(logits: NDArray[Any]) -> NDArray[np.float32]:
    if not isinstance(logits, np.ndarray):
        raise TypeError(f"logits: got {type(logits).__name__}, needs a numpy array")
    if logits.dtype not in (np.float32, np.float16):
        raise TypeError(f"logits: got dtype {logits.dtype}, needs float32 or float16")
    return np.ascontiguousarray(logits, dtype=np.float32)


def _check_pair(name: str, value: Size) -> Size:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{name}: got {value!r}, needs a pair (height, width)")
    return check_size(f"{name}[0]", value[0]), check_size(f"{name}[1]", value[1])
