"""A source that is one image on its own grid: a Zarr store, a slide, or a raster that GDAL opens."""

from pipeline.config import SourceSettings
from pipeline.errors import SettingsError
from pipeline.plane_config import as_wish
from pipeline.raster.levels import LevelWish
from pipeline.raster.slide import find_slide
from pipeline.raster.source import FoundSource
from pipeline.raster.zarrs.find import find_zarr
from pipeline.raster.zarrs.image import ZarrWish
from pipeline.raster.zarrs.store import is_zarr
from pipeline.storage import normalise_url, redact

ONLY_FOR_IMAGES = ("level", "resolution", "um_per_px", "t", "z", "tissue")


def find_image(settings: SourceSettings, url: str, *, identified: bool = True) -> FoundSource:
    """Look at the image; each kind may be a pyramid. ``identified``: its store is asked who it is, too."""
    url = normalise_url(url)
    level = LevelWish(
        None if settings.level == "auto" else settings.level, settings.resolution, settings.um_per_px
    )
    if is_zarr(url):
        if settings.tissue != "off":
            raise SettingsError(f"source.tissue: auto is for slides that GDAL opens, got {redact(url)}")
        wish = ZarrWish(level, as_wish(settings.t), as_wish(settings.z), settings.nodata)
        return find_zarr(url, wish, identified=identified)
    if settings.t is not None or settings.z is not None:
        raise SettingsError(f"source.t and source.z choose planes of a Zarr source, got {redact(url)}")
    margin_px = None if settings.tissue == "off" else settings.tissue_margin_px
    return find_slide(
        url, nodata=settings.nodata, wish=level, tissue_margin_px=margin_px, identified=identified
    )


def refuse_image_settings(settings: SourceSettings) -> None:
    """Scenes laid on a grid have neither levels nor planes: asking for them would be ignored."""
    fields = type(settings).model_fields
    given = [name for name in ONLY_FOR_IMAGES if getattr(settings, name) != fields[name].default]
    if given:
        raise SettingsError(f"source.{given[0]} is for a single image, not for scenes laid on a grid")
