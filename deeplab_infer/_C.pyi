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
def build_info() -> dict[str, Any]: ...
