"""One image in a Zarr store, as found: what both kinds of metadata come to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import zarr

from pipeline.raster.grid import Grid
from pipeline.raster.levels import LevelWish
from pipeline.raster.plane import PlaneWish, Stack
from pipeline.raster.source import BandInfo
from pipeline.raster.zarrs.arrays import BandPlace


@dataclass(frozen=True)
class ZarrWish:
    """What the settings ask of a group.

    Attributes:
        level: Which level of a pyramid.
        t: Which time points.
        z: Which depths.
        nodata: Value without data; None: as the arrays declare.
    """

    level: LevelWish = field(default_factory=LevelWish)
    t: PlaneWish = None
    z: PlaneWish = None
    nodata: float | None = None


@dataclass(frozen=True)
class ZarrImage:
    """The level that is read, with its bands and planes.

    Attributes:
        grid: Its pixels.
        bands: What can be read of it.
        places: Where each band's samples are.
        stack: The chosen planes, one at least.
        arrays: The arrays by path.
        level: The level's path, empty where there are no levels.
        is_microscopy: Whether OME described it.
    """

    grid: Grid
    bands: tuple[BandInfo, ...]
    places: tuple[BandPlace, ...]
    stack: Stack
    arrays: Mapping[str, zarr.Array[Any]]
    level: str
    is_microscopy: bool
