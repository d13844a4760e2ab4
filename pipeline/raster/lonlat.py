"""Polygons in longitude and latitude as GeoJSON wants them: cut where they cross the antimeridian."""

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray
from pyproj.exceptions import ProjError

from pipeline.errors import SettingsError

EARTH_RADIUS_M = 6_371_000.0

TURN = 360.0


class AroundPole(SettingsError):
    """A ring around a pole: no polygon in longitude and latitude."""


def to_lon_lat(crs: pyproj.CRS) -> pyproj.Transformer:
    """The way from a CRS to CRS84."""
    try:
        return pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    except ProjError as error:
        raise SettingsError(
            f"there must be a way from {crs.name} to longitude and latitude: {error}"
        ) from error


def straight_px(pixel_m: float) -> float:
    """How long an edge may be, in px, before its bend in longitude and latitude shows.

    A chord of length L lies L² / 8R from its arc; that shall be less than a twentieth of a pixel.
    """
    return max(1.0, float(np.sqrt(0.4 * EARTH_RADIUS_M * pixel_m)) / pixel_m)


def cut_at_antimeridian(polygons: NDArray[np.object_]) -> NDArray[np.object_]:
    """The same polygons, those across the antimeridian as multipolygons of their two sides."""
    result = polygons.copy()
    for place in np.flatnonzero(_jumps(polygons)):
        parts = [_cut(part) for part in shapely.get_parts(polygons[place])]
        result[place] = shapely.multipolygons(np.concatenate([shapely.get_parts(part) for part in parts]))
    return result


def _jumps(polygons: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Which polygons have an edge of more than half a turn: nothing in a raster is that long."""
    points, of = shapely.get_coordinates(polygons, return_index=True)
    far = (np.abs(np.diff(points[:, 0])) > TURN / 2) & (np.diff(of) == 0)
    jumps = np.zeros(len(polygons), np.bool_)
    jumps[of[1:][far]] = True
    return jumps


def _cut(polygon: shapely.Polygon) -> shapely.geometry.base.BaseGeometry:
    shell = _unwrapped(polygon.exterior)
    middle = (shell[:, 0].min() + shell[:, 0].max()) / 2
    holes = [_unwrapped(ring) for ring in polygon.interiors]
    for hole in holes:
        hole[:, 0] += TURN * np.round((middle - hole[:, 0].mean()) / TURN)
    whole = shapely.Polygon(shell, holes)
    sides = []
    for turn in (-1, 0, 1):
        west = -TURN / 2 + turn * TURN
        side = shapely.intersection(whole, shapely.box(west, -90.0, west + TURN, 90.0))
        areas = [part for part in shapely.get_parts(side) if part.area > 0]  # lines along the cut are none
        for part in areas:
            points = shapely.get_coordinates(part) - (turn * TURN, 0.0)
            sides.append(shapely.set_coordinates(part, points))
    return shapely.multipolygons(sides)


def _unwrapped(ring: shapely.LinearRing) -> NDArray[np.float64]:
    """A ring's points with longitudes that go on beyond ±180."""
    points = shapely.get_coordinates(ring)
    points[:, 0] = np.unwrap(points[:, 0], period=TURN)
    if abs(points[-1, 0] - points[0, 0]) > TURN / 2:
        raise AroundPole(
            "a polygon around a pole cannot be told in longitude and latitude; "
            "give --output as .parquet or .fgb, which keep the mosaic's CRS"
        )
    return points
