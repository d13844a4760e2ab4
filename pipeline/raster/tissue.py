"""Where a slide holds tissue, found on an overview: what is coloured, or darker than the glass.

Thresholds are Otsu's, of colour and of shade, but never so high that pale tissue is lost: where glass and
tissue are not two clear peaks, as on a slide full of tissue, a cap decides. Whatever is found is grown on all
sides by a margin, half a crop unless it is set, so that a crop that reaches tissue with its better half is
computed. Closing gaps first, by the same margin, would change nothing: what growing does not fill, closing
does not either.

For brightfield slides. On a dark ground everything is darker than glass, and nothing is skipped.
"""

import hashlib
import logging
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.raster.source import RasterSource
from pipeline.raster.window import Window

logger = logging.getLogger(__name__)

METHOD = "otsu/1"
"""Changes with the rule, and with it the fingerprint of runs."""

CELL_PX = 32
"""Side of a cell of the mask at most, in pixels of the level that is read."""

STRIP_PX = 512
COLOR_BOUNDS = 6, 20
SHADE_BOUNDS = 8, 30
"""Between which thresholds of colour and of shade lie, of 255: above noise of glass, below pale tissue."""

GLASS_PERCENTILE = 99
"""The brightness that bare glass has is that of the brightest hundredth."""


@dataclass(frozen=True)
class TissueMask:
    """Cells with tissue in or near them; plain values, so that it travels to workers.

    Attributes:
        shape: Rows and columns of cells.
        cell_px: Height and width of a cell in pixels of the level that is read.
        margin_px: By how much tissue was grown.
        packed: The cells' bits, compressed.
    """

    shape: tuple[int, int]
    cell_px: tuple[float, float]
    margin_px: int
    packed: bytes

    @classmethod
    def of(cls, cells: NDArray[np.bool_], *, cell_px: tuple[float, float], margin_px: int) -> "TissueMask":
        """The mask of these cells."""
        packed = zlib.compress(np.packbits(cells).tobytes(), 6)
        return cls((cells.shape[0], cells.shape[1]), cell_px, margin_px, packed)

    @cached_property
    def cells(self) -> NDArray[np.bool_]:
        """The cells."""
        bits = np.frombuffer(zlib.decompress(self.packed), np.uint8)
        return np.unpackbits(bits, count=math.prod(self.shape)).astype(np.bool_).reshape(self.shape)

    @property
    def share(self) -> float:
        """How much of the slide is kept."""
        return float(self.cells.mean())

    def covers(self, window: Window) -> NDArray[np.bool_]:
        """Which pixels of a window are kept; beyond the slide its edge goes on."""
        rows = self._cells_of(window.row, window.row_stop, 0)
        cols = self._cells_of(window.col, window.col_stop, 1)
        return self.cells[np.ix_(rows, cols)]

    def result_fields(self) -> Mapping[str, Any]:
        """What a run's fingerprint holds of it."""
        digest = hashlib.sha256(self.cells.tobytes()).hexdigest()[:16]
        return {"method": METHOD, "margin_px": self.margin_px, "cells": digest}

    def _cells_of(self, start: int, stop: int, axis: int) -> NDArray[np.int64]:
        centres = np.arange(start, stop) + 0.5
        return np.clip((centres / self.cell_px[axis]).astype(np.int64), 0, self.shape[axis] - 1)


def find_tissue(overview: RasterSource, *, factor: tuple[float, float], margin_px: int) -> TissueMask:
    """The mask of a slide.

    Args:
        overview: Red, green and blue of the slide, smaller by ``factor`` than the level that is read.
        factor: Rows and columns of that level for each of the overview's, at most ``CELL_PX``.
        margin_px: By how much tissue is grown, in pixels of that level.
    """
    step = 1
    while 2 * step * max(factor) <= CELL_PX:
        step *= 2
    colors_CHW, known_HW = _shrink(overview, step)
    tissue = is_tissue(colors_CHW) & known_HW
    cell_px = factor[0] * step, factor[1] * step
    # One cell more than the margin: a cell's own place is known to a cell only.
    reach = (math.ceil(margin_px / cell_px[0]) + 1, math.ceil(margin_px / cell_px[1]) + 1)
    mask = TissueMask.of(_grow(_grow(tissue, reach[0], 0), reach[1], 1), cell_px=cell_px, margin_px=margin_px)
    logger.info("tissue and its margin cover %.1f %% of %s", 100 * mask.share, overview.info.url)
    if not tissue.any():
        logger.warning("no tissue was found in %s: nothing will be computed", overview.info.url)
    return mask


def is_tissue(colors_CHW: NDArray[np.float32]) -> NDArray[np.bool_]:
    """What is coloured or dark, of red, green and blue between 0 and 255."""
    brightest, darkest = colors_CHW.max(axis=0), colors_CHW.min(axis=0)
    color, brightness = brightest - darkest, colors_CHW.mean(axis=0)
    shade = np.maximum(np.percentile(brightness, GLASS_PERCENTILE) - brightness, 0.0)
    color_threshold = float(np.clip(otsu(color), *COLOR_BOUNDS))
    shade_threshold = float(np.clip(otsu(shade), *SHADE_BOUNDS))
    return np.asarray((color > color_threshold) | (shade > shade_threshold))


def otsu(values: NDArray[np.floating[Any]]) -> float:
    """The threshold, of 256 steps, that parts values into the two most distinct groups."""
    counts = np.bincount(np.clip(values, 0, 255).astype(np.uint8).ravel(), minlength=256).astype(np.float64)
    below = counts.cumsum()
    total, sums = below[-1], (counts * np.arange(256)).cumsum()
    above = total - below
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(np.argmax(np.nan_to_num(apart, nan=0.0)))


def _shrink(overview: RasterSource, step: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Means of squares of the overview, a strip at a time, and where there is anything at all."""
    grid = overview.info.grid
    rows, cols = math.ceil(grid.height / step), math.ceil(grid.width / step)
    colors, known = np.empty((3, rows, cols), np.float32), np.empty((rows, cols), np.bool_)
    height = max(step, STRIP_PX // step * step)
    for top in range(0, grid.height, height):
        # Beyond the last rows and columns nothing is valid, and counts for nothing.
        strip = Window(top, 0, min(height, rows * step - top), cols * step)
        pixels = overview.read(strip)
        weights = pixels.valid_HW.astype(np.float32)
        count = _sum_squares(weights, step)
        part = slice(top // step, top // step + strip.height // step)
        known[part] = count > 0
        for channel in range(3):
            total = _sum_squares(pixels.samples_CHW[channel] * weights, step)
            colors[channel, part] = np.where(count > 0, total / np.maximum(count, 1), 255.0)
    return colors, known


def _sum_squares(values_HW: NDArray[np.float32], step: int) -> NDArray[np.float32]:
    rows, cols = values_HW.shape[0] // step, values_HW.shape[1] // step
    return np.asarray(values_HW.reshape(rows, step, cols, step).sum(axis=(1, 3)), np.float32)


def _grow(mask: NDArray[np.bool_], reach: int, axis: int) -> NDArray[np.bool_]:
    """Set whatever lies within reach of something set along an axis, by running totals."""
    pad = [(reach + 1, reach) if dimension == axis else (0, 0) for dimension in range(2)]
    totals = np.pad(mask.astype(np.int32), pad).cumsum(axis=axis)
    size, span = mask.shape[axis], 2 * reach + 1
    later, earlier = totals.take(range(span, span + size), axis), totals.take(range(size), axis)
    return np.asarray(later > earlier)
