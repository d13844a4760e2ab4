"""Smaller copies of a mosaic: classes by majority, confidence by mean.

A task reads one square of a level and writes the three next coarser ones; the square is one chunk of the
coarsest of them, so that here too every object has one writer. Coarser levels follow in further rounds.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from pipeline.raster.halve import majority
from pipeline.raster.mosaic import (
    CHUNK_PX,
    CONFIDENCE_NODATA,
    MosaicLayout,
    create_class_arrays,
    describe_levels,
)
from pipeline.raster.window import Window
from pipeline.segment.executor import Record
from pipeline.storage import Folder

LEVELS_PER_ROUND = 3
SQUARE_PX = CHUNK_PX << LEVELS_PER_ROUND

Halve = Callable[[NDArray[Any]], NDArray[Any]]


def factors(height: int, width: int) -> list[int]:
    """By how much each overview is smaller; the last one fits into a chunk."""
    result = []
    factor = 1
    while max(height, width) > CHUNK_PX * factor:
        factor *= 2
        result.append(factor)
    return result


def rounds(height: int, width: int) -> list[int]:
    """The level that each round reads: 1, 8, 64, …."""
    return [1, *factors(height, width)][:-1:LEVELS_PER_ROUND]


def tasks(height: int, width: int, base: int, stack: tuple[int, ...] = ()) -> list[str]:
    """The squares of a level, as names; of a stack, those of every plane."""
    rows, cols = (math.ceil(math.ceil(size / base) / SQUARE_PX) for size in (height, width))
    return ["/".join(map(str, (base, *place))) for place in np.ndindex(*stack, rows, cols)]


def create_overviews(folder: Folder, layout: MosaicLayout) -> None:
    """Write the overviews' metadata; harmless where they are there already."""
    # Not by what was gathered earlier: a run killed in between left metadata that it does not know.
    group = zarr.open_group(folder.zarr_store(), mode="r+", use_consolidated=False)
    known = factors(*layout.grid.window.shape)
    for factor in known:
        level = group.require_group(f"overviews/{factor}")
        create_class_arrays(level, layout, layout.grid.coarsen(factor))
    describe_levels(group, layout, known)


@dataclass
class OverviewWorker:
    """Reads a square and writes the three levels above it."""

    folder: Folder
    layout: MosaicLayout

    def __call__(self, task: str) -> Record:
        """Compute the overviews of one square."""
        base, *place = (int(part) for part in task.split("/"))
        group = zarr.open_group(self.folder.zarr_store(), mode="r+")
        nodata = self.layout.class_nodata
        self._reduce(group, "classes", base, place, lambda values: majority(values, nodata))
        self._reduce(group, "confidence", base, place, mean)
        return {"state": "done"}

    def _reduce(self, group: zarr.Group, name: str, base: int, place: Sequence[int], halve: Halve) -> None:
        source = _array(group, name if base == 1 else f"overviews/{base}/{name}")
        plane: Any = place[:-2]  # an index for zarr, whose types know no tuples of varying length
        (row, col), (height, width) = place[-2:], source.shape[-2:]
        square = Window(row * SQUARE_PX, col * SQUARE_PX, SQUARE_PX, SQUARE_PX)
        square = square.intersect(Window(0, 0, height, width))
        known = factors(*self.layout.grid.window.shape)
        levels = [level for level in range(1, LEVELS_PER_ROUND + 1) if base << level in known]
        strips: dict[int, list[NDArray[Any]]] = {level: [] for level in levels}
        for top in range(square.row, square.row_stop, CHUNK_PX):
            # A strip is halved on its own: its height is a multiple of all factors, but for the last one.
            part: Any = (*plane, slice(top, min(top + CHUNK_PX, square.row_stop)), square.slices[1])
            values = np.asarray(source[part])
            for level in levels:
                values = halve(values)
                strips[level].append(values)
        for level in levels:
            values = np.concatenate(strips[level])
            top, left = square.row >> level, square.col >> level
            target = _array(group, f"overviews/{base << level}/{name}")
            part = (*plane, slice(top, top + values.shape[0]), slice(left, left + values.shape[1]))
            target[part] = values


def mean(values: NDArray[Any]) -> NDArray[Any]:
    """The mean of each 2 × 2 values, nodata aside, rounded half up."""
    quarter = _quarters(values, CONFIDENCE_NODATA)
    total = np.zeros(quarter[0].shape, np.uint16)
    count = np.zeros(quarter[0].shape, np.uint16)
    for part in quarter:
        known = part != CONFIDENCE_NODATA
        total += np.where(known, part, 0)
        count += known
    rounded = (2 * total + count) // np.maximum(2 * count, 1)
    return np.where(count == 0, CONFIDENCE_NODATA, rounded).astype(values.dtype)


def _quarters(values: NDArray[Any], nodata: int) -> list[NDArray[Any]]:
    height, width = values.shape
    even = np.pad(values, ((0, height % 2), (0, width % 2)), constant_values=nodata)
    return [even[row::2, col::2] for row in (0, 1) for col in (0, 1)]


def _array(group: zarr.Group, path: str) -> zarr.Array[Any]:
    found = group[path]
    if not isinstance(found, zarr.Array):
        raise TypeError(f"{path} must be an array")
    return found
