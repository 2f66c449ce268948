# SPDX-License-Identifier: Apache-2.0
"""The outline of a region as one polygon, holes included.

COCO and labelme have polygons without holes. A hole is joined to what lies left of it by a slit: the polygon runs to
the hole, around it and back the same way. Filled by the even-odd rule, as both do, the slit cancels itself, and the
polygon has the pixels of the region and no others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from .regions import Region

Points = list[list[float]]
Ring = NDArray[np.int64]
Point = tuple[float, float]
Stop = tuple[Point, int | None]  # a point, and the hole to walk around from there


class _Slit(NamedTuple):
    """Where a hole is joined to another ring: after which of its corners, how far on, at which point."""

    corner: int
    distance: float
    point: Point
    hole: int


def border_polygon(region: Region, tolerance: float = 0.0, min_hole: float = 0.0) -> Points:
    """The outline along the borders of the pixels, as in COCO: pixel (x, y) covers x..x+1 and y..y+1.

    Args:
        region: 8-connected.
        tolerance: distance in pixels by which points may be left out; 0 is exact.
        min_hole: holes of fewer pixels are filled.

    Returns:
        ``[[x, y], ...]``, at least 4 points, not closed.
    """
    # At twice the size the outermost pixels lie left and right of a border: halving their positions gives the border.
    doubled = np.repeat(np.repeat(region.mask.view(np.uint8), 2, 0), 2, 1)
    rings = [(ring + 1) >> 1 for ring in _rings(doubled, 4 * min_hole)]
    return _polygon(region, rings, tolerance)


def centre_polygon(region: Region, tolerance: float = 0.0, min_hole: float = 0.0) -> Points:
    """The outline along the outermost pixels, as labelme draws it: (x, y) is the pixel in column x and row y.

    Args:
        region, tolerance, min_hole: as in `border_polygon`.

    Returns:
        ``[[x, y], ...]``, not closed; at least 3 points, of which some are equal where the region is a line.
    """
    points = _polygon(region, _rings(region.mask.view(np.uint8), min_hole), tolerance)
    return points + points[-1:] * (3 - len(points))


def _rings(mask: NDArray[np.uint8], min_hole: float) -> list[Ring]:
    """The outline and the holes, int64 [N, 2] x and y within the box."""
    contours, hierarchy = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    outer = [c for c, links in zip(contours, hierarchy[0], strict=True) if links[3] < 0]
    holes = [c for c, links in zip(contours, hierarchy[0], strict=True) if links[3] >= 0]
    if min_hole > 0:
        holes = [hole for hole in holes if _pixels_inside(hole, mask) >= min_hole]
    return [ring[:, 0].astype(np.int64) for ring in (outer[0], *holes)]


def _pixels_inside(hole: NDArray[Any], mask: NDArray[np.uint8]) -> int:
    """How many empty pixels a hole's ring of region pixels goes around."""
    left, top, width, height = cv2.boundingRect(hole)
    filled = np.zeros((height, width), np.uint8)
    cv2.fillPoly(filled, [hole - (left, top)], 1)
    return int(np.count_nonzero(filled & (mask[top : top + height, left : left + width] == 0)))


def _polygon(region: Region, rings: list[Ring], tolerance: float) -> Points:
    outer, holes = _simplified(rings[0], tolerance, keep=True), []
    for hole in rings[1:]:
        if len(ring := _simplified(hole, tolerance, keep=False)) >= 3:
            first = int(np.lexsort((ring[:, 1], ring[:, 0]))[0])
            holes.append(np.roll(ring, -first, 0))  # starts at its leftmost corner
    holes.sort(key=lambda ring: (ring[0, 0], ring[0, 1]))
    joined = _join([outer, *holes]) if holes else outer.tolist()
    return [[_plain(x + region.left), _plain(y + region.top)] for x, y in joined]


def _simplified(ring: Ring, tolerance: float, keep: bool) -> Ring:
    """Without repeated corners and those on a straight line; ``keep``: not made less than a triangle."""
    ring = ring[np.any(ring != np.roll(ring, 1, 0), 1)] if len(ring) > 1 else ring
    before, after = ring - np.roll(ring, 1, 0), np.roll(ring, -1, 0) - ring
    straight = (before[:, 0] * after[:, 1] == before[:, 1] * after[:, 0]) & (np.sum(before * after, 1) > 0)
    exact = ring[~straight]
    if tolerance <= 0:
        return exact
    fewer = cv2.approxPolyDP(exact.astype(np.int32)[:, None], tolerance, True)[:, 0].astype(np.int64)
    return exact if keep and len(fewer) < 3 else fewer


