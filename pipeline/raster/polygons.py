"""Polygons from a file, and polygons burnt into pixels."""

import json
from typing import Any

import numpy as np
import pyproj
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyproj.exceptions import ProjError
from rasterio.features import rasterize
from shapely.errors import ShapelyError
from shapely.geometry import shape

from pipeline.errors import SettingsError
from pipeline.raster.grid import Grid
from pipeline.raster.region import Region, from_polygons
from pipeline.raster.window import Window
from pipeline.storage import read_url, redact


def from_geojson(grid: Grid, url: str) -> Region:
    """The polygons of a GeoJSON file, in longitude and latitude unless it names a CRS."""
    try:
        document = json.loads(read_url(url))
        parts = [shapely.make_valid(shape(geometry)) for geometry in _geometries(document)]
    except (ValueError, KeyError, TypeError, AttributeError, ShapelyError) as error:
        raise SettingsError(
            f"region.polygon must be GeoJSON, got {redact(url)}: {type(error).__name__}: {error}"
        ) from error
    polygons = shapely.union_all(parts)
    if polygons.is_empty or polygons.area == 0:
        raise SettingsError(f"region.polygon must hold polygons, got none in {redact(url)}")
    if grid.crs_wkt is None:
        raise SettingsError(
            "region.polygon needs a source that is georeferenced; use region.window for one that is not"
        )
    to_grid = _transformer(document.get("crs"), grid.crs_wkt, redact(url))
    # Long edges bend when projected: points a hundredth of the extent apart keep them where they belong.
    extent = max(polygons.bounds[2] - polygons.bounds[0], polygons.bounds[3] - polygons.bounds[1])
    dense = shapely.segmentize(polygons, extent / 100)
    projected = shapely.transform(dense, lambda xy: np.column_stack(to_grid.transform(xy[:, 0], xy[:, 1])))
    if not np.isfinite(projected.bounds).all():
        raise SettingsError(
            f"region.polygon must lie where the source's CRS is defined, got bounds {list(polygons.bounds)} "
            f"in {redact(url)}; is the file in another CRS than it says?"
        )
    return from_polygons(grid, projected, f"region.polygon {redact(url)}")


def _transformer(named_crs: dict[str, Any] | None, grid_wkt: str, where: str) -> pyproj.Transformer:
    """From the file's CRS, longitude and latitude unless it names another, to the grid's."""
    name = (named_crs or {}).get("properties", {}).get("name", "OGC:CRS84")
    try:
        return pyproj.Transformer.from_crs(name, pyproj.CRS.from_wkt(grid_wkt), always_xy=True)
    except ProjError as error:
        raise SettingsError(f"region.polygon: no way from {name!r} of {where}: {error}") from error


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


def _geometries(document: dict[str, Any]) -> list[dict[str, Any]]:
    kind = document.get("type")
    if kind == "FeatureCollection":
        return [found for feature in document["features"] for found in _geometries(feature)]
    if kind == "Feature":
        return _geometries(document["geometry"]) if document.get("geometry") else []
    if kind == "GeometryCollection":
        return [found for geometry in document["geometries"] for found in _geometries(geometry)]
    return [document] if kind in ("Polygon", "MultiPolygon") else []
