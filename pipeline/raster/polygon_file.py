"""Polygons in files, GeoJSON and GeoParquet, with the CRS that they are told in."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyproj
import shapely
from pyproj.exceptions import ProjError
from shapely.errors import ShapelyError
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from pipeline.errors import SettingsError
from pipeline.raster.parquet import open_parquet
from pipeline.storage import read_url, redact

LON_LAT = "OGC:CRS84"
"""What both formats mean where they name no CRS."""

PARQUET = (".parquet", ".geoparquet")
POLYGONS = ("Polygon", "MultiPolygon")
MALFORMED = (ValueError, KeyError, TypeError, AttributeError, OSError, ShapelyError)
"""What reading something else as one of these formats raises; pyarrow's errors are among them."""


@dataclass(frozen=True)
class PolygonFile:
    """What a file holds.

    Attributes:
        polygons: All of its polygons as one, in the file's CRS.
        crs: That CRS, x before y whatever it says of its axes.
    """

    polygons: BaseGeometry
    crs: pyproj.CRS


def read_polygons(url: str) -> PolygonFile:
    """The polygons of a file; other geometries in it are passed over."""
    where, data = redact(url), read_url(url)
    is_parquet = PurePosixPath(where).suffix.lower() in PARQUET
    try:
        parts, crs = _geoparquet(data) if is_parquet else _geojson(data)
        polygons = shapely.union_all([shapely.make_valid(part) for part in parts])
    except MALFORMED as error:
        kind = "GeoParquet" if is_parquet else "GeoJSON"
        raise SettingsError(
            f"region.polygon must be {kind}, got {where}: {type(error).__name__}: {error}"
        ) from error
    if polygons.is_empty or polygons.area == 0:
        raise SettingsError(f"region.polygon must hold polygons, got none in {where}")
    if crs is None:
        raise SettingsError(f"region.polygon must say its CRS, but {where} says that it is unknown")
    try:
        return PolygonFile(polygons, pyproj.CRS.from_user_input(crs))
    except ProjError as error:
        raise SettingsError(f"region.polygon: no way from {crs!r} of {where}: {error}") from error


def _geojson(data: bytes) -> tuple[Sequence[BaseGeometry], str]:
    """Polygons, in longitude and latitude unless the file names a CRS, as GeoJSON of 2008 has it."""
    document = json.loads(data)
    parts = [shape(geometry) for geometry in _geometries(document)]
    return parts, (document.get("crs") or {}).get("properties", {}).get("name", LON_LAT)


def _geoparquet(data: bytes) -> tuple[Sequence[BaseGeometry], Any]:
    """Polygons of the primary column, and their CRS as PROJJSON; None where the file calls it unknown."""
    file = open_parquet(data, "a region in GeoParquet", extra="vectors")
    metadata = file.metadata.metadata or {}
    if b"geo" not in metadata:
        raise ValueError("its metadata must hold 'geo', which says where the geometries are")
    described = json.loads(metadata[b"geo"])
    name = described["primary_column"]
    column = described["columns"][name]
    if column["encoding"] != "WKB":
        raise ValueError(f"geometries must be encoded as WKB, got {column['encoding']}")
    found = shapely.from_wkb(np.asarray(file.read(columns=[name])[name].to_pylist(), object))
    kinds = shapely.get_type_id(found)
    wanted = np.isin(kinds, (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON))
    return list(found[wanted]), column.get("crs", LON_LAT)


def _geometries(document: dict[str, Any]) -> list[dict[str, Any]]:
    kind = document.get("type")
    if kind == "FeatureCollection":
        return [found for feature in document["features"] for found in _geometries(feature)]
    if kind == "Feature":
        return _geometries(document["geometry"]) if document.get("geometry") else []
    if kind == "GeometryCollection":
        return [found for geometry in document["geometries"] for found in _geometries(geometry)]
    return [document] if kind in POLYGONS else []
