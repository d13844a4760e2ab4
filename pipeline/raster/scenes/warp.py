"""One file on one cell of the target grid: copied where pixels coincide, warped by GDAL where they do not.

GDAL's tile index (GTI) would do much of this, but it has one resampling for all bands, no median, no quality
layers, one scale for all scenes, and its values depend on the window that is asked for. So each file is read
with its masks as a single raster would be, and GDAL's warper is given one cell at a time:

* What is not data is NaN there, band by band: it weighs nothing, and never bleeds into its neighbours.
* A target pixel is data where the source pixel under its centre is, whatever the resampling; with
  ``average``, where any source pixel under it is. So scenes neither grow nor shrink by being warped.
* The kernel's width (XSCALE, YSCALE) is told, since GDAL would else take it from each window's own size, and
  coordinates are exact to a ten-thousandth of a pixel. Cells are fixed on the target grid, so that nothing
  depends on the block that asks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import Resampling as GdalResampling
from rasterio.io import MemoryFile
from rasterio.vrt import WarpedVRT

from pipeline.raster.gdal_bands import gdal_environment
from pipeline.raster.grid import Grid
from pipeline.raster.scenes.places import extent_in, pixels_per_pixel, whole_pixel_shift, window_under
from pipeline.raster.scenes.pool import FilePool
from pipeline.raster.scenes.scene import QualityRule, Resampling, SceneFile
from pipeline.raster.window import Window

TOLERANCE_PX = 1e-4
KERNEL_PX = {"nearest": 1, "bilinear": 1, "cubic": 2, "average": 1}
LARGEST_READ_PX = 2048
"""Side of the largest part of a file that is warped at once; of finer files, a cell is warped in parts."""

DENSE_BELOW = 0.95
"""Target pixels a source pixel, below which GDAL widens its kernel to see all that a pixel covers."""


@dataclass(frozen=True)
class Layer:
    """Samples of a window, and which of them are data; what stands where none are means nothing."""

    window: Window
    samples_CHW: NDArray[Any]
    present_CHW: NDArray[np.bool_]

    def channels(self, wanted: list[int]) -> "Layer":
        """Some of its bands."""
        return Layer(self.window, self.samples_CHW[wanted], self.present_CHW[wanted])

    def over(self, window: Window) -> "Layer":
        """The same on a larger window, with nothing around it."""
        return self if window == self.window else joined(window, [self])


@dataclass(frozen=True)
class Reading:
    """What reading a file takes besides the file.

    Attributes:
        pool: Opens it.
        resampling: How each of its bands is warped.
        mask: The scene's quality layer, or None.
        rule: What that layer's values mean.
    """

    pool: FilePool
    resampling: tuple[Resampling, ...]
    mask: SceneFile | None
    rule: QualityRule | None


def read_on(target: Grid, window: Window, file: SceneFile, reading: Reading) -> Layer | None:
    """A file's bands on the part of a target's window that it covers; None where it has nothing there."""
    shift = whole_pixel_shift(file.grid, target)
    if shift is not None:
        inside = window.shift(-shift[0], -shift[1]).intersect(file.grid.window)
        found = _read(file, inside, reading) if inside.num_pixels else None
        return None if found is None else replace(found, window=inside.shift(*shift))
    covered = window.intersect(extent_in(file.grid, target))
    layers = [
        layer
        for part in _parts(covered, pixels_per_pixel(file.grid, target))
        if (layer := _warped(target, part, file, reading)) is not None
    ]
    return joined(covered, layers) if layers else None


def _warped(target: Grid, window: Window, file: SceneFile, reading: Reading) -> Layer | None:
    cell = target.crop(window)
    steps = pixels_per_pixel(file.grid, target)
    reach = max(KERNEL_PX[word] for word in reading.resampling) * max(1.0, *steps) + 2
    under = window_under(cell, file.grid, reach).intersect(file.grid.window)
    found = _read(file, under, reading) if under.num_pixels else None
    if found is None:
        return None
    source, words = file.grid.crop(under), _by_word(reading.resampling)
    layers = [warp(found.channels(words[word]), source, cell, word, steps) for word in words]
    samples = np.concatenate([samples for samples, _ in layers])
    present = np.concatenate([present for _, present in layers])
    back = np.argsort([channel for channels in words.values() for channel in channels])
    return Layer(window, samples[back], present[back]) if present.any() else None


def _read(file: SceneFile, part: Window, reading: Reading) -> Layer | None:
    """A file's own pixels, scaled and with its clouds cut out; None where nothing is data."""
    with reading.pool.open(file) as opened:
        samples, present = opened.reader.read(opened.dataset, part)
    if file.is_mask:
        present = np.ones_like(present)
    if reading.mask is not None and reading.rule is not None:
        flags = read_on(file.grid, part, reading.mask, Reading(reading.pool, ("nearest",), None, None))
        if flags is None:
            return None
        flags = flags.over(part)
        present &= flags.present_CHW & ~reading.rule.rejects(flags.samples_CHW)
    if file.scales is not None and file.offsets is not None:
        factors, summands = (
            np.array(each, np.float32)[:, None, None] for each in (file.scales, file.offsets)
        )
        samples = samples.astype(np.float32) * factors + summands
        present &= np.isfinite(samples)
    return Layer(part, samples, present) if present.any() else None


