"""Polygons to the labels of a tile: burnt by the window, so that a scene of any size takes little memory."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SettingsError
from pipeline.raster.grid import Grid
from pipeline.raster.window import Window
from pipeline.storage import redact
from pipeline.train.tiles.drawn_labels import property_of, read_drawn
from pipeline.train.tiles.label_values import UNKNOWN, LabelValues
from pipeline.train.tiles.tile_set import IGNORE, TileSet

IN_ORIGIN = (0, 0)
"""A tile's polygons, where there is no CRS, are in pixels of the tile itself."""


class BurntLabels:
    """Labels drawn as polygons, ready to be burnt into windows of a tile."""

    def __init__(self, url: str, grid: Grid, tiles: TileSet, values: LabelValues) -> None:
        key_of = _class_of(url, tiles, values)
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


def _class_of(url: str, tiles: TileSet, values: LabelValues) -> Callable[[int, Mapping[str, Any]], int]:
    """From a feature to its class: by the class's name, or by a value as label rasters have them."""

    def class_of(number: int, properties: Mapping[str, Any]) -> int:
        value = property_of(properties, tiles.property)
        if isinstance(value, str) and value in tiles.classes:
            return tiles.classes.index(value)
        if isinstance(value, str) and value.strip().lstrip("-").isdigit():
            value = int(value)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        found = values.index(value) if is_number else UNKNOWN
        if found == UNKNOWN:
            raise SettingsError(
                f"every polygon must have one of the classes {', '.join(tiles.classes)} as its property "
                f"{tiles.property!r}, got {value!r} in feature {number} of {redact(url)}; labels.property "
                "names another property, labels.values maps numbers to classes"
            )
        return found

    return class_of
