"""Tiles as training reads them: small ones whole and once, kept decoded; large ones by the window."""

import threading
from collections import OrderedDict

import numpy as np

from pipeline.raster.source import Pixels
from pipeline.raster.window import Window
from pipeline.train.samples.positions import Positions, find_positions
from pipeline.train.tiles.tile_reader import IGNORE, LabelledPixels, TileReader
from pipeline.train.tiles.tile_set import Tile

LARGEST_SHARE = 0.25
"""Of the cache, what one tile may take: a larger one would throw out too many others."""


class TileCache:
    """Reads windows of tiles, by several threads at once.

    A photograph of some megapixels would be decoded from its first row for every window in it; kept decoded,
    a window is a copy.

    Args:
        reader: Reads from storage.
        num_classes: Number of classes.
        num_bytes: Memory for decoded tiles.
    """

    def __init__(self, reader: TileReader, *, num_classes: int, num_bytes: int) -> None:
        self._reader = reader
        self._num_classes = num_classes
        self._num_bytes = num_bytes
        self._kept: OrderedDict[str, LabelledPixels] = OrderedDict()
        self._kept_bytes = 0
        self._positions: dict[str, Positions] = {}
        self._lock = threading.Lock()
        self._tile_locks: dict[str, threading.Lock] = {}

    def read(self, tile: Tile, window: Window) -> LabelledPixels:
        """The pixels and labels of a window, which may pass the tile's edges.

        Args:
            tile: One of the set.
            window: Any window.
        """
        if _decoded_bytes(tile) > LARGEST_SHARE * self._num_bytes:
            return self._reader.read(tile, window)
        return cut(self._whole(tile), window)

    def positions(self, tile: Tile) -> Positions:
        """Where the classes of a tile lie.

        Args:
            tile: One of the set.
        """
        with self._lock_of(f"positions of {tile.id}"):
            if tile.id not in self._positions:
                self._positions[tile.id] = find_positions(
                    tile.grid.window, self._num_classes, lambda window: self.read(tile, window).labels_HW
                )
            return self._positions[tile.id]

    def close(self) -> None:
        """Let go of files."""
        self._reader.close()

    def _whole(self, tile: Tile) -> LabelledPixels:
        with self._lock_of(tile.id):  # one thread decodes, others that want the same tile wait for it
            with self._lock:
                if tile.id in self._kept:
                    self._kept.move_to_end(tile.id)
                    return self._kept[tile.id]
            whole = self._reader.read(tile, tile.grid.window)
            with self._lock:
                self._kept[tile.id] = whole
                self._kept_bytes += _bytes_of(whole)
                while self._kept_bytes > self._num_bytes and len(self._kept) > 1:
                    self._kept_bytes -= _bytes_of(self._kept.popitem(last=False)[1])
            return whole

    def _lock_of(self, name: str) -> threading.Lock:
        with self._lock:
            return self._tile_locks.setdefault(name, threading.Lock())


def cut(whole: LabelledPixels, window: Window) -> LabelledPixels:
    """A window of pixels that are in memory; nothing is valid outside.

    Args:
        whole: All of a tile.
        window: Any window in its frame.
    """
    height, width = whole.labels_HW.shape
    inside = window.intersect(Window(0, 0, height, width))
    source, target = inside.slices, inside.relative_to(window).slices
    pixels = whole.pixels
    samples_CHW = np.zeros((len(pixels.samples_CHW), *window.shape), pixels.samples_CHW.dtype)
    valid_HW = np.zeros(window.shape, bool)
    labels_HW = np.full(window.shape, IGNORE, np.uint8)
    missing_CHW = None
    if inside.num_pixels:
        samples_CHW[:, *target] = pixels.samples_CHW[:, *source]
        valid_HW[target] = pixels.valid_HW[source]
        labels_HW[target] = whole.labels_HW[source]
        if pixels.missing_CHW is not None:
            missing_CHW = np.zeros(samples_CHW.shape, bool)
            missing_CHW[:, *target] = pixels.missing_CHW[:, *source]
    return LabelledPixels(Pixels(samples_CHW, valid_HW, missing_CHW), labels_HW)


def _decoded_bytes(tile: Tile) -> int:
    """A tile's samples, validity and labels, decoded."""
    return tile.grid.window.num_pixels * (len(tile.bands) * np.dtype(tile.dtype).itemsize + 2)


def _bytes_of(whole: LabelledPixels) -> int:
    pixels = whole.pixels
    missing = 0 if pixels.missing_CHW is None else pixels.missing_CHW.nbytes
    return pixels.samples_CHW.nbytes + pixels.valid_HW.nbytes + missing + whole.labels_HW.nbytes
