"""Where labels lie on a mosaic: on the same pixels, or on a grid of their own that is looked up.

A lookup takes the label under the centre of each mosaic pixel (nearest neighbour). Coordinates are computed
in fixed cells counted from the mosaic's (0, 0), so that no pixel's label depends on the window asked for.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError, ProjError

from pipeline.errors import SettingsError
from pipeline.raster.grid import Grid
from pipeline.raster.window import Window

Numbers = NDArray[np.float64]

CELL_PX = 256
"""Side of a cell: what is warped or burnt at once."""

NODE_PX = 32
"""Distance of the points of a cell that are projected; every second one checks what the others give."""

TOLERANCE_PX = 0.01
"""Of a label pixel: a cell that interpolation shows further off is projected point by point."""

WHOLE_PIXEL_TOLERANCE = 0.01
"""Grids that differ by less than this share of a pixel everywhere are the same grid."""

ON_THE_EDGE_PX = 1e-6
"""A centre on the edge between two label pixels takes the later one, whatever the last bit says."""


@dataclass(frozen=True)
class Shifted:
    """Labels on the mosaic's own pixels: label pixel = mosaic pixel + (rows, cols)."""

    rows: int
    cols: int


@dataclass(frozen=True)
class Warped:
    """Labels on another grid.

    Attributes:
        mosaic: The mosaic's grid.
        labels: The labels' grid.
    """

    mosaic: Grid
    labels: Grid

    def label_pixels(self, cell: Window) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row and column of the label under each pixel of a cell; -1 where PROJ knows none.

        Args:
            cell: A whole cell: ``CELL_PX`` square, on multiples of it.
        """
        nodes: Numbers = np.arange(0, CELL_PX + 1, NODE_PX, dtype=np.float64)
        centres: Numbers = np.arange(CELL_PX, dtype=np.float64) + 0.5
        exact_YX = self._project(cell.row + nodes[:, None], cell.col + nodes[None, :])
        if _is_smooth(exact_YX, nodes):
            to_pixels = _weights(centres)
            rows, cols = (to_pixels @ axis[::2, ::2] @ to_pixels.T for axis in exact_YX)
        else:
            rows, cols = self._project(cell.row + centres[:, None], cell.col + centres[None, :])
        known = np.isfinite(rows) & np.isfinite(cols)
        floors = (np.floor(np.where(known, axis, -1.0) + ON_THE_EDGE_PX) for axis in (rows, cols))
        in_rows, in_cols = (axis.clip(-1, 2**62).astype(np.int64) for axis in floors)
        return in_rows, in_cols

    def footprint(self) -> Window:
        """A window of the mosaic that holds every pixel with a label, and some more."""
        height, width = self.labels.window.shape
        along = np.linspace(0.0, 1.0, 33)
        rows = np.concatenate([along * height, along * height, 0 * along, 0 * along + height])
        cols = np.concatenate([0 * along, 0 * along + width, along * width, along * width])
        x, y = _apply(self.labels, rows, cols)
        if self._transformer is not None:
            x, y = self._transformer.transform(x, y, direction="INVERSE")
        back = ~self.mosaic.transform
        cols = back.a * np.asarray(x) + back.b * np.asarray(y) + back.c
        rows = back.d * np.asarray(x) + back.e * np.asarray(y) + back.f
        if not (np.isfinite(rows).all() and np.isfinite(cols).all()):
            return self.mosaic.window
        # Edges bend between the points, by far less than a twentieth of their length.
        margin = 2.0 + 0.05 * max(np.ptp(rows), np.ptp(cols))
        low = math.floor(rows.min() - margin), math.floor(cols.min() - margin)
        high = math.ceil(rows.max() + margin), math.ceil(cols.max() + margin)
        return Window.from_bounds(*low, *high).intersect(self.mosaic.window)

    def _project(self, rows: Numbers, cols: Numbers) -> tuple[Numbers, Numbers]:
        """Mosaic pixel coordinates to label pixel coordinates; infinite where there are none."""
        x, y = _apply(self.mosaic, *np.broadcast_arrays(rows, cols))
        if self._transformer is not None:
            x, y = self._transformer.transform(x, y)
        back = ~self.labels.transform
        with np.errstate(invalid="ignore"):
            return (
                back.d * np.asarray(x) + back.e * np.asarray(y) + back.f,
                back.a * np.asarray(x) + back.b * np.asarray(y) + back.c,
            )

    @cached_property
    def _transformer(self) -> Transformer | None:
        if same_crs(self.mosaic.crs_wkt, self.labels.crs_wkt):
            return None
        return Transformer.from_crs(
            CRS.from_wkt(str(self.mosaic.crs_wkt)), CRS.from_wkt(str(self.labels.crs_wkt)), always_xy=True
        )


Placement = Shifted | Warped


def place(
    mosaic: Grid, labels: Grid, what: str, *, origin: tuple[int, int], scene_shape: tuple[int, int] | None
) -> Placement:
    """Lay labels on a mosaic.

    By the ground where both have a place on it; else by pixels, where sizes say that they belong together.

    Args:
        mosaic: The mosaic's grid.
        labels: The labels' grid.
        what: The labels' name in an error.
        origin: Row and column of the mosaic's first pixel in its scene.
        scene_shape: Size of that scene, where the mosaic says it.
    """
    if share_ground(mosaic, labels):
        warped = Warped(mosaic, labels)
        if same_crs(mosaic.crs_wkt, labels.crs_wkt):
            return _whole_shift(mosaic, labels) or warped
        try:
            warped.label_pixels(Window(0, 0, CELL_PX, CELL_PX))
        except (CRSError, ProjError) as error:
            raise SettingsError(
                f"labels must be in a CRS that leads to the mosaic's, got {what}: {error}"
            ) from error
        return warped
    if labels.window.shape == mosaic.window.shape:
        return Shifted(0, 0)
    if labels.window.shape == scene_shape:
        return Shifted(*origin)
    sizes = [f"the mosaic's {mosaic.height} × {mosaic.width} px"]
    if scene_shape:
        sizes.append(f"its scene's {scene_shape[0]} × {scene_shape[1]} px")
    raise SettingsError(
        f"labels that share no coordinate system with the mosaic must have {' or '.join(sizes)}, "
        f"got {labels.height} × {labels.width} px in {what}; give them a CRS, or cut them to that size"
    )


def share_ground(mosaic: Grid, labels: Grid) -> bool:
    """Whether both grids say where they lie, in ways that can be compared."""
    if not (mosaic.is_georeferenced and labels.is_georeferenced):
        return False
    return (mosaic.crs_wkt is None) == (labels.crs_wkt is None)


def cells(window: Window) -> Iterator[Window]:
    """The fixed cells that a window touches."""
    around = window.snap_outward(CELL_PX)
    for row in range(around.row, around.row_stop, CELL_PX):
        for col in range(around.col, around.col_stop, CELL_PX):
            yield Window(row, col, CELL_PX, CELL_PX)


def same_crs(one: str | None, other: str | None) -> bool:
    """Whether two grids' coordinates mean the same; None, an unknown CRS, equals itself."""
    if one == other or one is None or other is None:
        return one == other
    try:
        return CRS.from_wkt(one).equals(CRS.from_wkt(other), ignore_axis_order=True)
    except CRSError:
        return False


