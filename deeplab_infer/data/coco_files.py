# SPDX-License-Identifier: Apache-2.0
"""Where a COCO-style data set has its annotation file and its images."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import DataError
from .listing import describe, files_below, require_folder, some
from .splits import ALL, SPLIT_WORDS, words_of

ROBOFLOW_FILE = "_annotations.coco.json"
_PREPARE = (
    "a COCO data set is annotations/*.json with an images folder, or train/_annotations.coco.json with the images "
    "beside it; or name the file with --annotations"
)
# Folders for the images, tried in order: {word} is a word for the split, {beside} the annotation file's folder.
_IMAGE_FOLDERS = ("{beside}", "images", "images/{word}", "images/{word}2017", "{word}2017", "{word}", ".")


def find_annotations(
    root: str | os.PathLike[str], split: str, annotations: str | os.PathLike[str] | None
) -> tuple[Path, bool]:
    """The annotation file of a split.

    Returns:
        the file, and whether it holds every split (its name says none), so that the images must be divided.

    Raises:
        DataError: none, or several of which none is plainly meant.
    """
    folder = require_folder(root, "the data set folder", _PREPARE)
    if annotations is not None:
        return _given(folder, annotations), False
    for word in words_of(split):
        if (file := folder / word / ROBOFLOW_FILE).is_file():
            return file, False
    below = folder / "annotations"
    place = below if below.is_dir() else folder
    files = sorted(file for file in place.glob("*.json") if not file.name.startswith("."))
    matching = [file for file in files if _says(file.stem, words_of(split))]
    matching = [file for file in matching if file.stem.startswith("instances")] or matching
    if len(matching) == 1:
        return matching[0], False
    if len(matching) > 1:
        raise DataError(
            f"several annotation files in {str(place)!r} are for split {split!r}: {some([f.name for f in matching])}; "
            "choose one with --annotations"
        )
    every_word = tuple(word for words in SPLIT_WORDS.values() for word in words)
    if len(files) == 1 and not _says(files[0].stem, every_word):
        return files[0], split != ALL
    raise DataError(f"no annotation file for split {split!r} in {str(place)!r}; {describe(place)}. {_PREPARE}")


def find_images(root: Path, annotations: Path, split: str, names: list[str]) -> dict[str, Path]:
    """The folder-relative names of an annotation file as paths.

    Raises:
        DataError: images are missing on disk.
    """
    words = (*words_of(split), *(word for word in SPLIT_WORDS if _says(annotations.stem, (word,))))
    folders = [
        annotations.parent if template == "{beside}" else root / template.format(word=word, beside="")
        for template in _IMAGE_FOLDERS
        for word in words
    ]
    folders = [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
    chosen = next((folder for folder in folders if any((folder / name).is_file() for name in names[:20])), None)
    if chosen is None:
        tried = some([str(folder) for folder in folders])
        raise DataError(
            f"{annotations}: none of its images ({some(names)}) is in {tried}; {describe(root)}. {_PREPARE}"
        )
    there = set(files_below(chosen))
    missing = [name for name in names if name not in there and not (chosen / name).is_file()]
    if missing:
        raise DataError(
            f"{annotations}: {len(missing):,} of {len(names):,} images are missing in {str(chosen)!r}: {some(missing)}"
            "; add them, or take them out of the annotations"
        )
    return {name: chosen / name for name in names}


def _given(folder: Path, annotations: str | os.PathLike[str]) -> Path:
    candidates = (Path(annotations), folder / annotations)
    for file in candidates:
        if file.is_file():
            return file
    raise DataError(f"annotation file {str(annotations)!r} does not exist, neither here nor in {str(folder)!r}")


def _says(stem: str, words: tuple[str, ...]) -> bool:
    """Whether a name holds one of the words as such: ``instances_val2017`` says val, ``interval`` does not."""
    return any(re.search(rf"(^|[^a-z]){re.escape(word)}([^a-z]|$)", stem.lower()) for word in words)
