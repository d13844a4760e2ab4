"""How large pixels are on the ground, or on the slide: areas and lengths that can be vouched for."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS, Geod, Transformer
from pyproj.exceptions import CRSError

from pipeline.raster.grid import Grid
from pipeline.raster.levels import MICROMETRES
from pipeline.raster.window import Window

TOLERATED_DISTORTION = 0.01
"""A projection that shows areas further off than this is not measured in its own plane."""

CELLS_PER_AXIS = 8
"""Parts of a window that are measured each by itself."""


@dataclass(frozen=True)
class Ground:
    """The ground under a grid.

    Attributes:
        grid: The mosaic's pixels.
        crs: Their reference system, where it is known and understood.
        slide_px_m: Height and width of a pixel in metres, for grids that have no CRS but a known scale.
        metres_per_unit: Size of the CRS's linear unit; None where areas are taken from the ellipsoid.
        note: How areas were measured, in a sentence.
    """

    grid: Grid
    crs: CRS | None
    slide_px_m: tuple[float, float] | None
    metres_per_unit: float | None
    note: str

    @classmethod
    def under(cls, grid: Grid, attributes: Mapping[str, Any]) -> "Ground":
        """What can be said of a mosaic's grid and attributes."""
        crs = _parse(grid.crs_wkt)
        if crs is None:
            slide = _slide_pixel_m(attributes)
            note = (
                "Measured with the pixel size that the mosaic states."
                if slide
                else "The mosaic does not say how large its pixels are, so areas are counted in pixels."
            )
            return cls(grid, None, slide, None, note)
        if crs.is_geographic:
            return cls(grid, crs, None, None, "Measured on the ellipsoid: degrees are no unit of area.")
        metres = crs.axis_info[0].unit_conversion_factor if crs.axis_info else 1.0
        real = _ellipsoid_pixel_m2(crs, grid, grid.window) if crs.is_projected else 0.0
        scale = grid.pixel_area * metres**2 / real if real else 1.0
        if abs(scale - 1.0) <= TOLERATED_DISTORTION:
            return cls(grid, crs, None, metres, f"Measured in the plane of {crs.name}.")
        note = f"Measured on the ellipsoid: {crs.name} shows areas here {scale:.2f} times as large."
        return cls(grid, crs, None, None, note)

    @property
    def is_known(self) -> bool:
        """Whether pixels have a size."""
        return self.crs is not None or self.slide_px_m is not None

    def pixel_area_m2(self, window: Window) -> float:
        """Mean area of a window's pixels in square metres."""
        if self.slide_px_m is not None:
            return self.slide_px_m[0] * self.slide_px_m[1]
        if self.crs is None:
            raise ValueError("pixels of this mosaic have no known size; ask is_known first")
        if self.metres_per_unit is not None:
            return self.grid.pixel_area * self.metres_per_unit**2
        return _ellipsoid_pixel_m2(self.crs, self.grid, window)

    def class_areas_m2(self, blocks: Iterable[tuple[Window, NDArray[np.int64]]]) -> list[float]:
        """Area of each class, from the pixels of each class in every block."""
        totals = np.zeros(0)
        for window, counts in blocks:
            if len(counts) > len(totals):
                totals = np.pad(totals, (0, len(counts) - len(totals)))
            if counts.any():
                totals[: len(counts)] += counts * self.pixel_area_m2(window)
        return [float(total) for total in totals]

    def width_m(self) -> float | None:
        """Length of the mosaic's middle row in metres."""
        if self.slide_px_m is not None:
            return self.slide_px_m[1] * self.grid.width
        if self.crs is None:
            return None
        if self.metres_per_unit is not None:
            a_pixel = np.hypot(self.grid.transform.a, self.grid.transform.d)
            return float(a_pixel) * self.metres_per_unit * self.grid.width
        # The scale bar is true at the centre: one pixel there, times the width.
        middle = self.grid.height / 2
        ends = [self.grid.transform @ (self.grid.width / 2 + side, middle) for side in (-0.5, 0.5)]
        lon, lat = _to_lon_lat(self.crs, np.array([x for x, _ in ends]), np.array([y for _, y in ends]))
        return float(_geod(self.crs).inv(lon[0], lat[0], lon[1], lat[1])[2]) * self.grid.width


def _parse(wkt: str | None) -> CRS | None:
    """The CRS if lengths can be told in it; None for none, for unknown ones and for geocentric ones."""
    try:
        crs = CRS.from_wkt(wkt) if wkt else None
    except CRSError:
        return None
    measurable = crs is not None and (crs.is_geographic or crs.is_projected or crs.is_engineering)
    return crs if measurable else None


