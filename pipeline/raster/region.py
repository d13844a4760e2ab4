"""What part of a source is wanted: a box of pixels, or polygons inside it. Pure."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from pipeline.errors import SettingsError
from pipeline.raster.grid import Grid
from pipeline.raster.quadtree import Spans, touched_boxes
from pipeline.raster.window import Window


@dataclass(frozen=True)
class Region:
    """Wanted pixels, in the source's frame.

    Attributes:
        box: Pixels outside are not wanted; lies within the source.
        polygons_wkb: Polygons in pixel coordinates (x right, y down) as WKB, or None: all of the box.
        stack: How many t and z planes, of each of which this part is wanted; None: there is one plane.
    """

    box: Window
    polygons_wkb: bytes | None = None
    stack: tuple[int, int] | None = None

    @cached_property
    def polygons(self) -> BaseGeometry | None:
        """The polygons, prepared for many questions."""
        if self.polygons_wkb is None:
            return None
        polygons = shapely.from_wkb(self.polygons_wkb)
        shapely.prepare(polygons)
        return polygons

    def touches_grid(self, rows: Spans, cols: Spans) -> NDArray[np.bool_]:
        """Which windows, one for every pair of a row span and a column span, may hold a wanted pixel."""
        box = self.box
        meets = np.outer(rows.meet(box.row, box.row_stop), cols.meet(box.col, box.col_stop))
        if self.polygons is not None:
            meets &= touched_boxes(self.polygons, rows, cols)
        return np.asarray(meets, np.bool_)


def whole(grid: Grid) -> Region:
    """All of a source."""
    return Region(grid.window)


def from_window(grid: Grid, window: Window) -> Region:
    """A box of pixels."""
    inside = window.intersect(grid.window)
    if not inside.num_pixels:
        raise SettingsError(
            f"region.window must meet the source's {grid.height} × {grid.width} px, got first row "
            f"{window.row}, first column {window.col}, height {window.height}, width {window.width}"
        )
    return Region(inside)


def from_bbox(grid: Grid, bbox: tuple[float, float, float, float]) -> Region:
    """The pixels whose centres lie in a box given in the grid's CRS."""
    left, bottom, right, top = bbox
    if not (np.isfinite(bbox).all() and left < right and bottom < top):
        raise SettingsError(f"region.bbox must be numbers, left < right and bottom < top, got {list(bbox)}")
    return from_polygons(grid, shapely.box(left, bottom, right, top), "region.bbox")


def from_polygons(grid: Grid, polygons: BaseGeometry, what: str) -> Region:
    """Polygons in the grid's CRS; ``what`` names them in an error."""
    to_pixels = ~grid.transform

    def pixels_of(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y = xy[:, 0], xy[:, 1]
        return np.column_stack(
            (to_pixels.a * x + to_pixels.b * y + to_pixels.c, to_pixels.d * x + to_pixels.e * y + to_pixels.f)
        )

    in_pixels = shapely.transform(polygons, pixels_of)
    left, top, right, bottom = (float(value) for value in in_pixels.bounds)
    box = Window.from_bounds(*np.floor([top, left]).astype(int), *np.ceil([bottom, right]).astype(int))
    box = Window(*(int(value) for value in (box.row, box.col, box.height, box.width))).intersect(grid.window)
    if not box.num_pixels:
        raise SettingsError(
            f"{what} must meet the source, whose bounds are {list(grid.bounds())}; they do not meet"
        )
    return Region(box, shapely.to_wkb(in_pixels))
