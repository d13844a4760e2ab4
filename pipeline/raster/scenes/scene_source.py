"""Many scenes as one ``RasterSource``: cells of the target grid, composed of the scenes that touch them.

A cell is read whole, whichever block asks for a part of it, and kept for the neighbours that ask next. Only
the files of scenes that touch a cell are opened; with ``composite: first`` only until nothing of it is free.
"""

import functools
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.raster.gdal_bands import GDAL_CACHE_BYTES
from pipeline.raster.gdal_source import REMOTE_READS
from pipeline.raster.grid import Grid
from pipeline.raster.scenes.cell_cache import CellCache
from pipeline.raster.scenes.composite import compose
from pipeline.raster.scenes.footprints import Footprints
from pipeline.raster.scenes.places import pixels_per_pixel
from pipeline.raster.scenes.pool import FilePool
from pipeline.raster.scenes.scene import Composite, QualityRule, Resampling, Scene, digest
from pipeline.raster.scenes.warp import Layer, Reading, read_on, source_side_px
from pipeline.raster.source import BandInfo, Pixels, SourceInfo
from pipeline.raster.window import Window
from pipeline.storage import is_local

CELL_PX: Mapping[Composite, int] = {"first": 512, "median": 256}
"""Sides of cells, from the target's (0, 0). A median holds every scene of a cell at once: smaller ones do."""

CELL_CACHE_BYTES = 256 << 20
MOST_IDLE_FILES = 64
OPEN_FILE_BYTES = 1 << 20
"""What GDAL holds of an open file besides its blocks: headers, tile offsets of a large COG."""


@dataclass(frozen=True)
class ScenesSpec:
    """How to open many scenes as one raster.

    Attributes:
        scenes: Topmost first, with the wanted bands only.
        grid: The target.
        bands: Band numbers in the model's order.
        dtype: Type of the samples.
        composite: How overlapping scenes become one.
        resampling: How each band is warped, in the order of ``bands``.
        rule: What values of scenes' quality layers mean.
        label: What to call it in logs.
        num_threads: CPU threads that read.
    """

    scenes: tuple[Scene, ...]
    grid: Grid
    bands: tuple[int, ...]
    dtype: str
    composite: Composite
    resampling: tuple[Resampling, ...]
    rule: QualityRule | None
    label: str
    num_threads: int = 1

    def open(self) -> "SceneSource":
        """The source; files are opened when a window needs them."""
        return SceneSource(self)

    def with_threads(self, num_threads: int) -> Self:
        """The same source, read by so many threads."""
        return replace(self, num_threads=num_threads)

    def result_fields(self) -> Mapping[str, Any]:
        """Whatever, besides the files' identities and their order, decides the pixels."""
        return {
            "bands": list(self.bands),
            "scenes": self._digest,
            "dtype": self.dtype,
            "composite": self.composite,
            "resampling": list(self.resampling),
            "quality_mask": None
            if self.rule is None
            else {"values": list(self.rule.values), "bits": list(self.rule.bits)},
            "cell_px": self.cell_px,
        }

    def memory_bytes(self, halo: Window) -> int:  # noqa: ARG002 - cells are read and kept, not windows
        """The most that reading takes besides the pixels given back: caches, and cells under way."""
        dtype = np.dtype(self.dtype)
        samples = self.cell_px**2 * len(self.bands)
        layer = samples * (dtype.itemsize + 1)
        layers = 2 + (self._deepest if self.composite == "median" else 2)
        # Of the part of a file under a cell: raw, masks, floats, their copy for GDAL and GDAL's own.
        float_bytes = 4 if dtype.itemsize <= 2 or dtype == np.float32 else 8
        part = self._largest_part_px * (len(self.bands) + 1)  # and a quality layer
        warping = part * (dtype.itemsize + 2 + 4 * float_bytes) + samples * 3 * float_bytes
        median = self.cell_px**2 * self._deepest * 24 if self.composite == "median" else 0
        reader = layer * layers + warping + median
        caches = GDAL_CACHE_BYTES + CELL_CACHE_BYTES + MOST_IDLE_FILES * OPEN_FILE_BYTES
        return caches + self.num_readers * reader

    @property
    def cell_px(self) -> int:
        """Side of a cell."""
        return CELL_PX[self.composite]

    @property
    def num_readers(self) -> int:
        """Cells read at once: a bucket answers many requests while one waits."""
        is_remote = any(not is_local(file.url) for scene in self.scenes for file in scene.files)
        return max(self.num_threads, REMOTE_READS if is_remote else 1)

    @cached_property
    def _digest(self) -> str:
        return digest(self.scenes)

    @cached_property
    def _deepest(self) -> int:
        return Footprints(self.scenes, self.grid).deepest()

    @cached_property
    def _largest_part_px(self) -> int:
        steps = {pixels_per_pixel(file.grid, self.grid) for scene in self.scenes for file in scene.files}
        return max(
            source_side_px(width, self.cell_px) * source_side_px(height, self.cell_px)
            for width, height in steps
        )


