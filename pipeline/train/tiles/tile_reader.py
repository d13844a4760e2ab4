"""Tiles read by window: raw pixels and class indices, from a photograph and from a whole scene alike."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pipeline.config import SourceSettings
from pipeline.errors import BlockError, SourceError
from pipeline.raster.source import BandInfo, Pixels, RasterSource
from pipeline.raster.window import Window
from pipeline.segment.find_source import find_source
from pipeline.storage import redact
from pipeline.train.tiles.tile_labels import TileLabels, label_values, open_labels
from pipeline.train.tiles.tile_set import IGNORE, Tile, TileSet

__all__ = ["IGNORE", "LabelledPixels", "TileReader", "band_name", "band_numbers", "open_image"]

MOST_OPEN = 8
"""Tiles that are kept open while nobody reads them: each holds an image and its labels."""


@dataclass(frozen=True)
class LabelledPixels:
    """A window of a tile.

    Attributes:
        pixels: Raw samples, and where they are data.
        labels_HW: Class index, ``IGNORE`` where there is no label and beyond the tile.
    """

    pixels: Pixels
    labels_HW: NDArray[np.uint8]


class TileReader:
    """Reads windows of tiles, by several threads at once; travels to other processes without its files.

    Args:
        tiles: The set that tiles are of.
        num_threads: CPU threads that one image may be decoded with.
    """

    def __init__(self, tiles: TileSet, *, num_threads: int = 1) -> None:
        self._tiles = tiles
        self._num_threads = num_threads
        self._values = label_values(tiles)
        self._open: OrderedDict[str, _OpenTile] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Callable[..., "TileReader"], tuple[TileSet]]:
        return partial(TileReader, num_threads=self._num_threads), (self._tiles,)

    def read(self, tile: Tile, window: Window) -> LabelledPixels:
        """The pixels and labels of a window, which may pass the tile's edges.

        Args:
            tile: One of the set.
            window: Any window, in the tile's pixels.
        """
        with self._opened(tile) as (image, labels):
            pixels = image.read(window)
            labels_HW, unknown = labels.read(window)
        if unknown:
            values = ", ".join(sorted(unknown))
            raise BlockError(
                f"labels must be as they were indexed, got values that are no class ({values}) in "
                f"{redact(tile.labels)}; index the tiles again"
            )
        return LabelledPixels(pixels, labels_HW)

    def close(self) -> None:
        """Close every file that nobody reads."""
        self._close_idle(keep=0)

    @contextmanager
    def _opened(self, tile: Tile) -> Iterator[tuple[RasterSource, TileLabels]]:
        with self._lock:
            opened = self._open.setdefault(tile.id, _OpenTile())
            self._open.move_to_end(tile.id)
            opened.readers += 1
        try:
            with opened.lock:  # one thread opens, others that want the same tile wait for it
                if opened.files is None:
                    opened.files = self._open_tile(tile)
            yield opened.files
        finally:
            with self._lock:
                opened.readers -= 1
            self._close_idle(keep=MOST_OPEN)

    def _open_tile(self, tile: Tile) -> tuple[RasterSource, TileLabels]:
        image = open_image(tile.image, tile.bands, num_threads=self._num_threads)
        if image.info.grid.window != tile.grid.window:
            image.close()
            raise _changed(tile.image, f"{tile.grid.height} × {tile.grid.width} px")
        try:
            labels = open_labels(
                tile.labels, tile.grid, self._tiles, self._values, keep_nodata=tile.nodata_is_class
            )
        except BaseException:
            image.close()
            raise
        return image, labels

    def _close_idle(self, *, keep: int) -> None:
        """Close tiles that nobody reads, those not read for longest first, until so many are open."""
        with self._lock:
            idle = [name for name, opened in self._open.items() if not opened.readers]
            surplus = idle[: max(0, len(self._open) - keep)]
            closing = [self._open.pop(name).files for name in surplus]
        for files in closing:
            for file in files or ():
                file.close()


class _OpenTile:
    """A tile's files and how many are reading them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.readers = 0
        self.files: tuple[RasterSource, TileLabels] | None = None


def open_image(url: str, bands: Sequence[str], *, num_threads: int = 1) -> RasterSource:
    """An image, opened for the bands that a tile names.

    Args:
        url: Where it lies.
        bands: As ``Tile.bands``.
        num_threads: CPU threads that it may be decoded with.
    """
    found = find_source(SourceSettings(urls=(url,)), identified=False)
    numbers = band_numbers(found.info.bands, bands)
    if None in numbers:
        raise _changed(url, f"bands {', '.join(bands)}")
    spec = found.spec(tuple(number for number in numbers if number is not None))
    return spec.with_threads(num_threads).open()


def band_name(band: BandInfo) -> str:
    """What a band is called in a tile set: its own name, or its number for one without."""
    return band.name or f"band {band.number}"


def band_numbers(bands: Sequence[BandInfo], names: Sequence[str]) -> tuple[int | None, ...]:
    """Numbers of the bands that names mean; None for a name that no band has."""
    known = {band_name(band): band.number for band in bands}
    return tuple(known.get(name) for name in names)


def _changed(url: str, expected: str) -> SourceError:
    return SourceError(
        f"a tile's image must be as it was indexed, with {expected}, but {redact(url)} is not; "
        "index the tiles again"
    )
