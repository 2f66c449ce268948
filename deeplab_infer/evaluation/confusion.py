# SPDX-License-Identifier: Apache-2.0
"""IoU and accuracy from a confusion matrix that is summed over a whole dataset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix says; all in 0..1, NaN for a class that is neither labelled nor predicted.

    Attributes:
        classes: class names.
        iou: intersection over union a class.
        accuracy: labelled pixels that were found, a class.
        pixels: labelled pixels a class.
        miou, macc: means over the classes that occur.
        aacc: correct pixels over labelled pixels.
        confusion: pixels, int64 [classes, classes]; rows are the true classes, columns the predicted ones.
    """

    classes: tuple[str, ...]
    iou: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    pixels: NDArray[np.int64]
    miou: float
    macc: float
    aacc: float
    confusion: NDArray[np.int64]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able values; NaN becomes None."""

        def plain(values: NDArray[np.float64]) -> dict[str, float | None]:
            return {name: None if np.isnan(v) else float(v) for name, v in zip(self.classes, values, strict=True)}

        return {
            "miou": self.miou,
            "macc": self.macc,
            "aacc": self.aacc,
            "iou": plain(self.iou),
            "accuracy": plain(self.accuracy),
            "pixels": {name: int(n) for name, n in zip(self.classes, self.pixels, strict=True)},
        }


class ConfusionMatrix:
    """Counts of (labelled, predicted) pixel pairs; areas are summed before any ratio is taken.

    The ratios are those of mmsegmentation's IoUMetric: pixels labelled ``ignore_index`` do not count, and the
    mean leaves out classes that neither occur nor are predicted.
    """

    def __init__(self, classes: tuple[str, ...], ignore_index: int = 255) -> None:
        self.classes = classes
        self.ignore_index = ignore_index
        self.counts = np.zeros((len(classes), len(classes)), np.int64)

    def add(self, predicted: NDArray[Any], labels: NDArray[Any]) -> None:
        """Count one image.

        Args:
            predicted: integers [H, W] in 0..classes-1.
            labels: integers [H, W], 0..classes-1 or ``ignore_index``.

        Raises:
            DataError: sizes differ, or a value is out of range.
        """
        if predicted.shape != labels.shape:
            raise DataError(f"prediction is {predicted.shape}, labels are {labels.shape}; sizes must agree")
        count = len(self.classes)
        valid = labels != self.ignore_index
        truth, found = labels[valid].astype(np.int64), predicted[valid].astype(np.int64)
        for name, values in (("labels", truth), ("prediction", found)):
            if values.size and (values.min() < 0 or values.max() >= count):
                raise DataError(
                    f"{name} hold the value {int(values.max() if values.max() >= count else values.min())}, "
                    f"but there are {count} classes (0..{count - 1}; {self.ignore_index} is ignored)"
                )
        self.counts += np.bincount(truth * count + found, minlength=count * count).reshape(count, count)

    def scores(self) -> Scores:
        """IoU, accuracies and their means so far."""
        hits = np.diag(self.counts).astype(np.float64)
        labelled = self.counts.sum(1)
        predicted = self.counts.sum(0)
        with np.errstate(divide="ignore", invalid="ignore"):
            iou = hits / (labelled + predicted - hits)
            accuracy = hits / labelled
        total = labelled.sum()
        return Scores(
            classes=self.classes,
            iou=iou,
            accuracy=accuracy,
            pixels=labelled,
            miou=_nan_mean(iou),
            macc=_nan_mean(accuracy),
            aacc=float(hits.sum() / total) if total else float("nan"),
            confusion=self.counts.copy(),
        )


def _nan_mean(values: NDArray[np.float64]) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")
