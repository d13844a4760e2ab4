"""A mosaic's array as a cloud-optimised GeoTIFF: colours, names, nodata, overviews, place.

Streamed twice, so that memory stays flat whatever the size: chunks go to a tiled GeoTIFF, of which GDAL makes
the COG. Readers see the finished file or none.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.io import DatasetWriter
from rasterio.session import DummySession
from rasterio.windows import Window as RasterioWindow

from pipeline.errors import SettingsError
from pipeline.raster.category_names import class_table, replace_sidecar
from pipeline.raster.export.file import put_in_place, workplace, writing
from pipeline.raster.export.region import RegionWish, check_plane, find_region, outside
from pipeline.raster.export.stac_item import add_export
from pipeline.raster.grid import Grid
from pipeline.raster.mosaic import CHUNK_PX, CONFIDENCE_NODATA, CONFIDENCE_STEPS, Mosaic, MosaicLayout
from pipeline.raster.plane import Plane
from pipeline.raster.region import Region
from pipeline.raster.window import Window
from pipeline.storage import normalise_url, redact

ExportedArray = Literal["classes", "confidence", "logits"]

READ_COLUMNS_PX = 16 * CHUNK_PX
"""Chunks read at once: enough to keep a bucket busy, 16 MiB."""

LOGITS_AT_ONCE = 16 << 20
"""Log-probabilities held at once, 64 MiB and several times that while they are interpolated."""

LOGITS_TILE_PX = 256
"""Tiles of the intermediate file, so small that GDAL's cache holds one of each class."""

GDAL_CACHE_BYTES = 128 << 20

LARGEST_PALETTE = 255
"""Classes that a palette of bytes has room for, beside nodata."""

COG_OPTIONS = {"compress": "DEFLATE", "bigtiff": "IF_SAFER", "blocksize": 512, "sparse_ok": "TRUE"}

OVERVIEW_RESAMPLING = {"classes": "MODE", "confidence": "AVERAGE", "logits": "AVERAGE"}
"""A mean of class indices would be a class that nobody saw."""

EVERYWHERE = RegionWish()
FIRST_PLANE = Plane(0, 0)


@dataclass(frozen=True)
class Exported:
    """What was written."""

    url: str
    size_bytes: int
    seconds: float


def export_cog(
    mosaic_url: str,
    array: ExportedArray,
    output_url: str,
    *,
    region: RegionWish = EVERYWHERE,
    plane: Plane = FIRST_PLANE,
) -> Exported:
    """Write one array of a mosaic as a COG.

    Args:
        mosaic_url: The mosaic.
        array: Which of its arrays; of ``logits`` each class is a band.
        output_url: The file, local or in a bucket; one that is there is replaced at the end.
        region: What part: a window of whole pixels; those outside its polygons have no data.
        plane: Which plane of a stack.
    """
    began = time.monotonic()
    mosaic = Mosaic.open(mosaic_url)
    picture = _picture(mosaic, array, find_region(mosaic.grid, region), check_plane(mosaic.layout, plane))
    output_url = normalise_url(output_url)
    with workplace(output_url) as folder:
        plain, cog = folder / "plain.tif", folder / "cog.tif"
        options = {"GDAL_CACHEMAX": GDAL_CACHE_BYTES, "GDAL_NUM_THREADS": "ALL_CPUS"}
        with writing(output_url), rasterio.Env(session=DummySession(), **options):
            _write_plain(picture, plain)
            predictor = {"predictor": "YES"} if array == "logits" else {}
            resampling = {"overview_resampling": OVERVIEW_RESAMPLING[array]}
            rasterio.shutil.copy(plain, cog, driver="COG", **resampling, **predictor, **COG_OPTIONS)
            plain.unlink()
            size_bytes = cog.stat().st_size
            table = class_table(mosaic.layout) if array == "classes" else None
            put_in_place(cog, output_url)
            replace_sidecar(output_url, table)
    add_export(mosaic_url, array, output_url)
    return Exported(redact(output_url), size_bytes, time.monotonic() - began)


@dataclass(frozen=True)
class _Picture:
    """What is written.

    Attributes:
        array: Its name in the mosaic.
        layout: The mosaic's.
        region: The part that is wanted.
        read: Values of a window, band first.
        dtype: Their type in the file.
        nodata: What stands where nothing is known.
        bands: A name for each band.
    """

    array: ExportedArray
    layout: MosaicLayout
    region: Region
    read: Callable[[Window], NDArray[Any]]
    dtype: str
    nodata: float
    bands: tuple[str, ...]

    @property
    def grid(self) -> Grid:
        """The file's pixels."""
        return self.layout.grid.crop(self.region.box)

    @property
    def has_palette(self) -> bool:
        """Whether the file shows classes in their colours."""
        return self.array == "classes" and self.layout.num_classes <= LARGEST_PALETTE


