"""Arrays of a Zarr group as bands: their dimensions, names and missing values, by CF and by custom."""

import base64
import logging
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr

from pipeline.errors import SourceError

logger = logging.getLogger(__name__)

ROLES = {
    "y": ("y", "lat", "latitude", "northing", "row", "height"),
    "x": ("x", "lon", "longitude", "easting", "col", "column", "width"),
    "t": ("t", "time"),
    "z": ("z", "depth", "level", "altitude"),
}
"""Names of dimensions; whatever else there is holds bands."""

V2 = 2


@dataclass(frozen=True)
class BandPlace:
    """Where the samples of one band are.

    Attributes:
        path: Its array, below the source's group.
        dims: The array's dimensions, each one of t, c, z, y, x; ``-`` for others, of one element.
        channel: Its place along c; None in arrays without one.
        nodata: Values that stand for no data.
    """

    path: str
    dims: tuple[str, ...]
    channel: int | None
    nodata: tuple[int | float, ...]


def dimension_names(array: zarr.Array[Any]) -> tuple[str, ...] | None:
    """Names of an array's dimensions: of version 3 itself, or as xarray and GDAL write them in version 2."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    if not isinstance(names, list | tuple) or len(names) != array.ndim:
        return None
    return tuple(str(name) if name is not None else "" for name in names)


def dims_of(array: zarr.Array[Any], where: str) -> tuple[str, ...]:
    """What each dimension of an array is: the last two are y and x, one other may hold bands."""
    names = dimension_names(array)
    if array.ndim < 2:
        raise SourceError(f"an array must have dimensions y and x, got {array.ndim} in {where}")
    if names is None:
        return (*_unnamed(array, where), "y", "x")
    found = tuple(_role(name) for name in names)
    if found[-2:] != ("y", "x"):
        raise SourceError(f"the last dimensions of an array must be y and x, got {names} in {where}")
    leading = list(found[:-2])
    others = [place for place, role in enumerate(leading) if role == "c"]
    many = [place for place in others if array.shape[place] > 1]
    if len(many) > 1 or len({*leading} - {"c"}) + len(others) < len(leading):
        raise SourceError(f"an array must have one dimension of bands at most, got {names} in {where}")
    keep = many[0] if many else (others[0] if others else None)
    dims = ["-" if role == "c" and place != keep else role for place, role in enumerate(leading)]
    return (*dims, "y", "x")


def _role(name: str) -> str:
    return next((role for role, names in ROLES.items() if name.lower() in names), "c")


def _unnamed(array: zarr.Array[Any], where: str) -> tuple[str, ...]:
    """Leading dimensions without names: one holds bands, and those of one element nothing."""
    leading = array.shape[:-2]
    many = [place for place, size in enumerate(leading) if size > 1]
    if len(many) > 1:
        raise SourceError(
            f"dimensions must have names where more than one precedes y and x, got shape {array.shape} and "
            f"none in {where}"
        )
    keep = many[0] if many else len(leading) - 1
    return tuple("c" if place == keep else "-" for place in range(len(leading)))


def nodata_of(array: zarr.Array[Any]) -> tuple[int | float, ...]:
    """Values that stand for no data, by CF's ``_FillValue`` and ``missing_value``.

    What zarr itself fills missing chunks with means no data only where xarray takes it so: in version 2, in
    arrays that name their dimensions. In an image of OME, of which this is not asked, it is a shade like any.
    """
    declared = [array.attrs.get("_FillValue"), array.attrs.get("missing_value")]
    if array.metadata.zarr_format == V2 and "_ARRAY_DIMENSIONS" in array.attrs:
        declared.append(array.fill_value)
    values = [
        _number(value, array.dtype)
        for one in declared
        for value in (one if isinstance(one, list | tuple) else [one])
        if value is not None
    ]
    return tuple(dict.fromkeys(values))


def _number(value: Any, dtype: np.dtype[Any]) -> int | float:  # noqa: ANN401 - whatever JSON or numpy holds
    """A missing value as a number; xarray stores that of floats as base64 of a double in version 3."""
    if isinstance(value, str) and dtype.kind == "f":
        try:
            return float(value)  # "NaN"
        except ValueError:
            return float(struct.unpack("<d", base64.b64decode(value))[0])
    return int(value) if dtype.kind in "iub" and value == int(value) else float(value)


def scaling_of(array: zarr.Array[Any]) -> tuple[float, float]:
    """CF's ``scale_factor`` and ``add_offset``: what a file declares, applied only when it is asked for."""
    return float(array.attrs.get("scale_factor", 1.0)), float(array.attrs.get("add_offset", 0.0))  # type: ignore[arg-type]


def channel_names(
    array: zarr.Array[Any], dims: Sequence[str], siblings: Mapping[str, zarr.Array[Any]]
) -> list[str | None]:
    """Names along the dimension of bands: its coordinate's texts, or a list of long names."""
    count = array.shape[dims.index("c")]
    names = dimension_names(array)
    coordinate = siblings.get(names[dims.index("c")]) if names else None
    if coordinate is not None and coordinate.shape == (count,):
        values = np.asarray(coordinate[:])
        if values.dtype.kind in "OUTS":
            return [_text(value) for value in values.tolist()]
    listed = array.attrs.get("long_name")
    if isinstance(listed, list | tuple) and len(listed) == count:
        return [str(one) for one in listed]
    return [None] * count


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def raster_arrays(siblings: Mapping[str, zarr.Array[Any]], where: str) -> dict[str, zarr.Array[Any]]:
    """The arrays of a group that are imagery: of y and x, and no other array's coordinates or mapping."""
    helpers: set[str] = set()
    for array in siblings.values():
        for key in ("coordinates", "bounds", "grid_mapping", "ancillary_variables"):
            text = array.attrs.get(key)
            helpers.update(str(text).replace(":", " ").split() if text else ())
        helpers.update(dimension_names(array) or ())
    found = {}
    for name, array in sorted(siblings.items()):
        if name in helpers or array.ndim < 2 or array.dtype.kind not in "biuf":
            continue
        names = dimension_names(array)
        if names is None or tuple(_role(one) for one in names[-2:]) == ("y", "x"):
            found[name] = array
    shapes = {array.shape[-2:]: name for name, array in found.items()}
    if len(shapes) > 1:
        several = ", ".join(f"{name} of {' × '.join(map(str, shape))}" for shape, name in shapes.items())
        raise SourceError(f"arrays of one group must have one size, got {several} in {where}; give one's URL")
    return found
