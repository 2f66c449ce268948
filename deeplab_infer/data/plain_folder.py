# SPDX-License-Identifier: Apache-2.0
"""The plain folder format: ``images/``, ``masks/`` and ``classes.txt``.

The split comes from, in this order: list files ``train.txt`` and ``val.txt``; sub-folders ``train`` and ``val`` in both
folders (or ``train/images`` and ``train/masks``); else from the hash of each name (`splits.hash_split`).
"""

from __future__ import annotations

import logging
import os
import re
from dataclasses import replace
from pathlib import Path, PurePosixPath

from ..configs import DatasetSpec
from ..configs.suggest import suggest
from ..errors import DataError
from ..images import SUFFIXES
from .class_files import ClassFile, check_class_names, read_classes
from .folders import FolderDataset, PairFiles
from .label_rules import make_rule
from .listing import describe, files_below, read_lines, require_folder, some
from .splits import ALL, HASH_RULE, SPLIT_WORDS, hash_split, words_of

_log = logging.getLogger(__name__)
_LOSSY = (".jpg", ".jpeg")
_MASK_SUFFIXES = tuple(suffix for suffix in SUFFIXES if suffix not in _LOSSY)
_PREPARE = (
    "the folder format is images/*.jpg or *.png, masks/ with a PNG of the same name for each, and classes.txt with one "
    "class a line"
)


def open_folder(root: str | os.PathLike[str], split: str, spec: DatasetSpec | None = None) -> FolderDataset:
    """A split of a data set in the plain folder format.

    Args:
        root: the folder.
        split: ``"train"``, ``"val"``, the name of a list file or sub-folder, or ``"all"``.
        spec: classes, where there is no classes.txt; with one they must be the same.

    Raises:
        DataError: folders, files or classes are missing or contradict each other; the message says which.
    """
    folder = require_folder(root, "the data set folder", _PREPARE)
    classes = _classes(folder, spec)
    images, masks = _folders(folder, split)
    found = _by_stem(folder / images, SUFFIXES)
    if not found:
        raise DataError(f"no image in {str(folder / images)!r} ({describe(folder / images)}); {_PREPARE}")
    stems = _chosen(folder, images, list(found), split)
    if not stems:
        raise DataError(f"split {split!r} of {str(folder)!r} has no images ({len(found)} in all)")
    labels = _by_stem(folder / masks, _MASK_SUFFIXES)
    _check_pairs(folder / masks, stems, found, labels)
    rule_name = "reduce_zero_label" if classes.spec.reduce_zero_label else "identity"
    rule = make_rule(rule_name, classes.spec, classes.colours, classes.ignore_colour)
    pairs = [PairFiles(f"{images}/{found[stem]}", f"{masks}/{labels[stem]}", rule) for stem in stems]
    return FolderDataset(folder, pairs, classes.spec)


def _classes(folder: Path, spec: DatasetSpec | None) -> ClassFile:
    file = folder / "classes.txt"
    if not file.is_file():
        if spec is None:
            raise DataError(f"{str(file)!r} is missing ({describe(folder)}); write one class a line, in their order")
        check_class_names(spec.classes, f"the classes of {spec.name!r}")
        return ClassFile(spec, colours=True, ignore_colour=None)
    classes = read_classes(file)
    if spec is None:
        return classes
    if classes.spec.classes != spec.classes:
        raise DataError(
            f"{file} has {len(classes.spec.classes)} classes ({some(classes.spec.classes)}), those asked for "
            f"({spec.name}) are {len(spec.classes)} ({some(spec.classes)}); make them the same, in the same order"
        )
    merged = replace(classes.spec, ignore_index=spec.ignore_index, reduce_zero_label=spec.reduce_zero_label)
    return replace(classes, spec=merged)


def _folders(folder: Path, split: str) -> tuple[str, str]:
    """Image folder and mask folder below the data set's."""
    options = [("images", "masks"), *((f"{word}/images", f"{word}/masks") for word in words_of(split))]
    for images, masks in options:
        if (folder / images).is_dir() and (folder / masks).is_dir():
            return images, masks
    for images, masks in options:
        if (folder / images).is_dir():
            raise DataError(f"there is {images}/ but no {masks}/ in {str(folder)!r} ({describe(folder)}); {_PREPARE}")
    raise DataError(f"there is no images/ in {str(folder)!r} ({describe(folder)}); {_PREPARE}")


