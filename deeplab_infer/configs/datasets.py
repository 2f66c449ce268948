# SPDX-License-Identifier: Apache-2.0
"""Classes and palettes of the datasets that the named configs were trained on."""

from __future__ import annotations

import colorsys
import functools
import json
from dataclasses import dataclass
from importlib.resources import files

from ..errors import ConfigError
from .suggest import suggest

_ALIASES = {
    "ade": "ade20k",
    "voc": "voc12aug",
    "voc12": "voc12aug",
    "pascal_voc": "voc12aug",
    "pcontext": "pascal_context",
    "pcontext_59": "pascal_context_59",
    "streets": "synthetic_streets",
}


@dataclass(frozen=True)
class DatasetSpec:
    """The classes of a dataset and how its label files are read.

    Attributes:
        name: short name, e.g. ``"cityscapes"``.
        classes: class names; the position is the label value.
        palette: one RGB colour (0..255) per class.
        ignore_index: label value that counts neither in training nor in metrics.
        reduce_zero_label: label files store 0 for "ignore" and k + 1 for class k.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore_index: int = 255
    reduce_zero_label: bool = False

    def __post_init__(self) -> None:
        if len(self.classes) != len(self.palette):
            raise ConfigError(
                f"dataset {self.name!r}: {len(self.classes)} classes but "
                f"{len(self.palette)} palette colours; give one colour per class"
            )
        for colour in self.palette:
            if len(colour) != 3 or not all(0 <= c <= 255 for c in colour):
                raise ConfigError(f"dataset {self.name!r}: palette colour {colour!r} is not three values in 0..255")


@functools.cache
def _table() -> dict[str, dict]:
    return json.loads(files(__package__).joinpath("datasets.json").read_text(encoding="utf-8"))


def dataset_names() -> list[str]:
    """Names that `dataset_spec` knows, without aliases."""
    return list(_table())


def dataset_spec(name: str) -> DatasetSpec:
    """The classes, RGB palette and label rules of a dataset.

    Raises:
        ConfigError: the name is unknown; near misses are suggested.
    """
    key = _ALIASES.get(name.lower(), name.lower())
    if key not in _table():
        raise ConfigError(
            f"unknown dataset {name!r}{suggest(name, [*_table(), *_ALIASES])} (known: {', '.join(_table())})"
        )
    entry = _table()[key]
    return DatasetSpec(
        name=key,
        classes=tuple(entry["classes"]),
        palette=tuple((r, g, b) for r, g, b in entry["palette"]),
        ignore_index=entry["ignore_index"],
        reduce_zero_label=entry["reduce_zero_label"],
    )


def generic_dataset(num_classes: int, classes: tuple[str, ...] = ()) -> DatasetSpec:
    """Classes ``class_0``.. (or the given names) with well-separated colours, for weights that name none."""
    if num_classes < 1:
        raise ConfigError(f"num_classes must be at least 1, got {num_classes}")
    names = classes or tuple(f"class_{i}" for i in range(num_classes))
    # Steps of the golden ratio around the colour circle keep any two neighbours apart, for any count.
    hues = [(i * 0.6180339887) % 1.0 for i in range(num_classes)]
    colours = [
        colorsys.hsv_to_rgb(hue, 0.55 + 0.45 * (i % 2), 0.95 - 0.25 * (i % 3 == 2)) for i, hue in enumerate(hues)
    ]
    palette = tuple((round(r * 255), round(g * 255), round(b * 255)) for r, g, b in colours)
    return DatasetSpec(name="custom", classes=names, palette=palette)
