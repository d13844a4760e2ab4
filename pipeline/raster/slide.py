"""Pyramidal rasters that GDAL opens, slides above all: levels, size of pixels in µm, and tissue.

A level is an overview by GDAL's count (overviews and SubIFDs of a TIFF, whatever other drivers have), or,
where a TIFF holds none, one of its further pages: tiled, of the same bands and proportions, and smaller than
the one before. That is how scanners write SVS files; their thumbnails are not tiled and their labels are of
other proportions. A level is read as a raster of its own: nothing is resampled.

The corner of a slide's first pixel is at 0 µm, whatever the level.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from affine import Affine
from rasterio.io import DatasetReader

from pipeline.errors import SettingsError
from pipeline.raster.gdal_bands import GdalLevel, gdal_environment, open_dataset
from pipeline.raster.gdal_source import GdalSpec, describe_raster, find_raster
from pipeline.raster.grid import Grid
from pipeline.raster.levels import MICROMETRES, Level, LevelWish, choose_level
from pipeline.raster.source import FoundSource, Identity, Pixels, RasterSource, SourceInfo
from pipeline.raster.tissue import CELL_PX, TissueMask, find_tissue
from pipeline.raster.window import Window
from pipeline.storage import normalise_url, redact

COARSEST_SLIDE_UM = 20.0
"""A resolution tag that says more is a printer's or a screen's: 72 dots an inch are 353 µm."""

PROPORTIONS = 0.02
"""By how much a level's factors along rows and columns may differ: small ones are rounded."""

OME_UNITS = {
    "µm": "micrometer",
    "um": "micrometer",
    "nm": "nanometer",
    "mm": "millimeter",
    "cm": "centimeter",
}
TIFF_UNITS = {"2": "inch", "3": "centimeter"}


@dataclass(frozen=True)
class SlideLevel:
    """One level of a pyramid.

    Attributes:
        level: Where GDAL finds it; None: the raster itself.
        height: Rows.
        width: Columns.
        factor: Rows and columns of the finest level for each of its own.
    """

    level: GdalLevel | None
    height: int
    width: int
    factor: tuple[float, float]


@dataclass(frozen=True)
class Pyramid:
    """A raster's levels.

    Attributes:
        levels: From the finest.
        pixel_um: Height and width of the finest pixels in µm; None where the file does not tell.
    """

    levels: tuple[SlideLevel, ...]
    pixel_um: tuple[float, float] | None


@dataclass(frozen=True)
class SlideSpec:
    """How to open a level.

    Attributes:
        base: The raster.
        info: What the level says of itself, its pixels in µm.
        number: The level's number, from 0.
        tissue: Where there is tissue; None: everywhere.
    """

    base: GdalSpec
    info: SourceInfo
    number: int
    tissue: TissueMask | None

    @property
    def bands(self) -> tuple[int, ...]:
        """Band numbers in the model's order."""
        return self.base.bands

    def open(self) -> "SlideSource":
        """The source."""
        return SlideSource(self.base.open(), self.info, self.tissue)

    def with_threads(self, num_threads: int) -> Self:
        """The same source, decoded by so many CPU threads."""
        return replace(self, base=self.base.with_threads(num_threads))

    def result_fields(self) -> Mapping[str, Any]:
        """Whatever, besides the file's identity, decides the pixels."""
        tissue = {"tissue": dict(self.tissue.result_fields())} if self.tissue else {}
        return {**self.base.result_fields(), "level": self.number, **tissue}

    def memory_bytes(self, halo: Window) -> int:
        """What GDAL keeps of blocks that it has decoded, and the mask."""
        return self.base.memory_bytes(halo) + (self.tissue.cells.nbytes if self.tissue else 0)


class SlideSource:
    """A level, open. Where a window holds no tissue, nothing is read."""

    def __init__(self, base: RasterSource, info: SourceInfo, tissue: TissueMask | None) -> None:
        self.info = info
        self._base = base
        self._tissue = tissue

    def read(self, window: Window) -> Pixels:
        """The pixels of a window, which may pass the edges."""
        if self._tissue is None:
            return self._base.read(window)
        wanted = self._tissue.covers(window)
        if wanted.any():
            return replace(self._base.read(window), wanted_HW=wanted)
        nothing = self._base.read(Window(window.row, window.col, 0, 0)).samples_CHW
        samples = np.zeros((len(nothing), *window.shape), nothing.dtype)
        return Pixels(samples, np.zeros(window.shape, np.bool_), None, wanted)

    def close(self) -> None:
        """Close the raster."""
        self._base.close()


