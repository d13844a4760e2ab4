"""The grid that many scenes are laid on: asked for, or chosen so that most of them need no warping."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError

from pipeline.errors import SettingsError, SourceError
from pipeline.raster.gdal_source import describe_raster
from pipeline.raster.grid import Grid
from pipeline.raster.scenes.places import outline_px, reproject_points, through
from pipeline.storage import normalise_url, redact

MOST_PX = 1 << 30
"""Longest side of a target grid; beyond lies a mistaken CRS rather than a mosaic."""

SAME_SIZE = 1e-9
WHOLE_WITHIN_PX = 1e-6
PHASE_DIGITS = 3
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class GridWish:
    """What is asked of the target grid; None: to be chosen from the scenes.

    Attributes:
        crs: As a user writes it.
        resolution: Width and height of a pixel in units of the CRS.
        bounds: Left, bottom, right, top in the CRS.
        origin: Any corner of pixels, in the CRS.
        like: A raster whose grid is taken whole.
    """

    crs: str | None = None
    resolution: tuple[float, float] | None = None
    bounds: Box | None = None
    origin: tuple[float, float] | None = None
    like: str | None = None


def choose_grid(grids: Sequence[Grid], wish: GridWish) -> Grid:
    """The target grid of scenes whose files have these grids, each with a CRS of one spelling."""
    if wish.like is not None:
        return _grid_of(wish.like, grids)
    wkt = _commonest([str(grid.crs_wkt) for grid in grids]) if wish.crs is None else _wkt(wish.crs, grids)
    at_home = [grid for grid in grids if grid.crs_wkt == wkt]
    width, height = wish.resolution or _finest(at_home, wkt)
    alike = [grid for grid in at_home if _is_upright(grid) and _has_size(grid, width, height)]
    x, y = _corner(alike, wish, width, height)
    left, bottom, right, top = wish.bounds or _covered(grids, wkt)
    first_col = _floor((left - x) / width)
    first_row = _floor((y - top) / height)
    num_cols = -_floor((x - right) / width) - first_col
    num_rows = -_floor((bottom - y) / height) - first_row
    if max(num_rows, num_cols) > MOST_PX:
        raise SettingsError(
            f"the target grid must have sides of at most {MOST_PX} px, got {num_rows} × {num_cols}; check "
            "source.grid.resolution, which counts in units of the CRS, and source.grid.bounds"
        )
    corner = (x + first_col * width, y - first_row * height)
    return Grid(num_rows, num_cols, Affine(width, 0, corner[0], 0, -height, corner[1]), wkt)


def _grid_of(url: str, grids: Sequence[Grid]) -> Grid:
    found = describe_raster(normalise_url(url)).grid
    if found.crs_wkt is None:
        raise SettingsError(f"source.grid.like must be a raster with a CRS, got {redact(url)}")
    wkt = _wkt(found.crs_wkt, grids)
    return Grid(found.height, found.width, found.transform, wkt)


def _wkt(crs: str, grids: Sequence[Grid]) -> str:
    """A CRS as WKT, spelt as scenes that have it spell it."""
    try:
        wanted = CRS.from_user_input(crs)
    except CRSError as error:
        raise SettingsError(f"source.grid.crs must be a CRS as EPSG:32633, got {crs!r}") from error
    known = dict.fromkeys(str(grid.crs_wkt) for grid in grids)
    return next((wkt for wkt in known if CRS.from_wkt(wkt) == wanted), wanted.to_wkt())


def _commonest(values: Sequence[str]) -> str:
    return Counter(values).most_common(1)[0][0]  # of equals, the first given


def _finest(grids: Sequence[Grid], wkt: str) -> tuple[float, float]:
    if not grids:
        name = CRS.from_wkt(wkt).to_string()
        raise SettingsError(
            f"source.grid.resolution must be given where no scene has the target's CRS, {name[:60]}"
        )
    return min((_pixel_size(grid) for grid in grids), key=math.prod)


def _pixel_size(grid: Grid) -> tuple[float, float]:
    place = grid.transform
    return math.hypot(place.a, place.d), math.hypot(place.b, place.e)


def _is_upright(grid: Grid) -> bool:
    return not grid.is_rotated and grid.transform.a > 0 > grid.transform.e


def _has_size(grid: Grid, width: float, height: float) -> bool:
    found = _pixel_size(grid)
    return math.isclose(found[0], width, rel_tol=SAME_SIZE) and math.isclose(
        found[1], height, rel_tol=SAME_SIZE
    )


def _corner(alike: Sequence[Grid], wish: GridWish, width: float, height: float) -> tuple[float, float]:
    """A corner of pixels: as asked, else one that most scenes of this pixel size share."""
    if wish.origin is not None:
        return wish.origin
    if wish.bounds is not None:
        return wish.bounds[0], wish.bounds[3]
    if not alike:
        return 0.0, 0.0

    def phase(grid: Grid) -> tuple[float, float]:
        cols, rows = grid.transform.c / width, grid.transform.f / height
        return round(cols % 1, PHASE_DIGITS) % 1, round(rows % 1, PHASE_DIGITS) % 1

    commonest = Counter(phase(grid) for grid in alike).most_common(1)[0][0]
    first = next(grid for grid in alike if phase(grid) == commonest)
    return first.transform.c, first.transform.f


def _covered(grids: Sequence[Grid], wkt: str) -> Box:
    """The box around all scenes."""
    boxes = []
    for grid in dict.fromkeys(grids):
        world = reproject_points(through(grid.transform, outline_px(grid)), str(grid.crs_wkt), wkt)
        if not np.isfinite(world).all():
            raise SourceError(
                f"every scene must lie where the target's CRS is defined, but one with bounds "
                f"{list(grid.bounds())} in its own does not; give source.grid.crs and source.grid.bounds"
            )
        boxes.append((*world.min(axis=0), *world.max(axis=0)))
    found = np.array(boxes)
    low, high = found[:, :2].min(axis=0), found[:, 2:].max(axis=0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _floor(pixels: float) -> int:
    """Whole pixels, where a hair's breadth off a whole number is that number."""
    return math.floor(pixels + WHOLE_WITHIN_PX)
