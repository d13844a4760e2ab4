"""Bands of a raster that GDAL opens, and where they hold data: by value, by mask and by alpha.

One place says what counts as data, for a single raster and for each of many scenes alike.
"""

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.session import DummySession
from rasterio.windows import Window as RasterioWindow

from pipeline.errors import SourceError
from pipeline.raster.png_end import is_cut_short
from pipeline.raster.window import Window
from pipeline.remedies import about_keys, where_to_look
from pipeline.storage import gdal_options, gdal_path, is_local, redact, redact_text

GDAL_CACHE_BYTES = 256 << 20

# What GDAL signals comes back as an exception, and is told as one: said before, too, it only confuses.
logging.getLogger("rasterio").setLevel(logging.WARNING)

ALLOWED_EXTENSIONS = "CPL_VSIL_CURL_ALLOWED_EXTENSIONS"
RASTERS = (
    "{noext},.tif,.tiff,.btf,.svs,.ndpi,.scn,.bif,.mrxs,.vrt,.gti,.gpkg,.fgb,.geojson,.json,.jp2,.j2k,.jpg,"
    ".jpeg,.png,.webp,.gif,.bmp,.img,.ige,.rrd,.nc,.nc4,.h5,.hdf,.hdf5,.he5,.grib,.grb,.grb2,.asc,.dem,.hgt,.bil,"
    ".bip,.bsq,.dat,.raw,.ini,.hdr,.ers,.kea,.ntf,.nitf,.til"
)
SIDECARS = ".aux.xml,.ovr,.msk,.tfw,.tifw,.tiffw,.wld,.pgw,.jgw,.j2w,.prj"
"""What else GDAL may ask a server for. It would, whenever it opens a file, ask for eight more that nobody has
(.aux, .AUX, .xml ...), one after the other and all the while holding Python's lock: half a second a scene."""


MASK_END = ".msk"
"""How the name of a file ends that holds another one's mask."""


def gdal_environment(*, num_threads: int, url: str = "", alone: bool = False) -> rasterio.Env:
    """GDAL's settings and credentials, for one thread and as long as the environment is entered.

    Args:
        num_threads: CPU threads that GDAL may decode with.
        url: The raster that is read, normalised: its ending is one that a server may be asked for.
        alone: Whether it is known that nothing lies beside it: then nothing else is asked for.
    """
    options = gdal_options(cache_bytes=GDAL_CACHE_BYTES, num_threads=num_threads)
    if ALLOWED_EXTENSIONS not in os.environ:
        own = PurePosixPath(redact(url)).suffix.lower()
        options[ALLOWED_EXTENSIONS] = f"{RASTERS},{SIDECARS},{own}"
    if alone:
        options["GDAL_DISABLE_READDIR_ON_OPEN"] = "EMPTY_DIR"
    # GDAL reads the credential variables itself; rasterio's own sessions would ask for boto3.
    return rasterio.Env(session=DummySession(), **options)


@dataclass(frozen=True)
class GdalLevel:
    """A coarser copy of a raster inside its own file.

    Attributes:
        overview: Its number among GDAL's overviews, from 0.
        directory: Or, where GDAL takes it for a raster of its own, its number among a TIFF's directories.
    """

    overview: int | None = None
    directory: int | None = None


def said(error: BaseException) -> str:
    """What GDAL said, without secrets: rasterio's own words only point to what went before."""
    while error.__cause__ is not None:
        error = error.__cause__
    return redact_text(str(error))


def open_dataset(url: str, level: GdalLevel | None = None, *, looked_at: bool = False) -> DatasetReader:
    """The raster at a normalised URL, or a coarser copy in it.

    Args:
        url: Where it lies.
        level: The coarser copy; None: the raster itself.
        looked_at: Whether somebody has opened it before, and need not ask again for what GDAL does not tell.
    """
    path, options = gdal_path(url), {}
    if level is not None and level.directory is not None:
        path = f"GTIFF_DIR:{level.directory}:{path}"
    elif level is not None:
        options["OVERVIEW_LEVEL"] = level.overview
    try:
        dataset = rasterio.open(path, **options)
    except RasterioError as error:
        if is_local(url) and not Path(url).exists():
            raise SourceError(
                f"there must be a raster at {url}; there is no such file; {where_to_look(url)}"
            ) from error
        keys = about_keys(url, str(error))
        reason = redact_text(str(error)) + (f"; {keys}" if keys else "")
        raise SourceError(f"cannot open {redact(url)} as a raster: {reason}") from error
    if not looked_at and dataset.driver == "PNG" and is_cut_short(url):
        dataset.close()
        raise SourceError(
            f"the file is cut short: {redact(url)} lacks the mark that ends a PNG; copy it again"
        )
    return dataset


