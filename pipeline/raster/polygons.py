"""Polygons of a file laid on a grid, and polygons burnt into its pixels."""

import numpy as np
import pyproj
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyproj.exceptions import ProjError
from rasterio.features import rasterize

from pipeline.errors import SettingsError
from pipeline.raster.grid import Grid
from pipeline.raster.polygon_file import read_polygons
from pipeline.raster.region import Region, from_polygons
from pipeline.raster.window import Window
from pipeline.storage import redact


def from_file(grid: Grid, url: str) -> Region:
    """The polygons of a GeoJSON or GeoParquet file, whatever its CRS."""
    found = read_polygons(url)
    polygons, where = found.polygons, redact(url)
    if grid.crs_wkt is None:
        raise SettingsError(
            "region.polygon needs a source that is georeferenced; use region.window for one that is not"
        )
    to_grid = _transformer(found.crs, grid.crs_wkt, where)
    # Long edges bend when projected: points a hundredth of the extent apart keep them where they belong.
    extent = max(polygons.bounds[2] - polygons.bounds[0], polygons.bounds[3] - polygons.bounds[1])
    dense = shapely.segmentize(polygons, extent / 100)
    projected = shapely.transform(dense, lambda xy: np.column_stack(to_grid.transform(xy[:, 0], xy[:, 1])))
    if not np.isfinite(projected.bounds).all():
        raise SettingsError(
            f"region.polygon must lie where the source's CRS is defined, got bounds {list(polygons.bounds)} "
            f"in {where}; is the file in another CRS than it says?"
        )
    return from_polygons(grid, projected, f"region.polygon {where}")


def _transformer(crs: pyproj.CRS, grid_wkt: str, where: str) -> pyproj.Transformer:
    """From the file's CRS to the grid's."""
    try:
        return pyproj.Transformer.from_crs(crs, pyproj.CRS.from_wkt(grid_wkt), always_xy=True)
    except ProjError as error:
        raise SettingsError(f"region.polygon: no way from {crs.name!r} of {where}: {error}") from error


def mask(region: Region, window: Window) -> NDArray[np.bool_]:
    """Which pixels of a window a region wants: those whose centre lies inside."""
    wanted = np.zeros(window.shape, np.bool_)
    inside = window.intersect(region.box)
    if not inside.num_pixels:
        return wanted
    part = inside.relative_to(window).slices
    if region.polygons is None:
        wanted[part] = True
        return wanted
    place = Affine.translation(inside.col, inside.row)
    burnt = rasterize([region.polygons], out_shape=inside.shape, transform=place, fill=0, default_value=1)
    wanted[part] = burnt.astype(np.bool_)
    return wanted