def _chosen(folder: Path, images: str, stems: list[str], split: str) -> list[str]:
    """The split's stems: paths below the image folder without suffix."""
    if images != "images" or split == ALL:
        return stems
    words = {split, *(word for words in SPLIT_WORDS.values() for word in words)} - {"classes"}
    lists = {file.stem for file in folder.glob("*.txt")} & words
    if lists:
        return _listed(folder, stems, split, lists)
    below = {PurePosixPath(stem).parts[0] for stem in stems if "/" in stem}
    if below & words:
        chosen = next((word for word in words_of(split) if word in below), None)
        if chosen is None:
            raise _no_split(split, below, f"images/ of {str(folder)!r} has the sub-folders")
        return [stem for stem in stems if stem.startswith(f"{chosen}/")]
    if split in ("train", "val"):
        _log.info("%s has no split: %s", folder, HASH_RULE)
    return hash_split(stems, split)


def _listed(folder: Path, stems: list[str], split: str, lists: set[str]) -> list[str]:
    chosen = next((word for word in words_of(split) if word in lists), None)
    if chosen is None:
        raise _no_split(split, lists, f"{str(folder)!r} has the lists")
    file = folder / f"{chosen}.txt"
    known = set(stems)
    listed: dict[str, int] = {}
    for number, line in enumerate(read_lines(file, "the list"), 1):
        if not line or line.startswith("#"):
            continue
        stem = _listed_stem(line, known)
        if stem is None:
            raise DataError(f"{file}, line {number}: there is no image {line!r} in {str(folder / 'images')!r}")
        if stem in listed:
            raise DataError(f"{file}, line {number}: {line!r} is listed already on line {listed[stem]}")
        listed[stem] = number
    _warn_of_shared(folder, chosen, set(listed), lists, known)
    return list(listed)


def _listed_stem(line: str, known: set[str]) -> str | None:
    """An entry may be a name, a file name, or a path from images/ or from the data set's folder."""
    path = PurePosixPath(line.replace("\\", "/"))
    tails = [path, path.relative_to("images")] if path.parts[:1] == ("images",) else [path]
    forms = [form for tail in tails if tail.name for form in (str(tail), str(tail.with_suffix("")))]
    return next((form for form in forms if form in known), None)


def _warn_of_shared(folder: Path, chosen: str, listed: set[str], lists: set[str], known: set[str]) -> None:
    for other in sorted(lists - {chosen}):
        entries = read_lines(folder / f"{other}.txt", "the list")
        shared = sorted(listed & {stem for line in entries if line and (stem := _listed_stem(line, known))})
        if shared:
            _log.warning("%d images are in %s.txt and in %s.txt: %s", len(shared), chosen, other, some(shared))


def _no_split(split: str, known: set[str], where: str) -> DataError:
    return DataError(f"there is no split {split!r}{suggest(split, known)}; {where} {', '.join(sorted(known))}")


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, str]:
    """Files with these suffixes by their path without suffix; both relative to the folder."""
    found: dict[str, str] = {}
    for file in files_below(folder):
        path = PurePosixPath(file)
        if path.suffix.lower() not in suffixes:
            continue
        stem = str(path.with_suffix(""))
        if stem in found:
            raise DataError(f"{str(folder)!r} has both {found[stem]!r} and {file!r}; keep one of them")
        found[stem] = file
    return found


def _check_pairs(masks: Path, stems: list[str], images: dict[str, str], labels: dict[str, str]) -> None:
    missing = [images[stem] for stem in stems if stem not in labels]
    orphans = [file for stem, file in labels.items() if stem not in images]
    if missing:
        wanted = str(PurePosixPath(missing[0]).with_suffix(".png"))
        also = f"; {len(orphans):,} masks have no image: {some(orphans)}" if orphans else ""
        raise DataError(
            f"{len(missing):,} of {len(stems):,} images have no mask: {some(missing)} (looked for {wanted!r} in "
            f"{str(masks)!r}){also}{_mask_hint(masks)}; add them, or list the images to use in train.txt and val.txt"
        )
    if orphans:
        _log.warning("%d masks in %s have no image: %s", len(orphans), masks, some(orphans))


def _mask_hint(masks: Path) -> str:
    if any(re.search(r"\.jpe?g$", file, re.IGNORECASE) for file in files_below(masks)):
        return "; JPEG files are no masks, since they change values: save PNG files"
    return ""
