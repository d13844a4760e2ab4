"""Polygons to the labels of a tile: burnt by the window, so that a scene of any size takes little memory."""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from pipeline.raster.grid import Grid
from pipeline.raster.window import Window
from pipeline.train.tiles.drawn_labels import class_of_feature, read_drawn
from pipeline.train.tiles.label_values import LabelValues
from pipeline.train.tiles.tile_set import IGNORE, TileSet

IN_ORIGIN = (0, 0)
"""A tile's polygons, where there is no CRS, are in pixels of the tile itself."""


class BurntLabels:
    """Labels drawn as polygons, ready to be burnt into windows of a tile."""

    def __init__(self, url: str, grid: Grid, tiles: TileSet, values: LabelValues) -> None:
        key_of = class_of_feature(url, tiles.property, tiles.classes, values, wanted="one of the classes")
        self._grid = grid
        self._outside = tiles.outside
        self._burner = read_drawn(url, grid, origin=IN_ORIGIN, key_of=key_of).open()

    def read(self, window: Window) -> tuple[NDArray[np.uint8], Counter[str]]:
        """Class indices of a window; nothing is labelled beyond the tile, and no value can be unknown."""
        labels_HW = np.full(window.shape, IGNORE, np.uint8)
        inside = window.intersect(self._grid.window)
        if inside.num_pixels:
            burnt_HW = self._burner.burn(inside, self._outside)
            labels_HW[inside.relative_to(window).slices] = burnt_HW.astype(np.uint8)
        return labels_HW, Counter()

    def close(self) -> None:
        """Nothing is held open."""
