"""Plain Zarr groups as images: arrays with CF's or GeoZarr's metadata, and pyramids of such groups."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import zarr
from zarr.errors import ZarrUserWarning

from pipeline.errors import SourceError
from pipeline.raster.grid import Grid
from pipeline.raster.levels import Level, choose_level
from pipeline.raster.plane import Stack, StackAxis, choose_planes
from pipeline.raster.source import BandInfo
from pipeline.raster.zarrs.arrays import (
    BandPlace,
    channel_names,
    dimension_names,
    dims_of,
    nodata_of,
    raster_arrays,
    scaling_of,
)
from pipeline.raster.zarrs.grid import grid_of
from pipeline.raster.zarrs.image import ZarrImage, ZarrWish
from pipeline.raster.zarrs.store import array_at, member
from pipeline.storage import explained, redact

Arrays = Mapping[str, "zarr.Array[Any]"]


def plain_image(url: str, group: zarr.Group, only: str | None, wish: ZarrWish) -> ZarrImage:
    """The image of a group without OME's metadata.

    Args:
        url: The group, normalised.
        group: The group itself.
        only: The one array to read, None: all that are imagery.
        wish: What the settings ask for.
    """
    where, attributes = redact(url), dict(group.attrs)
    paths = [] if only else _levels(attributes)
    if paths:
        return _of_pyramid(url, group, paths, wish)
    arrays = _arrays_of(group, url)
    chosen = {only: array_at(group, only, where)} if only else raster_arrays(arrays, where)
    if not chosen:
        named = ", ".join(sorted([*arrays, *group.group_keys()])) or "nothing"
        raise SourceError(f"a source must hold an array of dimensions y and x, got {named} in {where}")
    grid = grid_of(next(iter(chosen.values())), arrays, [attributes], where)
    choose_level([_level("", grid)], wish.level, unit=grid.unit, where=where)
    return _image("", grid, chosen, arrays, wish, where)


def lone_array(url: str, array: zarr.Array[Any], wish: ZarrWish) -> ZarrImage:
    """An array that lies in no group."""
    where = redact(url)
    grid = grid_of(array, {}, [], where)
    choose_level([_level("", grid)], wish.level, unit=grid.unit, where=where)
    return _image("", grid, {"": array}, {}, wish, where)


def _level(path: str, grid: Grid) -> Level:
    size = math.sqrt(grid.pixel_area) if grid.is_georeferenced else None
    return Level(path, grid.height, grid.width, size)


def _arrays_of(group: zarr.Group, url: str) -> Arrays:
    with warnings.catch_warnings(), explained("list", url):
        warnings.simplefilter("ignore", ZarrUserWarning)  # files that are no part of it: notes, licences
        return dict(group.arrays())


def _levels(attributes: Mapping[str, Any]) -> list[str]:
    """Paths of a pyramid's groups, by the GeoZarr convention or as ndpyramid writes it."""
    scales = attributes.get("multiscales")
    if isinstance(scales, Mapping):
        return [str(one["asset"]) for one in scales.get("layout", []) if "asset" in one]
    if isinstance(scales, list) and scales and "axes" not in scales[0]:
        return [str(one["path"]) for one in scales[0].get("datasets", []) if "path" in one]
    return []


def _of_pyramid(url: str, root: zarr.Group, paths: Sequence[str], wish: ZarrWish) -> ZarrImage:
    """A group whose levels are groups of their own."""
    where = redact(url)
    grids: list[Grid] = []
    found: list[tuple[Arrays, Arrays]] = []
    for path in paths:
        group = member(root, path, where)
        if not isinstance(group, zarr.Group):
            raise SourceError(f"levels of {where} must be groups, got an array {path!r}")
        arrays = _arrays_of(group, url)
        chosen = raster_arrays(arrays, where)
        if not chosen:
            raise SourceError(f"each level must hold an array of y and x, got none in {path!r} of {where}")
        inherited = [dict(group.attrs), dict(root.attrs)]
        grids.append(grid_of(next(iter(chosen.values())), arrays, inherited, where))
        found.append((chosen, arrays))
    levels = [_level(path, grid) for path, grid in zip(paths, grids, strict=True)]
    number = choose_level(levels, wish.level, unit=grids[0].unit, where=where)
    return _image(paths[number], grids[number], *found[number], wish, where)


def _image(level: str, grid: Grid, chosen: Arrays, siblings: Arrays, wish: ZarrWish, where: str) -> ZarrImage:
    """Several arrays are several bands, and so are the elements of one dimension."""
    bands: list[BandInfo] = []
    places: list[BandPlace] = []
    arrays = {f"{level}/{name}".strip("/"): array for name, array in chosen.items()}
    dims = {path: dims_of(array, where) for path, array in arrays.items()}
    for path, array in arrays.items():
        nodata, (scale, offset) = nodata_of(array), scaling_of(array)
        names = _band_names(path, array, dims[path], siblings, alone=len(arrays) == 1)
        for index, name in enumerate(names):
            places.append(BandPlace(path, dims[path], index if "c" in dims[path] else None, nodata))
            bands.append(BandInfo(len(bands) + 1, name, array.dtype.name, False, (), scale, offset))
    _check_alike([(arrays[path], dims[path]) for path in arrays], where)
    first = arrays[places[0].path]
    stack = Stack(**{name: _axis(name, first, places[0].dims, siblings, wish, where) for name in ("t", "z")})
    return ZarrImage(grid, tuple(bands), tuple(places), stack, arrays, level, is_microscopy=False)


def _band_names(
    path: str,
    array: zarr.Array[Any],
    dims: Sequence[str],
    siblings: Arrays,
    *,
    alone: bool,
) -> list[str | None]:
    name = path.rsplit("/", 1)[-1]
    if "c" not in dims:
        return [name or None]
    names = channel_names(array, dims, siblings)
    if alone:
        return names
    return [f"{name}:{channel or number}" for number, channel in enumerate(names, 1)]


def _axis(
    name: str,
    array: zarr.Array[Any],
    dims: Sequence[str],
    siblings: Arrays,
    wish: ZarrWish,
    where: str,
) -> StackAxis:
    """The chosen planes along t or z, placed by their coordinate where there is one."""
    at = dims.index(name) if name in dims else None
    count = 1 if at is None else array.shape[at]
    chosen = choose_planes(getattr(wish, name), count, setting=f"source.{name}", where=where)
    names = dimension_names(array)
    coordinate = siblings.get(names[at]) if names and at is not None else None
    if coordinate is None or coordinate.shape != (count,) or coordinate.dtype.kind not in "iuf":
        return StackAxis(chosen, tuple(float(index) for index in chosen))
    values = np.asarray(coordinate[:], np.float64)
    spacing = float(values[1] - values[0]) if count > 1 else 1.0
    unit = coordinate.attrs.get("units")
    positions = tuple(float(values[index]) for index in chosen)
    return StackAxis(chosen, positions, spacing, str(unit) if unit else None)


def _check_alike(arrays: Sequence[tuple[zarr.Array[Any], Sequence[str]]], where: str) -> None:
    """Bands are planes of one stack: all have as many t and z."""
    stacks = {
        tuple((name, array.shape[dims.index(name)]) for name in ("t", "z") if name in dims)
        for array, dims in arrays
    }
    if len(stacks) > 1:
        raise SourceError(f"arrays of one group must have the same t and z, got {sorted(stacks)} in {where}")
