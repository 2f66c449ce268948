# SPDX-License-Identifier: Apache-2.0
"""mIoU near boundaries: only pixels in a band (trimap) around them count.

DeepLabv3+ (arXiv:1802.02611, section 4.4 and figure 5) looks at its decoder this way, in bands around the ``void``
borders of PASCAL VOC's objects, made by dilation. Here the dilation is by a disk, which is a limit on the distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .confusion import ConfusionMatrix, Scores, plain_number, valid_pairs

DEFAULT_WIDTHS = (1, 2, 3, 5, 10, 20, 40)
MAX_WIDTH = 1000  # squares up to this are exact after float32 square roots
EDGES = ("auto", "void", "classes", "both")


@dataclass(frozen=True)
class TrimapScores:
    """Scores in bands of several widths.

    Attributes:
        widths: of the bands, pixels on each side of a boundary.
        edges: which boundaries: ``"void"``, ``"classes"`` or ``"both"``.
        scores: the scores of each band.
        labelled: labelled pixels of the dataset, in a band or not.
    """

    widths: tuple[int, ...]
    edges: str
    scores: tuple[Scores, ...]
    labelled: int

    @property
    def miou(self) -> tuple[float, ...]:
        """The mIoU of each band, 0..1; NaN for a band without pixels."""
        return tuple(scores.miou for scores in self.scores)

    @property
    def share(self) -> tuple[float, ...]:
        """Labelled pixels in each band over all labelled pixels, 0..1."""
        return tuple(int(scores.pixels.sum()) / max(1, self.labelled) for scores in self.scores)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able values; NaN becomes None."""
        bands = [
            {"width": width, "share": share, **scores.to_dict()}
            for width, share, scores in zip(self.widths, self.share, self.scores, strict=True)
        ]
        return {
            "edges": self.edges,
            "miou": {str(width): plain_number(value) for width, value in zip(self.widths, self.miou, strict=True)},
            "bands": bands,
        }


class Trimap:
    """Confusion counts in bands around boundaries; areas are summed over a dataset before any ratio is taken.

    The band of width w holds the labelled pixels that are at most w pixels (Euclidean, between pixel centres) from the
    nearest pixel beyond a boundary: w layers of pixels on each side of a straight boundary. See `edge_distance`.

    Attributes:
        widths: of the bands, pixels, ascending.
        edges: ``"void"``, ``"classes"`` or ``"both"``.
        counts: pixels of each ring between neighbouring widths, int64 [widths, classes, classes].
        labelled: labelled pixels so far.
    """

    def __init__(
        self,
        classes: tuple[str, ...],
        ignore_index: int = 255,
        widths: Sequence[int] = DEFAULT_WIDTHS,
        edges: str = "auto",
    ) -> None:
        """Start at zero.

        Args:
            classes: class names.
            ignore_index: label of void pixels, which do not count.
            widths: of the bands, whole pixels, 1..1000.
            edges: ``"void"``: edges of void regions, as in the papers; ``"classes"``: edges between classes;
                ``"both"``; ``"auto"`` is ``"both"``, which is right with void borders and without.

        Raises:
            DataError: no width, one out of range, or an unknown kind of edges.
        """
        if not widths or not all(isinstance(width, int) and 1 <= width <= MAX_WIDTH for width in widths):
            raise DataError(f"widths of bands must be whole numbers of pixels in 1..{MAX_WIDTH}, got {list(widths)}")
        if edges not in EDGES:
            raise DataError(f"edges {edges!r} is not one of {', '.join(EDGES)}")
        self.classes, self.ignore_index = classes, ignore_index
        self.widths = tuple(sorted(set(widths)))
        self.edges = "both" if edges == "auto" else edges
        self.counts = np.zeros((len(self.widths), len(classes), len(classes)), np.int64)
        self.labelled = 0

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
        distance = edge_distance(labels, self.ignore_index, self.edges, self.widths[-1])
        distance = distance[labels != self.ignore_index]
        near = distance <= self.widths[-1]
        ring = np.searchsorted(np.array(self.widths, np.float32), distance[near])
        pairs = (ring * count + truth[near]) * count + found[near]
        self.counts += np.bincount(pairs, minlength=self.counts.size).reshape(self.counts.shape)
        self.labelled += truth.size

    def __iadd__(self, other: Trimap) -> Trimap:
        """Add the counts of another part of the dataset.

        Raises:
            DataError: the other one has other classes, widths or edges.
        """
        mine, theirs = ((one.classes, one.ignore_index, one.widths, one.edges) for one in (self, other))
        if mine != theirs:
            raise DataError(
                f"cannot add bands {list(other.widths)} around {other.edges} of {len(other.classes)} classes to bands "
                f"{list(self.widths)} around {self.edges} of {len(self.classes)}; both must be measured alike"
            )
        self.counts += other.counts
        self.labelled += other.labelled
        return self

    def scores(self) -> TrimapScores:
        """Scores of all bands so far; a band holds the narrower ones."""
        bands = np.cumsum(self.counts, 0)
        return TrimapScores(
            widths=self.widths,
            edges=self.edges,
            scores=tuple(ConfusionMatrix.from_counts(self.classes, band).scores() for band in bands),
            labelled=self.labelled,
        )


def edge_distance(labels: NDArray[Any], ignore_index: int, edges: str, reach: int) -> NDArray[np.float32]:
    """How far each labelled pixel is from the nearest boundary.

    The distance is the Euclidean one between pixel centres to the nearest pixel beyond the boundary, exact: a void
    pixel (``"void"``), a pixel labelled with another class (``"classes"``; a void gap between two classes belongs to
    the way), or the nearer of the two (``"both"``). The border of the image is no boundary.

    Args:
        labels: integers [H, W].
        ignore_index: label of void pixels.
        edges: ``"void"``, ``"classes"`` or ``"both"``.
        reach: distances beyond this many pixels are not told.

    Returns:
        float32 [H, W], pixels; infinite beyond ``reach`` and on void pixels.
    """
    distance = np.full(labels.shape, np.inf, np.float32)
    void = labels == ignore_index
    groups = [~void] if edges == "void" else [labels == value for value in np.unique(labels[~void])]
    for group in groups:
        rows, columns = _extent(group, reach)
        inside = group[rows, columns]
        # What lies on this side of the boundary; without void edges, void is no obstacle and no goal.
        near_side = inside | void[rows, columns] if edges == "classes" else inside
        if inside.any() and not near_side.all():
            found = cv2.distanceTransform(near_side.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            # OpenCV's square roots are off in the last bit; the squares are whole numbers.
            squared = np.rint(found[inside].astype(np.float64) ** 2)
            distance[rows, columns][inside] = np.sqrt(squared)
    distance[distance > reach] = np.inf
    return distance


def _extent(mask: NDArray[np.bool_], margin: int) -> tuple[slice, slice]:
    """The rows and columns of a mask and ``margin`` pixels around them: nothing farther can be nearest."""
    rows, columns = (
        slice(max(0, int(where[0]) - margin), int(where[-1]) + margin + 1) if where.size else slice(0, 0)
        for where in (np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0)))
    )
    return rows, columns
