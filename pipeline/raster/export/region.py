"""The part of a mosaic that is exported: a window of whole pixels, polygons inside it, a plane of a stack."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SettingsError
from pipeline.raster import region as regions
from pipeline.raster.grid import Grid
from pipeline.raster.mosaic import MosaicLayout
from pipeline.raster.plane import Plane
from pipeline.raster.polygons import from_file, mask
from pipeline.raster.region import Region
from pipeline.raster.window import Window


@dataclass(frozen=True)
class RegionWish:
    """What part is asked for; at most one of the three is given.

    Attributes:
        polygon: GeoJSON or GeoParquet, file or URL.
        bbox: Left, bottom, right, top in the mosaic's CRS.
        window: First row, first column, height, width in the mosaic's pixels.
    """

    polygon: str | None = None
    bbox: tuple[float, float, float, float] | None = None
    window: tuple[int, int, int, int] | None = None


def find_region(grid: Grid, wish: RegionWish) -> Region:
    """The region that is asked for, in the mosaic's pixels: nothing is snapped beyond whole pixels."""
    if wish.window is not None:
        row, col, height, width = wish.window
        if height < 1 or width < 1:
            raise SettingsError(f"region.window must be at least 1 × 1 px, got {height} × {width}")
        return regions.from_window(grid, Window(row, col, height, width))
    if wish.bbox is not None:
        return regions.from_bbox(grid, wish.bbox)
    if wish.polygon is not None:
        return from_file(grid, wish.polygon)
    return regions.whole(grid)


def check_plane(layout: MosaicLayout, plane: Plane) -> Plane:
    """The plane that is asked for; refuses one that the mosaic does not have."""
    num_t, num_z = layout.stack_shape or (1, 1)
    if not (0 <= plane.t < num_t and 0 <= plane.z < num_z):
        raise SettingsError(
            f"t must be below {num_t} and z below {num_z}, the mosaic's planes; got {plane.t} and {plane.z}"
        )
    return plane


def outside(region: Region, window: Window) -> NDArray[np.bool_] | None:
    """Which pixels of a window the region does not want; None where it wants them all."""
    if region.polygons is None and region.box.contains(window):
        return None
    return ~mask(region, window)


def parse_region(text: str) -> dict[str, object]:
    """What ``--region`` names, as settings: ``window=…``, ``bbox=…`` or a file of polygons."""
    kind, separator, values = text.partition("=")
    if not separator or kind not in ("window", "bbox"):
        return {"region.polygon": text}
    try:
        numbers = tuple((int if kind == "window" else float)(value) for value in values.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 4:
        raise SettingsError(
            "--region must be window=ROW,COLUMN,HEIGHT,WIDTH, bbox=LEFT,BOTTOM,RIGHT,TOP or a file of "
            f"polygons, "
            f"got {text!r}"
        )
    return {f"region.{kind}": numbers}
