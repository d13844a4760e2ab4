"""Heights, and where their water gathers: lakes in hollows, rivers along the ways out."""

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from shapely import LineString

from pipeline.synthetic.noise import Floats, fractal

RELIEF_M = 140.0
LAKE_DEPTH_M = 9.0
"""Shallower hollows are dry."""

RIVER_CELLS = 700
"""From so many cells' water on, a river is wide enough to be seen."""

NEIGHBOURS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))


@dataclass(frozen=True)
class Terrain:
    """Land on a coarse grid.

    Attributes:
        heights_m: Above the lowest place.
        hollows_m: How far below its way out each place lies; 0 where water runs off.
        rivers: Courses as (column, row) in cells, with the cells that drain through each.
    """

    heights_m: Floats
    hollows_m: Floats
    rivers: tuple[tuple[LineString, float], ...]

    @property
    def slopes(self) -> Floats:
        """Steepness in metres a cell."""
        down, across = np.gradient(self.heights_m)
        return np.asarray(np.hypot(down, across), np.float32)


def make_terrain(side: int, rng: np.random.Generator) -> Terrain:
    """Hills that fall towards one corner, flooded and drained."""
    hills = fractal(side, roughness=2.1, largest=0.35, rng=rng)
    fall = np.linspace(1.6, 0, side, dtype=np.float32)
    raw = RELIEF_M * (0.45 * hills + fall[:, None] + 0.6 * fall[None])
    heights: Floats = (raw - raw.min()).astype(np.float32)
    filled, towards, order = _flood(heights)
    drained = _accumulate(towards, order)
    return Terrain(heights, filled - heights, tuple(_courses(towards, drained, side)))


def _flood(heights: Floats) -> tuple[Floats, NDArray[np.int64], list[int]]:
    """Priority flood from the border inwards: water levels, where each cell drains to, and the order."""
    rows, cols = heights.shape
    level = heights.astype(np.float64).ravel().tolist()
    towards = [-1] * (rows * cols)
    seen = bytearray(rows * cols)
    border = [r * cols + c for r in range(rows) for c in (0, cols - 1)]
    border += [r * cols + c for c in range(1, cols - 1) for r in (0, rows - 1)]
    queue = []
    for cell in border:
        seen[cell] = 1
        queue.append((level[cell], cell))
    heapq.heapify(queue)
    order = []
    while queue:
        height, cell = heapq.heappop(queue)
        order.append(cell)
        row, col = divmod(cell, cols)
        for down, right in NEIGHBOURS:
            r, c = row + down, col + right
            if 0 <= r < rows and 0 <= c < cols and not seen[r * cols + c]:
                other = r * cols + c
                seen[other] = 1
                towards[other] = cell
                level[other] = max(level[other], height + 1e-4)  # a slope even across a lake
                heapq.heappush(queue, (level[other], other))
    return np.array(level, np.float32).reshape(rows, cols), np.array(towards), order


def _accumulate(towards: NDArray[np.int64], order: list[int]) -> NDArray[np.int64]:
    """How many cells drain through each, itself included."""
    drained = [1] * len(order)
    below = towards.tolist()
    for cell in reversed(order):
        if below[cell] >= 0:
            drained[below[cell]] += drained[cell]
    return np.array(drained)


def _courses(
    towards: NDArray[np.int64], drained: NDArray[np.int64], cols: int
) -> list[tuple[LineString, float]]:
    """Every river from its spring, or from where it leaves a larger one upstream, to where it joins one."""
    is_river = drained >= RIVER_CELLS
    cells = np.flatnonzero(is_river)
    largest_first = cells[np.argsort(-drained[cells])].tolist()
    below = towards.tolist()
    feeders: dict[int, list[int]] = {}
    for cell in largest_first:
        if below[cell] >= 0:
            feeders.setdefault(below[cell], []).append(cell)
    starts = [cell for cell in largest_first if below[cell] < 0]
    starts += [other for others in feeders.values() for other in others[1:]]
    rivers: list[tuple[LineString, float]] = []
    for mouth in starts:
        course = [mouth] if below[mouth] < 0 else [below[mouth], mouth]
        while course[-1] in feeders:
            course.append(feeders[course[-1]][0])
        if len(course) > 3:
            points = _smooth(np.array([divmod(c, cols)[::-1] for c in course], np.float64) + 0.5)
            rivers.append((LineString(points), float(drained[mouth])))
    return rivers


def _smooth(points: NDArray[np.float64], rounds: int = 3) -> NDArray[np.float64]:
    """Corners cut off, as water does."""
    for _ in range(rounds):
        first, second = 0.75 * points[:-1] + 0.25 * points[1:], 0.25 * points[:-1] + 0.75 * points[1:]
        points = np.concatenate([points[:1], np.stack([first, second], 1).reshape(-1, 2), points[-1:]])
    return points
