"""What a nightly run must be given so that one night can be told from the next."""

from pipeline.config import RunConfig
from pipeline.errors import MismatchError, SettingsError, SourceError
from pipeline.segment.find_source import single_raster
from pipeline.segment.inspect import Inspection
from pipeline.segment.nightly.previous import Previous
from pipeline.source_config import GridSettings

MOST_NAMED = 5


def check_nightly(config: RunConfig, inspection: Inspection, previous: Previous | None) -> None:
    """Refuse a source whose grid might move, or whose files might change unseen."""
    _check_identities(inspection)
    if inspection.source.stack is not None:
        raise SettingsError(
            "incremental.previous is for mosaics of one plane, got a source of several; choose one by "
            "source.t and source.z, or leave incremental.previous out"
        )
    if single_raster(config.source) is not None:
        if previous is not None:
            _check_same_grid(inspection, previous)
        return
    lacking = missing_of(config.source.grid)
    if lacking:
        raise SettingsError(
            "a nightly run of scenes must be given source.grid in full (like; or crs, resolution, bounds and "
            f"origin), but {' and '.join(lacking)} must still be given; chosen from the scenes, the grid "
            "would move with the first new one"
        )


def missing_of(grid: GridSettings) -> list[str]:
    """What a grid must still be told so that scenes have no say in it."""
    if grid.like is not None:
        return []
    parts = {
        "crs": grid.crs,
        "resolution": grid.resolution,
        "bounds": grid.bounds,
        "origin": grid.origin,
    }
    return [name for name, part in parts.items() if part is None]


def _check_same_grid(inspection: Inspection, previous: Previous) -> None:
    now = inspection.source.grid.to_json()
    before = previous.plan["fingerprint_fields"]["source"]["grid"]
    if {name: now.get(name) for name in before} != before:
        raise MismatchError(
            f"the source's grid must be the one of {previous.name}, got {now['height']} × {now['width']} px "
            f"at {now['transform']}, where it was {before['height']} × {before['width']} px at "
            f"{before['transform']}; give source.grid, or another output for another grid"
        )


def _check_identities(inspection: Inspection) -> None:
    identities = inspection.source.identities
    unknown = [one.url for one in identities if one.etag is None and one.modified is None]
    if unknown:
        raise SourceError(
            "a nightly run must tell a file's versions apart by ETag or time, but these say neither: "
            f"{', '.join(unknown[:MOST_NAMED])}{' and more' if len(unknown) > MOST_NAMED else ''}; "
            "give URLs that answer without a signature"
        )
    virtual = [one.url for one in identities if one.url.lower().endswith((".vrt", ".vrt.gz"))]
    if virtual:
        raise SettingsError(
            "a nightly run must see every file it is made of, but a VRT hides them, and stays as it is when "
            f"they change: {virtual[0]}; list its files in source.urls or source.index, with source.grid"
        )
