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
        return {
            "miou": plain_number(self.miou),
            "macc": plain_number(self.macc),
            "aacc": plain_number(self.aacc),
            "iou": by_class(self.classes, self.iou),
            "accuracy": by_class(self.classes, self.accuracy),
            "pixels": {name: int(n) for name, n in zip(self.classes, self.pixels, strict=True)},
        }


class ConfusionMatrix:
    """Counts of (labelled, predicted) pixel pairs; areas are summed before any ratio is taken.

    The ratios are those of mmsegmentation's IoUMetric: pixels labelled ``ignore_index`` do not count, and the
    mean leaves out classes that neither occur nor are predicted. The counts are int64 and the ratios float64, so
    below 2^53 pixels only the division rounds.

    Attributes:
        classes: class names.
        ignore_index: label that does not count.
        counts: pixels so far, int64 [classes, classes]; rows are the true classes.
    """

    def __init__(self, classes: tuple[str, ...], ignore_index: int = 255) -> None:
        self.classes = classes
        self.ignore_index = ignore_index
        self.counts = np.zeros((len(classes), len(classes)), np.int64)

    @classmethod
    def from_counts(
        cls, classes: tuple[str, ...], counts: NDArray[np.integer[Any]], ignore_index: int = 255
    ) -> ConfusionMatrix:
        """A matrix that goes on from earlier counts, for instance of another process.

        Args:
            classes: class names.
            counts: integers [classes, classes], at least 0; copied.
            ignore_index: label that does not count.

        Raises:
            DataError: another shape, no integers, or a negative count.
        """
        counts = np.asarray(counts)
        wanted = (len(classes), len(classes))
        if counts.shape != wanted or counts.dtype.kind not in "iu" or (counts.size and counts.min() < 0):
            raise DataError(
                f"counts must be integers of at least 0 and of shape {list(wanted)} for {len(classes)} classes, got "
                f"{counts.dtype} {list(counts.shape)}"
            )
        matrix = cls(classes, ignore_index)
        matrix.counts += counts.astype(np.int64)
        return matrix

    def add(self, predicted: NDArray[Any], labels: NDArray[Any]) -> None:
        """Count one image.

        Args:
            predicted: integers [H, W] in 0..classes-1.
            labels: integers [H, W], 0..classes-1 or ``ignore_index``.

        Raises:
            DataError: sizes differ, or a value is out of range.
        """
        count = len(self.classes)
        truth, found = valid_pairs(predicted, labels, count, self.ignore_index)
        self.counts += np.bincount(truth * count + found, minlength=count * count).reshape(count, count)

    def __iadd__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """Add the counts of another part of the dataset.

        Raises:
            DataError: the other one has other classes or another ``ignore_index``.
        """
        if (self.classes, self.ignore_index) != (other.classes, other.ignore_index):
            raise DataError(
                f"cannot add counts of {len(other.classes)} classes ignoring {other.ignore_index} to counts of "
                f"{len(self.classes)} classes ignoring {self.ignore_index}; both must be of one dataset"
            )
        self.counts += other.counts
        return self

    def scores(self) -> Scores:
        """IoU, accuracies and their means so far."""
        hits = np.diag(self.counts)
        labelled = self.counts.sum(1)
        predicted = self.counts.sum(0)
        with np.errstate(divide="ignore", invalid="ignore"):
            iou = hits / (labelled + predicted - hits)
            accuracy = hits / labelled
        total = int(labelled.sum())
        return Scores(
            classes=self.classes,
            iou=iou,
            accuracy=accuracy,
            pixels=labelled,
            miou=nan_mean(iou),
            macc=nan_mean(accuracy),
            aacc=int(hits.sum()) / total if total else float("nan"),
            confusion=self.counts.copy(),
        )


def valid_pairs(
    predicted: NDArray[Any], labels: NDArray[Any], count: int, ignore_index: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The labelled pixels of one image as (true, predicted) classes, both int64 [pixels].

    Raises:
        DataError: sizes differ, or a value is out of range.
    """
    if predicted.shape != labels.shape:
        raise DataError(f"prediction is {predicted.shape}, labels are {labels.shape}; sizes must agree")
    valid = labels != ignore_index
    truth, found = labels[valid].astype(np.int64), predicted[valid].astype(np.int64)
    for name, values in (("labels", truth), ("prediction", found)):
        if values.size and (values.min() < 0 or values.max() >= count):
            raise DataError(
                f"{name} hold the value {int(values.max() if values.max() >= count else values.min())}, "
                f"but there are {count} classes (0..{count - 1}; {ignore_index} is ignored)"
            )
    return truth, found


def nan_mean(values: NDArray[np.float64]) -> float:
    """Mean of the values that are numbers; NaN where none is."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")


def plain_number(value: float) -> float | None:
    """A number as JSON knows it: None for NaN."""
    return None if np.isnan(value) else float(value)


def by_class(classes: tuple[str, ...], values: NDArray[np.float64]) -> dict[str, float | None]:
    """JSON-able values of all classes; NaN becomes None."""
    return {name: plain_number(value) for name, value in zip(classes, values, strict=True)}
