# SPDX-License-Identifier: Apache-2.0
"""What reading a data set has shown: problems, statistics, and class weights from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .listing import some

WEIGHTINGS = ("inverse_log", "median_frequency")


@dataclass(frozen=True)
class Problem:
    """A file (as the data set names it) and what is wrong with it."""

    file: str
    problem: str


@dataclass(frozen=True)
class DatasetReport:
    """What reading a data set has shown.

    Attributes:
        name, classes: of the data set.
        images: number of images in it.
        checked: how many of them were read.
        problems: images that could not be used; the figures below leave them out.
        pixels: int64 [C], pixels of each class.
        images_with: int64 [C], images that hold each class.
        pixels_with: int64 [C], labelled pixels of the images that hold each class.
        ignored: pixels that no class covers.
        sizes: (height, width) of images and how many have it, most frequent first.
    """

    name: str
    classes: tuple[str, ...]
    images: int
    checked: int
    problems: tuple[Problem, ...]
    pixels: NDArray[np.int64]
    images_with: NDArray[np.int64]
    pixels_with: NDArray[np.int64]
    ignored: int
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)

    @property
    def ignored_share(self) -> float:
        """Share of ignored pixels, 0..1."""
        total = int(self.pixels.sum()) + self.ignored
        return self.ignored / total if total else 0.0

    @property
    def absent(self) -> tuple[str, ...]:
        """Classes without a pixel in the images read."""
        return tuple(name for name, count in zip(self.classes, self.pixels, strict=True) if count == 0)

    def class_weights(self, kind: str) -> NDArray[np.float64]:
        """Weights of the classes for the loss, float64 [C].

        ``"inverse_log"`` (ENet): 1 / ln(1.02 + p), p the class's share of all labelled pixels.
        ``"median_frequency"`` (SegNet): median(f) / f, f the class's share of the labelled pixels of the images that
        hold it, the median over the classes that occur. One that does not occur gets the largest weight of the others.

        Raises:
            DataError: another kind, or no labelled pixel at all.
        """
        total = int(self.pixels.sum())
        if total == 0:
            raise DataError(f"{self.name}: no labelled pixels in {self.checked} images; class weights need some")
        if kind == "inverse_log":
            return 1.0 / np.log(1.02 + self.pixels / total)
        if kind != "median_frequency":
            raise DataError(f"unknown class weights {kind!r} (known: {', '.join(WEIGHTINGS)})")
        occurs = self.pixels > 0
        frequency = self.pixels[occurs] / self.pixels_with[occurs]
        weights = np.full(len(self.classes), np.median(frequency) / frequency.min())
        weights[occurs] = np.median(frequency) / frequency
        return weights

    def warnings(self) -> list[str]:
        """What is no error but seldom meant."""
        found = []
        if self.absent and self.checked > len(self.problems):
            found.append(f"{len(self.absent)} classes occur in no image read: {some(self.absent)}")
        if len(self.classes) == 2 and self.pixels[1] == 0 and self.ignored:
            found.append(
                f"only {self.classes[0]!r} and ignored pixels occur: masks of 0 and 255 must be saved as 0 and 1, "
                "since 255 is ignored"
            )
        elif self.ignored_share > 0.5:
            found.append(f"{self.ignored_share:.0%} of the pixels are ignored")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rows = zip(self.classes, self.pixels.tolist(), self.images_with.tolist(), strict=True)
        return {
            "name": self.name,
            "images": self.images,
            "checked": self.checked,
            "problems": [{"file": item.file, "problem": item.problem} for item in self.problems],
            "warnings": self.warnings(),
            "classes": [{"name": name, "pixels": pixels, "images": images} for name, pixels, images in rows],
            "ignored_pixels": self.ignored,
            "ignored_share": self.ignored_share,
            "sizes": [{"height": h, "width": w, "images": count} for (h, w), count in self.sizes.items()],
        }

    def __str__(self) -> str:
        usable = self.checked - len(self.problems)
        lines = [f"{self.name}: {self.checked:,} of {self.images:,} images read, {len(self.problems):,} with problems"]
        lines += [f"  problem: {item.file}: {item.problem}" for item in self.problems[:10]]
        if len(self.problems) > 10:
            lines.append(f"  and {len(self.problems) - 10:,} more problems")
        sizes = [f"{h} x {w} ({count:,})" for (h, w), count in self.sizes.items()]
        lines.append(f"  sizes (height x width): {some(sizes) or 'none'}; {self.ignored_share:.1%} of pixels ignored")
        total = max(1, int(self.pixels.sum()))
        width = max(len(name) for name in self.classes)
        for name, pixels, images in zip(self.classes, self.pixels.tolist(), self.images_with.tolist(), strict=True):
            lines.append(f"  {name:<{width}}  {pixels / total:7.2%} of pixels, in {images:,} of {usable:,} images")
        return "\n".join([*lines, *(f"  warning: {text}" for text in self.warnings())])
