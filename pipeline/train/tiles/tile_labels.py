"""The labels of a tile as class indices, whatever they are stored as."""

from collections import Counter
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.config import SourceSettings
from pipeline.errors import SourceError
from pipeline.raster.grid import Grid
from pipeline.raster.source import FoundSource, SourceInfo
from pipeline.raster.window import Window
from pipeline.segment.find_source import find_source
from pipeline.storage import redact
from pipeline.train.tiles.burn import BurntLabels
from pipeline.train.tiles.label_values import UNKNOWN, LabelValues
from pipeline.train.tiles.settings import is_drawn
from pipeline.train.tiles.tile_set import IGNORE, TileSet

NO_NODATA = float("nan")


class TileLabels(Protocol):
    """Labels that can be read by window, by several threads at once."""

    def read(self, window: Window) -> tuple[NDArray[np.uint8], Counter[str]]:
        """Class indices, ``IGNORE`` without label; and how often each value was seen that is no class."""

    def close(self) -> None:
        """Let go of files."""


def label_values(tiles: TileSet) -> LabelValues:
    """What the raw values of a set mean: only what is listed, and ``other`` for the rest if there is one.

    Args:
        tiles: The set; its tiles do not matter.
    """
    pairs = tuple((raw, -1 if index == IGNORE else index) for raw, index in sorted(tiles.values.items()))
    other = UNKNOWN if tiles.other is None else tiles.other
    return LabelValues(pairs, tiles.ignore, own=0, unlabelled=IGNORE, other=other)


class RasterLabels:
    """Labels stored as pixels."""

    def __init__(self, found: FoundSource, values: LabelValues) -> None:
        self._values = values
        self._source = found.spec((label_band(found.info),)).open()

    def read(self, window: Window) -> tuple[NDArray[np.uint8], Counter[str]]:
        """Class indices of a window; nothing is labelled beyond the raster."""
        pixels = self._source.read(window)
        labels_HW, unknown = self._values.translate(pixels.samples_CHW[0], pixels.valid_HW)
        return labels_HW.astype(np.uint8), unknown

    def close(self) -> None:
        """Let go of the file."""
        self._source.close()


def open_labels(
    url: str, grid: Grid, tiles: TileSet, values: LabelValues, *, keep_nodata: bool
) -> TileLabels:
    """The labels of a tile, ready to be read.

    Args:
        url: Raster or GeoJSON.
        grid: The tile's pixels.
        tiles: The set, which says what polygons mean.
        values: What raw values mean in it.
        keep_nodata: Whether the value that the raster declares as nodata is a class all the same.
    """
    if is_drawn(url):
        return BurntLabels(url, grid, tiles, values)
    return RasterLabels(find_labels(url, keep_nodata=keep_nodata), values)


def find_labels(url: str, *, keep_nodata: bool = False) -> FoundSource:
    """A raster of labels, looked at.

    Args:
        url: Where it lies.
        keep_nodata: Whether the value that it declares as nodata is read like any other.
    """
    settings = SourceSettings(urls=(url,), nodata=NO_NODATA if keep_nodata else None)
    return find_source(settings, identified=False)


def label_band(info: SourceInfo) -> int:
    """The number of the one band that holds labels; refuses colours."""
    bands = [band for band in info.bands if not band.is_alpha]
    if len(bands) != 1:
        raise SourceError(
            f"labels must be one band of class values, got {len(bands)} bands in {redact(info.url)}; "
            "labels in colour must be translated to values first, one value a class"
        )
    return bands[0].number
