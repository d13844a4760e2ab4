"""Which band of which file is which band of the source: the first scene listed says, the others follow."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.errors import SettingsError, SourceError
from pipeline.raster.common_names import common_names
from pipeline.raster.scenes.entry import SINGLE_FILE, Asset, Entry, Facts
from pipeline.raster.scenes.scene import Scene, SceneFile
from pipeline.raster.source import MAX_BANDS, BandInfo
from pipeline.storage import redact

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """The bands of a source of many scenes.

    Attributes:
        bands: As the source has them.
        files: For each key of a scene's files, the bands it must hold, as the first scene has them.
        numbers: For each key, the numbers of these bands in the source.
        mask_band: The quality layer among the bands of scenes' own file, if it is one of them.
        scaled: Whether scale and offset are applied, scene by scene.
        nodata: The setting; None: as files or items say.
    """

    bands: tuple[BandInfo, ...]
    files: Mapping[str, tuple[BandInfo, ...]]
    numbers: Mapping[str, tuple[int, ...]]
    mask_band: BandInfo | None
    scaled: bool
    nodata: float | None


def lay_out(
    first: Entry,
    facts: Mapping[str, Facts],
    *,
    mask_band: int | str | None,
    scaled: bool,
    nodata: float | None,
) -> Layout:
    """The bands of the first scene listed.

    Args:
        first: That scene.
        facts: What its files are, by URL.
        mask_band: Number or name of the quality layer in scenes' own file; None: it is not there.
        scaled: Whether scale and offset are applied, scene by scene.
        nodata: Value without data; None: as files or items say.
    """
    files = {key: _bands_of(first, key, facts[asset.url]) for key, asset in first.assets.items()}
    mask = None
    if mask_band is not None:
        mask = _find_mask(files, mask_band)
        files = {SINGLE_FILE: tuple(band for band in files[SINGLE_FILE] if band != mask)}
    if SINGLE_FILE in files:
        numbers = {SINGLE_FILE: tuple(band.number for band in files[SINGLE_FILE])}
    else:  # files of a band or two each are counted through
        numbers, count = {}, 0
        for key, held in files.items():
            numbers[key] = tuple(range(count + 1, count + len(held) + 1))
            count += len(held)
    bands = [
        replace(
            band, number=number, scale=1.0 if scaled else band.scale, offset=0.0 if scaled else band.offset
        )
        for key, held in files.items()
        for band, number in zip(held, numbers[key], strict=True)
    ]
    if not 1 <= len(bands) <= MAX_BANDS:
        raise SourceError(f"a source must have 1 to {MAX_BANDS} bands, got {len(bands)} in {first.name}")
    return Layout(tuple(bands), files, numbers, mask, scaled, nodata)


def make_scene(entry: Entry, facts: Mapping[str, Facts], layout: Layout) -> Scene:
    """A scene's files with the source's band numbers; refuses a scene that has other bands."""
    files = []
    for key, wanted in layout.files.items():
        asset = entry.assets[key]
        found = _bands_of(entry, key, facts[asset.url])
        if layout.mask_band is not None:
            found = tuple(band for band in found if not _is_same(band, layout.mask_band))
        held = _match(entry, key, wanted, found)
        files.append(_scene_file(asset, facts[asset.url], layout, layout.numbers[key], held))
    return Scene(tuple(files), _mask_file(entry, facts, layout))


def warn_of_other_scales(entries: Sequence[Entry], facts: Mapping[str, Facts], layout: Layout) -> None:
    """Say so where scenes declare different scales that nobody asked to apply: equal ground, other values."""
    declared = {
        (band.scale, band.offset)
        for entry in entries
        for band in _bands_of(entry, next(iter(entry.assets)), facts[next(iter(entry.assets.values())).url])[
            :1
        ]
    }
    if len(declared) > 1 and not layout.scaled:
        logger.warning(
            "scenes declare different scales or offsets, as Sentinel-2's do before and after 2022: raw "
            "values are used; source.scale: metadata would apply them"
        )


def _bands_of(entry: Entry, key: str, facts: Facts) -> tuple[BandInfo, ...]:
    """A file's bands: types from the file; names and scales from the list, where it has them."""
    asset = entry.assets[key]
    odd = [band.dtype for band in facts.bands if "complex" in band.dtype]
    if odd:
        raise SourceError(f"bands must hold real numbers, got {odd[0]} in {redact(asset.url)}")
    if len(asset.said) == len(facts.bands):
        pairs = zip(asset.said, facts.bands, strict=True)
        return tuple(_merged(said, band) for said, band in pairs)
    hint = f"{entry.platform} {redact(asset.url)}"
    if key == SINGLE_FILE:
        return tuple(replace(band, aliases=common_names(band.name, hint)) for band in facts.bands)
    if len(facts.bands) == 1:
        return (replace(facts.bands[0], name=key, aliases=common_names(key, hint)),)
    return tuple(replace(band, name=band.name or f"{key}.{band.number}") for band in facts.bands)


