# SPDX-License-Identifier: Apache-2.0
"""A predictor run over a dataset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.scenes import LabelledImages
from .confusion import ConfusionMatrix


def evaluate(
    predict: Callable[[NDArray[np.uint8]], NDArray[Any]],
    dataset: LabelledImages,
    progress: Callable[[int, int], None] | None = None,
) -> ConfusionMatrix:
    """The confusion matrix of a predictor over a dataset.

    Args:
        predict: from an image, uint8 [H, W, 3] RGB, to its labels, integers [H, W].
        dataset: images with labels.
        progress: called with (images done, images in all).
    """
    matrix = ConfusionMatrix(dataset.spec.classes, dataset.spec.ignore_index)
    for index in range(len(dataset)):
        image, labels = dataset[index]
        matrix.add(predict(image), labels)
        if progress is not None:
            progress(index + 1, len(dataset))
    return matrix