def _whole_shift(mosaic: Grid, labels: Grid) -> Shifted | None:
    """By how many whole pixels the grids differ; None where they differ by anything else."""
    step = ~labels.transform @ mosaic.transform
    rows, cols = round(step.f), round(step.c)
    height, width = mosaic.window.shape
    for row, col in ((0, 0), (0, width), (height, 0), (height, width)):
        x, y = step @ (col, row)
        if max(abs(x - col - cols), abs(y - row - rows)) > WHOLE_PIXEL_TOLERANCE:
            return None
    return Shifted(rows, cols)


def _apply(grid: Grid, rows: Numbers, cols: Numbers) -> tuple[Numbers, Numbers]:
    transform = grid.transform
    return (
        transform.a * cols + transform.b * rows + transform.c,
        transform.d * cols + transform.e * rows + transform.f,
    )


def _is_smooth(exact_YX: tuple[Numbers, Numbers], nodes: Numbers) -> bool:
    """Whether every second point tells the points between well enough."""
    if not all(np.isfinite(axis).all() for axis in exact_YX):
        return False
    between = _weights(nodes)
    off_px = [np.abs(between @ axis[::2, ::2] @ between.T - axis).max() for axis in exact_YX]
    return bool(max(off_px) <= TOLERANCE_PX)


def _weights(positions: Numbers) -> Numbers:
    """Weights of a cell's corners, every second node, for positions between them, by linear interpolation."""
    corners = np.arange(0, CELL_PX + 1, 2 * NODE_PX, dtype=np.float64)
    return np.stack([np.interp(positions, corners, unit) for unit in np.eye(len(corners))], axis=1)
