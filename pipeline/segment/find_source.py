"""What the settings' ``source`` names, looked at: the one place that knows every kind of source."""

from pipeline.config import SourceSettings
from pipeline.errors import SettingsError
from pipeline.raster.gdal_source import find_raster
from pipeline.raster.source import FoundSource


def find_source(settings: SourceSettings) -> FoundSource:
    """Look at the source; refuses what cannot be segmented."""
    if len(settings.urls) != 1:
        raise SettingsError(
            f"a mosaic is made of one source, got {len(settings.urls)}; "
            "use --each for one mosaic a source, or a GDAL VRT that joins them"
        )
    return find_raster(settings.urls[0], nodata=settings.nodata)
