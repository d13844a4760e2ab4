"""Scenes that URLs name: single files, patterns, and folders with one file a band.

With ``source.band_files`` a URL names a scene's folder, or holds ``{band}`` where a band's pattern is put in.
Wildcards in the URL tell scenes apart, wildcards in a band's pattern do not: they must fit one file a scene.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from pipeline.errors import SettingsError, SourceError
from pipeline.raster.scenes.entry import SINGLE_FILE, Asset, Entry
from pipeline.raster.scenes.order import some_of
from pipeline.raster.scenes.patterns import Listings, has_wildcard, translate
from pipeline.storage import join_url, normalise_url, redact, split_url

BAND = "{band}"
STEM = "{stem}"
MASK = "quality_mask.file"
"""Stands among the names of bands for the quality layer."""


def single_files(urls: Sequence[str], *, mask: str | None, listings: Listings) -> list[Entry]:
    """A scene for each file that URLs and patterns name, in their order."""
    entries = []
    for url in map(normalise_url, urls):
        if BAND in url:
            raise SettingsError(
                f"source.band_files must say what {BAND} stands for, as {{red: B04}}; "
                f"got none for {redact(url)}"
            )
        found = listings.matching(url) if has_wildcard(url) else [url]
        if not found:
            raise SourceError(f"source.urls must name rasters, but nothing matches {redact(url)}")
        entries += [single_file(file, mask=mask, listings=listings) for file in found]
    return entries


def single_file(url: str, *, mask: str | None, listings: Listings) -> Entry:
    """A scene that is one file; its quality layer lies beside it, ``{stem}`` standing for the file's name."""
    beside = None
    if mask is not None:
        folder, name = split_url(url)
        pattern = join_url(folder, mask.replace(STEM, PurePosixPath(name).stem))
        beside = Asset(_one(listings, pattern, MASK, url))
    return Entry(redact(url), {SINGLE_FILE: Asset(url)}, beside)


def folders(
    urls: Sequence[str], *, band_files: Mapping[str, str], mask: str | None, listings: Listings
) -> list[Entry]:
    """A scene for each folder that URLs and patterns name, in their order, with a file for each band."""
    patterns = dict(band_files) | ({MASK: mask} if mask is not None else {})
    entries = []
    for url in map(normalise_url, urls):
        found = _scenes_of(url, patterns, listings)
        if not found:
            raise SourceError(f"source.urls must name scenes, but nothing matches {redact(url)}")
        entries += [_entry(files, patterns) for files in found.values()]
    return entries


def _scenes_of(
    url: str, patterns: Mapping[str, str], listings: Listings
) -> dict[tuple[str, ...], dict[str, list[str]]]:
    """Files by band, by what the URL's wildcards stand for."""
    before, band, after = url.partition(BAND)
    if not band:
        before = f"{url}/"
    scenes: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for name, pattern in patterns.items():
        whole = f"{before}{pattern}{after}"
        if not has_wildcard(whole):
            scenes.setdefault((), {})[name] = [whole]
            continue
        # What tells scenes apart is captured; what a band's own pattern leaves open is not.
        parts = ((before, True), (pattern, False), (after, True))
        told_apart = re.compile("".join(translate(part, captures=captures) for part, captures in parts))
        for file in listings.matching(whole):
            match = told_apart.fullmatch(file)
            if match:
                scenes.setdefault(match.groups(), {}).setdefault(name, []).append(file)
    return dict(sorted(scenes.items()))


def _entry(files: Mapping[str, list[str]], patterns: Mapping[str, str]) -> Entry:
    chosen = {}
    some = next(file for found in files.values() for file in found)
    for name, pattern in patterns.items():
        found = files.get(name, [])
        if len(found) != 1:
            raise SourceError(
                f"every scene must have one file for {name} ({pattern}), but the scene of {redact(some)} has "
                f"{some_of([redact(file) for file in found]) if found else 'none'}"
            )
        chosen[name] = Asset(found[0])
    mask = chosen.pop(MASK, None)
    return Entry(redact(some), chosen, mask)


def _one(listings: Listings, pattern: str, what: str, where: str) -> str:
    found = listings.matching(pattern) if has_wildcard(pattern) else [pattern]
    if len(found) != 1:
        raise SourceError(
            f"{what} must name one file for each scene, but for {redact(where)} it names "
            f"{some_of([redact(file) for file in found]) if found else 'none'}"
        )
    return found[0]