def warp(
    layer: Layer, source: Grid, cell: Grid, resampling: Resampling, steps: tuple[float, float]
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Samples of one grid on another.

    Args:
        layer: The samples.
        source: Where they lie.
        cell: Where they are wanted.
        resampling: How values between pixels are found.
        steps: Width and height of the cell's pixels in the source's.
    """
    dtype = layer.samples_CHW.dtype
    is_wide = dtype.itemsize > 4 or (dtype.itemsize == 4 and dtype.kind != "f")
    values = layer.samples_CHW.astype(np.float64 if is_wide else np.float32)
    values[~layer.present_CHW] = np.nan
    warped = _by_gdal(values, source, cell, resampling, steps)
    present = np.isfinite(warped)
    if resampling in ("bilinear", "cubic"):
        planes = layer.present_CHW
        if (planes == planes[:1]).all():
            planes = planes[:1]
        under = _by_gdal(np.where(planes, np.float32(1), np.float32(np.nan)), source, cell, "nearest", steps)
        present &= np.isfinite(under)
    warped[~present] = 0
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        warped = np.clip(np.floor(warped + 0.5), limits.min, limits.max)
    return warped.astype(dtype), present


def _by_gdal(
    values_CHW: NDArray[Any], source: Grid, cell: Grid, resampling: Resampling, steps: tuple[float, float]
) -> NDArray[Any]:
    """Floats with NaN for no data, through GDAL's warper."""
    count, height, width = values_CHW.shape
    profile = {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "count": count,
        "dtype": values_CHW.dtype.name,
        "nodata": math.nan,
        "crs": CRS.from_wkt(source.crs_wkt),
        "transform": source.transform,
        "interleave": "band",
    }
    scales = [1.0 / step if 1.0 / step < DENSE_BELOW else 1.0 for step in steps]
    with gdal_environment(num_threads=1), MemoryFile() as memory:
        with memory.open(**profile) as written:
            written.write(values_CHW)
        with (
            memory.open() as data,
            WarpedVRT(
                data,
                crs=CRS.from_wkt(cell.crs_wkt),
                transform=cell.transform,
                height=cell.height,
                width=cell.width,
                resampling=GdalResampling[resampling],
                tolerance=TOLERANCE_PX,
                nodata=math.nan,
                UNIFIED_SRC_NODATA="NO",
                SAMPLE_GRID="YES",
                XSCALE=scales[0],
                YSCALE=scales[1],
            ) as warped,
        ):
            return np.asarray(warped.read())


def source_side_px(step: float, cell_px: int) -> int:
    """Side of the largest part of a file that is read at once for a cell."""
    return math.ceil(min(cell_px * max(1.0, step), LARGEST_READ_PX) * 1.02 + 4 * max(1.0, step) + 8)


def _parts(window: Window, steps: tuple[float, float]) -> list[Window]:
    """A window in so many parts that none takes too much of a finer file."""
    if not window.num_pixels:
        return []
    times = math.ceil(max(*steps, 1.0) * max(window.shape) / LARGEST_READ_PX)
    side = math.ceil(max(window.shape) / times)
    return [
        Window(row, col, side, side).intersect(window)
        for row in range(window.row, window.row_stop, side)
        for col in range(window.col, window.col_stop, side)
    ]


def joined(window: Window, layers: Sequence[Layer]) -> Layer:
    """Layers of parts of a window as one; there must be one at least."""
    first = layers[0].samples_CHW
    samples = np.zeros((len(first), *window.shape), first.dtype)
    present = np.zeros(samples.shape, np.bool_)
    for layer in layers:
        rows, cols = layer.window.relative_to(window).slices
        samples[:, rows, cols] = layer.samples_CHW
        present[:, rows, cols] = layer.present_CHW
    return Layer(window, samples, present)


def _by_word(resampling: tuple[Resampling, ...]) -> dict[Resampling, list[int]]:
    words: dict[Resampling, list[int]] = {}
    for channel, word in enumerate(resampling):
        words.setdefault(word, []).append(channel)
    return words
