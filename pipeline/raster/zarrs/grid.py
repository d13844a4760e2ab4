"""Where the pixels of a plain Zarr array lie: by CF, by GeoZarr, or as GDAL writes it.

Coordinates count most, since software that cuts a piece out of an array cuts them too and leaves a written
transform behind. Where both agree, the transform is taken: its numbers are exact.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import zarr
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS
from pyproj.exceptions import CRSError

from pipeline.errors import SourceError
from pipeline.raster.grid import IDENTITY, Grid
from pipeline.raster.zarrs.arrays import dimension_names, scaling_of

logger = logging.getLogger(__name__)

UNEVEN_PX = 0.05
"""Coordinates that stray further than this from even steps place no grid; float32 strays less."""

DISAGREE_PX = 0.05
"""A written transform that lies further than this from the coordinates is out of date."""

Attributes = Mapping[str, Any]


def grid_of(
    array: zarr.Array[Any],
    siblings: Mapping[str, zarr.Array[Any]],
    inherited: Sequence[Attributes],
    where: str,
) -> Grid:
    """The grid of an array.

    Args:
        array: Its last dimensions are y and x.
        siblings: The arrays of its group by name: coordinates and grid mappings are among them.
        inherited: Attributes of the groups around it, the nearest first.
        where: The array, for errors.
    """
    height, width = array.shape[-2:]
    names = dimension_names(array) or ("", "")
    own = dict(array.attrs)
    mapping = _grid_mapping(own, siblings)
    y, x = (siblings.get(name) for name in names[-2:])
    chain = [own, mapping, *inherited]
    transform = _written_transform(chain)
    coordinates = _from_coordinates(x, y, (height, width), where)
    if coordinates is not None and not _agree(transform, coordinates, height, width):
        if transform is not None:
            logger.warning("the transform of %s disagrees with its coordinates, which are taken", where)
        transform = coordinates
    crs = _crs(chain, x, y, where)
    return Grid(height, width, transform or IDENTITY, crs, None if crs else _common_unit(x, y))


def _grid_mapping(own: Attributes, siblings: Mapping[str, zarr.Array[Any]]) -> dict[str, Any]:
    """Attributes of the array's grid mapping, or of one by a usual name."""
    named = str(own.get("grid_mapping", "")).split(":")[0].strip()
    for name in (named, "spatial_ref", "crs"):
        if name and name in siblings:
            return dict(siblings[name].attrs)
    return {}


def _written_transform(chain: Sequence[Attributes]) -> Affine | None:
    for attributes in chain:
        text = attributes.get("GeoTransform")
        if text:
            values = text.split() if isinstance(text, str) else text
            return Affine.from_gdal(*(float(value) for value in values))
        values = attributes.get("spatial:transform")
        if values:
            transform = Affine(*(float(value) for value in values[:6]))
            at_centres = attributes.get("spatial:registration") == "node"
            return transform @ Affine.translation(-0.5, -0.5) if at_centres else transform
    return None


def _from_coordinates(
    x: zarr.Array[Any] | None, y: zarr.Array[Any] | None, shape: tuple[int, int], where: str
) -> Affine | None:
    """The transform of evenly spaced centres; None where there are none or a single one."""
    if x is None or y is None or (y.shape, x.shape) != ((shape[0],), (shape[1],)) or min(shape) < 2:
        return None
    left, width = _line(x, where)
    top, height = _line(y, where)
    return Affine(width, 0.0, left, 0.0, height, top)


def _line(array: zarr.Array[Any], where: str) -> tuple[float, float]:
    """First edge and step of evenly spaced centres."""
    factor, summand = scaling_of(array)
    values: NDArray[np.float64] = np.asarray(array[:], np.float64) * factor + summand
    step = float((values[-1] - values[0]) / (len(values) - 1))
    even = values[0] + step * np.arange(len(values))
    if not step or not np.abs(values - even).max() <= UNEVEN_PX * abs(step):
        raise SourceError(f"coordinates must be evenly spaced, but {array.path!r} is not in {where}")
    return float(values[0]) - step / 2, step


def _agree(written: Affine | None, coordinates: Affine, height: int, width: int) -> bool:
    if written is None:
        return False
    corners = ((0, 0), (width, 0), (0, height), (width, height))
    off = (np.hypot(*np.subtract(~coordinates @ (written @ corner), corner)) for corner in corners)
    return bool(max(off) <= DISAGREE_PX)


def _crs(
    chain: Sequence[Attributes], x: zarr.Array[Any] | None, y: zarr.Array[Any] | None, where: str
) -> str | None:
    """The CRS as WKT."""
    for attributes in chain:
        try:
            crs = _crs_of(attributes)
        except CRSError as error:
            raise SourceError(f"the CRS of {where} must be one that PROJ knows: {error}") from error
        if crs is not None:
            return crs.to_wkt()
    kinds = tuple(None if one is None else one.attrs.get("standard_name") for one in (x, y))
    return CRS.from_epsg(4326).to_wkt() if kinds == ("longitude", "latitude") else None


def _crs_of(attributes: Attributes) -> CRS | None:
    for key in ("crs_wkt", "spatial_ref", "proj:wkt2", "proj:code"):
        if isinstance(attributes.get(key), str) and attributes[key]:
            return CRS.from_user_input(attributes[key])
    if attributes.get("proj:projjson"):
        return CRS.from_json_dict(attributes["proj:projjson"])
    by_gdal = attributes.get("_CRS")
    if isinstance(by_gdal, Mapping):
        return CRS.from_user_input(by_gdal.get("wkt") or by_gdal.get("projjson") or by_gdal.get("url"))
    if attributes.get("grid_mapping_name"):
        return CRS.from_cf(dict(attributes))
    return None


def _common_unit(x: zarr.Array[Any] | None, y: zarr.Array[Any] | None) -> str | None:
    units = {None if one is None else one.attrs.get("units") for one in (x, y)}
    unit = units.pop() if len(units) == 1 else None
    return unit if isinstance(unit, str) else None
