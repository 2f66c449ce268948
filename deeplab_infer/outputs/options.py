# SPDX-License-Identifier: Apache-2.0
"""What to write, and of which pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..configs.suggest import suggest
from ..data.listing import some
from ..errors import DeepLabError
from ..segmentation import Segmentation

COCO = ("rle", "polygons")
UNITS = ("class", "region")


@dataclass(frozen=True)
class OutputOptions:
    """Choices that hold for a whole run; may be pickled and sent to another process.

    Attributes:
        masks: NAME.png, a palettised PNG of class indices.
        overlay: NAME_overlay.png, colours over the image.
        npz: NAME.npz with labels and scores.
        json: results.jsonl, a line an image.
        alpha: opacity of the overlay's colours, 0..1.
        coco: ``"rle"`` or ``"polygons"``: coco.json of the whole run; None: none.
        coco_per: an annotation a ``"class"`` of an image or a connected ``"region"``; None: a class as run lengths, a
            region as polygons.
        labelme: NAME.json for labelme.
        cvat: cvat.xml of the whole run.
        geotiff: NAME.tif with the georeference of the input.
        classes: names of the classes that are kept; pixels of others have no class. None keeps all.
        threshold: least softmax probability, 0..1, of a pixel that keeps its class; None keeps all.
        min_area: pixels of the smallest region that becomes an annotation in coco.json (where one is a region),
            labelme and cvat, and of the smallest hole of a polygon.
        tolerance: pixels by which the outline of a polygon may leave that of its region; 0 keeps every corner.
    """

    masks: bool = True
    overlay: bool = False
    npz: bool = False
    json: bool = False
    alpha: float = 0.55
    coco: str | None = None
    coco_per: str | None = None
    labelme: bool = False
    cvat: bool = False
    geotiff: bool = False
    classes: tuple[str, ...] | None = None
    threshold: float | None = None
    min_area: float = 0.0
    tolerance: float = 0.0

    @property
    def needs_scores(self) -> bool:
        """Whether the scores of the pixels are used."""
        return self.npz or self.threshold is not None

    @property
    def per_region(self) -> bool:
        """Whether an annotation of coco.json is a connected region."""
        return (self.coco_per or ("class" if self.coco == "rle" else "region")) == "region"

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            DeepLabError: what is wrong and what to do.
        """
        if not 0 <= self.alpha <= 1:
            raise DeepLabError(f"--alpha must be in 0..1, got {self.alpha}")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise DeepLabError(f"the threshold is a probability, 0..1, got {self.threshold}")
        for name, pixels in (("the smallest area", self.min_area), ("the tolerance", self.tolerance)):
            if not 0 <= pixels < float("inf"):
                raise DeepLabError(f"{name} is a number of pixels of at least 0, got {pixels}")
        for choice, known in ((self.coco, COCO), (self.coco_per, UNITS)):
            if choice is not None and choice not in known:
                raise DeepLabError(f"{choice!r} is not one of {', '.join(known)}")
        if self.coco_per is not None and self.coco is None:
            raise DeepLabError("--coco-per says what an annotation of coco.json is; ask for that with --coco")
        if self.classes is not None and not self.classes:
            raise DeepLabError("no class is to be kept; name at least one")

    def choose(self, result: Segmentation) -> Segmentation:
        """The same result with the pixels that keep their class.

        Raises:
            DeepLabError: a threshold, and no scores.
        """
        chosen = result if self.threshold is None else result.confident(self.threshold)
        return chosen if self.classes is None else chosen.keep(self.classes)

    def check_classes(self, classes: Sequence[str]) -> None:
        """Refuse classes that a model does not have.

        Raises:
            DeepLabError: no such class.
        """
        for name in self.classes or ():
            if name not in classes:
                raise DeepLabError(f"no class {name!r}{suggest(name, classes)}; the model has {some(classes)}")