def _merged(said: BandInfo, own: BandInfo) -> BandInfo:
    scale = own if (said.scale, said.offset) == (1.0, 0.0) else said
    return replace(own, name=said.name, aliases=said.aliases, scale=scale.scale, offset=scale.offset)


def _match(
    entry: Entry, key: str, wanted: Sequence[BandInfo], found: Sequence[BandInfo]
) -> tuple[BandInfo, ...]:
    """A file's bands in the order of the first scene's: by name where all have one, else by number."""
    names = {band.name.strip().lower(): band for band in found if band.name}
    wished = [band.name.strip().lower() for band in wanted if band.name]
    if len(names) == len(found) and len(set(wished)) == len(wanted) and set(wished) <= set(names):
        return tuple(names[name] for name in wished)
    all_are_named = len(names) == len(found) and len(wished) == len(wanted)
    if all_are_named or len(found) != len(wanted):
        raise SourceError(
            f"every scene must have the bands of the first, {_listing(wanted)}, but "
            f"{redact(entry.assets[key].url)} has {_listing(found)}"
        )
    return tuple(found)


def _scene_file(
    asset: Asset, facts: Facts, layout: Layout, numbers: tuple[int, ...], held: Sequence[BandInfo]
) -> SceneFile:
    return SceneFile(
        url=asset.url,
        grid=facts.grid,
        numbers=numbers,
        file_bands=tuple(band.number for band in held),
        nodata=facts.nodata if layout.nodata is None else layout.nodata,
        scales=tuple(band.scale for band in held) if layout.scaled else None,
        offsets=tuple(band.offset for band in held) if layout.scaled else None,
    )


def _mask_file(entry: Entry, facts: Mapping[str, Facts], layout: Layout) -> SceneFile | None:
    """A scene's quality layer: a file of its own, or a band of the scene's."""
    if entry.mask is not None:
        return SceneFile(entry.mask.url, facts[entry.mask.url].grid, (0,), (1,), is_mask=True)
    if layout.mask_band is None:
        return None
    asset = entry.assets[SINGLE_FILE]
    found = [
        band for band in _bands_of(entry, SINGLE_FILE, facts[asset.url]) if _is_same(band, layout.mask_band)
    ]
    if len(found) != 1:
        raise SourceError(
            f"every scene must have the quality layer of the first, {_listing([layout.mask_band])}, but "
            f"{redact(asset.url)} has none"
        )
    return SceneFile(asset.url, facts[asset.url].grid, (0,), (found[0].number,), is_mask=True)


def _find_mask(files: Mapping[str, tuple[BandInfo, ...]], wanted: int | str) -> BandInfo:
    if SINGLE_FILE not in files:
        raise SettingsError(
            "source.quality_mask.band is a band of scenes that are one file each; where bands have files of "
            "their own, give source.quality_mask.file"
        )
    for band in files[SINGLE_FILE]:
        if wanted == band.number or (band.name and str(wanted).strip().lower() == band.name.strip().lower()):
            return band
    raise SettingsError(
        f"source.quality_mask.band: there is no band {wanted!r}; scenes have {_listing(files[SINGLE_FILE])}"
    )


def _is_same(band: BandInfo, other: BandInfo) -> bool:
    """By name where both have one, else by number."""
    if band.name and other.name:
        return band.name.strip().lower() == other.name.strip().lower()
    return band.number == other.number


def _listing(bands: Sequence[BandInfo]) -> str:
    return ", ".join(f"{band.number}{f' ({band.name})' if band.name else ''}" for band in bands) or "none"
