"""A single raster that GDAL opens: COG, VRT, PNG, slide and a hundred other formats."""

import itertools
import math
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from queue import Empty, LifoQueue
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader

from pipeline.errors import BlockError, SourceError
from pipeline.raster.common_names import common_names
from pipeline.raster.gdal_bands import (
    GDAL_CACHE_BYTES,
    MASK_END,
    BandReader,
    GdalLevel,
    gdal_environment,
    lacks_mask,
    open_dataset,
    said,
    working_dtype,
)
from pipeline.raster.grid import Grid
from pipeline.raster.source import MAX_BANDS, BandInfo, Identity, Pixels, SourceInfo
from pipeline.raster.window import Window
from pipeline.storage import (
    Folder,
    from_gdal_path,
    is_local,
    is_signed,
    normalise_url,
    redact,
    split_url,
)

# Rasters without a place on the ground are welcome here: rasterio's warning would tell nobody anything.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)

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
        level: A coarser copy in the same file; None: the raster itself.
        identities: Who the file was when it was looked at; whoever opens it does not ask its store again.
    """

    url: str
    bands: tuple[int, ...]
    nodata: float | None
    num_threads: int = 1
    level: GdalLevel | None = None
    identities: tuple[Identity, ...] = ()

    def open(self) -> "GdalSource":
        """The source."""
        return GdalSource(self)

    def with_threads(self, num_threads: int) -> Self:
        """The same source, decoded by so many CPU threads."""
        return replace(self, num_threads=num_threads)

    def result_fields(self) -> Mapping[str, Any]:
        """Whatever, besides the file's identity, decides the pixels."""
        return {"bands": list(self.bands), "nodata": self.nodata}

    def memory_bytes(self, halo: Window) -> int:  # noqa: ARG002 - blocks of a file are cached, not windows
        """What GDAL keeps of blocks that it has decoded."""
        return GDAL_CACHE_BYTES


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
        return GdalSpec(self.url, bands, self.nodata, identities=self.info.identities)

    def identities_in(self, window: Window) -> tuple[Identity, ...]:  # noqa: ARG002 - one file shows everywhere
        """The files that may show in a window: the one there is."""
        return self.info.identities


def find_raster(url: str, *, nodata: float | None = None, identified: bool = True) -> FoundRaster:
    """Look at the raster at a URL; ``identified``: whether its store is asked who it is, too."""
    url = normalise_url(url)
    info = inspect_raster(url) if identified else describe_raster(url)
    return FoundRaster(url, nodata, info)


def inspect_raster(url: str, level: GdalLevel | None = None) -> SourceInfo:
    """What a raster says of itself; refuses what cannot be segmented."""
    url = normalise_url(url)
    with gdal_environment(num_threads=1, url=url), open_dataset(url, level) as dataset:
        info, others = _describe(dataset, url), _files_behind(dataset, url)
    return replace(info, identities=(identify(url), *map(identify, others)))


def _files_behind(dataset: DatasetReader, url: str) -> list[str]:
    """Other files that decide a raster's pixels: those a VRT is made of, and a mask beside it."""
    is_made_of_others = dataset.driver == "VRT"
    paths = (path for path in dataset.files if is_made_of_others or path.endswith(MASK_END))
    urls = {normalise_url(found) for path in paths if (found := from_gdal_path(path)) is not None}
    return sorted(urls - {url})


def describe_raster(url: str, level: GdalLevel | None = None, *, alone: bool = False) -> SourceInfo:
    """What the raster at a normalised URL says of itself, without asking its store who it is.

    Args:
        url: Where it lies.
        level: A coarser copy in the same file; None: the raster itself.
        alone: Whether it is known that nothing lies beside it.
    """
    with gdal_environment(num_threads=1, url=url, alone=alone), open_dataset(url, level) as dataset:
        return _describe(dataset, url)


def _describe(dataset: DatasetReader, url: str) -> SourceInfo:
    if not dataset.count:
        raise SourceError(
            f"a source must have 1 to {MAX_BANDS} bands, got a container without any: {redact(url)}; "
            "give one of the rasters in it"
        )
    bands = tuple(_describe_band(dataset, number) for number in dataset.indexes)
    if len(bands) > MAX_BANDS:
        raise SourceError(f"a source must have 1 to {MAX_BANDS} bands, got {len(bands)} in {redact(url)}")
    odd = [band.dtype for band in bands if "complex" in band.dtype]
    if odd:
        raise SourceError(f"bands must hold real numbers, got {odd[0]} in {redact(url)}")
    crs_wkt = dataset.crs.to_wkt() if dataset.crs else None
    grid = Grid(dataset.height, dataset.width, dataset.transform, crs_wkt)
    block_height, block_width = dataset.block_shapes[0]
    return SourceInfo(redact(url), grid, bands, (), (block_height, block_width))


def _describe_band(dataset: DatasetReader, number: int) -> BandInfo:
    index = number - 1
    name = dataset.descriptions[index] or None
    return BandInfo(
        number,
        name,
        dataset.dtypes[index],
        dataset.colorinterp[index] == ColorInterp.alpha,
        aliases=common_names(name),
        scale=dataset.scales[index],
        offset=dataset.offsets[index],
    )


class GdalSource:
    """One raster, open.

    Reads may come from several threads: a GDAL data set serves one thread at a time, so each read takes one
    from a pool, and opens another only when all are in use.
    """

    def __init__(self, spec: GdalSpec) -> None:
        self.spec = spec
        self._idle: LifoQueue[DatasetReader] = LifoQueue()
        self._strip_reads = 1 if is_local(spec.url) else REMOTE_READS
        self._strips = ThreadPoolExecutor(self._strip_reads, thread_name_prefix="read")
        with self._dataset() as dataset:
            self.info = replace(_describe(dataset, spec.url), identities=spec.identities)
            self._reader = BandReader(dataset, spec.bands, spec.nodata)

    def read(self, window: Window) -> Pixels:
        """The pixels of a window, which may pass the raster's edges."""
        inside = window.intersect(self.info.grid.window)
        samples = np.zeros((len(self.spec.bands), *window.shape), working_dtype(self._reader.dtype))
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
        with self._dataset() as dataset:
            raw, present[:, rows, cols] = self._reader.read(dataset, strip)
        with np.errstate(over="ignore"):  # what overflows float32 is infinite now, and no data
            samples[:, rows, cols] = raw
        if raw.dtype != samples.dtype:
            present[:, rows, cols] &= np.isfinite(samples[:, rows, cols])

    @contextmanager
    def _dataset(self) -> Iterator[DatasetReader]:
        with gdal_environment(num_threads=self.spec.num_threads, url=self.spec.url):
            try:
                dataset = self._idle.get_nowait()
            except Empty:
                dataset = open_dataset(self.spec.url, self.spec.level, looked_at=True)
                _check_mask(dataset, self.spec)
            try:
                yield dataset
            except RasterioError as error:
                dataset.close()
                raise BlockError(f"cannot read {redact(self.spec.url)}: {said(error)}") from error
            except BaseException:
                dataset.close()
                raise
            self._idle.put(dataset)


def _check_mask(dataset: DatasetReader, spec: GdalSpec) -> None:
    """Refuse to read past a mask that was there when the raster was looked at."""
    masks = [identity.url for identity in spec.identities if identity.url.endswith(MASK_END)]
    if masks and dataset.driver != "VRT" and lacks_mask(dataset):
        dataset.close()
        raise SourceError(
            f"the mask {masks[0]} was there when the run was planned, but cannot be read now; check whether "
            "its store answers, and go on"
        )


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
