# SPDX-License-Identifier: Apache-2.0
"""From what a label file stores to class indices: one table per rule.

==================  =====================================================================
rule                value in the file
==================  =====================================================================
identity            the class
reduce_zero_label   0: ignored; k: class k - 1
label_ids           Cityscapes' label id; those outside the 19 evaluated classes: ignored
==================  =====================================================================

255 is ignored under each of them, and so is the spec's ``ignore_index``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ..configs import DatasetSpec
from ..errors import DataError

IGNORED_VALUE = 255
MAX_CLASSES = 255
_SHOWN = 3
# Position: the evaluated class; value: the label id of Cityscapes' files, which hold 0..33.
CITYSCAPES_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)

Colour = tuple[int, int, int]
Labels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class LabelRule:
    """How the label files of a data set are read.

    Attributes:
        name: of the rule.
        spec: classes, palette and ``ignore_index`` of the result.
        table: uint8 [256], value in a file to class index or ``ignore_index``.
        refused: uint8 [256], 1 where a value has no meaning.
        allowed: the values that have one, in words.
        colours: whether the palette is that of the files; pictures in colours are refused otherwise.
        ignore_colour: colour of ignored pixels in such pictures.
    """

    name: str
    spec: DatasetSpec
    table: Labels
    refused: Labels
    allowed: str
    colours: bool = True
    ignore_colour: Colour | None = None

    def apply(self, raw: NDArray[np.uint8] | NDArray[np.uint16], file: str) -> Labels:
        """Class indices of a label picture.

        Args:
            raw: uint8 or uint16 [H, W], grey values or palette indices; or uint8 [H, W, 3], RGB colours.
            file: what messages call it.

        Returns:
            uint8 [H, W].

        Raises:
            DataError: a value or colour that is no label of the data set.
        """
        if raw.ndim == 3:
            return self._from_colours(np.asarray(raw, np.uint8), file)
        if raw.dtype != np.uint8:
            if raw.size and int(raw.max()) > 255:
                raise self._wrong_values(raw, raw > 255, file)
            raw = raw.astype(np.uint8)
        if cv2.LUT(raw, self.refused).any():
            raise self._wrong_values(raw, self.refused[raw] != 0, file)
        return np.asarray(cv2.LUT(raw, self.table), np.uint8)

    def _wrong_values(self, raw: NDArray, wrong: NDArray[np.bool_], file: str) -> DataError:
        values, counts = np.unique(raw[wrong], return_counts=True)
        found = [f"{v} at {n:,} pixels" for v, n in zip(values[:_SHOWN].tolist(), counts.tolist(), strict=False)]
        more = f" and {len(values) - _SHOWN} other values" if len(values) > _SHOWN else ""
        return DataError(
            f"{file}: value {', '.join(found)}{more}: no label of {self.spec.name} with its "
            f"{len(self.spec.classes)} classes (allowed: {self.allowed}); correct the file or the list of classes"
        )

    def _from_colours(self, raw: Labels, file: str) -> Labels:
        if not self.colours:
            raise DataError(
                f"{file}: is a picture in colours, but classes.txt gives no colours; "
                "add them ('name,#rrggbb'), or save class indices as a grey or palettised PNG"
            )
        codes, classes = _colour_codes(self.spec.palette, self.ignore_colour, self.spec.ignore_index)
        packed = (raw.astype(np.int32) * np.array([1 << 16, 1 << 8, 1], np.int32)).sum(2, dtype=np.int32)
        place = np.minimum(np.searchsorted(codes, packed), len(codes) - 1)
        unknown = codes[place] != packed
        if unknown.any():
            raise self._wrong_colours(packed[unknown], file)
        labels = classes[place]
        if (labels < 0).any():
            code = int(packed[labels < 0][0])
            names = [name for name, c in zip(self.spec.classes, self.spec.palette, strict=True) if _code(c) == code]
            raise DataError(
                f"{file}: colour {_hex(code)} is that of several classes ({', '.join(names)}); "
                "save class indices as a grey or palettised PNG instead"
            )
        return labels.astype(np.uint8)

    def _wrong_colours(self, packed: NDArray[np.int32], file: str) -> DataError:
        values, counts = np.unique(packed, return_counts=True)
        found = [f"{_hex(v)} at {n:,} pixels" for v, n in zip(values[:_SHOWN].tolist(), counts.tolist(), strict=False)]
        more = f" and {len(values) - _SHOWN} other colours" if len(values) > _SHOWN else ""
        grey = all(_hex(v)[1:3] * 3 == _hex(v)[1:] for v in values[:_SHOWN].tolist())
        hint = (
            "the picture looks like class indices saved as RGB: save it with one channel"
            if grey
            else "colours must match exactly (no JPEG, no smoothing); correct the file or the colours of the classes"
        )
        return DataError(f"{file}: colour {', '.join(found)}{more}: no class of {self.spec.name}; {hint}")


def make_rule(name: str, spec: DatasetSpec, colours: bool = True, ignore_colour: Colour | None = None) -> LabelRule:
    """The rule ``identity``, ``reduce_zero_label`` or ``label_ids`` for the classes of ``spec``.

    Raises:
        DataError: an unknown rule, classes that do not fit in uint8 or the rule, or an ``ignore_index`` that does not.
    """
    if name not in _RULES:
        raise DataError(f"unknown label rule {name!r} (known: {', '.join(_RULES)})")
    count = len(spec.classes)
    if count > MAX_CLASSES:
        raise DataError(f"{spec.name}: {count} classes are more than the {MAX_CLASSES} that label files can hold")
    if not 0 <= spec.ignore_index <= 255:
        raise DataError(f"{spec.name}: ignore_index {spec.ignore_index} does not fit in a label file; use 255")
    meaning, allowed = _RULES[name](count)
    table = np.full(256, spec.ignore_index, np.uint8)
    refused = np.ones(256, np.uint8)
    for value, label in meaning.items():
        table[value] = spec.ignore_index if label is None else label
        refused[value] = 0
    for value in {IGNORED_VALUE, spec.ignore_index} - meaning.keys():
        refused[value] = 0
    ignored = " or ".join(str(value) for value in sorted({IGNORED_VALUE, spec.ignore_index} - meaning.keys()))
    return LabelRule(name, spec, table, refused, f"{allowed}, and {ignored} for ignored pixels", colours, ignore_colour)


Meaning = tuple[dict[int, int | None], str]


def _identity(count: int) -> Meaning:
    return {k: k for k in range(count)}, f"0..{count - 1}"


def _reduce_zero_label(count: int) -> Meaning:
    if count >= MAX_CLASSES:
        raise DataError(f"{count} classes after 'ignored' do not fit in 8 bits; at most {MAX_CLASSES - 1} do")
    return {0: None, **{k + 1: k for k in range(count)}}, f"1..{count}, 0 for ignored pixels"


def _label_ids(count: int) -> Meaning:
    if count != len(CITYSCAPES_LABEL_IDS):
        raise DataError(f"Cityscapes' label ids stand for {len(CITYSCAPES_LABEL_IDS)} classes, not {count}")
    evaluated = {label_id: k for k, label_id in enumerate(CITYSCAPES_LABEL_IDS)}
    return {value: evaluated.get(value) for value in range(34)}, "Cityscapes' label ids 0..33"


_RULES: dict[str, Callable[[int], Meaning]] = {
    "identity": _identity,
    "reduce_zero_label": _reduce_zero_label,
    "label_ids": _label_ids,
}


@functools.lru_cache(maxsize=8)
def _colour_codes(
    palette: tuple[Colour, ...], ignore_colour: Colour | None, ignore_index: int
) -> tuple[NDArray[np.int32], NDArray[np.int16]]:
    """Sorted colour codes and the class of each, -1 where several classes share it."""
    classes: dict[int, int] = {}
    for index, colour in enumerate(palette):
        classes[_code(colour)] = -1 if _code(colour) in classes else index
    if ignore_colour is not None:
        classes.setdefault(_code(ignore_colour), ignore_index)
    codes = sorted(classes)
    return np.array(codes, np.int32), np.array([classes[code] for code in codes], np.int16)


def _code(colour: Colour) -> int:
    return colour[0] << 16 | colour[1] << 8 | colour[2]


def _hex(code: int) -> str:
    return f"#{code:06x}"
