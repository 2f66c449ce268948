# SPDX-License-Identifier: Apache-2.0
"""cvat.xml: "CVAT for images 1.1", a mask of each class of each image.

Format: https://docs.cvat.ai/docs/other/xml_format. A mask's ``rle`` is the lengths of runs along the rows of its box,
zeros first; CVAT finds the image by its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from ..files import atomic_write
from ..segmentation import Palette, Segmentation
from .regions import connected_regions, whole_classes

# What XML 1.0 cannot hold, not even escaped.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ESCAPES = {"\n": "&#10;", "\r": "&#13;", "\t": "&#9;"}


def check_name(name: str) -> None:
    """Refuse a file name that XML cannot hold.

    Raises:
        ImageError: it has control characters, or bytes that are not UTF-8.
    """
    if _FORBIDDEN.search(name):
        raise ImageError(
            f"{name!r}: a file name with control characters or bytes that are not UTF-8 cannot be written to cvat.xml; "
            "rename the file, or leave out --cvat"
        )


def cvat_masks(result: Segmentation, min_area: float) -> list[dict[str, Any]]:
    """The masks of one image: ``{"label": index, "left", "top", "width", "height", "rle": "3,5,..."}``.

    Args:
        result: the image.
        min_area: regions of fewer pixels are left out.
    """
    masks = []
    for whole in whole_classes(result.labels, len(result.classes)):
        mask = whole.mask
        if min_area > 1:
            mask = np.zeros_like(whole.mask)
            for part in connected_regions(whole._replace(top=0, left=0), min_area):
                mask[part.top : part.top + part.mask.shape[0], part.left : part.left + part.mask.shape[1]] |= part.mask
        if mask.any():
            box = {"left": whole.left, "top": whole.top, "width": mask.shape[1], "height": mask.shape[0]}
            masks.append({"label": whole.label, **box, "rle": ",".join(map(str, row_runs(mask)))})
    return masks


def row_runs(mask: NDArray[np.bool_]) -> list[int]:
    """Lengths of the runs along the rows of a mask, bool [h, w], zeros first; they add up to h w."""
    flat = mask.reshape(-1).view(np.int8)
    changes = np.flatnonzero(np.diff(flat, prepend=0))
    return np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()


def write_cvat(target: Path, classes: tuple[str, ...], palette: Palette, records: Iterable[dict[str, Any]]) -> None:
    """The file of all records, in one pass and in the memory of one.

    Args:
        target: the file.
        classes, palette: names and RGB colours of the model's classes.
        records: what `Outputs.write` gave for each image.
    """
    with atomic_write(target, "w") as stream:
        stream.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n')
        stream.write("  <meta>\n    <task>\n      <mode>annotation</mode>\n      <labels>\n")
        for name, (red, green, blue) in zip(classes, palette, strict=True):
            color = f"<color>#{red:02x}{green:02x}{blue:02x}</color><type>mask</type><attributes></attributes>"
            stream.write(f"        <label><name>{escape(name)}</name>{color}</label>\n")
        stream.write("      </labels>\n    </task>\n  </meta>\n")
        for number, record in enumerate(records):
            size = f'width="{record["width"]}" height="{record["height"]}"'
            stream.write(f'  <image id="{number}" name={_quote(record["file_name"])} {size}>\n')
            for mask in record["cvat"]:
                box = " ".join(f'{key}="{mask[key]}"' for key in ("rle", "left", "top", "width", "height"))
                label = _quote(classes[mask["label"]])
                stream.write(f'    <mask label={label} source="auto" occluded="0" {box} z_order="0"></mask>\n')
            stream.write("  </image>\n")
        stream.write("</annotations>\n")


def _quote(text: str) -> str:
    return quoteattr(text, _ESCAPES)
