"""Where a tile lies: from pixels to the world and back, and its outline in metres."""

import functools
import hashlib
import math
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError, ProjError
from shapely.geometry.base import BaseGeometry

from pipeline.raster.grid import Grid
from pipeline.train.evaluate.placement import same_crs

Numbers = NDArray[np.float64]

EQUAL_AREA = "EPSG:6933"
"""Metres all over the world but for the poles, with areas as they are."""

POINTS_A_SIDE = 4


@dataclass(frozen=True)
class Outline:
    """A tile on the ground.

    Attributes:
        frame: The coordinates that it is in; empty for those that all tiles share.
        polygon: Its edge, in metres where the frame is shared.
    """

    frame: str
    polygon: BaseGeometry

    @property
    def side(self) -> float:
        """Side of a square as large."""
        return math.sqrt(self.polygon.area)

    def shares_ground(self, other: "Outline", least_share: float) -> bool:
        """Whether both show more than a share of the smaller one."""
        if self.frame != other.frame:
            return False
        both = self.polygon.intersection(other.polygon).area
        return bool(both > least_share * min(self.polygon.area, other.polygon.area))


def outline_of(grid: Grid) -> Outline | None:
    """A tile's outline; in its own coordinates where no way leads to metres, None without a place.

    Coordinates under a microscope begin anew on every slide: they are no place that tiles could share.
    """
    if not grid.is_georeferenced or (grid.crs_wkt is None and grid.unit is not None):
        return None
    along = np.linspace(0.0, 1.0, POINTS_A_SIDE, endpoint=False)
    low, high = np.zeros_like(along), np.ones_like(along)
    cols = np.concatenate([along, high, 1 - along, low]) * grid.width
    rows = np.concatenate([low, along, high, 1 - along]) * grid.height
    x, y = to_world(grid, cols, rows)
    own = shapely.Polygon(np.column_stack((x, y)))
    if grid.crs_wkt is None:
        return Outline("", own)
    polygon = shapely.Polygon(np.column_stack(carry(grid.crs_wkt, EQUAL_AREA, x, y)))
    if np.isfinite(polygon.bounds).all() and polygon.is_valid:
        return Outline("", polygon)
    return Outline(f"{hashlib.sha256(grid.crs_wkt.encode()).hexdigest()[:8]} ", own)


def offset_px(image: Grid, labels: Grid) -> float:
    """How far the corners of labels lie from those of an image of their size, in label pixels; may be inf."""
    cols = np.array([0.0, image.width, 0.0, image.width])
    rows = np.array([0.0, 0.0, image.height, image.height])
    x, y = to_world(image, cols, rows)
    if not same_crs(image.crs_wkt, labels.crs_wkt):
        x, y = carry(str(image.crs_wkt), str(labels.crs_wkt), x, y)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return math.inf
    back = ~labels.transform
    off_cols = back.a * x + back.b * y + back.c - cols
    off_rows = back.d * x + back.e * y + back.f - rows
    return float(max(np.abs(off_cols).max(), np.abs(off_rows).max()))


def to_world(grid: Grid, cols: Numbers, rows: Numbers) -> tuple[Numbers, Numbers]:
    """World coordinates of pixel coordinates."""
    transform = grid.transform
    return (
        transform.a * cols + transform.b * rows + transform.c,
        transform.d * cols + transform.e * rows + transform.f,
    )


def carry(source: str, target: str, x: Numbers, y: Numbers) -> tuple[Numbers, Numbers]:
    """Coordinates of one CRS in another; infinite where no way leads there."""
    try:
        there_x, there_y = _transformer(source, target).transform(x, y)
    except (CRSError, ProjError):
        return np.full_like(x, np.inf), np.full_like(y, np.inf)
    return np.asarray(there_x), np.asarray(there_y)


@functools.lru_cache(maxsize=64)
def _transformer(source: str, target: str) -> Transformer:
    """Made once for the many tiles of one CRS."""
    return Transformer.from_crs(CRS.from_user_input(source), target, always_xy=True)
