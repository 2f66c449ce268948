# SPDX-License-Identifier: Apache-2.0
"""Two models on the same images: where they agree, and which is right where they do not."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..drawing import draw_overlay
from ..errors import DataError
from .confusion import ConfusionMatrix, Scores, by_class, plain_number

# No label has this value, so that a matrix between two predictions leaves nothing out.
_NOTHING_IGNORED = -1
_LONGEST_NAME = 28
# What a pixel is called on which the two differ, with its colour: blue and orange are told apart by all eyes.
_KINDS = (
    ("only {first} is right", (30, 144, 255)),
    ("only {second} is right", (255, 150, 20)),
    ("both are wrong", (225, 40, 200)),
    ("differ, no label", (255, 255, 255)),
)


@dataclass(frozen=True)
class ImageAgreement:
    """Two predictions of one image.

    Attributes:
        index: of the image in the dataset.
        name: what the dataset calls it.
        agreement: pixels with equal labels over all pixels, 0..1.
        miou: mIoU of the first and of the second in this image, 0..1; NaN where nothing is labelled.
        predictions: labels [H, W] of the first and of the second.
    """

    index: int
    name: str
    agreement: float
    miou: tuple[float, float]
    predictions: tuple[NDArray[Any], NDArray[Any]] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able values, without the predictions."""
        return {
            "image": self.name,
            "agreement": self.agreement,
            "miou": [plain_number(value) for value in self.miou],
        }