class SceneSource:
    """Many scenes, open as one raster; several threads may read at once."""

    def __init__(self, spec: ScenesSpec) -> None:
        self.spec = spec
        self.info = SourceInfo(
            url=spec.label,
            grid=spec.grid,
            bands=tuple(
                BandInfo(number, None, spec.dtype, is_alpha=False) for number in sorted(set(spec.bands))
            ),
            identities=(),
            block_shape=(spec.cell_px, spec.cell_px),
        )
        self._footprints = Footprints(spec.scenes, spec.grid)
        self._pool = FilePool(most_idle=MOST_IDLE_FILES, num_threads=1)
        self._readers = ThreadPoolExecutor(spec.num_readers, thread_name_prefix="cell")
        self._cells = CellCache(CELL_CACHE_BYTES)
        self._words = dict(zip(spec.bands, spec.resampling, strict=True))

    def read(self, window: Window) -> Pixels:
        """The pixels of a window, which may pass the target's edges."""
        inside = window.intersect(self.info.grid.window)
        dtype = np.dtype(self.spec.dtype)
        samples = np.zeros((len(self.spec.bands), *window.shape), dtype)
        present = np.zeros(samples.shape, np.bool_)

        def fill(cell: Window) -> None:
            """Copy a cell's part; cells do not overlap, so threads never meet."""
            layer = self._cells.get(cell, self._read_cell)
            part = cell.intersect(inside)
            here, there = part.relative_to(window).slices, part.relative_to(cell).slices
            samples[:, *here] = layer.samples_CHW[:, *there]
            present[:, *here] = layer.present_CHW[:, *there]

        jobs = [self._readers.submit(fill, cell) for cell in self._cells_of(inside)]
        for job in jobs:
            job.result()
        valid: NDArray[np.bool_] = np.any(present, axis=0)
        missing = ~present & valid
        return Pixels(samples, valid, missing if missing.any() else None)

    def close(self) -> None:
        """Close every file."""
        self._readers.shutdown(cancel_futures=True)
        self._pool.close()

    def _cells_of(self, window: Window) -> Iterator[Window]:
        """Cells in columns, the last ones last: those are the ones that the next block needs again."""
        if not window.num_pixels:
            return
        side, grid = self.spec.cell_px, self.info.grid.window
        outer = window.snap_outward(side)
        for col in range(outer.col, outer.col_stop, side):
            for row in range(outer.row, outer.row_stop, side):
                yield Window(row, col, side, side).intersect(grid)

    def _read_cell(self, cell: Window) -> Layer:
        shape = (len(self.spec.bands), *cell.shape)
        empty = Layer(cell, np.zeros(shape, self.spec.dtype), np.zeros(shape, np.bool_))
        scenes = (self.spec.scenes[index] for index in self._footprints.touching(cell))
        layers = (layer for scene in scenes if (layer := self._read_scene(scene, cell)) is not None)
        return compose(layers, empty, self.spec.composite)

    def _read_scene(self, scene: Scene, cell: Window) -> Layer | None:
        """One scene on the part of a cell that it covers, in the source's type; None where it has nothing."""
        found = []
        for file in scene.files:
            words = tuple(self._words[number] for number in file.numbers)
            reading = Reading(self._pool, words, scene.mask, self.spec.rule)
            layer = read_on(self.spec.grid, cell, file, reading)
            if layer is not None:
                found.append((file, layer))
        if not found:
            return None
        around = functools.reduce(_hull, [layer.window for _, layer in found])
        shape = (len(self.spec.bands), *around.shape)
        samples, present = np.zeros(shape, self.spec.dtype), np.zeros(shape, np.bool_)
        for file, layer in found:
            rows, cols = layer.window.relative_to(around).slices
            for index, number in enumerate(file.numbers):
                for channel in (place for place, band in enumerate(self.spec.bands) if band == number):
                    with np.errstate(over="ignore"):  # what overflows float32 is infinite now, and no data
                        samples[channel, rows, cols] = layer.samples_CHW[index]
                    present[channel, rows, cols] = layer.present_CHW[index]
        if samples.dtype.kind == "f":
            present &= np.isfinite(samples)
        return Layer(around, samples, present) if present.any() else None


def _hull(one: Window, other: Window) -> Window:
    """The smallest window around two."""
    return Window.from_bounds(
        min(one.row, other.row),
        min(one.col, other.col),
        max(one.row_stop, other.row_stop),
        max(one.col_stop, other.col_stop),
    )
