# SPDX-License-Identifier: Apache-2.0
"""How the known data sets lie on disk: the table in ``layouts.json``, typed.

A file is a template such as ``gtFine/{split}/{group}/{stem}_gtFine_labelIds.png``: ``{split}`` is the split's folder
(``{Split}`` with a capital), ``{group}`` any one folder (a city), ``{stem}`` what an image and its labels share.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from ..configs.suggest import suggest
from ..errors import DataError


@dataclass(frozen=True)
class LabelPlace:
    """Where label files lie (a template) and the rule of `label_rules` that their values follow."""

    file: str
    rule: str


@dataclass(frozen=True)
class Tree:
    """One arrangement of the files: image template, label places by name, and the template of list files if any."""

    image: str
    labels: Mapping[str, LabelPlace]
    lists: str | None


@dataclass(frozen=True)
class Split:
    """A part of a data set.

    Attributes:
        folder: what stands for ``{split}`` in the templates.
        lists: alternatives, each the names of list files that together make the split; the first complete one counts.
        labels: names of label places, preferred first.
        without: a list whose images are left out, wherever they came from.
        images: the published number of images, where there is one.
    """

    folder: str
    lists: tuple[tuple[str, ...], ...]
    labels: tuple[str, ...]
    without: str | None
    images: int | None


@dataclass(frozen=True)
class Layout:
    """A data set on disk.

    Attributes:
        name, title: as the user and as a page calls it.
        roots: folders below the user's in which the data set may lie, tried in order.
        trees: arrangements, tried in order.
        splits: by name.
        default_splits: for training and for evaluation.
        unlabelled: splits without labels, and why.
        prepare: what to download and how to arrange it.
    """

    name: str
    title: str
    roots: tuple[str, ...]
    trees: tuple[Tree, ...]
    splits: Mapping[str, Split]
    default_splits: tuple[str, str]
    unlabelled: Mapping[str, str]
    prepare: str

    def split(self, name: str) -> Split:
        """A split by its name.

        Raises:
            DataError: no such split, or one whose labels are not published.
        """
        if name in self.unlabelled:
            raise DataError(f"{self.name}: split {name!r} has no labels: {self.unlabelled[name]}")
        if name not in self.splits:
            raise DataError(
                f"{self.name} has no split {name!r}{suggest(name, self.splits)} (splits: {', '.join(self.splits)})"
            )
        return self.splits[name]


@functools.cache
def layouts() -> dict[str, Layout]:
    """The known layouts by the name of their `DatasetSpec`."""
    table = json.loads(files(__package__).joinpath("layouts.json").read_text(encoding="utf-8"))
    return {name: _layout(name, entry) for name, entry in table.items()}


def _layout(name: str, entry: dict[str, Any]) -> Layout:
    trees = tuple(
        Tree(
            image=tree["image"],
            labels={key: LabelPlace(**place) for key, place in tree["labels"].items()},
            lists=tree.get("lists"),
        )
        for tree in entry["trees"]
    )
    return Layout(
        name=name,
        title=entry["title"],
        roots=tuple(entry["roots"]),
        trees=trees,
        splits={key: _split(split) for key, split in entry["splits"].items()},
        default_splits=(entry["default_splits"][0], entry["default_splits"][1]),
        unlabelled=entry["unlabelled"],
        prepare=entry["prepare"],
    )


def _split(entry: dict[str, Any]) -> Split:
    return Split(
        folder=entry.get("folder", ""),
        lists=tuple(tuple(names) for names in entry.get("lists", ())),
        labels=tuple(entry.get("labels", ())),
        without=entry.get("without"),
        images=entry.get("images"),
    )
