"""From corners of pixels to coordinates, and how large pixels are: in the CRS, in µm or in pixels."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray
from pyproj.exceptions import CRSError

from pipeline.errors import SettingsError
from pipeline.raster.grid import Grid
from pipeline.raster.levels import MICROMETRES
from pipeline.raster.lonlat import cut_at_antimeridian, straight_px, to_lon_lat
from pipeline.raster.pixel_size import geographic_areas, metres_per_unit
from pipeline.raster.vectors.lines import Lines, offsets_of
from pipeline.raster.vectors.polygonise import Features

VectorUnits = Literal["auto", "crs", "um", "px"]

AREA_STEPS = 1 << 24
"""Areas that differ from row to row are counted in so many steps of the largest: sums are exact then."""

LON_LAT_DIGITS = 9
"""A tenth of a millimetre."""


@dataclass(frozen=True)
class Placement:
    """Where polygons lie.

    Attributes:
        grid: The mosaic's pixels.
        units: What coordinates are counted in: ``crs``, ``um`` or ``px``.
        crs: Their CRS; None for none.
        area_unit: What areas are counted in.
        is_lon_lat: Whether coordinates are told in CRS84 instead of the mosaic's CRS.
        quantum: Area of one step that sums are counted in.
    """

    grid: Grid
    units: str
    crs: pyproj.CRS | None
    area_unit: str
    is_lon_lat: bool
    quantum: float

    def areas(self, rows: slice) -> NDArray[np.int64]:
        """Area of the pixels of rows, in steps."""
        if self.crs is None or not self.crs.is_geographic or self.units != "crs":
            return np.ones(rows.stop - rows.start, np.int64)
        return np.round(geographic_areas(self.grid, self.crs, rows) / self.quantum).astype(np.int64)

    def steps(self, area: float) -> int:
        """The smallest number of steps that reach an area."""
        return math.ceil(area / self.quantum * (1 - 1e-12))

    def geometries(self, features: Features, *, as_multi: bool) -> NDArray[np.object_]:
        """Features as shapely has them, shells counterclockwise."""
        lines = features.rings.lines
        if self.is_lon_lat and self.crs is not None:
            points, ring_of = self._on_earth(lines, self.crs)
        else:
            points = self._place(lines.points_N2[:, 1].astype(np.float64), lines.points_N2[:, 0])
            ring_of = lines.of
        rings = np.asarray(shapely.linearrings(points, indices=ring_of))
        polygons = np.asarray(shapely.polygons(rings, indices=features.rings.polygon))
        if self.grid.transform.determinant > 0 or self.units == "px":  # rows count downward
            polygons = np.asarray(shapely.orient_polygons(polygons))
        parts = np.bincount(features.feature)
        several = np.asarray(shapely.multipolygons(polygons, indices=features.feature))
        if not as_multi:
            single = parts == 1
            several[single] = polygons[np.isin(features.feature, np.flatnonzero(single))]
        return cut_at_antimeridian(several) if self.is_lon_lat else several

    def _place(self, cols: NDArray[np.float64], rows: NDArray[Any]) -> NDArray[np.float64]:
        if self.units == "px":
            return np.column_stack([cols, rows])
        place = self.grid.transform
        factor = MICROMETRES[self.grid.unit] if self.units == "um" and self.grid.unit else 1.0
        x = place.a * cols + place.b * rows + place.c
        y = place.d * cols + place.e * rows + place.f
        return np.column_stack([x * factor, y * factor])

    def _on_earth(self, lines: Lines, crs: pyproj.CRS) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Rings in longitude and latitude, with points between where edges bend."""
        side = math.sqrt(self.grid.pixel_area)
        metres = side * metres_per_unit(crs)
        dense, ring_of = _between(lines, straight_px(metres))
        xy = self._place(dense[:, 1], dense[:, 0])
        lon, lat = to_lon_lat(crs).transform(xy[:, 0], xy[:, 1])
        points = np.round(np.column_stack([lon, lat]), LON_LAT_DIGITS)
        if not np.isfinite(points).all():
            raise SettingsError(
                f"polygons must lie where {crs.name} is defined to be told in longitude and latitude; "
                "give --output as .parquet or .fgb, which keep the mosaic's CRS"
            )
        return points, ring_of


def place(grid: Grid, units: VectorUnits, *, lon_lat: bool) -> Placement:
    """How the polygons of a grid are placed.

    Args:
        grid: The mosaic's pixels.
        units: What is asked for; ``auto``: the CRS, else µm, else pixels.
        lon_lat: Whether coordinates of a CRS are told in longitude and latitude.
    """
    crs = _parse(grid, must_be_known=lon_lat and units in ("auto", "crs"))
    in_um = grid.crs_wkt is None and grid.unit in MICROMETRES
    chosen = (
        units
        if units != "auto"
        else "crs"
        if not in_um and grid.is_georeferenced
        else "um"
        if in_um
        else "px"
    )
    if chosen == "um" and not in_um:
        raise SettingsError("units: um needs a mosaic that says how large its pixels are; take crs or px")
    if chosen == "crs" and not grid.is_georeferenced:
        raise SettingsError("units: crs needs a mosaic that is georeferenced; take px")
    if chosen == "px":
        return Placement(grid, "px", None, "px²", is_lon_lat=False, quantum=1.0)
    if chosen == "um":
        factor = MICROMETRES[grid.unit or ""]
        return Placement(grid, "um", None, "µm²", is_lon_lat=False, quantum=grid.pixel_area * factor**2)
    if crs is None:
        return Placement(grid, "crs", None, "squared units", is_lon_lat=False, quantum=grid.pixel_area)
    quantum = grid.pixel_area * metres_per_unit(crs) ** 2
    if crs.is_geographic:
        largest = geographic_areas(grid, crs, slice(0, grid.height)).max()
        quantum = float(largest) / AREA_STEPS
    return Placement(grid, "crs", crs, "m²", is_lon_lat=lon_lat, quantum=quantum)


def _parse(grid: Grid, *, must_be_known: bool) -> pyproj.CRS | None:
    try:
        return pyproj.CRS.from_wkt(grid.crs_wkt) if grid.crs_wkt else None
    except CRSError as error:
        if must_be_known:
            raise SettingsError(f"the mosaic's CRS must be known to PROJ, got {grid.crs_wkt!r}") from error
        return None


def _between(lines: Lines, longest_px: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Points of lines and others between far ones, the same whichever way one walks; and their lines."""
    points = lines.points_N2.astype(np.float64)
    ahead = np.append(points[1:], points[-1:], axis=0)
    length = np.hypot(*(ahead - points).T)
    length[lines.offsets[1:] - 1] = 0.0
    pieces = np.maximum(1, np.ceil(length / longest_px)).astype(np.int64)
    begins = offsets_of(pieces)
    step = np.arange(begins[-1]) - np.repeat(begins[:-1], pieces)
    ascends = (points[:, 0] < ahead[:, 0]) | ((points[:, 0] == ahead[:, 0]) & (points[:, 1] <= ahead[:, 1]))
    low = np.repeat(np.where(ascends[:, None], points, ahead), pieces, axis=0)
    high = np.repeat(np.where(ascends[:, None], ahead, points), pieces, axis=0)
    of = np.repeat(pieces, pieces)
    share = np.where(np.repeat(ascends, pieces), step, of - step) / of
    dense = low + (high - low) * share[:, None]
    dense[begins[:-1]] = points
    return dense, np.repeat(lines.of, pieces)