@dataclass(frozen=True)
class Comparison:
    """How two models compare over a dataset; shares in 0..1.

    Attributes:
        names: of the first and of the second model.
        classes: class names.
        agreement: pixels with equal labels over all pixels, those labelled to be ignored too.
        class_agreement: the same over the pixels that the first model gives to a class, float64 [classes]; NaN where
            it gives none.
        between: pixels, int64 [classes, classes]; rows are the first model's classes, columns the second's.
        first, second: scores of each against the labels.
        worst: the images on which they agree least, the worst first.
    """

    names: tuple[str, str]
    classes: tuple[str, ...]
    agreement: float
    class_agreement: NDArray[np.float64]
    between: NDArray[np.int64]
    first: Scores
    second: Scores
    worst: tuple[ImageAgreement, ...]

    @property
    def iou_difference(self) -> NDArray[np.float64]:
        """IoU of the second model less that of the first, float64 [classes], -1..1."""
        return self.second.iou - self.first.iou

    @property
    def miou_difference(self) -> float:
        """The second model's mIoU less that of the first, -1..1."""
        return self.second.miou - self.first.miou

    def disagreements(self, count: int = 5) -> list[tuple[str, str, float]]:
        """The pairs of classes that swallow most: (class of the first, class of the second, share of all pixels)."""
        apart = self.between.copy()
        np.fill_diagonal(apart, 0)
        order = np.argsort(-apart, axis=None, kind="stable")[:count]
        pairs = [(int(i) // len(self.classes), int(i) % len(self.classes)) for i in order]
        total = int(self.between.sum())
        return [(self.classes[a], self.classes[b], int(apart[a, b]) / total) for a, b in pairs if apart[a, b]]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able values; NaN becomes None."""
        return {
            "models": list(self.names),
            "agreement": self.agreement,
            "class_agreement": by_class(self.classes, self.class_agreement),
            "miou_difference": plain_number(self.miou_difference),
            "iou_difference": by_class(self.classes, self.iou_difference),
            "between": self.between.tolist(),
            "worst_images": [image.to_dict() for image in self.worst],
        }


class ModelComparison:
    """Counts two models' predictions of the same images.

    Args:
        names: of the first and of the second model.
        classes: class names.
        ignore_index: label that does not count against the truth.
        keep: how many of the images with the least agreement are kept, with both predictions.
    """

    def __init__(
        self, names: tuple[str, str], classes: tuple[str, ...], ignore_index: int = 255, keep: int = 5
    ) -> None:
        self.names, self.classes, self.keep = names, classes, keep
        self._between = ConfusionMatrix(classes, _NOTHING_IGNORED)
        self._truth = (ConfusionMatrix(classes, ignore_index), ConfusionMatrix(classes, ignore_index))
        # The root is the image to drop next; of equal ones the later.
        self._worst: list[tuple[float, int, ImageAgreement]] = []

    def add(self, index: int, name: str, first: NDArray[Any], second: NDArray[Any], labels: NDArray[Any]) -> None:
        """Count one image.

        Args:
            index, name: of the image.
            first, second: predictions, integers [H, W] in 0..classes-1.
            labels: integers [H, W], 0..classes-1 or ``ignore_index``.

        Raises:
            DataError: sizes differ, or a value is out of range.
        """
        self._between.add(second, first)
        for matrix, predicted in zip(self._truth, (first, second), strict=True):
            matrix.add(predicted, labels)
        self._remember(index, name, (first, second), labels)

    def result(self) -> Comparison:
        """The comparison so far.

        Raises:
            DataError: no image was counted.
        """
        between = self._between.scores()
        if not between.pixels.sum():
            raise DataError("no image was compared; add at least one")
        return Comparison(
            names=self.names,
            classes=self.classes,
            agreement=between.aacc,
            class_agreement=between.accuracy,
            between=between.confusion,
            first=self._truth[0].scores(),
            second=self._truth[1].scores(),
            worst=tuple(image for _, _, image in sorted(self._worst, key=lambda item: (-item[0], -item[1]))),
        )

    def _remember(
        self, index: int, name: str, predictions: tuple[NDArray[Any], NDArray[Any]], labels: NDArray[Any]
    ) -> None:
        agreement = float(np.mean(predictions[0] == predictions[1]))
        rank = (-agreement, -index)
        full = len(self._worst) == self.keep
        if self.keep < 1 or (full and rank < self._worst[0][:2]):
            return
        miou = [self._image_miou(predicted, labels) for predicted in predictions]
        entry = (*rank, ImageAgreement(index, name, agreement, (miou[0], miou[1]), predictions))
        (heapq.heapreplace if full else heapq.heappush)(self._worst, entry)

    def _image_miou(self, predicted: NDArray[Any], labels: NDArray[Any]) -> float:
        matrix = ConfusionMatrix(self.classes, self._truth[0].ignore_index)
        matrix.add(predicted, labels)
        return matrix.scores().miou


def draw_agreement(
    image: NDArray[np.uint8],
    first: NDArray[Any],
    second: NDArray[Any],
    labels: NDArray[Any],
    *,
    names: tuple[str, str] = ("the first", "the second"),
    ignore_index: int = 255,
) -> NDArray[np.uint8]:
    """Where two predictions differ, in colour over the image in grey; the colour says which is right.

    Args:
        image: uint8 [H, W, 3] RGB.
        first, second: predictions, integers [H, W].
        labels: integers [H, W], class or ``ignore_index``.
        names: of the models, for the legend.
        ignore_index: label of pixels without truth.

    Returns:
        uint8 [H, W, 3] RGB.
    """
    kind = np.full(labels.shape, len(_KINDS), np.uint8)
    differ = first != second
    kind[differ] = 2
    kind[differ & (first == labels)] = 0
    kind[differ & (second == labels)] = 1
    kind[differ & (labels == ignore_index)] = 3
    grey = np.repeat((image @ np.array([0.299, 0.587, 0.114], np.float32))[..., None], 3, 2)
    backdrop = np.clip(32 + 0.5 * grey, 0, 255).astype(np.uint8)
    colors = np.array([color for _, color in _KINDS], np.uint8)
    painted = np.where(differ[..., None], colors[np.minimum(kind, len(_KINDS) - 1)], backdrop)
    shares = np.bincount(kind.reshape(-1), minlength=len(_KINDS) + 1) / max(1, kind.size)
    legend = [
        (text.format(first=_shortened(names[0]), second=_shortened(names[1])), color, float(share))
        for (text, color), share in zip(_KINDS, shares, strict=False)
        if share
    ]
    return draw_overlay(backdrop, painted, kind, 1.0, legend, outlines=False)


def _shortened(name: str) -> str:
    """A name without its middle where it is long: a legend that is too wide would not be drawn."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME // 2]}..{name[-_LONGEST_NAME // 2 :]}"
