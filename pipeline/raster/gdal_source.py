"""A single raster that GDAL opens: COG, VRT, PNG, slide and a hundred other formats."""

import itertools
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, LifoQueue
from typing import Any, Self

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.session import DummySession
from rasterio.windows import Window as RasterioWindow

from pipeline.errors import BlockError, SourceError
from pipeline.raster.grid import Grid
from pipeline.raster.source import MAX_BANDS, BandInfo, Identity, Pixels, SourceInfo
from pipeline.raster.window import Window
from pipeline.storage import (
    Folder,
    gdal_options,
    gdal_path,
    is_local,
    is_signed,
    normalise_url,
    redact,
    redact_text,
    split_url,
)

# Rasters without a place on the ground are welcome here: rasterio's warning would tell nobody anything.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)

GDAL_CACHE_BYTES = 256 << 20
REMOTE_READS = 8
"""Ranges asked for at once from a bucket, where waiting costs more than decoding."""


@dataclass(frozen=True)
class GdalSpec:
    """How to open one raster.

    Attributes:
        url: Where it lies, normalised.
        bands: Band numbers in the model's order.
        nodata: Value without data; None: as the file declares.
        num_threads: CPU threads that GDAL may decode with.
    """

    url: str
    bands: tuple[int, ...]
    nodata: float | None
    num_threads: int = 1

    def open(self) -> "GdalSource":
        """The source."""
        return GdalSource(self)

    def with_threads(self, num_threads: int) -> Self:
        """The same source, decoded by so many CPU threads."""
        return replace(self, num_threads=num_threads)

    def result_fields(self) -> Mapping[str, Any]:
        """Whatever, besides the file's identity, decides the pixels."""
        return {"bands": list(self.bands), "nodata": self.nodata}


@dataclass(frozen=True)
class FoundRaster:
    """One raster that has been looked at.

    Attributes:
        url: Where it lies, normalised.
        nodata: The setting; None: as the file declares.
        info: What it says of itself.
    """

    url: str
    nodata: float | None
    info: SourceInfo

    def spec(self, bands: tuple[int, ...]) -> GdalSpec:
        """How to open it for these bands."""
        return GdalSpec(self.url, bands, self.nodata)


def find_raster(url: str, *, nodata: float | None = None) -> FoundRaster:
    """Look at the raster at a URL."""
    url = normalise_url(url)
    return FoundRaster(url, nodata, inspect_raster(url))


def inspect_raster(url: str) -> SourceInfo:
    """What a raster says of itself; refuses what cannot be segmented."""
    url = normalise_url(url)
    with _gdal(num_threads=1), _open_dataset(url) as dataset:
        if not dataset.count:
            raise SourceError(
                f"a source must have 1 to {MAX_BANDS} bands, got a container without any: {redact(url)}; "
                "give one of the rasters in it"
            )
        bands = tuple(
            BandInfo(number, description or None, dtype, interp == ColorInterp.alpha)
            for number, description, dtype, interp in zip(
                dataset.indexes, dataset.descriptions, dataset.dtypes, dataset.colorinterp, strict=True
            )
        )
        grid = Grid(
            dataset.height,
            dataset.width,
            dataset.transform,
            dataset.crs.to_wkt() if dataset.crs else None,
        )
        block_shape = tuple(dataset.block_shapes[0])
    if len(bands) > MAX_BANDS:
        raise SourceError(f"a source must have 1 to {MAX_BANDS} bands, got {len(bands)} in {redact(url)}")
    odd = [band.dtype for band in bands if "complex" in band.dtype]
    if odd:
        raise SourceError(f"bands must hold real numbers, got {odd[0]} in {redact(url)}")
    return SourceInfo(redact(url), grid, bands, (identify(url),), (block_shape[0], block_shape[1]))


