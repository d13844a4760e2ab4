"""Look at the files of many scenes at once: what they say of themselves, and who they are.

A file is opened only where its list does not say all of that; every file is asked for its identity, a light
request, save where the list gives a checksum or the address is signed and good for reading only.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from rasterio.crs import CRS

from pipeline.errors import SourceError, StorageError
from pipeline.raster.gdal_source import describe_raster, identify
from pipeline.raster.grid import Grid
from pipeline.raster.scenes.entry import Asset, Entry, Facts
from pipeline.raster.scenes.order import NAMED_AT_MOST
from pipeline.raster.source import Identity
from pipeline.storage import Folder, StoredObject, is_local, is_signed, redact, split_url

OPENED_AT_ONCE = 16
ASKED_AT_ONCE = 32
BUCKETS = ("s3://", "gs://", "az://")
TIFF = (".tif", ".tiff")

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


def look_at(entries: Sequence[Entry]) -> dict[str, Facts]:
    """What every file is, by URL; refuses with the list of those that cannot be read."""
    assets = {asset.url: asset for entry in entries for asset in entry.files}
    to_open = [url for url, asset in assets.items() if asset.facts is None]
    found = {url: asset.facts for url, asset in assets.items() if asset.facts is not None}
    found |= dict(zip(to_open, _all(_facts, to_open, OPENED_AT_ONCE, "read"), strict=True))
    systems = _Systems()
    return {url: replace(facts, grid=systems.unify(facts.grid, url)) for url, facts in found.items()}


def identify_all(entries: Sequence[Entry]) -> dict[str, Identity]:
    """Who every file is, by URL."""
    assets = {asset.url: asset for entry in entries for asset in entry.files}
    identities = _all(_identity, list(assets.values()), ASKED_AT_ONCE, "found")
    return dict(zip(assets, identities, strict=True))


def alone(entries: Sequence[Entry]) -> frozenset[str]:
    """Remote TIFFs beside which nothing lies that tells more of them: mask, metadata, world file.

    GDAL would ask for these whenever it opens a file, one after the other, and no other thread of Python
    could do anything meanwhile; here they are asked for once a run and all at once. Other formats may be made
    of several files, which GDAL has to find itself.
    """
    urls = {asset.url for entry in entries for asset in entry.files if not is_signed(asset.url)}
    known = sorted(url for url in urls if url.lower().endswith(TIFF) and not is_local(url))
    beside = [(url, f"{url}{end}") for url in known for end in (".aux.xml", ".msk")]
    beside += [(url, f"{url.rpartition('.')[0]}{end}") for url in known for end in (".tfw", ".wld")]
    there = _all(_may_be_there, [name for _, name in beside], ASKED_AT_ONCE, "found")
    return frozenset(known) - {url for (url, _), is_there in zip(beside, there, strict=True) if is_there}


def _may_be_there(url: str) -> bool:
    """Whether a store has a file, or does not say."""
    try:
        return _stored(url) is not None
    except StorageError:  # who may not list a bucket is told 403 of what is not there
        return True


def _stored(url: str) -> StoredObject | None:
    if not url.startswith(BUCKETS):
        parent, name = split_url(url)
        return Folder(parent).head(name)
    # By bucket, not by folder as usual: one connection serves ten thousand scenes.
    scheme, _, rest = url.partition("://")
    bucket, _, key = rest.partition("/")
    return Folder(f"{scheme}://{bucket}").head(key)


def _facts(url: str) -> Facts:
    info = describe_raster(url)
    return Facts(info.grid, info.bands)


def _identity(asset: Asset) -> Identity:
    if asset.identity is not None:
        return asset.identity
    if is_signed(asset.url):
        return Identity(redact(asset.url), None, None, asset.modified)
    if not asset.url.startswith(BUCKETS):
        found = identify(asset.url)
    else:
        stored = _stored(asset.url)
        found = Identity(
            redact(asset.url),
            stored.size_bytes if stored else None,
            stored.etag if stored else None,
            stored.modified if stored else None,
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