def _ellipsoid_pixel_m2(crs: CRS, grid: Grid, window: Window) -> float:
    """Mean area of a window's pixels on the ellipsoid, 0 where the window lies beside the earth.

    The window is cut into equal cells; each has its area in longitude and latitude, times what a square of
    these measures at its centre by the ellipsoid's two radii of curvature.
    """
    cols = np.linspace(window.col, window.col_stop, CELLS_PER_AXIS + 1)
    rows = np.linspace(window.row, window.row_stop, CELLS_PER_AXIS + 1)
    cols_HW, rows_HW = np.meshgrid(cols, rows)
    transform = grid.transform
    lon, lat = _to_lon_lat(
        crs,
        transform.a * cols_HW + transform.b * rows_HW + transform.c,
        transform.d * cols_HW + transform.e * rows_HW + transform.f,
    )
    lon, lat = np.deg2rad(lon), np.deg2rad(lat)
    with np.errstate(invalid="ignore"):  # PROJ says infinity where there is no ground
        falling = _turn(lon[1:, 1:] - lon[:-1, :-1]), lat[1:, 1:] - lat[:-1, :-1]
        rising = _turn(lon[:-1, 1:] - lon[1:, :-1]), lat[:-1, 1:] - lat[1:, :-1]
        squares = np.abs(falling[0] * rising[1] - falling[1] * rising[0]) / 2
        middles = (lat[1:, 1:] + lat[:-1, :-1] + lat[:-1, 1:] + lat[1:, :-1]) / 4
        cells_m2 = squares * _square_metres_per_square_radian(_geod(crs), middles)
    known = cells_m2[np.isfinite(cells_m2)]
    return float(known.mean()) * CELLS_PER_AXIS**2 / window.num_pixels if known.size else 0.0


def _turn(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """The shorter way round, for windows across the antimeridian."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def _square_metres_per_square_radian(geod: Geod, latitude: NDArray[np.float64]) -> NDArray[np.float64]:
    bent = 1.0 - geod.es * np.sin(latitude) ** 2
    along_meridian = geod.a * (1.0 - geod.es) / bent**1.5
    along_parallel = geod.a * np.cos(latitude) / np.sqrt(bent)
    return np.asarray(along_meridian * along_parallel)


def _to_lon_lat(
    crs: CRS, x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    geodetic = crs.geodetic_crs
    if geodetic is None:
        raise ValueError(f"{crs.name} must stand on a geodetic CRS")
    lon, lat = Transformer.from_crs(crs, geodetic, always_xy=True).transform(x, y)
    unit = np.rad2deg(geodetic.axis_info[0].unit_conversion_factor)
    return np.asarray(lon) * unit, np.asarray(lat) * unit


def _geod(crs: CRS) -> Geod:
    geod = crs.get_geod()
    if geod is None:
        raise ValueError(f"{crs.name} must stand on an ellipsoid")
    return geod


def _slide_pixel_m(attributes: Mapping[str, Any]) -> tuple[float, float] | None:
    """Height and width of a pixel by the OME-NGFF metadata of the group, where it has some."""
    multiscales = attributes.get("ome", {}).get("multiscales") or attributes.get("multiscales")
    if not multiscales:
        return None
    axes = multiscales[0]["axes"]
    transformations = multiscales[0]["datasets"][0].get("coordinateTransformations", [])
    scale = next((one["scale"] for one in transformations if one["type"] == "scale"), None)
    found = {axis["name"]: (axis.get("unit"), index) for index, axis in enumerate(axes)}
    if scale is None or any(found.get(name, (None,))[0] not in MICROMETRES for name in ("y", "x")):
        return None
    height, width = (scale[found[name][1]] * MICROMETRES[str(found[name][0])] * 1e-6 for name in ("y", "x"))
    return height, width


@dataclass(frozen=True)
class AreaUnit:
    """A unit of area: its sign, and how many square metres it is."""

    sign: str
    square_metres: float


AREA_UNITS = (
    AreaUnit("km²", 1e6),
    AreaUnit("ha", 1e4),
    AreaUnit("m²", 1.0),
    AreaUnit("mm²", 1e-6),
    AreaUnit("µm²", 1e-12),
)


def area_unit(total_m2: float) -> AreaUnit:
    """The unit in which a whole of this size reads best: at least ten of it."""
    return next((unit for unit in AREA_UNITS if total_m2 >= 10 * unit.square_metres), AREA_UNITS[-1])


LENGTH_UNITS = ((1e3, "km"), (1.0, "m"), (1e-3, "mm"), (1e-6, "µm"))


def round_length(at_most_m: float) -> tuple[float, str]:
    """The largest of 1, 2 and 5 times a power of ten that is not longer, in metres and in words."""
    power = 10.0 ** np.floor(np.log10(at_most_m))
    length = float(max(step for step in (1, 2, 5) if step * power <= at_most_m * (1 + 1e-9)) * power)
    metres, sign = next(
        ((metres, sign) for metres, sign in LENGTH_UNITS if length >= metres * (1 - 1e-9)), LENGTH_UNITS[-1]
    )
    return length, f"{length / metres:,.6g}\u202f{sign}"
