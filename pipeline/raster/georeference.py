"""How a mosaic says where it lies: CF for xarray, GDAL and QGIS, and the GeoZarr conventions. Pure."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS
from pyproj.exceptions import CRSError

from pipeline.raster.grid import Grid
from pipeline.raster.plane import StackAxis

CONVENTIONS = [
    {
        "uuid": "f17cb550-5864-4468-aeb7-f3180cfb622f",
        "name": "proj",
        "description": "Coordinate reference system",
    },
    {
        "uuid": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
        "name": "spatial",
        "description": "Pixels on the ground",
    },
]


def grid_mapping_attributes(grid: Grid) -> dict[str, Any]:
    """Attributes of ``spatial_ref``: the CF grid mapping, and the transform that rotated grids need."""
    attributes: dict[str, Any] = {}
    if grid.crs_wkt:
        crs = _parse(grid.crs_wkt)
        attributes.update(crs.to_cf() if crs else {})
        attributes["crs_wkt"] = attributes["spatial_ref"] = crs.to_wkt() if crs else grid.crs_wkt
    attributes["GeoTransform"] = " ".join(repr(float(value)) for value in grid.transform.to_gdal())
    return attributes


def convention_attributes(grid: Grid) -> dict[str, Any]:
    """Attributes of a group by the GeoZarr conventions ``proj`` and ``spatial``."""
    attributes: dict[str, Any] = {
        "zarr_conventions": CONVENTIONS,
        "spatial:dimensions": ["y", "x"],
        "spatial:shape": [grid.height, grid.width],
        "spatial:transform": [float(value) for value in list(grid.transform)[:6]],
        "spatial:bbox": list(grid.bounds()),
        "spatial:registration": "pixel",
    }
    crs = _parse(grid.crs_wkt) if grid.crs_wkt else None
    if crs:
        authority = crs.to_authority(min_confidence=100)
        if authority:
            attributes["proj:code"] = ":".join(authority)
        attributes["proj:wkt2"] = crs.to_wkt()
    return attributes


def has_coordinate_arrays(grid: Grid) -> bool:
    """Whether one x a column and one y a row say where the pixels are."""
    return grid.is_georeferenced and not grid.is_rotated


def coordinates(grid: Grid, *, step_px: int = 1) -> dict[str, NDArray[Any]]:
    """World coordinates of pixel centres; with a step, of the centres of every ``step_px``-th pixel."""
    transform = grid.transform
    cols = np.arange(0, grid.width + step_px - 1, step_px, dtype=np.float64)
    rows = np.arange(0, grid.height + step_px - 1, step_px, dtype=np.float64)
    return {"x": transform.c + transform.a * (cols + 0.5), "y": transform.f + transform.e * (rows + 0.5)}


def coordinate_attributes(grid: Grid) -> dict[str, dict[str, Any]]:
    """CF attributes of x and y."""
    if grid.unit and not grid.crs_wkt:
        return {axis: {"axis": axis.upper(), "units": grid.unit} for axis in ("x", "y")}
    crs = _parse(grid.crs_wkt) if grid.crs_wkt else None
    if crs and crs.is_geographic:
        return {
            "x": {"axis": "X", "standard_name": "longitude", "units": "degrees_east"},
            "y": {"axis": "Y", "standard_name": "latitude", "units": "degrees_north"},
        }
    units = {"units": crs.axis_info[0].unit_name} if crs and crs.axis_info else {}
    return {
        "x": {"axis": "X", "standard_name": "projection_x_coordinate", **units},
        "y": {"axis": "Y", "standard_name": "projection_y_coordinate", **units},
    }


def plane_attributes(axis: str, planes: StackAxis) -> dict[str, Any]:
    """CF attributes of t or z; ``source_indices`` tells which planes of the source they are."""
    units = {"units": planes.unit} if planes.unit else {}
    return {"axis": axis.upper(), "source_indices": list(planes.indices), **units}


def _parse(wkt: str) -> CRS | None:
    """The CRS, or None for one that PROJ does not know: its WKT is kept as it is."""
    try:
        return CRS.from_wkt(wkt)
    except CRSError:
        return None
