"""Where in a tile its classes lie: looked up once, so that a crop can be placed on a rare one.

The tile is divided into square cells; for every class some of the cells that hold it are kept. Tiles larger
than ``LARGEST_SCAN_PIXELS`` are looked at in probes spread evenly over them, so that the look costs the same
for a scene of any size.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.raster.window import Window
from pipeline.train.tiles.tile_reader import IGNORE

LARGEST_SCAN_PIXELS = 64 << 20
PROBE_PX = 256
CELL_PX = 16
CELLS_KEPT = 4096
"""Of each class in each tile: enough variety, and a bounded memory for any number of classes."""

ReadLabels = Callable[[Window], NDArray[np.uint8]]


@dataclass(frozen=True)
class Positions:
    """Cells of a tile by class.

    Attributes:
        cells_K: For each class, rows and columns of cells that hold it (N × 2).
        labelled: The same for cells that hold any class.
    """

    cells_K: tuple[NDArray[np.int32], ...]
    labelled: NDArray[np.int32]

    def pick(self, target: int | None, rng: np.random.Generator) -> tuple[int, int] | None:
        """Row and column of a pixel in a cell that holds a class, or any class if none is asked for.

        None where nothing is known to be labelled. A class that no probe met gives way to any other.

        Args:
            target: Class, or None.
            rng: Where the choice is drawn from.
        """
        cells = self.labelled
        if target is not None and len(self.cells_K[target]):
            cells = self.cells_K[target]
        if not len(cells):
            return None
        row, col = cells[rng.integers(len(cells))] * CELL_PX + rng.integers(0, CELL_PX, 2)
        return int(row), int(col)


def find_positions(tile: Window, num_classes: int, read_labels: ReadLabels) -> Positions:
    """Look where the classes of a tile lie.

    Args:
        tile: All of the tile.
        num_classes: Number of classes.
        read_labels: Gives the labels of a window.
    """
    found: list[list[NDArray[np.int32]]] = [[] for _ in range(num_classes + 1)]
    for window in _windows(tile):
        holds_RCK = _classes_of_cells(read_labels(window), num_classes)
        corner = np.array([window.row // CELL_PX, window.col // CELL_PX], np.int32)
        for k in range(num_classes):
            found[k].append(np.argwhere(holds_RCK[:, :, k]).astype(np.int32) + corner)
        found[num_classes].append(np.argwhere(holds_RCK.any(axis=2)).astype(np.int32) + corner)
    *cells_K, labelled = (_thinned(np.concatenate(cells)) for cells in found)
    return Positions(tuple(cells_K), labelled)


def _windows(tile: Window) -> Iterator[Window]:
    """Windows that cover a tile, or probes of one that is too large; corners lie on cells."""
    side_px = 4 * PROBE_PX
    step_px = side_px
    if tile.num_pixels > LARGEST_SCAN_PIXELS:
        side_px = PROBE_PX
        share = math.sqrt(tile.num_pixels / LARGEST_SCAN_PIXELS)
        step_px = math.ceil(PROBE_PX * share / CELL_PX) * CELL_PX
    for row in range(0, tile.height, step_px):
        for col in range(0, tile.width, step_px):
            yield Window(row, col, side_px, side_px).intersect(tile)


def _classes_of_cells(labels_HW: NDArray[np.uint8], num_classes: int) -> NDArray[np.bool_]:
    """Whether each cell holds each class: rows × columns × classes."""
    height, width = labels_HW.shape
    rows, cols = -(-height // CELL_PX), -(-width // CELL_PX)
    cells_HW = (np.arange(height) // CELL_PX)[:, None] * cols + np.arange(width) // CELL_PX
    is_labelled_HW = labels_HW != IGNORE
    keys = cells_HW[is_labelled_HW] * num_classes + labels_HW[is_labelled_HW]
    counts = np.bincount(keys, minlength=rows * cols * num_classes)
    return counts.reshape(rows, cols, num_classes) > 0


def _thinned(cells_N2: NDArray[np.int32]) -> NDArray[np.int32]:
    """At most ``CELLS_KEPT`` of the cells, the same ones every time."""
    if len(cells_N2) <= CELLS_KEPT:
        return cells_N2
    kept = np.random.default_rng(0).choice(len(cells_N2), CELLS_KEPT, replace=False)
    return cells_N2[np.sort(kept)]