def _picture(mosaic: Mosaic, array: ExportedArray, region: Region, plane: Plane) -> _Picture:
    layout = mosaic.layout
    if array == "logits":
        if layout.logits == "none":
            raise SettingsError(
                "array: logits needs a mosaic that keeps them; this one was written with output.logits: none"
            )
        read = partial(mosaic.logits, t=plane.t, z=plane.z)
        return _Picture(array, layout, region, read, "float32", float("nan"), layout.class_names)

    def read_band(window: Window) -> NDArray[Any]:
        return mosaic.plane(array, *window.slices, t=plane.t, z=plane.z)[None]

    if array == "classes":
        dtype, nodata = layout.class_dtype.name, layout.class_nodata
        return _Picture(array, layout, region, read_band, dtype, nodata, ("class",))
    name = "probability of the class"
    return _Picture(array, layout, region, read_band, "uint8", CONFIDENCE_NODATA, (name,))


def _write_plain(picture: _Picture, path: Path) -> None:
    """The array as a tiled GeoTIFF, window by window; what holds no data takes no space."""
    box = picture.region.box
    with rasterio.open(path, "w", **_profile(picture)) as dataset:
        _describe(dataset, picture)
        for window in _windows(box, len(picture.bands)):
            values = picture.read(window)
            beyond = outside(picture.region, window)
            if beyond is not None:
                values[:, beyond] = picture.nodata
            has_data = ~np.isnan(values) if np.isnan(picture.nodata) else values != picture.nodata
            if has_data.any():
                here = window.relative_to(box)
                dataset.write(values, window=RasterioWindow(here.col, here.row, here.width, here.height))


def _windows(box: Window, num_bands: int) -> Iterator[Window]:
    """Whole chunks of the mosaic, a row of them at a time; of many bands, parts of a chunk."""
    columns = READ_COLUMNS_PX if num_bands == 1 else CHUNK_PX
    rows = CHUNK_PX
    while rows > LOGITS_TILE_PX // 4 and num_bands > 1 and rows * columns * num_bands > LOGITS_AT_ONCE:
        rows //= 2
    around = box.snap_outward(CHUNK_PX)
    for row in range(around.row, around.row_stop, rows):
        for col in range(around.col, around.col_stop, columns):
            window = Window(row, col, rows, columns).intersect(box)
            if window.num_pixels:
                yield window


def _profile(picture: _Picture) -> dict[str, Any]:
    grid = picture.grid
    side = CHUNK_PX if len(picture.bands) == 1 else LOGITS_TILE_PX
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "height": grid.height,
        "width": grid.width,
        "count": len(picture.bands),
        "dtype": picture.dtype,
        "nodata": picture.nodata,
        "tiled": True,
        "blockxsize": side,
        "blockysize": side,
        "interleave": "band",
        "compress": "ZSTD",
        "zstd_level": 1,
        "bigtiff": "IF_SAFER",
        "sparse_ok": "TRUE",
    }
    if picture.has_palette:
        profile["photometric"] = "PALETTE"
    if picture.layout.grid.is_georeferenced:
        profile["transform"] = grid.transform
        profile["crs"] = CRS.from_wkt(grid.crs_wkt) if grid.crs_wkt else None
    return profile


def _describe(dataset: DatasetWriter, picture: _Picture) -> None:
    """Colours, names and scale, so that the file explains itself."""
    layout = picture.layout
    dataset.update_tags(**_tags(layout))
    for band, name in enumerate(picture.bands, 1):
        dataset.set_band_description(band, name)
    if picture.array == "confidence":
        dataset.scales = (1 / CONFIDENCE_STEPS,)
    if picture.has_palette:
        palette = {index: _rgba(color) for index, color in enumerate(layout.class_colors)}
        dataset.write_colormap(1, palette | {layout.class_nodata: (0, 0, 0, 0)})
        dataset.colorinterp = [ColorInterp.palette]


def _tags(layout: MosaicLayout) -> dict[str, str]:
    """Metadata that GDAL shows: each class by its index, and the lists for programs."""
    named = {f"CLASS_{index}": name for index, name in enumerate(layout.class_names)}
    return named | {
        "CLASS_NAMES": json.dumps(list(layout.class_names), ensure_ascii=False),
        "CLASS_COLORS": json.dumps(list(layout.class_colors)),
    }


def _rgba(color: str) -> tuple[int, int, int, int]:
    """``#rrggbb`` as GDAL's colour tables have it."""
    red, green, blue = bytes.fromhex(color.removeprefix("#"))
    return red, green, blue, 255
