# SPDX-License-Identifier: Apache-2.0
"""A data set of image files and label files, by pairs of paths."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..configs import DatasetSpec
from ..errors import DataError
from ..images import read_image
from .base import Pair
from .label_files import read_label_picture, size_mismatch
from .label_rules import LabelRule


class PairFiles(NamedTuple):
    """An image and its labels: paths below the root, and how the label file is read."""

    image: str
    labels: str
    rule: LabelRule


class FolderDataset:
    """Images and label files, read when asked for; nothing is kept, so threads and processes may share it.

    The EXIF orientation of images is applied; label files are read as stored.
    """

    def __init__(self, root: str | os.PathLike[str], pairs: Sequence[PairFiles], spec: DatasetSpec) -> None:
        """Take the pairs as they are; `open_dataset` finds them.

        Args:
            root: the folder that the pairs' paths start from.
            pairs: at least one.
            spec: classes of the labels.

        Raises:
            DataError: there is no pair.
        """
        self.root = Path(root)
        self.spec = spec
        self._pairs = tuple(pairs)
        if not self._pairs:
            raise DataError(f"the data set {spec.name!r} in {str(root)!r} has no images")

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Pair:
        image_file, label_file = self.files(index)
        image = read_image(image_file)
        labels = self.labels(index)
        if image.shape[:2] != labels.shape:
            raise size_mismatch(image_file, image.shape, str(label_file), labels.shape)
        return image, labels

    def labels(self, index: int) -> NDArray[np.uint8]:
        """Only the labels of a pair, uint8 [H, W]; the image is not read.

        Raises:
            DataError: the label file cannot be read, or holds what is no label.
        """
        file = self.files(index)[1]
        return self._pairs[index].rule.apply(read_label_picture(file), str(file))

    def files(self, index: int) -> tuple[Path, Path]:
        """Image file and label file of a pair."""
        if not 0 <= index < len(self._pairs):
            raise IndexError(f"pair {index} of {len(self._pairs)}")
        pair = self._pairs[index]
        return self.root / pair.image, self.root / pair.labels

    def name(self, index: int) -> str:
        """The image's path within the data set."""
        return self._pairs[index].image
