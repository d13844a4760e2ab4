"""Labels from a raster, read on a mosaic's pixels."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.raster.gdal_bands import gdal_environment, open_dataset
from pipeline.raster.gdal_source import FoundRaster
from pipeline.raster.grid import Grid
from pipeline.raster.source import RasterSource
from pipeline.raster.window import Window
from pipeline.storage import normalise_url
from pipeline.train.evaluate.placement import Placement, Shifted, Warped, cells
from pipeline.train.tiles.label_values import LabelsRead, LabelValues
from pipeline.train.tiles.tile_labels import find_labels, label_band

LARGEST_READ_PX = 1 << 22
"""Label pixels read at once for a cell; where labels are far finer than the mosaic, cells are cut smaller."""


@dataclass(frozen=True)
class RasterLabels:
    """A raster of labels, found and placed; plain values that travel to workers.

    Attributes:
        name: What it is called in reports.
        url: Where it lies.
        keep_nodata: Whether the value that the file declares as nodata is a label like any other.
        placement: How its pixels lie on the mosaic's.
        footprint: Mosaic pixels outside have no label here.
        values: What its values mean.
    """

    name: str
    url: str
    keep_nodata: bool
    placement: Placement
    footprint: Window
    values: LabelValues

    def open(self) -> "OpenRasterLabels":
        """The raster, to read from."""
        return OpenRasterLabels(self)


class OpenRasterLabels:
    """Reads labels by window of the mosaic, from several threads at once."""

    def __init__(self, labels: RasterLabels) -> None:
        self._labels = labels
        found = find_labels(labels.url, keep_nodata=labels.keep_nodata)
        self._source = found.spec((label_band(found.info),)).open()

    def read(self, window: Window) -> LabelsRead:
        """The labels of any window of the mosaic; unlabelled where the raster does not reach."""
        placement = self._labels.placement
        if isinstance(placement, Shifted):
            pixels = self._source.read(window.shift(placement.rows, placement.cols))
            raw_HW, valid_HW = pixels.samples_CHW[0], pixels.valid_HW
        else:
            raw_HW, valid_HW = _look_up(self._source, placement, window)
        return LabelsRead(*self._labels.values.translate(raw_HW, valid_HW))

    def close(self) -> None:
        """Let go of the file."""
        self._source.close()


def inspect_labels(url: str) -> Grid:
    """The grid of a raster of labels; refuses what cannot be one."""
    found = find_labels(url)
    label_band(found.info)
    return found.info.grid


def nodata_is_mapped(url: str, values: LabelValues) -> bool:
    """Whether the value that a raster declares as nodata is mapped to a class, and so is a label."""
    if not isinstance(find_labels(url), FoundRaster):
        return False  # Zarr arrays declare a fill value, which is no statement about data
    with gdal_environment(num_threads=1), open_dataset(normalise_url(url)) as dataset:
        declared = dataset.nodatavals[0]
    return declared is not None and any(raw == declared for raw, _ in values.pairs)


def _look_up(source: RasterSource, warped: Warped, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Raw values under a window's pixels, cell by cell."""
    raw_HW: NDArray[Any] | None = None
    valid_HW = np.zeros(window.shape, np.bool_)
    for cell in cells(window):
        rows, cols = warped.label_pixels(cell)
        own = cell.intersect(window)
        part, inner = own.relative_to(window).slices, own.relative_to(cell).slices
        for piece, values, valid in _gather(source, warped.labels.window, rows[inner], cols[inner]):
            if raw_HW is None:
                raw_HW = np.zeros(window.shape, values.dtype)
            target = piece.shift(part[0].start, part[1].start).slices
            raw_HW[target], valid_HW[target] = values, valid
    return (np.zeros(window.shape, np.uint8) if raw_HW is None else raw_HW), valid_HW


def _gather(
    source: RasterSource, whole: Window, rows: NDArray[np.int64], cols: NDArray[np.int64]
) -> Iterator[tuple[Window, NDArray[Any], NDArray[np.bool_]]]:
    """Values at given label pixels, in pieces whose reads are of bounded size; nothing for those outside."""
    pieces = [Window(0, 0, *rows.shape)]
    while pieces:
        piece = pieces.pop()
        at_rows, at_cols = rows[piece.slices], cols[piece.slices]
        inside = (at_rows >= 0) & (at_rows < whole.height) & (at_cols >= 0) & (at_cols < whole.width)
        if not inside.any():
            continue
        found = Window.from_bounds(
            int(at_rows[inside].min()),
            int(at_cols[inside].min()),
            int(at_rows[inside].max()) + 1,
            int(at_cols[inside].max()) + 1,
        )
        if found.num_pixels > LARGEST_READ_PX and piece.num_pixels > 1:
            pieces += _halves(piece)
            continue
        pixels = source.read(found)
        at = np.where(inside, at_rows - found.row, 0), np.where(inside, at_cols - found.col, 0)
        yield piece, pixels.samples_CHW[0][at], pixels.valid_HW[at] & inside


def _halves(piece: Window) -> list[Window]:
    if piece.height >= piece.width:
        middle = piece.row + piece.height // 2
        cut = [
            (piece.row, piece.col, middle, piece.col_stop),
            (middle, piece.col, piece.row_stop, piece.col_stop),
        ]
    else:
        middle = piece.col + piece.width // 2
        cut = [
            (piece.row, piece.col, piece.row_stop, middle),
            (piece.row, middle, piece.row_stop, piece.col_stop),
        ]
    return [Window.from_bounds(*bounds) for bounds in cut]
