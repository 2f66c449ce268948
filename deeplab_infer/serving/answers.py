# SPDX-License-Identifier: Apache-2.0
"""A segmentation as the bytes of an answer: one row of `FORMATS` each."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ..configs.suggest import suggest
from ..segmentation import Segmentation
from .problems import Problem
from .schemas import SegmentQuery

PNG, JSON = "image/png", "application/json"
MIN_AREA = 16.0
MAX_REGIONS = 20_000  # finding one takes about 20 microseconds
# Between neighbouring pixels; each can be a number in run lengths or a point of an outline, of some 100 bytes.
MAX_BORDERS = 1_000_000


@dataclass(frozen=True)
class Format:
    """A way to answer.

    Attributes:
        media_type: of the answer.
        encode: makes its bytes.
        takes: parameters that it knows besides ``format``.
    """

    media_type: str
    encode: Callable[[Segmentation, SegmentQuery], bytes]
    takes: frozenset[str] = frozenset()


def check_query(query: SegmentQuery, classes: Sequence[str]) -> None:
    """Refuse what the format does not take and classes that the model does not have.

    Raises:
        Problem: 422.
    """
    given = {name for name in query.model_fields_set if getattr(query, name) is not None} - {"format"}
    for name in sorted(given - FORMATS[query.format].takes):
        formats = ", ".join(key for key, value in FORMATS.items() if name in value.takes)
        hint = f"leave it out, or ask for one of: {formats}"
        raise Problem(422, f"format={query.format} takes no parameter {name!r}", hint, reason="parameter")
    for name in query.classes or ():
        if name not in classes:
            error = f"no class {name[:80]!r}{suggest(name[:80], classes)}"
            raise Problem(422, error, "GET /v1/model lists the classes", reason="parameter")


def encode(result: Segmentation, query: SegmentQuery) -> bytes:
    """The body of the answer.

    Raises:
        Problem: 422: more than `MAX_REGIONS` or `MAX_BORDERS`.
    """
    return FORMATS[query.format].encode(result, query)


def _labels(result: Segmentation, query: SegmentQuery) -> bytes:
    return result.encode(".png", "labels")


def _overlay(result: Segmentation, query: SegmentQuery) -> bytes:
    return result.encode(".png", "overlay", *(() if query.alpha is None else (query.alpha,)))


def _summary(result: Segmentation, query: SegmentQuery) -> bytes:
    values = result.to_dict()
    del values["path"]
    if query.classes is not None:
        areas = result.areas()
        values["areas"] = {name: round(areas[name], 6) for name in query.classes}
    if query.mask:
        values["mask_png"] = base64.b64encode(_colours(result)).decode()
    return _dump(values)


def _run_lengths(result: Segmentation, query: SegmentQuery) -> bytes:
    _check_borders(result)
    return _by_class(result, {name: result.to_coco_rle(name) for name in _chosen(result, query)})


def _polygons(result: Segmentation, query: SegmentQuery) -> bytes:
    _check_borders(result)
    least = MIN_AREA if query.min_area is None else query.min_area
    names, left = _chosen(result, query), MAX_REGIONS
    for name in names:
        stats = cv2.connectedComponentsWithStats(result.mask(name).astype(np.uint8), connectivity=8)[2]
        left -= int((stats[1:, cv2.CC_STAT_AREA] >= least).sum())
        if left < 0:
            error = f"the labels have more than {MAX_REGIONS:,} regions of at least {least:g} pixels"
            raise Problem(422, error, "ask with a larger min_area, or for fewer classes", reason="parameter")
    return _by_class(result, {name: result.polygons(name, least) for name in names})


def _check_borders(result: Segmentation) -> None:
    labels = result.labels
    count = np.count_nonzero(labels[1:] != labels[:-1]) + np.count_nonzero(labels[:, 1:] != labels[:, :-1])
    if count > MAX_BORDERS:
        error = f"the labels change {count:,} times between pixels, more than the limit of {MAX_BORDERS:,}"
        raise Problem(422, error, "ask for format=png", reason="detail")


def _chosen(result: Segmentation, query: SegmentQuery) -> Sequence[str]:
    if query.classes is not None:
        return list(dict.fromkeys(query.classes))
    return [name for name, area in result.areas("pixels").items() if area]


def _by_class(result: Segmentation, classes: dict[str, Any]) -> bytes:
    height, width = result.labels.shape
    return _dump({"height": height, "width": width, "classes": classes})


def _colours(result: Segmentation) -> bytes:
    if len(result.classes) <= 256:
        return result.encode(".png", "labels")
    buffer = io.BytesIO()
    Image.fromarray(result.color_map()).save(buffer, "PNG")
    return buffer.getvalue()


def _dump(values: dict[str, Any]) -> bytes:
    return json.dumps(values, separators=(",", ":"), allow_nan=False).encode()


FORMATS = {
    "png": Format(PNG, _labels),
    "overlay": Format(PNG, _overlay, frozenset({"alpha"})),
    "json": Format(JSON, _summary, frozenset({"classes", "mask", "scores"})),
    "rle": Format(JSON, _run_lengths, frozenset({"classes"})),
    "polygons": Format(JSON, _polygons, frozenset({"classes", "min_area"})),
}
