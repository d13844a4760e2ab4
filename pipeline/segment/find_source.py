"""What the settings' ``source`` names, looked at: the one place that knows every kind of source."""

from pipeline.config import SourceSettings
from pipeline.raster.scenes.find import Quality, ScenesWish, find_scenes
from pipeline.raster.scenes.listing import BAND
from pipeline.raster.scenes.patterns import has_wildcard
from pipeline.raster.scenes.scene import PRESETS, QualityRule
from pipeline.raster.scenes.target import GridWish
from pipeline.raster.source import FoundSource
from pipeline.raster.stac_search import Search
from pipeline.segment.find_image import find_image, refuse_image_settings
from pipeline.source_config import GridSettings, QualityMaskSettings, StacSettings
from pipeline.storage import normalise_url


def find_source(settings: SourceSettings, *, identified: bool = True) -> FoundSource:
    """Look at the source; refuses what cannot be segmented.

    Args:
        settings: What names it.
        identified: Whether a single raster's store is asked who it is. Whoever only reads it, as training
            reads a tile again and again, is spared that request; scenes are always asked.
    """
    url = single_raster(settings)
    if url is not None:
        return find_image(settings, url, identified=identified)
    refuse_image_settings(settings)
    return find_scenes(_scenes_wish(settings))


def single_raster(settings: SourceSettings) -> str | None:
    """The URL of a source that is one raster on its own grid; None for scenes that must be laid on one."""
    if (
        len(settings.urls) != 1
        or settings.band_files
        or settings.grid.is_given
        or settings.quality_mask.is_given
    ):
        return None
    url = settings.urls[0]
    return None if BAND in url or has_wildcard(normalise_url(url)) else url


def _scenes_wish(settings: SourceSettings) -> ScenesWish:
    stac = settings.stac
    return ScenesWish(
        urls=settings.urls,
        index=settings.index,
        search=_search(stac) if stac.is_given else None,
        assets=stac.assets,
        band_files=settings.band_files,
        quality=_quality(settings.quality_mask) if settings.quality_mask.is_given else None,
        nodata=settings.nodata,
        scaled=settings.scale == "metadata",
        order=settings.order,
        composite=settings.composite,
        resampling=settings.resampling,
        grid=_grid_wish(settings.grid),
    )


def _search(stac: StacSettings) -> Search:
    return Search(
        url=stac.url,
        file=stac.file,
        collections=stac.collections,
        bbox=stac.bbox,
        datetime=stac.datetime,
        query=stac.query,
        cloud_cover_max=stac.cloud_cover_max,
        limit=stac.limit,
    )


def _grid_wish(grid: GridSettings) -> GridWish:
    size = grid.resolution
    return GridWish(
        crs=grid.crs,
        resolution=(size, size) if isinstance(size, float) else size,
        bounds=grid.bounds,
        origin=grid.origin,
        like=grid.like,
    )


def _quality(mask: QualityMaskSettings) -> Quality:
    preset = PRESETS[mask.preset] if mask.preset else QualityRule((), ())
    rule = QualityRule(
        preset.values if mask.values is None else mask.values,
        preset.bits if mask.bits is None else mask.bits,
    )
    return Quality(rule, mask.file, mask.band)
