# SPDX-License-Identifier: Apache-2.0
"""Opens a known data set: finds its folder, the images of a split and a label file for each."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ..configs import DatasetSpec, dataset_spec
from ..errors import DataError
from .folders import FolderDataset, PairFiles
from .label_rules import LabelRule, make_rule
from .layouts import LabelPlace, Layout, Split, Tree, layouts
from .listing import describe, files_below, read_lines, require_folder, some

_log = logging.getLogger(__name__)


class _Key(NamedTuple):
    """What an image and its labels share."""

    stem: str
    group: str = ""


def open_layout(name: str, root: str | os.PathLike[str], split: str, spec: DatasetSpec | None = None) -> FolderDataset:
    """A split of one of the known data sets.

    Args:
        name: a key of `layouts`.
        root: the data set's folder or its usual parent.
        split: a split of the layout.
        spec: the model's classes, where they are called differently; as many as the data set has.

    Raises:
        DataError: the split is unknown, or files are missing; the message says which, and what to download.
    """
    layout = layouts()[name]
    part = layout.split(split)
    spec = _checked_spec(layout, spec)
    place, tree = _find_tree(layout, part, require_folder(root, f"the {name} folder", layout.prepare))
    keys = _listed(layout, part, tree, place) if tree.lists else _scanned(layout, part, tree, place)
    pairs = _pairs(layout, part, tree, place, keys, spec)
    if part.images is not None and len(pairs) != part.images:
        _log.warning(
            "%s: split %r has %d images here, the published one %d; scores do not compare with published ones",
            name, split, len(pairs), part.images,
        )  # fmt: skip
    return FolderDataset(place, pairs, spec)


def _checked_spec(layout: Layout, spec: DatasetSpec | None) -> DatasetSpec:
    own = dataset_spec(layout.name)
    if spec is None:
        return own
    if len(spec.classes) != len(own.classes):
        raise DataError(
            f"the labels of {layout.name} have {len(own.classes)} classes, those asked for ({spec.name}) are "
            f"{len(spec.classes)}; choose a config with the classes of {layout.name}"
        )
    if spec.classes != own.classes and set(spec.classes) == set(own.classes):
        place = next(i for i, (a, b) in enumerate(zip(spec.classes, own.classes, strict=True)) if a != b)
        raise DataError(
            f"the classes asked for ({spec.name}) are those of {layout.name} in another order: class {place} is "
            f"{spec.classes[place]!r} instead of {own.classes[place]!r}; keep the order of the data set"
        )
    return spec


def _find_tree(layout: Layout, part: Split, root: Path) -> tuple[Path, Tree]:
    for below in layout.roots:
        for tree in layout.trees:
            if (root / below / _base(tree.image, part)).is_dir():
                return root / below, tree
    wanted = " or ".join(repr(_base(tree.image, part) + "/") for tree in layout.trees)
    parents = ", ".join(f"{below}/" for below in layout.roots if below)
    raise DataError(
        f"no images of {layout.name} in {str(root)!r}: it should hold {wanted}, directly or in {parents}; "
        f"{describe(root)}. {layout.prepare}"
    )


def _scanned(layout: Layout, part: Split, tree: Tree, place: Path) -> list[_Key]:
    """Every image of the split's folder; labels without an image are reported."""
    keys = _matching(place, tree.image, part)
    if not keys:
        folder = place / _base(tree.image, part)
        raise DataError(
            f"{layout.name}: no file {_filled(tree.image, part)!r} in {str(place)!r}; {describe(folder)}. "
            f"{layout.prepare}"
        )
    known = set(keys)
    labelled = {key for label in _places(part, tree) for key in _matching(place, label.file, part)}
    if orphans := sorted(key.stem for key in labelled - known):
        _log.warning("%s: %d label files have no image: %s", layout.name, len(orphans), some(orphans))
    return keys


