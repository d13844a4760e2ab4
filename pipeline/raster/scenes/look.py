"""Look at the files of many scenes at once: what they say of themselves, and who they are.

A file is opened only where its list does not say all of that; every file is asked for its identity, a light
request, save where the list gives a checksum or the address is signed and good for reading only.
"""

from collections.abc import Callable, Container, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from rasterio.crs import CRS

from pipeline.errors import SourceError, StorageError
from pipeline.raster.gdal_source import describe_raster, identify
from pipeline.raster.grid import Grid
from pipeline.raster.scenes.beside import BUCKETS, stored
from pipeline.raster.scenes.entry import Asset, Entry, Facts
from pipeline.raster.scenes.order import NAMED_AT_MOST
from pipeline.raster.source import Identity
from pipeline.storage import is_local, is_signed, redact

OPENED_AT_ONCE = 16
ASKED_AT_ONCE = 32

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


def look_at(entries: Sequence[Entry], alone: Container[str]) -> dict[str, Facts]:
    """What every file is, by URL; refuses with the list of those that cannot be read.

    Args:
        entries: The scenes.
        alone: Files beside which nothing lies.
    """
    assets = {asset.url: asset for entry in entries for asset in entry.files}
    to_open = [url for url, asset in assets.items() if asset.facts is None]
    found = {url: asset.facts for url, asset in assets.items() if asset.facts is not None}
    facts = _all(lambda url: _facts(url, alone=url in alone), to_open, OPENED_AT_ONCE, "read")
    found |= dict(zip(to_open, facts, strict=True))
    systems = _Systems()
    return {url: replace(facts, grid=systems.unify(facts.grid, url)) for url, facts in found.items()}


def identify_all(entries: Sequence[Entry], masks: Sequence[str]) -> dict[str, Identity]:
    """Who every file is, by URL, and every mask beside one."""
    assets = {asset.url: asset for entry in entries for asset in entry.files}
    assets |= {mask: Asset(mask) for mask in masks}
    identities = _all(_identity, list(assets.values()), ASKED_AT_ONCE, "found")
    return dict(zip(assets, identities, strict=True))


def _facts(url: str, *, alone: bool) -> Facts:
    info = describe_raster(url, alone=alone)
    return Facts(info.grid, info.bands)


def _identity(asset: Asset) -> Identity:
    if asset.identity is not None:
        return asset.identity
    if is_signed(asset.url):
        return Identity(redact(asset.url), None, None, asset.modified)
    if not asset.url.startswith(BUCKETS):
        found = identify(asset.url)
    else:
        there = stored(asset.url)
        found = Identity(
            redact(asset.url),
            there.size_bytes if there else None,
            there.etag if there else None,
            there.modified if there else None,
        )
    if found.size_bytes is None and (is_local(asset.url) or asset.url.startswith(BUCKETS)):
        raise SourceError(f"there is no file {redact(asset.url)}")
    return found


def _all(ask: Callable[[Asked], Answer], of: Sequence[Asked], at_once: int, verb: str) -> list[Answer]:
    """Ask for many at once; all failures become one refusal."""
    with ThreadPoolExecutor(at_once, thread_name_prefix="look") as threads:
        jobs = [threads.submit(ask, one) for one in of]
    errors = [error for job in jobs if (error := job.exception()) is not None]
    for error in errors:
        if not isinstance(error, SourceError | StorageError):
            raise error
    if errors:
        raise SourceError(
            f"every scene must be {verb}, but of {len(of)} files {len(errors)} cannot be: "
            f"{'; '.join(str(error) for error in errors[:NAMED_AT_MOST])}"
            f"{' ...' if len(errors) > NAMED_AT_MOST else ''}"
        )
    return [job.result() for job in jobs]


class _Systems:
    """Gives equal coordinate reference systems one spelling, so that they compare and travel as one."""

    def __init__(self) -> None:
        self._spellings: dict[str, str] = {}
        self._known: list[tuple[CRS, str]] = []

    def unify(self, grid: Grid, url: str) -> Grid:
        """The grid, its CRS spelt as the first equal one was."""
        if grid.crs_wkt is None:
            raise SourceError(
                f"every scene must say where it lies, but {redact(url)} has no CRS; write one into it "
                "(gdal_edit, or gdalwarp where it has ground control points), or use it alone"
            )
        wkt = grid.crs_wkt
        if wkt not in self._spellings:
            crs = CRS.from_wkt(wkt)
            equal = [spelling for known, spelling in self._known if known == crs]
            self._spellings[wkt] = equal[0] if equal else wkt
            if not equal:
                self._known.append((crs, wkt))
        return replace(grid, crs_wkt=self._spellings[wkt])
