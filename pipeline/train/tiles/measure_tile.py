"""One tile looked at: what its image and labels are, whether they fit, and what they hold, by the window."""

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from rasterio.errors import RasterioError

from pipeline.config import SourceSettings
from pipeline.errors import SourceError, TerrazzoError
from pipeline.raster.gdal_bands import gdal_environment, open_dataset
from pipeline.raster.grid import Grid
from pipeline.raster.source import BandInfo, SourceInfo
from pipeline.segment.find_source import find_source
from pipeline.storage import normalise_url
from pipeline.train.evaluate.placement import share_ground
from pipeline.train.tiles.catalog import Found, Pair
from pipeline.train.tiles.ground import offset_px
from pipeline.train.tiles.label_values import LabelValues
from pipeline.train.tiles.meaning import Meaning
from pipeline.train.tiles.settings import is_drawn
from pipeline.train.tiles.statistics import NOTHING, cheap_windows, measure_pixels
from pipeline.train.tiles.tile_labels import find_labels, label_band, open_labels
from pipeline.train.tiles.tile_reader import band_name, open_image
from pipeline.train.tiles.tile_set import IGNORE, BadTile, BandMoments, Tile, TileSet

logger = logging.getLogger(__name__)

DATE_TAGS = ("TIFFTAG_DATETIME", "EXIF_DateTimeOriginal", "EXIF_DateTime")
DATE = re.compile(r"(\d{4})[:-](\d\d)[:-](\d\d)(?:[ T](\d\d:\d\d:\d\d))?")

SAME_PLACE_PX = 0.5
"""Labels of their image's size that lie further from it belong to another place."""

EXACT_PX = 0.01
MOST_TOLD = 5


@dataclass(frozen=True)
class Looked:
    """A pair whose headers have been read.

    Attributes:
        pair: The pair.
        info: What its image says of itself.
        date: When the image was taken, if it says so.
        declared: The value that its labels declare as nodata, or None.
    """

    pair: Pair
    info: SourceInfo
    date: str | None
    declared: float | None

    @property
    def bands(self) -> tuple[BandInfo, ...]:
        """Its bands but for alpha."""
        return tuple(band for band in self.info.bands if not band.is_alpha)


def look(pair: Pair) -> Looked | BadTile:
    """Read the headers of an image and its labels, and see whether they fit."""
    try:
        info = find_source(SourceSettings(urls=(pair.image.url,)), identified=False).info
        date, declared = _tags(pair.image)[0], None
        if not is_drawn(pair.labels.url):
            found = find_labels(pair.labels.url)
            declared = _tags(pair.labels)[1]
            misfit = _misfit(pair.id, info.grid, found.info)
            if misfit:
                return pair.bad(misfit)
    except TerrazzoError as error:
        return pair.bad(f"unreadable: {error}")
    return Looked(pair, info, pair.date or date, declared)


def measure(
    looked: Looked, bands: Sequence[str], skeleton: TileSet, values: LabelValues, meaning: Meaning
) -> Tile | BadTile:
    """Read every pixel of a tile once, by the window, and hash its files.

    Args:
        looked: The pair.
        bands: Of its image, in the set's order.
        skeleton: The set without its tiles: what labels mean.
        values: What raw label values mean.
        meaning: Which of them somebody named.
    """
    pair, grid = looked.pair, looked.info.grid
    keep_nodata = looked.declared is not None and looked.declared in meaning.mapped
    try:
        counted = _count(pair, looked.info, bands, skeleton, values, keep_nodata=keep_nodata)
        hashes = pair.image.sha256(), pair.labels.sha256()
    except TerrazzoError as error:
        return pair.bad(f"unreadable: {error}")
    if isinstance(counted, str):
        return pair.bad(counted)
    class_pixels, moments = counted
    return Tile(
        id=pair.id,
        image=pair.image.url,
        labels=pair.labels.url,
        grid=grid,
        bands=tuple(bands),
        dtype=dtype_of(looked, bands),
        class_pixels=class_pixels,
        sha256=_joined(hashes),
        date=looked.date,
        group="",
        split="train",
        image_sha256=hashes[0],
        nodata_is_class=keep_nodata,
        moments=moments,
    )


