# SPDX-License-Identifier: Apache-2.0
"""`Segmentation`: the result of one image, and what people do with it."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .drawing import draw_overlay
from .errors import DeepLabError
from .files import atomic_write
from .masks import encode_rle, find_polygons, no_class, without_class

if TYPE_CHECKING:
    from .evaluation.confusion import Scores

Palette = tuple[tuple[int, int, int], ...]
_ROWS = 512  # rows of a large image at a time
_VOID = (224, 224, 192)  # pixels without a class in masks, as in those of VOC


@dataclass(frozen=True)
class Segmentation:
    """Labels of one image.

    Attributes:
        labels: [H, W], the class of each pixel, at the size of the image: uint8 up to 256 classes, else int32. Pixels
            whose class `keep` or `confident` took away are 255, or 65535 beyond 255 classes (then int32).
        classes: class names; the position is the label.
        palette: RGB colour of each class, 0..255.
        scores: float32 [H, W], softmax probability of the pixel's class, 0..1, where asked for.
        probabilities: float32 [C, H, W], of all classes, where asked for.
        image: uint8 [H, W, 3] RGB, what was segmented; None where it was read in pieces.
        path: of the image, where it was a file.
        timings_ms: ``preprocess``, ``inference``, ``postprocess``, in milliseconds (of a batch: its share).
        metadata: backend, device, precision, mode, network input size, notes.
    """

    labels: NDArray[Any]
    classes: tuple[str, ...]
    palette: Palette
    scores: NDArray[np.float32] | None = None
    probabilities: NDArray[np.float32] | None = None
    image: NDArray[np.uint8] | None = None
    path: str | None = None
    timings_ms: dict[str, float] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        height, width = self.labels.shape
        parts = ", ".join(f"{name} {share:.0%}" for name, share in list(self._ranked().items())[:4])
        return f"Segmentation({height} x {width}: {parts})"

    # -- looking at it

    def areas(self, unit: str = "fraction") -> dict[str, float]:
        """Area of every class.

        Args:
            unit: ``"fraction"`` of the image, 0..1, or ``"pixels"``.

        Raises:
            DeepLabError: another unit.
        """
        if unit not in ("fraction", "pixels"):
            raise DeepLabError(f"unit {unit!r} is not 'fraction' or 'pixels'")
        counts = np.zeros(len(self.classes), np.int64)
        for top in range(0, len(self.labels), _ROWS):  # bincount makes eight bytes of each label
            rows = self.labels[top : top + _ROWS].reshape(-1)
            counts += np.bincount(rows, minlength=len(counts))[: len(counts)]
        divisor = self.labels.size if unit == "fraction" else 1
        return {name: int(n) / divisor for name, n in zip(self.classes, counts, strict=True)}

    def mask(self, name: str) -> NDArray[np.bool_]:
        """Pixels of one class, bool [H, W].

        Raises:
            DeepLabError: no such class.
        """
        return self.labels == self._index(name)

    def color_map(self) -> NDArray[np.uint8]:
        """The labels in the palette's colours, uint8 [H, W, 3] RGB; pixels without a class are light grey."""
        return self._colors()[self.labels]

    def plot(self, alpha: float = 0.55, legend: bool = True, outlines: bool = True) -> NDArray[np.uint8]:
        """The image under the colours of its classes, uint8 [H, W, 3] RGB; pixels without a class stay as they are.

        Args:
            alpha: opacity of the colours, 0..1.
            legend: list the classes by area.
            outlines: draw the borders between classes.

        Raises:
            DeepLabError: ``alpha`` is out of range.
        """
        if not 0 <= alpha <= 1:
            raise DeepLabError(f"alpha must be in 0..1, got {alpha}")
        colors = np.asarray(self.palette, np.uint8)
        image = self.color_map() if self.image is None else self.image
        entries = [(name, self.palette[self.classes.index(name)], share) for name, share in self._ranked().items()]
        return draw_overlay(image, colors, self.labels, alpha, entries if legend else [], outlines)

    # -- fewer classes

    def keep(self, names: Iterable[str]) -> Segmentation:
        """The same result with only some classes.

        Pixels of the others have no class: 255 in labels and masks (65535 beyond 255 classes), in no area, polygon or
        run length. Areas stay shares of the whole image.

        Raises:
            DeepLabError: no such class.
        """
        gone = np.ones(len(self.classes), np.bool_)
        gone[[self._index(name) for name in names]] = False
        return replace(self, labels=without_class(self.labels, gone, len(self.classes)))

    def confident(self, threshold: float) -> Segmentation:
        """The same result with only the pixels whose score is at least ``threshold``, 0..1; others as in `keep`.

        Raises:
            DeepLabError: there are no scores, or the threshold is no probability.
        """
        if not 0 <= threshold <= 1:
            raise DeepLabError(f"the threshold is a probability, 0..1, got {threshold}")
        if self.scores is None:
            raise DeepLabError("a confidence threshold needs scores: predict(..., scores=True)")
        return replace(self, labels=without_class(self.labels, self.scores < threshold, len(self.classes)))

    # -- geometry

    def polygons(self, name: str, min_area: float = 0.0) -> list[dict[str, Any]]:
        """Outlines of one class.

        Args:
            name: the class.
            min_area: smallest region, in pixels, that is kept.

        Returns:
            One entry a region: ``{"outline": [[x, y], ...], "holes": [[[x, y], ...], ...], "area": pixels}``.
            Points are pixel centres, (0, 0) the top left one.
        """
        return find_polygons(self.mask(name), min_area)

    def to_coco_rle(self, name: str) -> dict[str, Any]:
        """One class as COCO's compressed run lengths: ``{"size": [H, W], "counts": str}``."""
        return encode_rle(self.mask(name))

    # -- numbers and files

    def compare(self, ground_truth: NDArray[Any], ignore_index: int = 255) -> Scores:
        """IoU, accuracies and their means against true labels.

        Args:
            ground_truth: integers [H, W].
            ignore_index: value that does not count.

        Raises:
            DataError: another size, or values that are no classes.
        """
        from .evaluation.confusion import ConfusionMatrix

        matrix = ConfusionMatrix(self.classes, ignore_index)
        matrix.add(self.labels, np.asarray(ground_truth))
        return matrix.scores()

    def to_dict(self) -> dict[str, Any]:
        """JSON-able summary: size, areas of the classes present, timings, how it was made."""
        summary: dict[str, Any] = {
            "path": self.path,
            "height": int(self.labels.shape[0]),
            "width": int(self.labels.shape[1]),
            "areas": {name: round(share, 6) for name, share in self._ranked().items()},
            "timings_ms": {name: round(value, 3) for name, value in self.timings_ms.items()},
            "metadata": self.metadata,
        }
        if self.scores is not None:
            summary["mean_score"] = round(float(self.scores.mean()), 6)
        return summary

    def to_json(self) -> str:
        """`to_dict` as one line."""
        return json.dumps(self.to_dict(), separators=(",", ":"))

    def save(self, path: str | os.PathLike[str], kind: str = "auto", alpha: float = 0.55) -> Path:
        """Write a file, whole or not at all.

        Args:
            path: its suffix decides the format: ``.png``, ``.npz``, ``.json``, or ``.jpg`` for overlays.
            kind: ``"labels"``: PNG of class indices with the palette (16-bit grey beyond 256 classes, or where a pixel
                has the label 65535);
                ``"overlay"``: what `plot` draws; ``"auto"``: labels for ``.png``, overlay for ``.jpg``.
                ``.npz`` holds labels and, where asked for, scores and probabilities.
            alpha: opacity of an overlay's colours, 0..1.

        Returns:
            The path.

        Raises:
            DeepLabError: an unknown suffix or kind.
            OSError: it cannot be written.
        """
        target = Path(path)
        data = self._encode(target.suffix.lower(), kind, alpha)
        with atomic_write(target) as stream:
            stream.write(data)
        return target

    def encode(self, suffix: str, kind: str = "auto", alpha: float = 0.55) -> bytes:
        """What `save` would write to a file with this suffix.

        Raises:
            DeepLabError: an unknown suffix or kind.
        """
        return self._encode(suffix.lower(), kind, alpha)

    def _encode(self, suffix: str, kind: str, alpha: float) -> bytes:
        if kind not in ("auto", "labels", "overlay"):
            raise DeepLabError(f"kind {kind!r} is not 'auto', 'labels' or 'overlay'")
        if suffix == ".json":
            return (self.to_json() + "\n").encode()
        buffer = io.BytesIO()
        if suffix == ".npz":
            extra = {"scores": self.scores, "probabilities": self.probabilities}
            arrays: dict[str, Any] = {name: value for name, value in extra.items() if value is not None}
            np.savez_compressed(buffer, labels=self.labels, classes=np.array(self.classes), **arrays)
        elif suffix in (".jpg", ".jpeg") and kind != "labels":
            Image.fromarray(self.plot(alpha)).save(buffer, "JPEG", quality=92)
        elif suffix == ".png" and kind == "overlay":
            Image.fromarray(self.plot(alpha)).save(buffer, "PNG")
        elif suffix == ".png":
            self._label_image().save(buffer, "PNG", optimize=True)
        else:
            raise DeepLabError(
                f"cannot save {kind} as {suffix or 'a file without suffix'!r}; labels go to .png or .npz, overlays to "
                ".png or .jpg, summaries to .json"
            )
        return buffer.getvalue()

    def _label_image(self) -> Image.Image:
        largest = int(self.labels.max(initial=0))
        if len(self.classes) > 256 or largest > 255:
            return Image.fromarray(self.labels.astype(np.uint16))
        picture = Image.fromarray(np.asarray(self.labels, np.uint8), "P")
        # A short palette makes a file of fewer bits a pixel.
        picture.putpalette(self._colors()[: 256 if largest >= len(self.classes) else len(self.classes)].tobytes())
        return picture

    def _colors(self) -> NDArray[np.uint8]:
        """RGB colour of every label that may occur, uint8 [K, 3]."""
        colors = np.full((max(no_class(len(self.classes)) + 1, len(self.classes)), 3), _VOID, np.uint8)
        colors[: len(self.classes)] = self.palette
        return colors

    def _ranked(self) -> dict[str, float]:
        """Classes that are present, the largest first."""
        present = {name: share for name, share in self.areas().items() if share > 0}
        return dict(sorted(present.items(), key=lambda item: -item[1]))

    def _index(self, name: str) -> int:
        if name not in self.classes:
            from .configs.suggest import suggest

            raise DeepLabError(f"no class {name!r}{suggest(name, self.classes)}")
        return self.classes.index(name)
