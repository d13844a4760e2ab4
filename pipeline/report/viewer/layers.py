"""The map's layers, cut into squares: classes and confidence from the mosaic, imagery from its source.

A square is named by its layer, by how much smaller than the mosaic it is, and by its row and column. Whatever
the mosaic's size, one square reads a few chunks.
"""

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.session import DummySession
from rasterio.windows import Window as RasterioWindow

from pipeline.errors import StorageError
from pipeline.raster.mosaic import CONFIDENCE_NODATA, CONFIDENCE_STEPS, Mosaic
from pipeline.raster.window import Window
from pipeline.report.pictures import class_palette, confidence_palette, encode_png
from pipeline.report.source_picture import (
    BRIGHTENING,
    CACHE_BYTES,
    IMPATIENT,
    STRETCH_PERCENT,
    color_bands,
)
from pipeline.storage import gdal_options, gdal_path, normalise_url, redact, redact_text

SQUARE_PX = 256
COARSEST_WITHOUT_OVERVIEWS = 8
"""The most by which the map is smaller where there are no overviews: a square reads 64 times itself."""

PREVIEW_PX = 512
"""Side of what the imagery's shades are measured on."""


class MosaicLayers:
    """Squares of a mosaic's own arrays."""

    def __init__(self, mosaic: Mosaic) -> None:
        self.mosaic = mosaic
        self._shape = mosaic.grid.window.shape
        self._overviews = mosaic.overview_factors()
        self._palettes = {"classes": class_palette(mosaic.layout), "confidence": confidence_palette()}

    @property
    def factors(self) -> list[int]:
        """By how much the map can be smaller, from the finest."""
        if self._overviews:
            return [1, *self._overviews]
        factors = [1]
        while factors[-1] < COARSEST_WITHOUT_OVERVIEWS and factors[-1] * SQUARE_PX < max(self._shape):
            factors.append(2 * factors[-1])
        return factors

    def square(self, layer: str, factor: int, row: int, col: int) -> bytes | None:
        """A square as PNG, smaller at the mosaic's edges; None beyond them.

        Args:
            layer: ``classes`` or ``confidence``.
            factor: One of ``factors``.
            row: Counted in squares.
            col: Likewise.
        """
        height, width = (-(-size // factor) for size in self._shape)
        window = Window(row * SQUARE_PX, col * SQUARE_PX, SQUARE_PX, SQUARE_PX)
        window = window.intersect(Window(0, 0, height, width))
        if not window.num_pixels:
            return None
        if factor == 1:
            name, parts = layer, window.slices
        elif factor in self._overviews:
            name, parts = f"overviews/{factor}/{layer}", window.slices
        else:
            name = layer
            parts = (
                slice(window.row * factor, window.row_stop * factor, factor),
                slice(window.col * factor, window.col_stop * factor, factor),
            )
        values_HW = self.mosaic.plane(name, *parts, **self.mosaic.middle)
        palette_RGBA = self._palettes[layer]
        if len(palette_RGBA) <= 256:
            return encode_png(values_HW[None], palette_RGBA)
        return encode_png(np.moveaxis(palette_RGBA[values_HW], -1, 0))

    def value(self, row: int, col: int) -> dict[str, Any] | None:
        """What the mosaic says of a pixel; None outside of it."""
        mosaic, layout = self.mosaic, self.mosaic.layout
        if not Window(row, col, 1, 1).intersect(mosaic.grid.window).num_pixels:
            return None
        window = Window(row, col, 1, 1)
        index = int(mosaic.classes(window, **mosaic.middle)[0, 0])
        confidence = int(mosaic.confidence(window, **mosaic.middle)[0, 0])
        x, y = mosaic.grid.transform @ (col + 0.5, row + 0.5)
        return {
            "row": row,
            "col": col,
            "x": x,
            "y": y,
            "class": None if index == layout.class_nodata else layout.class_names[index],
            "confidence": None if confidence == CONFIDENCE_NODATA else confidence / CONFIDENCE_STEPS,
        }


@dataclass(frozen=True)
class _Shades:
    """How imagery is shown: which bands, from which to which value, and to which power of that."""

    bands: list[int]
    low_C11: NDArray[np.float32]
    high_C11: NDArray[np.float32]
    power: float


class SourceLayer:
    """Squares of the raster under a mosaic, stretched for the eye, all alike."""

    def __init__(self, url: str, place: Window, bands: list[int], nodata: float | None) -> None:
        self._url = normalise_url(url)
        self._place = place
        self._nodata = nodata
        self._one_at_a_time = threading.Lock()  # a GDAL data set serves one thread
        with self._environment():
            self._data = rasterio.open(gdal_path(self._url))
            known = [band for band in bands if band in self._data.indexes]
            self._shades = self._measure(color_bands(self._data, known))

    def square(self, factor: int, row: int, col: int) -> bytes | None:
        """A square as PNG; None beyond the mosaic."""
        side = SQUARE_PX * factor
        window = Window(row * side, col * side, side, side).intersect(Window(0, 0, *self._place.shape))
        if not window.num_pixels:
            return None
        try:
            with self._one_at_a_time, self._environment():
                values_CHW, has_data_HW = self._read(window, factor, self._shades.bands)
        except RasterioError as error:
            reason = redact_text(str(error)).splitlines()[0]
            raise StorageError(f"cannot read {redact(self._url)}: {reason}") from error
        shades = self._shades
        spread_C11 = np.maximum(shades.high_C11 - shades.low_C11, 1e-6)
        seen_CHW = np.clip((values_CHW - shades.low_C11) / spread_C11, 0, 1) ** shades.power
        pixels = np.zeros((4, *has_data_HW.shape), np.uint8)
        pixels[:3] = np.where(has_data_HW, np.rint(255 * seen_CHW), 0)
        pixels[3] = np.where(has_data_HW, 255, 0)
        return encode_png(pixels)

    def close(self) -> None:
        """Let go of the file."""
        with self._one_at_a_time:
            self._data.close()

    def _measure(self, bands: list[int]) -> _Shades:
        factor = max(1, max(self._place.shape) // PREVIEW_PX)
        values_CHW, has_data_HW = self._read(Window(0, 0, *self._place.shape), factor, bands)
        seen = values_CHW[:, has_data_HW] if has_data_HW.any() else values_CHW.reshape(len(bands), -1)
        low, high = np.percentile(np.nan_to_num(seen), STRETCH_PERCENT, axis=1).astype(np.float32)
        power = 1.0 if self._data.dtypes[bands[0] - 1] == "uint8" else BRIGHTENING
        return _Shades(bands, low[:, None, None], high[:, None, None], power)

    def _read(
        self, window: Window, factor: int, bands: list[int]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        inside = RasterioWindow(
            self._place.col + window.col, self._place.row + window.row, window.width, window.height
        )
        shape = tuple(-(-size // factor) for size in window.shape)
        values = self._data.read(
            bands,
            window=inside,
            out_shape=(len(bands), *shape),
            masked=True,
            boundless=False,
            resampling=Resampling.nearest,
        )
        has_data_HW = ~np.ma.getmaskarray(values).any(axis=0) & np.isfinite(values.data).all(axis=0)
        if self._nodata is not None:
            has_data_HW &= (values.data != self._nodata).all(axis=0)
        return values.data.astype(np.float32), has_data_HW

    def _environment(self) -> rasterio.Env:
        options = gdal_options(cache_bytes=CACHE_BYTES, num_threads=1) | IMPATIENT
        return rasterio.Env(session=DummySession(), **options)


def source_layer(mosaic: Mosaic, url: str | None) -> SourceLayer | str:
    """The imagery under a mosaic, or why there is none.

    Args:
        mosaic: The mosaic.
        url: Where its source lies now; None: where it was read from.
    """
    said = mosaic.attributes
    sources, settings = said.get("sources", []), said.get("settings", {}).get("source", {})
    if url is None and len(sources) != 1:
        return f"The mosaic is made of {len(sources)} scenes; --source names one raster to show under it."
    row, col = said.get("source_origin", (0, 0))
    place = Window(row, col, mosaic.grid.height, mosaic.grid.width)
    address = url or str(sources[0]["url"])
    try:
        layer = SourceLayer(address, place, list(settings.get("bands", [1, 2, 3])), settings.get("nodata"))
    except (RasterioError, IndexError) as error:
        reason = str(error).splitlines()[0].replace(address, redact(address))
        return f"The source cannot be read: {reason}"
    return layer