@dataclass(frozen=True)
class FoundSlide:
    """A level that has been looked at.

    Attributes:
        url: The raster, normalised.
        nodata: The setting; None: as the file declares.
        level: Where GDAL finds the level.
        number: Its number, from 0.
        info: What it says of itself.
        tissue: Where there is tissue; None: everywhere.
    """

    url: str
    nodata: float | None
    level: GdalLevel | None
    number: int
    info: SourceInfo
    tissue: TissueMask | None

    def spec(self, bands: tuple[int, ...]) -> SlideSpec:
        """How to open it for these bands."""
        base = GdalSpec(self.url, bands, self.nodata, level=self.level)
        return SlideSpec(base, self.info, self.number, self.tissue)

    def identities_in(self, window: Window) -> tuple[Identity, ...]:  # noqa: ARG002 - one file shows everywhere
        """The files that may show in a window: the one there is."""
        return self.info.identities


def find_slide(
    url: str,
    *,
    nodata: float | None,
    wish: LevelWish,
    tissue_margin_px: int | None,
    identified: bool = True,
) -> FoundSource:
    """Look at a raster; one that is no slide, and of which no level is asked, is found as it always was.

    Args:
        url: Where it lies.
        nodata: Value without data; None: as the file declares.
        wish: Which level.
        tissue_margin_px: By how much tissue is grown; None: bare glass is computed, too.
        identified: Whether the raster's store is asked who it is.
    """
    found = find_raster(url, nodata=nodata, identified=identified)
    is_asked = wish.is_given or tissue_margin_px is not None
    if found.info.grid.is_georeferenced and not is_asked:
        return found
    pyramid = read_pyramid(found.url, found.info)
    if pyramid.pixel_um is None and not is_asked:
        return found
    unit = "micrometer" if pyramid.pixel_um else None
    grids = [_grid(level, pyramid.pixel_um, found.info.grid) for level in pyramid.levels]
    levels = [
        Level(f"1/{level.factor[0]:g}", level.height, level.width, math.sqrt(grid.pixel_area))
        for level, grid in zip(pyramid.levels, grids, strict=True)
    ]
    number = choose_level(levels, wish, unit=unit, where=found.info.url)
    chosen = pyramid.levels[number]
    info = replace(
        describe_raster(found.url, chosen.level),
        identities=found.info.identities,
        grid=grids[number],
        is_microscopy=pyramid.pixel_um is not None,
    )
    tissue = None
    if tissue_margin_px is not None:
        tissue = _tissue(found.url, nodata, pyramid, number, info, tissue_margin_px)
    return FoundSlide(found.url, nodata, chosen.level, number, info, tissue)


def read_pyramid(url: str, info: SourceInfo) -> Pyramid:
    """The levels of the raster at a normalised URL, and how large its pixels are."""
    whole = SlideLevel(None, info.grid.height, info.grid.width, (1.0, 1.0))
    with gdal_environment(num_threads=1, url=url), open_dataset(url, looked_at=True) as dataset:
        pixel_um = None if info.grid.is_georeferenced else pixel_um_of(dataset.tags())
        levels = [GdalLevel(overview=index) for index in range(len(dataset.overviews(1)))]
        if not levels:
            levels = [GdalLevel(directory=number) for number in _directories(dataset)]
        found = [whole]
        for level in levels:
            with open_dataset(url, level, looked_at=True) as smaller:
                factor = _factors(whole, smaller.shape)
                if level.directory is None or _continues(found[-1], dataset, smaller):
                    found.append(SlideLevel(level, smaller.height, smaller.width, factor))
    return Pyramid(tuple(found), pixel_um)


def _directories(dataset: DatasetReader) -> list[int]:
    """Numbers of a TIFF's pages after the first."""
    names = (re.match(r"GTIFF_DIR:(\d+):", name) for name in dataset.subdatasets)
    return [int(name[1]) for name in names if name and int(name[1]) > 1]