def dtype_of(looked: Looked, bands: Sequence[str]) -> str:
    """A type that holds the samples of an image's bands."""
    dtypes = [np.dtype(band.dtype) for band in looked.bands if band_name(band) in bands]
    return str(np.result_type(*dtypes))


def _count(
    pair: Pair,
    info: SourceInfo,
    bands: Sequence[str],
    skeleton: TileSet,
    values: LabelValues,
    *,
    keep_nodata: bool,
) -> tuple[tuple[int, ...], tuple[BandMoments, ...]] | str:
    """Pixels of each class and moments of each band; or what is wrong with the labels."""
    class_pixels = np.zeros(IGNORE + 1, np.int64)
    moments = [NOTHING] * len(bands)
    unknown: Counter[str] = Counter()
    with (
        closing(open_image(pair.image.url, bands)) as image,
        closing(open_labels(pair.labels.url, info.grid, skeleton, values, keep_nodata=keep_nodata)) as labels,
    ):
        for window in cheap_windows(info, len(bands)):
            pixels = image.read(window)
            labels_HW, strange = labels.read(window)
            class_pixels += np.bincount(labels_HW[pixels.valid_HW], minlength=IGNORE + 1)
            moments = [total.merge(part) for total, part in zip(moments, measure_pixels(pixels), strict=True)]
            unknown += strange
    if unknown:
        told = ", ".join(f"{value} ({pixels} px)" for value, pixels in unknown.most_common(MOST_TOLD))
        return f"labels outside the classes: {told}; allowed are {_ranges(sorted(skeleton.values))}"
    if not class_pixels[:IGNORE].any():
        return "nothing is labelled where the image has data"
    return tuple(class_pixels[: len(skeleton.classes)].tolist()), tuple(moments)


def _misfit(tile: str, image: Grid, found: SourceInfo) -> str | None:
    """Why a raster cannot be an image's labels, pixel by pixel; None where it can."""
    try:
        label_band(found)
    except SourceError as error:
        return str(error)
    labels = found.grid
    if image.window != labels.window:
        return (
            f"size mismatch: the image has {image.height} × {image.width} px, "
            f"its labels {labels.height} × {labels.width} px"
        )
    if not share_ground(image, labels):
        return None  # of one size, and nothing says that they lie elsewhere
    off_px = offset_px(image, labels)
    if not off_px <= SAME_PLACE_PX:  # also where no way leads from one to the other
        return f"labels lie elsewhere: up to {off_px:.1f} px from their image on the ground"
    if off_px > EXACT_PX:
        logger.warning("labels of tile %s lie %.2f px off their image; taken pixel by pixel", tile, off_px)
    return None


def _tags(found: Found) -> tuple[str | None, float | None]:
    """The date that a raster carries, and the value that it declares as nodata; of Zarr, neither."""
    if len(found.objects) > 1:
        return None, None
    url = normalise_url(found.url)
    with gdal_environment(num_threads=1), open_dataset(url) as dataset:
        try:
            tags, declared = dataset.tags(), dataset.nodatavals[0]
        except RasterioError:  # a broken tag is no reason to refuse a raster that can be read
            return None, None
    dates = (DATE.match(tags[name]) for name in DATE_TAGS if name in tags)
    date = next((match for match in dates if match and match[1] != "0000"), None)
    if date is None:
        return None, declared
    return f"{date[1]}-{date[2]}-{date[3]}{f'T{date[4]}' if date[4] else ''}", declared


def _joined(hashes: Sequence[str]) -> str:
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()


def _ranges(values: Sequence[int]) -> str:
    """Numbers in few words: 0 to 20, 255."""
    told: list[list[int]] = []
    for value in values:
        if told and value == told[-1][1] + 1:
            told[-1][1] = value
        else:
            told.append([value, value])
    return ", ".join(str(low) if low == high else f"{low} to {high}" for low, high in told)
