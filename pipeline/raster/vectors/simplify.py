"""Fewer points on the arcs of a cell, so that no border crosses, touches or jumps over another.

GEOS simplifies all arcs of the cell together (Douglas and Peucker's method, checked against all other lines);
their ends stay. Cells are fixed parts of the mosaic's grid and arcs end at their edges, so that a cell's
result depends on nothing outside it. The cell's lower and right edges are the neighbours' to use: they take
part as lines that arcs must keep clear of. Its upper and left edges are its own.
"""

import numpy as np
import shapely
from numpy.typing import NDArray

from pipeline.raster.vectors.lines import Lines, offsets_of


def simplify(lines: Lines, tolerance_px: float, stop: tuple[int, int]) -> Lines:
    """The arcs of a cell with no more points than they need.

    Args:
        lines: The arcs.
        tolerance_px: How far a border may move.
        stop: One past the cell's last row and column.
    """
    if not len(lines):
        return lines
    drawn = shapely.linestrings(lines.points_N2.astype(np.float64), indices=lines.of)
    together = shapely.multilinestrings(np.concatenate([drawn, _edges(lines, stop)]))
    simpler = shapely.get_parts(shapely.simplify(together, tolerance_px, preserve_topology=True))
    points, of = shapely.get_coordinates(simpler[: len(lines)], return_index=True)
    return Lines(points.astype(np.int32), offsets_of(np.bincount(of, minlength=len(lines))))


def _edges(lines: Lines, stop: tuple[int, int]) -> NDArray[np.object_]:
    """The cell's lower and right edges, in pieces between the arcs that end there."""
    ends = np.concatenate([lines.first, lines.last])
    pieces = []
    for axis in (0, 1):
        along = 1 - axis
        places = np.unique(ends[ends[:, axis] == stop[axis], along])
        points = np.full((len(places), 2), stop[axis], np.float64)
        points[:, along] = places
        pieces.append(np.stack([points[:-1], points[1:]], axis=1))
    return np.asarray(shapely.linestrings(np.concatenate(pieces)))
