"""How large pixels are in metres, whatever their grid is counted in: metres, feet, degrees or µm."""

import math

import numpy as np
import pyproj
from numpy.typing import NDArray
from pyproj.exceptions import CRSError

from pipeline.raster.grid import Grid
from pipeline.raster.levels import MICROMETRES

EARTH_AXIS_M = 6_378_137.0


def parse_crs(wkt: str | None) -> pyproj.CRS | None:
    """A CRS by its WKT; None where there is none, or none that PROJ knows."""
    try:
        return pyproj.CRS.from_wkt(wkt) if wkt else None
    except CRSError:
        return None


def metres_per_unit(crs: pyproj.CRS) -> float:
    """Metres in a unit of the CRS; of a degree along a great circle."""
    factor = crs.axis_info[0].unit_conversion_factor if crs.axis_info else 1.0
    if not crs.is_geographic:
        return factor
    return factor * (crs.ellipsoid.semi_major_metre if crs.ellipsoid else EARTH_AXIS_M)


def geographic_areas(grid: Grid, crs: pyproj.CRS, rows: slice) -> NDArray[np.float64]:
    """Area in m² of the pixels of rows in degrees, by the ellipsoid's two radii of curvature.

    Of a grid that is rotated against the graticule, the middle column stands for the row.
    """
    factor = crs.axis_info[0].unit_conversion_factor if crs.axis_info else math.pi / 180
    middle = grid.transform.d * grid.width / 2
    lat = (grid.transform.f + middle + grid.transform.e * (np.arange(rows.start, rows.stop) + 0.5)) * factor
    ellipsoid = crs.ellipsoid
    radius = ellipsoid.semi_major_metre if ellipsoid else EARTH_AXIS_M
    squash = 1 / ellipsoid.inverse_flattening if ellipsoid and ellipsoid.inverse_flattening else 0.0
    eccentricity = squash * (2 - squash)
    base = 1 - eccentricity * np.sin(lat) ** 2
    areas: NDArray[np.float64] = (
        grid.pixel_area * factor**2 * radius**2 * (1 - eccentricity) * np.abs(np.cos(lat)) / base**2
    )
    return areas


def side_m(grid: Grid) -> float | None:
    """Side in metres of a square as large as the grid's middle pixel; None where nothing tells."""
    crs = parse_crs(grid.crs_wkt)
    if crs is not None and crs.is_geographic:
        middle = grid.height // 2
        return math.sqrt(float(geographic_areas(grid, crs, slice(middle, middle + 1))[0]))
    if crs is not None:
        return math.sqrt(grid.pixel_area) * metres_per_unit(crs)
    if grid.crs_wkt is None and grid.unit in MICROMETRES:
        return math.sqrt(grid.pixel_area) * MICROMETRES[grid.unit] * 1e-6
    return None
