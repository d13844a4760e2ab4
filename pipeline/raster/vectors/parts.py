"""Parts of a cell small enough to simplify: the method compares every arc with every other. Pure."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.raster.window import Window

CROWD = 2048
"""So many nodes may lie in one part."""

SMALLEST_PX = 32


def part_by_crowd(values_HW: NDArray[np.int32]) -> Iterator[Window]:
    """The cell, or its quarters where it holds too many nodes, and so on.

    It depends on nothing but the cell's pixels: wherever it is cut, borders keep a point.

    Args:
        values_HW: Values of the cell's pixels, with a row above and a column left.
    """
    across = values_HW[:-1, 1:] != values_HW[1:, 1:]
    down = values_HW[1:, :-1] != values_HW[1:, 1:]
    west = values_HW[:-1, :-1] != values_HW[1:, :-1]
    north = values_HW[:-1, :-1] != values_HW[:-1, 1:]
    degree = across.astype(np.int8) + down + west + north
    # A turn counts a quarter of a node: an island without nodes has four.
    turns = (degree == 2) & (across != west)
    crowd = (degree > 2).astype(np.float32) + turns / np.float32(4)
    yield from _quarters(crowd, Window(0, 0, *crowd.shape))


def _quarters(crowd_HW: NDArray[np.float32], part: Window) -> Iterator[Window]:
    too_small = min(part.shape) <= SMALLEST_PX
    if too_small or float(crowd_HW[part.slices].sum()) <= CROWD:
        yield part
        return
    row, col = part.row + part.height // 2, part.col + part.width // 2
    for top, bottom in ((part.row, row), (row, part.row_stop)):
        for left, right in ((part.col, col), (col, part.col_stop)):
            yield from _quarters(crowd_HW, Window.from_bounds(top, left, bottom, right))
