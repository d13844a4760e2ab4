"""Which scenes touch a window: an R-tree over their outlines on the target grid. Nothing is opened."""

from collections.abc import Sequence

import numpy as np
import shapely
from numpy.typing import NDArray

from pipeline.raster.grid import Grid
from pipeline.raster.scenes.places import BULGE, outline_px, reproject_points, through
from pipeline.raster.scenes.scene import Scene
from pipeline.raster.window import Window

MARGIN_PX = 2.0
DEPTH_SQUARES = 64
"""Squares an axis on which overlapping scenes are counted."""


class Footprints:
    """The outlines of scenes, in the target's pixels."""

    def __init__(self, scenes: Sequence[Scene], target: Grid) -> None:
        places = [(index, file.grid) for index, scene in enumerate(scenes) for file in scene.files]
        distinct = list(dict.fromkeys(places))
        self._scene_of = np.array([index for index, _ in distinct], np.int64)
        self._tree = shapely.STRtree(_outlines([grid for _, grid in distinct], target))
        self._target = target

    def touching(self, window: Window) -> list[int]:
        """Scenes that may show in a window, by their place in the order."""
        if not window.num_pixels:
            return []
        box = shapely.box(window.col, window.row, window.col_stop, window.row_stop)
        found = self._tree.query(box, predicate="intersects")
        return [int(index) for index in np.unique(self._scene_of[found])]

    def deepest(self) -> int:
        """No more scenes than this touch a cell: counted on squares at least as large, so never too few."""
        side = max(1024, -(-max(self._target.height, self._target.width) // DEPTH_SQUARES))
        squares = [
            Window(row, col, side, side)
            for row in range(0, self._target.height, side)
            for col in range(0, self._target.width, side)
        ]
        return max((len(self.touching(square)) for square in squares), default=0)


def _outlines(grids: Sequence[Grid], target: Grid) -> NDArray[np.object_]:
    """Polygons in the target's pixels, rather too large than too small; projected a CRS at a time."""
    points = np.stack([through(grid.transform, outline_px(grid)) for grid in grids])
    in_pixels = np.empty_like(points)
    for wkt in dict.fromkeys(str(grid.crs_wkt) for grid in grids):
        these = np.array([grid.crs_wkt == wkt for grid in grids])
        world = reproject_points(points[these].reshape(-1, 2), wkt, str(target.crs_wkt))
        in_pixels[these] = through(~target.transform, world).reshape(-1, *points.shape[1:])
    known = np.isfinite(in_pixels).all(axis=(1, 2))
    # Partly where the target's CRS is not defined, a scene may show anywhere.
    outlines = np.full(len(grids), shapely.box(0, 0, target.width, target.height), object)
    exact = shapely.make_valid(shapely.polygons(in_pixels[known]))
    left, top, right, bottom = shapely.bounds(exact).T
    margins = MARGIN_PX + BULGE * np.maximum(right - left, bottom - top)
    outlines[known] = shapely.buffer(exact, margins, quad_segs=1, join_style="mitre")
    return outlines
