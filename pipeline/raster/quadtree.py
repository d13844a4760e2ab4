"""Which of many boxes in rows and columns polygons touch, without asking for every one of them. Pure.

Where the hull of many boxes lies inside the polygons, or outside, all of them do; only hulls on a border are
cut and asked again. So the effort grows with the length of the border and not with the area.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry


@dataclass(frozen=True)
class Spans:
    """Half-open spans of pixels along an axis, in order; they may overlap.

    Attributes:
        starts: First pixel of each; never goes back.
        stops: One past the last pixel of each; never goes back.
    """

    starts: NDArray[np.int64]
    stops: NDArray[np.int64]

    @classmethod
    def of(cls, spans: Iterable[tuple[int, int]]) -> "Spans":
        """Spans given one by one."""
        edges = np.array(list(spans), np.int64).reshape(-1, 2)
        return cls(edges[:, 0], edges[:, 1])

    def __len__(self) -> int:
        return len(self.starts)

    def meet(self, start_px: int, stop_px: int) -> NDArray[np.bool_]:
        """Which spans hold some of the pixels ``[start, stop)``."""
        return np.asarray((self.starts < stop_px) & (self.stops > start_px))


def touched_boxes(polygons: BaseGeometry, rows: Spans, cols: Spans) -> NDArray[np.bool_]:
    """For every pair of a row span and a column span, whether polygons touch their box.

    Args:
        polygons: In pixel coordinates (x right, y down), prepared.
        rows: Of the boxes.
        cols: Of the boxes.
    """
    touched: NDArray[np.bool_] = np.zeros((len(rows), len(cols)), np.bool_)
    # Parts of the grid of boxes: first row, one past the last, first column, one past the last.
    parts_P4 = np.array([[0, len(rows), 0, len(cols)]]) if touched.size else np.empty((0, 4), np.int64)
    while len(parts_P4):
        hulls = _hulls(parts_P4, rows, cols)
        meets = shapely.intersects(polygons, hulls)
        parts_P4, hulls = parts_P4[meets], hulls[meets]
        is_single = (parts_P4[:, 1] - parts_P4[:, 0] == 1) & (parts_P4[:, 3] - parts_P4[:, 2] == 1)
        singles_P4 = parts_P4[is_single]
        touched[singles_P4[:, 0], singles_P4[:, 2]] = True
        parts_P4, hulls = parts_P4[~is_single], hulls[~is_single]
        is_inside = shapely.contains_properly(polygons, hulls)
        for top, bottom, left, right in parts_P4[is_inside]:
            touched[top:bottom, left:right] = True
        parts_P4 = _quartered(parts_P4[~is_inside])
    return touched


def _hulls(parts_P4: NDArray[np.int64], rows: Spans, cols: Spans) -> NDArray[np.object_]:
    """The smallest box around all boxes of each part."""
    top, bottom, left, right = parts_P4.T
    hulls: NDArray[np.object_] = shapely.box(
        cols.starts[left], rows.starts[top], cols.stops[right - 1], rows.stops[bottom - 1]
    )
    return hulls


def _quartered(parts_P4: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each part cut in the middle of both axes; what is one box wide is not cut along that axis."""
    top, bottom, left, right = parts_P4.T
    middle_row, middle_col = (top + bottom) // 2, (left + right) // 2
    quarters = [
        np.stack([*rows, *cols], axis=1)
        for rows in ((top, middle_row), (middle_row, bottom))
        for cols in ((left, middle_col), (middle_col, right))
    ]
    quarters_P4 = np.concatenate(quarters)
    return quarters_P4[(quarters_P4[:, 0] < quarters_P4[:, 1]) & (quarters_P4[:, 2] < quarters_P4[:, 3])]
