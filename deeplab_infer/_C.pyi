# SPDX-License-Identifier: Apache-2.0
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

@overload
def upsample_argmax(
    logits: NDArray[np.float32],
    y_index: NDArray[np.int32],
    y_weight: NDArray[np.float32],
    x_index: NDArray[np.int32],
    x_weight: NDArray[np.float32],
    scores: Literal[False] = False,
    threads: int = 0,
    instruction_set: str = "auto",
) -> NDArray[Any]: ...
@overload
def upsample_argmax(
    logits: NDArray[np.float32],
    y_index: NDArray[np.int32],
    y_weight: NDArray[np.float32],
    x_index: NDArray[np.int32],
    x_weight: NDArray[np.float32],
    scores: Literal[True],
    threads: int = 0,
    instruction_set: str = "auto",
) -> tuple[NDArray[Any], NDArray[np.float32]]: ...
@overload
def upsample_argmax(
    logits: NDArray[np.float32],
    y_index: NDArray[np.int32],
    y_weight: NDArray[np.float32],
    x_index: NDArray[np.int32],
    x_weight: NDArray[np.float32],
    scores: bool,
    threads: int = 0,
    instruction_set: str = "auto",
) -> NDArray[Any] | tuple[NDArray[Any], NDArray[np.float32]]: ...
def upsample(
    logits: NDArray[np.float32],
    y_index: NDArray[np.int32],
    y_weight: NDArray[np.float32],
    x_index: NDArray[np.int32],
    x_weight: NDArray[np.float32],
    threads: int = 0,
    instruction_set: str = "auto",
) -> NDArray[np.float32]: ...
def depthwise(
    x: Any,
    weight: Any,
    scale: Any,
    shift: Any,
    out: Any,
    stride: int = 1,
    rates: list[int] = ...,
    activation: str = "relu",
    stream: int = 0,
    threads: int = 0,
    instruction_set: str = "auto",
    emulate: bool = False,
) -> None: ...
def depthwise_statistics(
    x: Any,
    weight: Any,
    mean: Any,
    variance: Any,
    workspace: Any,
    stride: int = 1,
    rates: list[int] = ...,
    stream: int = 0,
    threads: int = 0,
    instruction_set: str = "auto",
    emulate: bool = False,
) -> None: ...
def depthwise_gradient(
    x: Any,
    weight: Any,
    dy: Any,
    scale: Any,
    shift: Any,
    a: Any,
    b: Any,
    c: Any,
    dconv: Any,
    sums: Any,
    dweight: Any,
    workspace: Any,
    stride: int = 1,
    rates: list[int] = ...,
    activation: str = ...,
    stream: int = 0,
    threads: int = 0,
    instruction_set: str = "auto",
    emulate: bool = False,
) -> None: ...
def depthwise_input_gradient(
    dconv: Any,
    weight: Any,
    dx: Any,
    stride: int = 1,
    rates: list[int] = ...,
    stream: int = 0,
    threads: int = 0,
    instruction_set: str = "auto",
    emulate: bool = False,
) -> None: ...
def depthwise_workspace(batch: int, channels: int, out_height: int, out_width: int, rates: int, sums: int) -> int: ...
def upsample_concat(
    x: Any,
    low: Any,
    out: Any,
    align_corners: bool,
    stream: int = 0,
    threads: int = 0,
    instruction_set: str = "auto",
    emulate: bool = False,
) -> None: ...
def upsample_concat_gradient(
    dy: Any,
    dx: Any,
    align_corners: bool,
    stream: int = 0,
    threads: int = 0,
    instruction_set: str = "auto",
    emulate: bool = False,
) -> None: ...
def upsample_concat_depthwise(
    x: Any,
    low: Any,
    weight: Any,
    scale: Any,
    shift: Any,
    out: Any,
    align_corners: bool,
    rate: int = 1,
    activation: str = "relu",
    stream: int = 0,
    threads: int = 0,
    instruction_set: str = "auto",
    emulate: bool = False,
) -> None: ...
def upsample_labels(
    logits: Any,
    labels: Any,
    scores: Any,
    align_corners: bool,
    via: tuple[int, int] | None,
    stream: int = 0,
    threads: int = 0,
    emulate: bool = False,
) -> None: ...
def merge_windows(
    logits: Any,
    out: Any,
    window: tuple[int, int],
    stride: tuple[int, int],
    align_corners: bool,
    stream: int = 0,
    threads: int = 0,
    instruction_set: str = "auto",
    emulate: bool = False,
) -> None: ...
def preprocess(
    images: Any,
    out: Any,
    mean: list[float],
    std: list[float],
    reverse_channels: bool = False,
    stream: int = 0,
    threads: int = 0,
    instruction_set: str = "auto",
    emulate: bool = False,
) -> None: ...
def prefer_huge_pages(out: Any) -> None: ...
def build_info() -> dict[str, Any]: ...
