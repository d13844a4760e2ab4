"""Towns in the valleys, and the roads between them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from shapely import LineString

from pipeline.synthetic.noise import Floats, enlarge
from pipeline.synthetic.terrain import LAKE_DEPTH_M, Terrain

STEEP_M_A_CELL = 6.0
TOWN_CELLS = (5.0, 16.0)
"""Smallest and largest radius of a town, in cells."""


@dataclass(frozen=True)
class Town:
    """A place where people live; in cells of the terrain.

    Attributes:
        row: Its middle.
        col: Its middle.
        radius: How far it reaches, more or less.
    """

    row: float
    col: float
    radius: float


def found_towns(terrain: Terrain, count: int, rng: np.random.Generator) -> list[Town]:
    """Towns on dry and level ground, apart from each other."""
    side = len(terrain.heights_m)
    buildable = (terrain.slopes < STEEP_M_A_CELL) & (terrain.hollows_m < LAKE_DEPTH_M)
    towns: list[Town] = []
    for _ in range(50 * count):
        row, col = rng.uniform(0.03 * side, 0.97 * side, 2)
        low, high = TOWN_CELLS
        radius = low + (high - low) * rng.random() ** 3  # many villages, few cities
        apart = all(np.hypot(row - t.row, col - t.col) > 2.2 * (radius + t.radius) for t in towns)
        if apart and buildable[int(row), int(col)]:
            towns.append(Town(float(row), float(col), float(radius)))
        if len(towns) == count:
            break
    return towns


def lay_roads(towns: list[Town], rng: np.random.Generator) -> list[LineString]:
    """The shortest net that joins all towns, and a few roads more, none of them straight."""
    places = np.array([(town.col, town.row) for town in towns])
    if len(places) < 2:
        return []
    distances = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1))
    pairs = _spanning_tree(distances)
    nearest = np.argsort(distances, axis=1)[:, 1:3]
    pairs |= {(min(a, int(b)), max(a, int(b))) for a, row in enumerate(nearest) for b in row}
    return [LineString(_winding(places[a], places[b], rng)) for a, b in sorted(pairs)]


def density(towns: list[Town], ripples: Floats, side: int) -> Floats:
    """How densely each pixel is built upon: above 0 in towns, more in their middles.

    Args:
        towns: In cells of the terrain.
        ripples: What makes their edges uneven, in the same cells.
        side: Pixels along an edge.
    """
    scale = side / len(ripples)
    built = np.full((side, side), -1.0, np.float32)
    for town in towns:
        reach = 1.8 * town.radius
        rows, cols = (
            slice(max(0, int((middle - reach) * scale)), min(side, int((middle + reach) * scale) + 1))
            for middle in (town.row, town.col)
        )
        y = (np.arange(rows.start, rows.stop) + 0.5)[:, None] / scale - town.row
        x = (np.arange(cols.start, cols.stop) + 0.5)[None] / scale - town.col
        uneven = enlarge(ripples, side, rows)[:, cols]
        here = (1 - np.hypot(y, x) / town.radius + 0.22 * uneven).astype(np.float32)
        built[rows, cols] = np.maximum(built[rows, cols], here)
    return built


def _spanning_tree(distances: NDArray[np.float64]) -> set[tuple[int, int]]:
    joined, pairs = {0}, set()
    while len(joined) < len(distances):
        inside, outside = sorted(joined), sorted(set(range(len(distances))) - joined)
        part = distances[np.ix_(inside, outside)]
        a, b = np.unravel_index(int(part.argmin()), part.shape)
        pairs.add((min(inside[a], outside[b]), max(inside[a], outside[b])))
        joined.add(outside[b])
    return pairs


def _winding(
    start: NDArray[np.float64], end: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """A way halved again and again, each middle moved aside a little."""
    points = np.stack([start, end])
    for _ in range(6):
        along = np.diff(points, axis=0)
        aside = along[:, ::-1] * (-1, 1) * rng.normal(0, 0.09, (len(along), 1))
        middles = points[:-1] + along / 2 + aside
        points = np.concatenate([np.stack([points[:-1], middles], 1).reshape(-1, 2), points[-1:]])
    return points