class GdalSource:
    """One raster, open.

    Reads may come from several threads: a GDAL data set serves one thread at a time, so each read takes one
    from a pool, and opens another only when all are in use.
    """

    def __init__(self, spec: GdalSpec) -> None:
        self.spec = spec
        self.info = inspect_raster(spec.url)
        self._idle: LifoQueue[DatasetReader] = LifoQueue()
        self._strip_reads = 1 if is_local(spec.url) else REMOTE_READS
        self._strips = ThreadPoolExecutor(self._strip_reads, thread_name_prefix="read")
        with self._dataset() as dataset:
            self._file_dtype = np.result_type(*[np.dtype(dataset.dtypes[band - 1]) for band in spec.bands])
            self._nodata = [_nodata_of(dataset, band, spec.nodata) for band in spec.bands]
            self._mask_bands = [_mask_band(dataset, band, spec.nodata) for band in spec.bands]
            self._alpha = _alpha_band(dataset, spec.bands)

    def read(self, window: Window) -> Pixels:
        """The pixels of a window, which may pass the raster's edges."""
        inside = window.intersect(self.info.grid.window)
        samples = np.zeros((len(self.spec.bands), *window.shape), _working_dtype(self._file_dtype))
        present = np.zeros(samples.shape, np.bool_)
        if inside.num_pixels:
            strips = _split_rows(inside, self.info.block_shape[0], self._strip_reads)
            jobs = [
                self._strips.submit(self._read_strip, strip, window, samples, present) for strip in strips
            ]
            for job in jobs:
                job.result()
        valid: NDArray[np.bool_] = np.any(present, axis=0)
        missing = ~present & valid
        samples[~present] = 0
        return Pixels(samples, valid, missing if missing.any() else None)

    def close(self) -> None:
        """Close every data set."""
        self._strips.shutdown()
        while True:
            try:
                self._idle.get_nowait().close()
            except Empty:
                return

    def _read_strip(
        self, strip: Window, frame: Window, samples: NDArray[Any], present: NDArray[np.bool_]
    ) -> None:
        """Fill one strip's part of the frame's arrays; strips do not overlap, so threads never meet."""
        rows, cols = strip.relative_to(frame).slices
        part = RasterioWindow(strip.col, strip.row, strip.width, strip.height)
        with self._dataset() as dataset:
            raw = _read_bands(dataset, self.spec.bands, part, self._file_dtype)
            masks = {band: dataset.read_masks(band, window=part) > 0 for band in set(self._mask_bands) - {0}}
            opaque = dataset.read(self._alpha, window=part) > 0 if self._alpha else None
        for channel, (values, nodata) in enumerate(zip(raw, self._nodata, strict=True)):
            has_data = present[channel, rows, cols]
            has_data[:] = _has_data(values, nodata)
            if self._mask_bands[channel]:
                has_data &= masks[self._mask_bands[channel]]
            if opaque is not None:
                has_data &= opaque
        with np.errstate(over="ignore"):  # what overflows float32 is infinite now, and no data
            samples[:, rows, cols] = raw
        if raw.dtype != samples.dtype:
            present[:, rows, cols] &= np.isfinite(samples[:, rows, cols])

    @contextmanager
    def _dataset(self) -> Iterator[DatasetReader]:
        with _gdal(num_threads=self.spec.num_threads):
            try:
                dataset = self._idle.get_nowait()
            except Empty:
                dataset = _open_dataset(self.spec.url)
            try:
                yield dataset
            except RasterioError as error:
                dataset.close()
                raise BlockError(f"cannot read {redact(self.spec.url)}: {redact_text(str(error))}") from error
            self._idle.put(dataset)


def _open_dataset(url: str) -> DatasetReader:
    try:
        return rasterio.open(gdal_path(url))
    except RasterioError as error:
        if is_local(url) and not Path(url).exists():
            raise SourceError(f"there must be a raster at {url}; there is no such file") from error
        raise SourceError(f"cannot open {redact(url)} as a raster: {redact_text(str(error))}") from error


def _gdal(*, num_threads: int) -> rasterio.Env:
    options = gdal_options(cache_bytes=GDAL_CACHE_BYTES, num_threads=num_threads)
    # GDAL reads the credential variables itself; rasterio's own sessions would ask for boto3.
    return rasterio.Env(session=DummySession(), **options)


def identify(url: str) -> Identity:
    """What tells this version of a file from another, as far as its store says."""
    if is_signed(url):
        return Identity(redact(url), None, None, None)  # asking for more would need another signature
    parent, name = split_url(url)
    found = Folder(parent).head(name)
    if found is None:
        return Identity(redact(url), None, None, None)
    # A local file's ETag holds its inode, which a copy changes; its size and time say enough.
    etag = None if is_local(url) else found.etag
    return Identity(redact(url), found.size_bytes, etag, found.modified)


def _working_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """A type that torch can take: 64-bit values become float32, half precision too."""
    return np.dtype(np.float32) if dtype.itemsize == 8 or dtype == np.float16 else dtype


def _has_data(values: NDArray[Any], nodata: float | None) -> NDArray[np.bool_]:
    is_float = values.dtype.kind == "f"
    has_data: NDArray[np.bool_] = np.isfinite(values) if is_float else np.ones(values.shape, np.bool_)
    if nodata is None or math.isnan(nodata):
        return has_data
    if is_float or _fits(nodata, values.dtype):
        with np.errstate(over="ignore"):  # a value too large for the type is nowhere in the raster
            has_data &= values != values.dtype.type(nodata)
    return has_data


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


def _split_rows(window: Window, block_rows: int, parts: int) -> list[Window]:
    """A window cut between the file's own rows of blocks, so that no block is fetched twice."""
    first, last = window.row // block_rows, (window.row_stop - 1) // block_rows
    step = max(1, math.ceil((last - first + 1) / parts)) * block_rows
    cuts = range((first * block_rows) + step, window.row_stop, step)
    edges = [window.row, *cuts, window.row_stop]
    return [
        Window.from_bounds(start, window.col, stop, window.col_stop)
        for start, stop in itertools.pairwise(edges)
    ]