def _continues(last: SlideLevel, first: DatasetReader, page: DatasetReader) -> bool:
    """Whether a page is the next level, rather than a label, a thumbnail or another image."""
    block_height, block_width = page.block_shapes[0]
    is_tiled = block_width != page.width or block_width == block_height
    rows, cols = first.height / page.height, first.width / page.width
    in_proportion = abs(rows / cols - 1) <= PROPORTIONS + 1 / min(page.shape)
    is_smaller = page.height < last.height and page.width < last.width
    return is_tiled and in_proportion and is_smaller and page.dtypes == first.dtypes


def _factors(whole: SlideLevel, shape: tuple[int, int]) -> tuple[float, float]:
    """How many pixels become one: whole numbers, where the sizes allow, since only the last pixel is cut."""

    def factor(full: int, size: int) -> float:
        nearest = max(1, round(full / size))
        return float(nearest) if full // nearest <= size <= -(-full // nearest) else full / size

    return factor(whole.height, shape[0]), factor(whole.width, shape[1])


def _grid(level: SlideLevel, pixel_um: tuple[float, float] | None, whole: Grid) -> Grid:
    rows, cols = level.factor
    if pixel_um is None:
        coarser = whole.transform @ Affine.scale(cols, rows)
        return Grid(level.height, level.width, coarser, whole.crs_wkt)
    transform = Affine.scale(pixel_um[1] * cols, pixel_um[0] * rows)
    return Grid(level.height, level.width, transform, None, "micrometer")


def pixel_um_of(tags: Mapping[str, str]) -> tuple[float, float] | None:
    """Height and width of a pixel in µm: by Aperio's words, by OME-XML, or by the tags of resolution."""
    description = tags.get("TIFFTAG_IMAGEDESCRIPTION", "")
    aperio = re.search(r"\bMPP\s*=\s*([^\s|]+)", description)
    if aperio and (side := _positive(aperio[1])):
        return side, side
    by_ome = [_physical_size(description, axis) for axis in ("Y", "X")]
    if by_ome[0] and by_ome[1]:
        return by_ome[0], by_ome[1]
    unit = TIFF_UNITS.get(tags.get("TIFFTAG_RESOLUTIONUNIT", "")[:1])
    rows, cols = (_positive(tags.get(f"TIFFTAG_{axis}RESOLUTION", "")) for axis in ("Y", "X"))
    if unit is None or rows is None or cols is None:
        return None
    height, width = MICROMETRES[unit] / rows, MICROMETRES[unit] / cols
    return (height, width) if max(height, width) <= COARSEST_SLIDE_UM else None


def _physical_size(description: str, axis: str) -> float | None:
    """What OME-XML says of one axis of its first image, in µm."""
    pixels = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", description)
    size = re.search(rf'\bPhysicalSize{axis}="([^"]+)"', pixels[0]) if pixels else None
    if pixels is None or size is None:
        return None
    unit = re.search(rf'\bPhysicalSize{axis}Unit="([^"]+)"', pixels[0])
    name = OME_UNITS.get(unit[1].replace("\u03bc", "µ") if unit else "µm")
    side = _positive(size[1])
    return side * MICROMETRES[name] if name and side else None


def _positive(text: str) -> float | None:
    """What a file says as a number; None where it is none, or cannot be a length."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < math.inf else None


def _tissue(
    url: str, nodata: float | None, pyramid: Pyramid, number: int, info: SourceInfo, margin_px: int
) -> TissueMask:
    """The mask, found on the coarsest level whose pixels are no larger than a cell."""
    if len(info.bands) < 3 or {band.dtype for band in info.bands[:3]} != {"uint8"}:
        raise SettingsError(
            f"source.tissue: auto needs red, green and blue of 8 bits, got {len(info.bands)} bands of "
            f"{info.bands[0].dtype} in {redact(normalise_url(url))}; leave it off"
        )
    read = pyramid.levels[number]
    fitting = [
        level
        for level in pyramid.levels[number:]
        if max(level.factor[0] / read.factor[0], level.factor[1] / read.factor[1]) <= CELL_PX
    ]
    overview = fitting[-1]
    source = GdalSpec(url, (1, 2, 3), nodata, level=overview.level).open()
    try:
        factor = overview.factor[0] / read.factor[0], overview.factor[1] / read.factor[1]
        return find_tissue(source, factor=factor, margin_px=margin_px)
    finally:
        source.close()