def _listed(layout: Layout, part: Split, tree: Tree, place: Path) -> list[_Key]:
    """The images that the split's list files name, each once, in their order."""
    assert tree.lists is not None

    def file(name: str) -> Path:
        return place / str(tree.lists).format(list=name)

    complete = [names for names in part.lists if all(file(name).is_file() for name in names)]
    if not complete:
        wanted = " or ".join(" with ".join(repr(str(file(name))) for name in names) for names in part.lists)
        raise DataError(
            f"{layout.name}: the list {wanted} is missing; {describe(file(part.lists[0][0]).parent)}. {layout.prepare}"
        )
    stems = list(dict.fromkeys(stem for name in complete[0] for stem in _stems(file(name))))
    if part.without is not None:
        held_out = set(_stems(file(part.without)))
        if kept_out := [stem for stem in stems if stem in held_out]:
            _log.warning("%s: left out %d images of %s", layout.name, len(kept_out), file(part.without).name)
            stems = [stem for stem in stems if stem not in held_out]
    if not stems:
        raise DataError(f"{layout.name}: the list {str(file(complete[0][0]))!r} names no image")
    missing = [stem for stem in stems if not (place / _filled(tree.image, part, _Key(stem))).is_file()]
    if missing:
        raise DataError(
            f"{layout.name}: {len(missing):,} of {len(stems):,} listed images are missing in "
            f"{str(place / _base(tree.image, part))!r}: {some(missing)}. {layout.prepare}"
        )
    return [_Key(stem) for stem in stems]


def _stems(file: Path) -> list[str]:
    lines = read_lines(file, "the list")
    for number, line in enumerate(lines, 1):
        if len(line.split()) > 1:
            raise DataError(f"{file}, line {number}: {line!r} is not one image name")
    return [line for line in lines if line]


def _pairs(
    layout: Layout, part: Split, tree: Tree, place: Path, keys: list[_Key], spec: DatasetSpec
) -> list[PairFiles]:
    options = [(label.file, make_rule(label.rule, spec)) for label in _places(part, tree)]
    choose = _chooser(options, part, place)
    pairs, missing = [], []
    for key in keys:
        image, chosen = _filled(tree.image, part, key), choose(key)
        if chosen is None:
            missing.append(image)
        else:
            pairs.append(PairFiles(image, *chosen))
    if missing:
        wanted = " or ".join(repr(_filled(template, part)) for template, _ in options)
        bases = dict.fromkeys(_base(template, part) for template, _ in options)
        raise DataError(
            f"{layout.name}: {len(missing):,} of {len(keys):,} images have no label file {wanted}: {some(missing)}; "
            f"{'; '.join(describe(place / base) for base in bases)}. {layout.prepare}"
        )
    return pairs


def _chooser(
    options: list[tuple[str, LabelRule]], part: Split, place: Path
) -> Callable[[_Key], tuple[str, LabelRule] | None]:
    """A function that gives a key's label file and rule, from the first place that has it."""
    bases = {_base(template, part) for template, _ in options}
    there = {f"{base}/{file}" for base in bases if (place / base).is_dir() for file in files_below(place / base)}

    def choose(key: _Key) -> tuple[str, LabelRule] | None:
        filled = ((_filled(template, part, key), rule) for template, rule in options)
        return next((option for option in filled if option[0] in there), None)

    return choose


def _places(part: Split, tree: Tree) -> list[LabelPlace]:
    return [tree.labels[name] for name in part.labels or tree.labels]


def _filled(template: str, part: Split, key: _Key | None = None) -> str:
    """A template for an image; without a key its placeholders for names become ``*``."""
    stem, group = key or ("*", "*")
    return template.format(split=part.folder, Split=part.folder.capitalize(), stem=stem, group=group)


def _base(template: str, part: Split) -> str:
    """The folder above all that differs between images."""
    parts = PurePosixPath(template).parts
    fixed = next(i for i, name in enumerate(parts) if "{group}" in name or "{stem}" in name)
    return _filled("/".join(parts[:fixed]), part)


def _matching(place: Path, template: str, part: Split) -> list[_Key]:
    """Keys of the files that a template describes, in the order of their paths."""
    base = _base(template, part)
    if not (place / base).is_dir():
        return []
    pattern = re.escape(_filled(template.replace("{stem}", "\0").replace("{group}", "\1"), part)[len(base) + 1 :])
    pattern = pattern.replace(re.escape("\0"), "(?P<stem>[^/]+)").replace(re.escape("\1"), "(?P<group>[^/]+)")
    matches = (re.fullmatch(pattern, file) for file in files_below(place / base))
    return [_Key(m["stem"], m.groupdict().get("group", "")) for m in matches if m]
