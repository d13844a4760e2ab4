"""Where the pixels of one grid lie in another: coordinates, never samples."""

import functools

import numpy as np
import pyproj
from affine import Affine
from numpy.typing import NDArray

from pipeline.raster.grid import Grid
from pipeline.raster.window import Window

POINTS_AN_EDGE = 21
BULGE = 0.005
"""Share of its size by which an outline may bulge between the points that were projected."""

ALIGNED_WITHIN_PX = 0.01
"""Pixels of two grids that lie no further apart than this are the same: they are copied, not warped."""


def through(transform: Affine, xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points through an affine transform."""
    x, y = xy[:, 0], xy[:, 1]
    return np.column_stack(
        (
            transform.a * x + transform.b * y + transform.c,
            transform.d * x + transform.e * y + transform.f,
        )
    )


def reproject_points(xy: NDArray[np.float64], source_wkt: str, target_wkt: str) -> NDArray[np.float64]:
    """Points from one CRS to another; infinite where there is no way."""
    if source_wkt == target_wkt:
        return xy
    x, y = _transformer(source_wkt, target_wkt).transform(xy[:, 0], xy[:, 1])
    return np.column_stack((x, y))


def pixels_in(source: Grid, target: Grid, points_px: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pixel coordinates (column, row) of one grid as those of another."""
    world = reproject_points(through(source.transform, points_px), _wkt(source), _wkt(target))
    return through(~target.transform, world)


def outline_px(grid: Grid) -> NDArray[np.float64]:
    """Points all around a grid, in its own pixels: its edges bend where they are projected."""
    along = np.linspace(0.0, 1.0, POINTS_AN_EDGE)[:-1]
    unit = np.concatenate(
        [
            np.column_stack((along, np.zeros_like(along))),
            np.column_stack((np.ones_like(along), along)),
            np.column_stack((1 - along, np.ones_like(along))),
            np.column_stack((np.zeros_like(along), 1 - along)),
        ]
    )
    return unit * (grid.width, grid.height)


def whole_pixel_shift(grid: Grid, target: Grid) -> tuple[int, int] | None:
    """Rows and columns by which a grid lies in the target, where its pixels are the target's; else None."""
    if grid.crs_wkt != target.crs_wkt:
        return None
    corners = np.array([(0, 0), (grid.width, 0), (0, grid.height), (grid.width, grid.height)], np.float64)
    moved = through(~target.transform, through(grid.transform, corners)) - corners
    cols, rows = (round(value) for value in moved[0])
    return (rows, cols) if np.abs(moved - (cols, rows)).max() <= ALIGNED_WITHIN_PX else None


@functools.lru_cache(maxsize=1 << 14)
def pixels_per_pixel(source: Grid, target: Grid) -> tuple[float, float]:
    """Width and height, in the source's pixels, of one of the target's where the source's middle lies."""
    middle = np.array([(source.width / 2, source.height / 2)], np.float64)
    there = pixels_in(source, target, middle)
    around = pixels_in(target, source, there + np.array([(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)]))
    if not np.isfinite(around).all():
        return 1.0, 1.0
    along_col, along_row = around[1] - around[0], around[2] - around[0]
    return float(np.hypot(along_col[0], along_row[0])), float(np.hypot(along_col[1], along_row[1]))


@functools.lru_cache(maxsize=1 << 14)
def extent_in(source: Grid, target: Grid) -> Window:
    """The target's pixels that a grid may cover, rather too many than too few."""
    found = pixels_in(source, target, outline_px(source))
    if not np.isfinite(found).all():  # partly where the target's CRS is not defined
        return target.window
    low, high = found.min(axis=0), found.max(axis=0)
    margin = 2 + BULGE * (high - low)
    left, top = (int(value) for value in np.floor(low - margin))
    right, bottom = (int(value) for value in np.ceil(high + margin))
    return Window.from_bounds(top, left, bottom, right)


def window_under(target: Grid, source: Grid, margin_px: float) -> Window:
    """The source's pixels under all of a target grid, with a margin; may pass the source's edges."""
    steps = np.linspace(0.0, 1.0, POINTS_AN_EDGE)
    cols, rows = np.meshgrid(steps * target.width, steps * target.height)
    found = pixels_in(target, source, np.column_stack((cols.ravel(), rows.ravel())))
    found = found[np.isfinite(found).all(axis=1)]
    if not len(found):
        return Window(0, 0, 0, 0)
    low, high = found.min(axis=0), found.max(axis=0)
    # Between the points looked at, edges may bulge by a little.
    margin = margin_px + 0.01 * (high - low)
    left, top = (int(value) for value in np.floor(low - margin))
    right, bottom = (int(value) for value in np.ceil(high + margin))
    return Window.from_bounds(top, left, bottom, right)


@functools.lru_cache(maxsize=256)
def _transformer(source_wkt: str, target_wkt: str) -> pyproj.Transformer:
    return pyproj.Transformer.from_crs(source_wkt, target_wkt, always_xy=True)


def _wkt(grid: Grid) -> str:
    if grid.crs_wkt is None:
        raise ValueError("a grid among scenes must have a CRS")
    return grid.crs_wkt
