"""A small picture of the imagery that a mosaic was made from, where it can still be reached."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.session import DummySession
from rasterio.windows import Window as RasterioWindow

from pipeline.raster.window import Window
from pipeline.report.pictures import SHADES_PX, Picture, data_uri, encode_png
from pipeline.storage import gdal_options, gdal_path, normalise_url, redact

CACHE_BYTES = 64 << 20
MOST_BYTES = 2 << 30
"""Without overviews a small picture takes reading all of a raster; beyond this it is not worth it."""

IMPATIENT = {"GDAL_HTTP_MAX_RETRY": 1, "GDAL_HTTP_CONNECTTIMEOUT": 5, "GDAL_HTTP_TIMEOUT": 30}
"""A run waits for its source; a picture does not."""

STRETCH_PERCENT = (2.0, 98.0)
"""Shades between which a picture is stretched: a few clouds shall not make all else black."""

BRIGHTENING = 0.7
"""Power of every shade from 0 to 1 of imagery not made for the eye: land beside clouds is dark."""

COLOR_NAMES = (("red", "b04", "b4"), ("green", "b03", "b3"), ("blue", "b02", "b2"))
"""What bands of these colours are called, Sentinel-2's names among them."""


@dataclass(frozen=True)
class NoPicture:
    """Why there is no picture."""

    reason: str


def picture_of_source(
    url: str,
    window: Window,
    *,
    bands: Sequence[int],
    nodata: float | None,
    level_shape: tuple[int, int] | None = None,
) -> Picture | NoPicture:
    """The source under a mosaic, stretched for the eye.

    Args:
        url: Where it lies.
        window: The mosaic's place in the source's pixels.
        bands: Numbers of the bands that the model saw.
        nodata: Value without data by the settings; None: as the file says.
        level_shape: Size of the level of a pyramid that was read; the picture is made from the finest.
    """
    options = gdal_options(cache_bytes=CACHE_BYTES, num_threads=1) | IMPATIENT
    try:
        # GDAL reads the credential variables itself; rasterio's own sessions would ask for boto3.
        with (
            rasterio.Env(session=DummySession(), **options),
            rasterio.open(gdal_path(normalise_url(url))) as data,
        ):
            if level_shape is not None:
                window = _at_finest(window, level_shape, data.shape)
            return _picture(data, window, bands=bands, nodata=nodata)
    except RasterioError as error:
        reason = str(error).splitlines()[0].replace(url, redact(url))
        return NoPicture(f"The source could not be read again for a picture: {reason}")


def _at_finest(window: Window, shape: tuple[int, int], finest: tuple[int, int]) -> Window:
    """A window of a level in the finest level's pixels."""
    rows, cols = finest[0] / shape[0], finest[1] / shape[1]
    return Window.from_bounds(
        round(window.row * rows),
        round(window.col * cols),
        round(window.row_stop * rows),
        round(window.col_stop * cols),
    )


def _picture(
    dataset: DatasetReader, window: Window, *, bands: Sequence[int], nodata: float | None
) -> Picture | NoPicture:
    window = window.intersect(Window(0, 0, dataset.height, dataset.width))
    known = [band for band in bands if band in dataset.indexes]
    if not window.num_pixels or not known:
        return NoPicture("The source is no longer the raster that the mosaic was made from.")
    chosen = color_bands(dataset, known)
    step = max(1, math.ceil(max(window.shape) / SHADES_PX))
    item_bytes = np.dtype(dataset.dtypes[chosen[0] - 1]).itemsize
    if not dataset.overviews(chosen[0]) and window.num_pixels * item_bytes * len(chosen) > MOST_BYTES:
        return NoPicture("The source has no overviews, and reading all of it for a picture would take long.")
    shape = math.ceil(window.height / step), math.ceil(window.width / step)
    values = dataset.read(
        chosen,
        window=RasterioWindow(window.col, window.row, window.width, window.height),
        out_shape=(len(chosen), *shape),
        # A mean over pixels that only the settings call empty would look like data.
        resampling=Resampling.average if nodata is None else Resampling.nearest,
        masked=True,
    )
    has_data = ~np.ma.getmaskarray(values) & np.isfinite(values.data)
    if nodata is not None:
        has_data &= values.data != nodata
    with np.errstate(over="ignore"):  # a huge number is infinite in float32, and stands for no data
        numbers_CHW = values.data.astype(np.float32)
    pixels_CHW = stretched(numbers_CHW, has_data, alike=values.dtype == np.uint8)
    return Picture(data_uri(encode_png(pixels_CHW)), shape[1], shape[0], step)


def color_bands(dataset: DatasetReader, bands: Sequence[int]) -> list[int]:
    """Three bands to be shown as red, green and blue, or one as grey."""
    by_interpretation = [
        next((band for band in bands if dataset.colorinterp[band - 1] == color), None)
        for color in (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    ]
    by_name = [
        next(
            (band for band in bands if (dataset.descriptions[band - 1] or "").strip().lower() in names), None
        )
        for names in COLOR_NAMES
    ]
    for found in (by_name, by_interpretation):
        if None not in found:
            return [band for band in found if band is not None]
    return list(bands[:3]) if len(bands) >= 3 else list(bands[:1])


def stretched(
    values_CHW: NDArray[np.float32], has_data_CHW: NDArray[np.bool_], *, alike: bool
) -> NDArray[np.uint8]:
    """Shades of 8 bits with an alpha channel.

    Bands are stretched each by itself, which takes the blue of haze away, and brightened; or, where the
    imagery was made for the eye already, all alike, which keeps its colours.
    """
    pixels = np.zeros((4, *values_CHW.shape[1:]), np.uint8)
    for channel in range(3):
        band = min(channel, len(values_CHW) - 1)
        values, has_data = values_CHW[band], has_data_CHW[band]
        if has_data.any():
            shown = values_CHW[has_data_CHW] if alike else values[has_data]
            low, high = np.percentile(shown, STRETCH_PERCENT)
            shades = (values - low) / max(float(high - low), np.finfo(np.float32).tiny)
            shades = np.clip(np.where(has_data, shades, 0.0), 0.0, 1.0)
            pixels[channel] = np.rint(255 * (shades if alike else shades**BRIGHTENING))
    pixels[3] = np.where(has_data_CHW.any(axis=0), 255, 0)
    return pixels
