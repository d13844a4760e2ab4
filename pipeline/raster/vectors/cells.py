"""The fixed cells that a mosaic is walked in, a row of them after the other, and the seams between them.

Cells are counted from the mosaic's pixel (0, 0) and are the same however it was cut and is read. A row and a
column beyond the last pixels belong to them: what ends at the mosaic's edge is bordered there like anywhere.
"""

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.raster.window import Window

NOTHING = -1
"""The value of pixels without data or outside, and the number of what is no polygon."""

CELLS_AT_ONCE = 8
"""Cells read with one request to the store."""

Read = Callable[[Window], NDArray[np.int32]]
Number = TypeVar("Number", np.int32, np.int64)


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        index: Its place in walking order.
        window: Its pixels, the column and the row beyond the mosaic included.
        inside: The part of them that the mosaic has.
    """

    index: int
    window: Window
    inside: Window


@dataclass(frozen=True)
class Cells:
    """All cells of a mosaic.

    Attributes:
        whole: The mosaic's window.
        cell_px: Side of a cell.
    """

    whole: Window
    cell_px: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return self.whole.height // self.cell_px + 1, self.whole.width // self.cell_px + 1

    def cell(self, index: int) -> Cell:
        """The cell at a place in walking order."""
        row, col = divmod(index, self.shape[1])
        side = self.cell_px
        frame = Window(0, 0, self.whole.height + 1, self.whole.width + 1)
        window = Window(row * side, col * side, side, side).intersect(frame)
        return Cell(index, window, window.intersect(self.whole))

    def __len__(self) -> int:
        return self.shape[0] * self.shape[1]

    def last_neighbour(self, index: int) -> int:
        """The last cell that owns a crack of this one's pixels: the one below, else the one to the right."""
        row, col = divmod(index, self.shape[1])
        if row + 1 < self.shape[0]:
            return index + self.shape[1]
        return index + 1 if col + 1 < self.shape[1] else index

    def read(self, read: Read) -> Iterator[tuple[Cell, NDArray[np.int32]]]:
        """Every cell with its values; the next are read meanwhile."""
        strips = self._strips()
        with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as pool:
            ahead = pool.submit(self._read_strip, next(strips), read)
            for following in itertools.chain(strips, [None]):
                current = ahead.result()
                if following is not None:
                    ahead = pool.submit(self._read_strip, following, read)
                yield from current

    def _strips(self) -> Iterator[list[Cell]]:
        rows, cols = self.shape
        for row in range(rows):
            for first in range(0, cols, CELLS_AT_ONCE):
                stop = min(first + CELLS_AT_ONCE, cols)
                yield [self.cell(row * cols + col) for col in range(first, stop)]

    def _read_strip(self, strip: list[Cell], read: Read) -> list[tuple[Cell, NDArray[np.int32]]]:
        first, last = strip[0].window, strip[-1].window
        span = Window.from_bounds(first.row, first.col, first.row_stop, last.col_stop).intersect(self.whole)
        values = read(span) if span.num_pixels else np.empty(span.shape, np.int32)
        result = []
        for cell in strip:
            padded = np.full(cell.window.shape, NOTHING, np.int32)
            if cell.inside.num_pixels:
                part = values[cell.inside.relative_to(span).slices]
                padded[: cell.inside.height, : cell.inside.width] = part
            result.append((cell, padded))
        return result


class Seam(Generic[Number]):
    """The last row above and the last column to the left of where the walk stands."""

    def __init__(self, cells: Cells, dtype: type[Number]) -> None:
        self._above: NDArray[Number] = np.full(
            cells.whole.width + 3, NOTHING, dtype
        )  # begins a column before the first
        self._left: NDArray[Number] | None = None
        self._corner: Number = dtype(NOTHING)

    def pad(self, cell: Cell, values_HW: NDArray[Number]) -> NDArray[Number]:
        """A cell with a row above, to one column beyond on both sides, and a column on its left."""
        window = cell.window
        if window.col == 0:
            self._left, self._corner = None, self._above.dtype.type(NOTHING)
        padded = np.full((window.height + 1, window.width + 2), NOTHING, values_HW.dtype)
        padded[0, 1:] = self._above[window.col + 1 : window.col_stop + 2]
        padded[0, 0] = self._corner
        if self._left is not None:
            padded[1:, 0] = self._left
        padded[1:, 1:-1] = values_HW
        self._corner = self._above[window.col_stop]
        self._above[window.col + 1 : window.col_stop + 1] = values_HW[-1]
        self._left = values_HW[:, -1].copy()
        return padded