def lacks_mask(dataset: DatasetReader) -> bool:
    """Whether GDAL has found no mask beside a file; one out of reach is to it as if there were none."""
    return not any(path.endswith(MASK_END) for path in dataset.files)


class BandReader:
    """Reads some bands of a raster with their masks; knows the file, but holds no connection to it.

    Attributes:
        bands: Band numbers, in the order in which they are given back.
        dtype: A type that holds every one of them.
    """

    def __init__(self, dataset: DatasetReader, bands: Sequence[int], nodata: float | None) -> None:
        self.bands = tuple(bands)
        self.dtype = np.result_type(*[np.dtype(dataset.dtypes[band - 1]) for band in bands])
        self._nodata = [_nodata_of(dataset, band, nodata) for band in bands]
        self._mask_bands = [_mask_band(dataset, band, nodata) for band in bands]
        self._alpha = _alpha_band(dataset, bands)

    def read(self, dataset: DatasetReader, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """A window inside the raster: samples as stored, and which of them are data."""
        part = RasterioWindow(window.col, window.row, window.width, window.height)
        raw_CHW = _read_bands(dataset, self.bands, part, self.dtype)
        masks = {band: dataset.read_masks(band, window=part) > 0 for band in set(self._mask_bands) - {0}}
        opaque = dataset.read(self._alpha, window=part) > 0 if self._alpha else None
        present_CHW = np.empty(raw_CHW.shape, np.bool_)
        for channel, (values, nodata) in enumerate(zip(raw_CHW, self._nodata, strict=True)):
            present_CHW[channel] = has_data(values, nodata)
            if self._mask_bands[channel]:
                present_CHW[channel] &= masks[self._mask_bands[channel]]
            if opaque is not None:
                present_CHW[channel] &= opaque
        return raw_CHW, present_CHW


def working_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """A type that torch can take: 64-bit values become float32, half precision too."""
    return np.dtype(np.float32) if dtype.itemsize == 8 or dtype == np.float16 else dtype


def has_data(values: NDArray[Any], nodata: float | None) -> NDArray[np.bool_]:
    """Which samples are neither the value without data nor no number at all."""
    is_float = values.dtype.kind == "f"
    known: NDArray[np.bool_] = np.isfinite(values) if is_float else np.ones(values.shape, np.bool_)
    if nodata is None or math.isnan(nodata):
        return known
    if is_float or _fits(nodata, values.dtype):
        with np.errstate(over="ignore"):  # a value too large for the type is nowhere in the raster
            known &= values != values.dtype.type(nodata)
    return known


def _fits(value: float, dtype: np.dtype[Any]) -> bool:
    return value.is_integer() and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max


def _read_bands(
    dataset: DatasetReader, bands: Sequence[int], part: RasterioWindow, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Bands in one type; those of several types, as a VRT may have, are read one by one: rasterio asks so."""
    if len({dataset.dtypes[band - 1] for band in bands}) == 1:
        return np.asarray(dataset.read(list(bands), window=part))
    return np.stack([dataset.read(band, window=part).astype(dtype) for band in bands])


def _nodata_of(dataset: DatasetReader, band: int, setting: float | None) -> float | None:
    """The value that stands for no data in a band, as the band's own type holds it."""
    dtype = np.dtype(dataset.dtypes[band - 1])
    if setting is None and _is_wide_integer(dtype):
        return None  # rasterio tells it as a float, which cannot hold it: GDAL's mask is used
    value = dataset.nodatavals[band - 1] if setting is None else setting
    if value is None or dtype.kind != "f":
        return None if value is None else float(value)
    with np.errstate(over="ignore"):
        return float(dtype.type(value))  # bands of other types may widen it later


def _mask_band(dataset: DatasetReader, band: int, nodata_setting: float | None) -> int:
    """The band whose mask, other than by alpha or by a plain value, applies to this one; 0 for none."""
    flags = dataset.mask_flag_enums[band - 1]
    if MaskFlags.nodata in flags:
        by_gdal = MaskFlags.per_dataset in flags or _is_wide_integer(np.dtype(dataset.dtypes[band - 1]))
        return band if by_gdal and nodata_setting is None else 0
    if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
        return dataset.mask_flag_enums.index(flags) + 1  # one mask for all: read once
    return 0 if flags else band


def _alpha_band(dataset: DatasetReader, bands: Sequence[int]) -> int:
    """The band that masks by alpha, also beside declared nodata; 0 for none, and where alpha is data."""
    alphas = [band for band in dataset.indexes if dataset.colorinterp[band - 1] == ColorInterp.alpha]
    return alphas[0] if alphas and not set(alphas) & set(bands) else 0


def _is_wide_integer(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "iu" and dtype.itemsize == 8
