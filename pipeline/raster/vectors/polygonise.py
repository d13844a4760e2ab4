"""Polygons of classes, whole across cells, in two passes over a mosaic.

First pass: components of each cell, united over its edges; what they measure. Second pass: borders of each
cell, traced once for both sides and simplified; polygons inside a cell are finished there, fragments of the
others wait in a file for their last cell. Memory holds a strip of cells, about 100 bytes for each component
that reaches an edge of a cell, and the points of one feature at a time, about 150 bytes each; the file holds
about 8 bytes for each point of what waits.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.raster.vectors.arcs import Arcs, trace
from pipeline.raster.vectors.cells import NOTHING, Cell, Cells, Seam
from pipeline.raster.vectors.components import Pairs, unite
from pipeline.raster.vectors.fragments import Fragments, Rings, close, concatenate, fragments_of, no_fragments
from pipeline.raster.vectors.parts import part_by_crowd
from pipeline.raster.vectors.simplify import simplify
from pipeline.raster.vectors.spill import Spill
from pipeline.raster.vectors.units import Measures, Units, find_units, renumber, seams
from pipeline.raster.window import Window

POINTS_AT_ONCE = 1 << 21
"""Features are handed over in batches of about so many points."""


@dataclass(frozen=True)
class Surface:
    """What polygons are made of.

    Attributes:
        cells: The walk.
        values: Class indices of a window, -1 where there are none.
        confidence: Confidence of a window as stored.
        areas: Areas of the pixels of rows, in quanta.
        wanted: Which classes become polygons.
    """

    cells: Cells
    values: Callable[[Window], NDArray[np.int32]]
    confidence: Callable[[Window], NDArray[np.uint8]]
    areas: Callable[[slice], NDArray[np.int64]]
    wanted: NDArray[np.bool_]


@dataclass(frozen=True)
class Rules:
    """How polygons are made.

    Attributes:
        corners: Whether pixels that share but a corner belong to one feature (connectivity 8).
        min_area: Features of a smaller area, in quanta, are left out.
        tolerance_px: How far borders may move.
    """

    corners: bool
    min_area: int
    tolerance_px: float


@dataclass(frozen=True)
class Features:
    """Finished features.

    Attributes:
        rings: Rings of their polygons, each numbered by its place in ``feature``.
        feature: The feature of each polygon, from 0.
        values: The class of each feature.
        measures: What each measures.
    """

    rings: Rings
    feature: NDArray[np.int64]
    values: NDArray[np.int32]
    measures: Measures


@dataclass(frozen=True)
class _Shared:
    """All units that reach an edge of a cell, numbered in walking order.

    Attributes:
        polygon: The polygon of each unit.
        feature: The feature of each polygon.
        values: The class of each feature.
        measures: What each feature measures.
        last_cell: The cell that completes each feature.
    """

    polygon: NDArray[np.int64]
    feature: NDArray[np.int64]
    values: NDArray[np.int32]
    measures: Measures
    last_cell: NDArray[np.int64]


def polygonise(surface: Surface, rules: Rules, folder: Path) -> Iterator[Features]:
    """The polygons of a surface, those first whose last cell comes first.

    Args:
        surface: What they are made of.
        rules: How.
        folder: Where fragments may wait.
    """
    shared = _first_pass(surface, rules)
    with Spill(len(shared.values), folder) as spill:
        yield from _second_pass(surface, rules, shared, spill)


def _first_pass(surface: Surface, rules: Rules) -> _Shared:
    """Unite what cells share."""
    cells = surface.cells
    values_seam, numbers_seam = Seam(cells, np.int32), Seam(cells, np.int64)
    values, last_cells, measures, sides, corners = [], [], [], [], []
    base = 0
    for cell, values_HW in cells.read(surface.values):
        units = find_units(values_HW, surface.wanted, corners=rules.corners)
        numbers_HW = _look_up(_from_base(units.shared_numbers, base), units)
        seam = seams(
            values_seam.pad(cell, values_HW), numbers_seam.pad(cell, numbers_HW), corners=rules.corners
        )
        sides.append(seam[0])
        inside = np.flatnonzero(units.is_shared)
        within = units.groups[inside] != inside
        shared_numbers = units.shared_numbers + base
        joined = shared_numbers[units.groups[inside][within]], shared_numbers[inside][within]
        corners += [seam[1], joined]
        if len(inside):
            measures.append(_measure(surface, cell, units).take(inside))
            values.append(units.values[inside])
            last_cells.append(np.full(len(inside), cells.last_neighbour(cell.index)))
        base += len(inside)
    return _unite_shared(base, values, measures, last_cells, sides, corners)


def _unite_shared(
    count: int,
    values: list[NDArray[np.int32]],
    measures: list[Measures],
    last_cells: list[NDArray[np.int64]],
    sides: list[Pairs],
    corners: list[Pairs],
) -> _Shared:
    polygon, num_polygons = renumber(unite(count, *sides))
    feature, num_features = renumber(unite(count, *sides, *corners))
    feature_of_polygon = np.zeros(num_polygons, np.int64)
    feature_of_polygon[polygon] = feature
    feature_values = np.zeros(num_features, np.int32)
    last_cell = np.zeros(num_features, np.int64)
    sums = Measures(*(np.empty(0, np.int64) for _ in range(3)))
    if count:
        feature_values[feature] = np.concatenate(values)
        np.maximum.at(last_cell, feature, np.concatenate(last_cells))
        sums = Measures(
            np.concatenate([each.pixels for each in measures]),
            np.concatenate([each.area for each in measures]),
            np.concatenate([each.confidence for each in measures]),
        ).over(feature, num_features)
    return _Shared(polygon, feature_of_polygon, feature_values, sums, last_cell)


def _second_pass(surface: Surface, rules: Rules, shared: _Shared, spill: Spill) -> Iterator[Features]:
    """Trace borders; hand over features as they are completed."""
    cells = surface.cells
    values_seam, numbers_seam = Seam(cells, np.int32), Seam(cells, np.int64)
    is_kept = shared.measures.area >= rules.min_area
    finishing = np.argsort(shared.last_cell, kind="stable")
    steps = np.searchsorted(shared.last_cell[finishing], np.arange(len(cells) + 1))
    base = 0
    for cell, values_HW in cells.read(surface.values):
        units = find_units(values_HW, surface.wanted, corners=rules.corners)
        shared_here = _from_base(units.shared_numbers, base)
        # Polygons of this cell alone are numbered after all shared ones.
        own = len(shared.feature) + np.arange(len(units))
        polygons = np.where(units.is_shared, _at(shared.polygon, shared_here), own)
        padded = values_seam.pad(cell, values_HW), numbers_seam.pad(cell, _look_up(polygons, units))
        fragments = _fragments(cell, padded[0][:, :-1], padded[1][:, :-1], rules.tolerance_px)
        is_own = fragments.polygon >= len(shared.feature)
        features = _at(shared.feature, np.where(is_own, NOTHING, fragments.polygon))
        waiting = np.flatnonzero(~is_own & np.append(is_kept, np.False_)[features])
        if len(waiting):
            spill.add(fragments.take(waiting), features[waiting])
        own_fragments = fragments.take(np.flatnonzero(is_own))
        yield from _own_features(surface, rules, cell, units, own_fragments, len(shared.feature))
        done = finishing[steps[cell.index] : steps[cell.index + 1]]
        yield from _finished(shared, spill, done[is_kept[done]])
        base += int(units.is_shared.sum())


def _fragments(
    cell: Cell, values_HW: NDArray[np.int32], numbers_HW: NDArray[np.int64], tolerance_px: float
) -> Fragments:
    """The borders that a cell owns."""
    if (values_HW == values_HW[0, 0]).all():
        return no_fragments()
    if tolerance_px <= 0:
        return fragments_of(trace(values_HW, numbers_HW, (cell.window.row, cell.window.col)))
    parts = []
    for part in part_by_crowd(values_HW):
        padded = slice(part.row, part.row_stop + 1), slice(part.col, part.col_stop + 1)
        place = part.shift(cell.window.row, cell.window.col)
        arcs = trace(values_HW[padded], numbers_HW[padded], (place.row, place.col))
        parts.append(fragments_of(_simplified(arcs, tolerance_px, place)))
    return concatenate(parts)


def _simplified(arcs: Arcs, tolerance_px: float, place: Window) -> Arcs:
    return replace(arcs, lines=simplify(arcs.lines, tolerance_px, (place.row_stop, place.col_stop)))


def _own_features(
    surface: Surface, rules: Rules, cell: Cell, units: Units, fragments: Fragments, first: int
) -> Iterator[Features]:
    """Features that lie in one cell."""
    if not len(fragments):
        return
    sums = _measure(surface, cell, units).over(units.groups, len(units))
    feature = units.groups[fragments.polygon - first]
    fragments = fragments.take(np.flatnonzero(sums.area[feature] >= rules.min_area))
    if len(fragments):
        rings = close(fragments)
        yield _batch(rings, units.groups[rings.polygon - first], units.values, sums)


def _finished(shared: _Shared, spill: Spill, done: NDArray[np.int64]) -> Iterator[Features]:
    """Features that this cell completes, a batch of them at a time."""
    parts: list[Fragments] = []
    points = 0
    for place, feature in enumerate(done):
        parts.append(spill.take(int(feature)))
        points += len(parts[-1].lines.points_N2)
        if points >= POINTS_AT_ONCE or place == len(done) - 1:
            rings = close(concatenate(parts))
            yield _batch(rings, shared.feature[rings.polygon], shared.values, shared.measures)
            parts, points = [], 0


def _batch(
    rings: Rings, feature_of_ring: NDArray[np.int64], values: NDArray[np.int32], measures: Measures
) -> Features:
    """Features in the order of their numbers, polygons of one in the order of their first corners."""
    shells = np.flatnonzero(np.diff(rings.polygon, prepend=NOTHING))
    corner = rings.lines.first[shells]
    chosen, feature = np.unique(feature_of_ring[shells], return_inverse=True)
    order = np.lexsort((corner[:, 1], corner[:, 0], feature))
    place = np.argsort(order)
    polygon = np.repeat(place, np.diff(np.append(shells, len(rings.polygon))))
    sequence = np.argsort(polygon, kind="stable")
    return Features(
        rings=Rings(rings.lines.take(sequence), polygon[sequence]),
        feature=feature[order],
        values=values[chosen],
        measures=measures.take(chosen),
    )


def _measure(surface: Surface, cell: Cell, units: Units) -> Measures:
    window, inside = cell.window, cell.inside
    confidence = np.zeros(window.shape, np.uint8)
    areas = np.zeros(window.height, np.int64)
    if inside.num_pixels:
        confidence[: inside.height, : inside.width] = surface.confidence(inside)
        areas[: inside.height] = surface.areas(slice(inside.row, inside.row_stop))
    return units.measure(areas, confidence)


def _look_up(numbers: NDArray[np.int64], units: Units) -> NDArray[np.int64]:
    """The number of each pixel's unit, -1 for none."""
    return np.append(numbers, NOTHING)[units.numbers_HW]


def _from_base(numbers: NDArray[np.int64], base: int) -> NDArray[np.int64]:
    return np.where(numbers == NOTHING, NOTHING, numbers + base)


def _at(values: NDArray[np.int64], numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """The values of numbers, and -1 for those that are -1."""
    return np.append(values, NOTHING)[numbers]
