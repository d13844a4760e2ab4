"""A small picture of a Zarr source: the plane in the middle, where it can be read in reasonable time."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.errors import BlockError, SourceError, StorageError
from pipeline.raster.window import Window
from pipeline.raster.zarrs.find import find_zarr
from pipeline.raster.zarrs.image import ZarrWish
from pipeline.report.pictures import SHADES_PX, Picture, data_uri, encode_png
from pipeline.report.source_picture import NoPicture, stretched
from pipeline.storage import join_url

MOST_BYTES = 512 << 20
"""No smaller level is looked for: beyond this much to read, a picture is not worth it."""

STRIP_PX = 1024
COLORS = 3


def picture_of_zarr(url: str, window: Window, read: Mapping[str, Any]) -> Picture | NoPicture:
    """The source under a mosaic, stretched for the eye.

    Args:
        url: The Zarr store, normalised.
        window: The mosaic's place in the source's pixels.
        read: What the run's fingerprint says of the source: level, planes, bands, nodata.
    """
    level = join_url(url, read["level"]) if read["level"] else url
    wish = ZarrWish(t=tuple(read["t"]), z=tuple(read["z"]), nodata=read["nodata"])
    try:
        spec = find_zarr(level, wish).spec(tuple(read["bands"][:COLORS]))
        window = window.intersect(spec.info.grid.window)
        size = np.dtype(spec.info.bands[0].dtype).itemsize * len(spec.bands) * window.num_pixels
        if not window.num_pixels:
            return NoPicture("The source is no longer the raster that the mosaic was made from.")
        if size > MOST_BYTES:
            return NoPicture("Reading all of the source for a picture would take long.")
        source = spec.open()
        step = max(1, math.ceil(max(window.shape) / SHADES_PX))
        height = STRIP_PX // step * step or step
        strips = [
            source.read(
                Window.from_bounds(top, window.col, min(top + height, window.row_stop), window.col_stop)
            )
            for top in range(window.row, window.row_stop, height)
        ]
    except (SourceError, StorageError, BlockError) as error:
        return NoPicture(f"The source could not be read again for a picture: {error}")
    samples_CHW = np.concatenate([strip.samples_CHW[:, ::step, ::step] for strip in strips], axis=1)
    valid_HW = np.concatenate([strip.valid_HW[::step, ::step] for strip in strips])
    has_data = np.broadcast_to(valid_HW, samples_CHW.shape)
    pixels_CHW = stretched(samples_CHW.astype(np.float32), has_data, alike=False)
    return Picture(data_uri(encode_png(pixels_CHW)), valid_HW.shape[1], valid_HW.shape[0], step)
