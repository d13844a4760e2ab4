"""A mosaic's array as a cloud-optimised GeoTIFF: colours, nodata, overviews, place.

Streamed twice, so that memory stays flat whatever the size: chunks go to a tiled GeoTIFF, of which GDAL makes
the COG. Readers see the finished file or none.
"""

import json
import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.io import DatasetWriter
from rasterio.session import DummySession
from rasterio.windows import Window as RasterioWindow

from pipeline.errors import StorageError
from pipeline.raster.mosaic import CHUNK_PX, CONFIDENCE_NODATA, CONFIDENCE_STEPS, Mosaic, MosaicLayout
from pipeline.raster.window import Window
from pipeline.storage import Folder, is_local, normalise_url, redact, split_url

logger = logging.getLogger(__name__)

ExportedArray = Literal["classes", "confidence"]

READ_COLUMNS_PX = 16 * CHUNK_PX
"""Chunks read at once: enough to keep a bucket busy, 16 MiB."""

GDAL_CACHE_BYTES = 128 << 20

LARGEST_PALETTE = 255
"""Classes that a palette of bytes has room for, beside nodata."""

COG_OPTIONS = {"compress": "DEFLATE", "bigtiff": "IF_SAFER", "blocksize": 512, "sparse_ok": "TRUE"}

OVERVIEW_RESAMPLING = {"classes": "MODE", "confidence": "AVERAGE"}
"""A mean of class indices would be a class that nobody saw."""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    url: str
    size_bytes: int
    seconds: float


def export_cog(mosaic_url: str, array: ExportedArray, output_url: str) -> Exported:
    """Write one array of a mosaic as a COG.

    Args:
        mosaic_url: The mosaic.
        array: Which of its arrays.
        output_url: The file, local or in a bucket; one that is there is replaced at the end.
    """
    began = time.monotonic()
    mosaic = Mosaic.open(mosaic_url)
    output_url = normalise_url(output_url)
    with _workplace(output_url) as folder:
        plain, cog = folder / "plain.tif", folder / "cog.tif"
        options = {"GDAL_CACHEMAX": GDAL_CACHE_BYTES, "GDAL_NUM_THREADS": "ALL_CPUS"}
        with _explained(output_url), rasterio.Env(session=DummySession(), **options):
            _write_plain(mosaic, array, plain)
            resampling = OVERVIEW_RESAMPLING[array]
            rasterio.shutil.copy(plain, cog, driver="COG", overview_resampling=resampling, **COG_OPTIONS)
            plain.unlink()
            size_bytes = cog.stat().st_size
            _put_in_place(cog, output_url)
    return Exported(redact(output_url), size_bytes, time.monotonic() - began)


@contextmanager
def _workplace(output_url: str) -> Iterator[Path]:
    """A directory for half-made files: beside a local output, so that the finished one is renamed at once."""
    beside = None
    if is_local(output_url):
        if Path(output_url).is_dir():
            raise StorageError(f"--output must be a file, but {output_url} is a directory")
        beside = Path(output_url).parent
        with _explained(output_url):
            beside.mkdir(parents=True, exist_ok=True)
    else:
        split_url(output_url)  # refuses a bucket alone before any work is done
    with _explained(output_url):
        work = tempfile.TemporaryDirectory(prefix=".export-", dir=beside)
    with work as name:
        yield Path(name)


def _write_plain(mosaic: Mosaic, array: ExportedArray, path: Path) -> None:
    """The array as a tiled GeoTIFF, window by window; what holds no data takes no space."""
    layout = mosaic.layout
    nodata = layout.class_nodata if array == "classes" else CONFIDENCE_NODATA
    read = mosaic.classes if array == "classes" else mosaic.confidence
    with rasterio.open(path, "w", **_profile(layout, array, nodata)) as dataset:
        _describe(dataset, layout, array)
        for window in _windows(layout.grid.window):
            values = read(window)
            if np.any(values != nodata):
                part = RasterioWindow(window.col, window.row, window.width, window.height)
                dataset.write(values, 1, window=part)


def _windows(whole: Window) -> Iterator[Window]:
    """Whole chunks, a row of them at a time."""
    for row in range(0, whole.height, CHUNK_PX):
        for col in range(0, whole.width, READ_COLUMNS_PX):
            yield Window(row, col, CHUNK_PX, READ_COLUMNS_PX).intersect(whole)


def _profile(layout: MosaicLayout, array: ExportedArray, nodata: int) -> dict[str, Any]:
    grid = layout.grid
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "height": grid.height,
        "width": grid.width,
        "count": 1,
        "dtype": layout.class_dtype.name if array == "classes" else "uint8",
        "nodata": nodata,
        "tiled": True,
        "blockxsize": CHUNK_PX,
        "blockysize": CHUNK_PX,
        "compress": "ZSTD",
        "zstd_level": 1,
        "bigtiff": "IF_SAFER",
        "sparse_ok": "TRUE",
    }
    if array == "classes" and layout.num_classes <= LARGEST_PALETTE:
        profile["photometric"] = "PALETTE"
    if grid.is_georeferenced:
        profile["transform"] = grid.transform
        profile["crs"] = CRS.from_wkt(grid.crs_wkt) if grid.crs_wkt else None
    return profile


def _describe(dataset: DatasetWriter, layout: MosaicLayout, array: ExportedArray) -> None:
    """Colours, names and scale, so that the file explains itself."""
    dataset.update_tags(**_tags(layout))
    if array == "confidence":
        dataset.set_band_description(1, "probability of the class")
        dataset.scales = (1 / CONFIDENCE_STEPS,)
        return
    dataset.set_band_description(1, "class")
    if layout.num_classes <= LARGEST_PALETTE:
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


def _put_in_place(cog: Path, output_url: str) -> None:
    if is_local(output_url):
        cog.replace(output_url)
        return
    parent, name = split_url(output_url)
    logger.info("uploading %d bytes to %s", cog.stat().st_size, redact(output_url))
    Folder(parent).upload(name, cog)


@contextmanager
def _explained(output_url: str) -> Iterator[None]:
    """A full disk or a forbidden directory is told as such."""
    try:
        yield
    except (RasterioError, OSError) as error:
        raise StorageError(f"cannot write {redact(output_url)}: {error}") from error