def _join(rings: list[Ring]) -> list[Point]:
    """One ring of all: the first is the outline, the holes follow by their leftmost corner, where each starts."""
    slits: list[list[_Slit]] = [[] for _ in rings]
    crossings = _Crossings(rings)
    for number in range(1, len(rings)):
        onto, slit = crossings.left_of(number)
        slits[onto].append(slit)
    return _walk([_stops(ring, sorted(found)) for ring, found in zip(rings, slits, strict=True)])


def _stops(ring: Ring, slits: list[_Slit]) -> list[Stop]:
    """The corners of a ring, from its first one to it again, with the slits between them."""
    stops: list[Stop] = []
    done = 0
    for corner, (x, y) in enumerate(ring.tolist()):
        stops.append(((x, y), None))
        while done < len(slits) and slits[done].corner == corner:
            stops.append((slits[done].point, slits[done].hole))
            done += 1
    return [*stops, stops[0]]


def _walk(rings: list[list[Stop]]) -> list[Point]:
    """Around the outline and, at every slit, around the hole and back. A stack: holes may hang on holes without end."""
    path: list[Point] = []
    stack: list[tuple[Iterator[Stop], Point | None]] = [(iter(rings[0][:-1]), None)]
    while stack:
        stops, back = stack[-1]
        for point, hole in stops:
            path.append(point)
            if hole is not None:
                stack.append((iter(rings[hole]), point))
                break
        else:
            stack.pop()
            if back is not None:
                path.append(back)
    return path


class _Crossings:
    """Edges of rings by the rows that they cross."""

    def __init__(self, rings: list[Ring]) -> None:
        self._rings = rings
        starts = np.concatenate(rings)
        ends = np.concatenate([np.roll(ring, -1, 0) for ring in rings])
        self._ring = np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])
        self._corner = np.concatenate([np.arange(len(ring)) for ring in rings])
        low, high = np.minimum(starts[:, 1], ends[:, 1]), np.maximum(starts[:, 1], ends[:, 1])
        edge = np.repeat(np.arange(len(low)), high - low + 1)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(high - low + 1) - (high - low + 1), high - low + 1) + low[edge]
        wanted = np.isin(row, [ring[0, 1] for ring in rings[1:]])
        edge, row = edge[wanted], row[wanted]
        order = np.argsort(row, kind="stable")
        self._edge, self._row, self._starts, self._ends = edge[order], row[order], starts, ends

    def left_of(self, number: int) -> tuple[int, _Slit]:
        """The nearest point left of a hole's first corner on a ring before it: the ring, and the slit to there."""
        x, y = (int(value) for value in self._rings[number][0])
        edges = self._edge[np.searchsorted(self._row, y, "left") : np.searchsorted(self._row, y, "right")]
        edges = edges[self._ring[edges] < number]
        (x0, y0), (x1, y1) = self._starts[edges].T, self._ends[edges].T
        flat = y0 == y1
        at = np.where(flat, np.minimum(np.maximum(x0, x1), x), x0 + (y - y0) * (x1 - x0) / np.where(flat, 1, y1 - y0))
        at = np.where((at <= x) & (~flat | (np.minimum(x0, x1) <= x)), at, -np.inf)
        best = int(np.argmax(at)) if len(at) else -1
        if best < 0 or at[best] == -np.inf:  # only where simplified rings lie across each other
            start = self._rings[0][0]
            return 0, _Slit(0, 0.0, (float(start[0]), float(start[1])), number)
        edge = edges[best]
        distance = abs(float(at[best]) - float(x0[best])) + abs(y - float(y0[best]))
        return int(self._ring[edge]), _Slit(int(self._corner[edge]), distance, (float(at[best]), float(y)), number)


def _plain(value: Any) -> float:
    """A number as short as JSON can say it."""
    rounded = round(float(value), 2)
    return int(rounded) if rounded.is_integer() else rounded
