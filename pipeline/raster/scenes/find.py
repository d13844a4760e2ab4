"""From what the settings name to many scenes as one source: list, order, look, lay out, lay on a grid."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.errors import SettingsError
from pipeline.raster.gdal_bands import working_dtype
from pipeline.raster.scenes.band_layout import Layout, lay_out, make_scene, warn_of_other_scales
from pipeline.raster.scenes.beside import look_beside, mask_of
from pipeline.raster.scenes.entry import Entry, Facts
from pipeline.raster.scenes.footprints import Footprints
from pipeline.raster.scenes.index import cloud_cover_of, read_index, time_of, url_of
from pipeline.raster.scenes.listing import folders, single_files
from pipeline.raster.scenes.look import identify_all, look_at
from pipeline.raster.scenes.order import in_order
from pipeline.raster.scenes.patterns import Listings
from pipeline.raster.scenes.scene import Composite, Order, QualityRule, Resampling, Scene, digest
from pipeline.raster.scenes.scene_source import CELL_PX, ScenesSpec
from pipeline.raster.scenes.stac import stac_scenes
from pipeline.raster.scenes.target import GridWish, choose_grid
from pipeline.raster.source import BandInfo, Identity, SourceInfo
from pipeline.raster.stac_search import Search
from pipeline.raster.window import Window


@dataclass(frozen=True)
class Quality:
    """Scenes' quality layer.

    Attributes:
        rule: What its values mean.
        file: Where it lies: an asset, or a pattern; None: in a band.
        band: That band of scenes' own file.
    """

    rule: QualityRule
    file: str | None
    band: int | str | None


@dataclass(frozen=True)
class ScenesWish:
    """What the settings say of a source of many scenes.

    Attributes:
        urls: Files, patterns, or folders with ``band_files``.
        index: A list of these, or None.
        search: STAC items, or None.
        assets: Their assets that hold bands.
        band_files: Each band's name and the pattern of its file, or None.
        quality: Scenes' quality layer, or None.
        nodata: Value without data; None: as files or items say.
        scaled: Whether scale and offset are applied, scene by scene.
        order: Which scene lies on top.
        composite: How overlapping scenes become one.
        resampling: How scenes are warped: one word, or one for some bands, by name.
        grid: What is asked of the target grid.
    """

    urls: tuple[str, ...]
    index: str | None
    search: Search | None
    assets: tuple[str, ...]
    band_files: Mapping[str, str] | None
    quality: Quality | None
    nodata: float | None
    scaled: bool
    order: Order
    composite: Composite
    resampling: Resampling | Mapping[str, Resampling]
    grid: GridWish


@dataclass(frozen=True)
class FoundScenes:
    """Many scenes that have been looked at.

    Attributes:
        info: What they say of themselves, as one raster.
        scenes: Topmost first.
        identities: Who their files are.
        dtypes: Types of each band's samples, by its number.
        wish: What the settings say.
    """

    info: SourceInfo
    scenes: tuple[Scene, ...]
    identities: tuple[tuple[Identity, ...], ...]
    dtypes: Mapping[int, frozenset[str]]
    wish: ScenesWish

    def spec(self, bands: tuple[int, ...]) -> ScenesSpec:
        """How to open them for these bands."""
        wanted = frozenset(bands)
        types = sorted({dtype for number in wanted for dtype in self.dtypes[number]})
        dtype = working_dtype(np.result_type(*[np.dtype(name) for name in types])).name
        return ScenesSpec(
            scenes=tuple(scene.only(wanted) for scene in self.scenes),
            grid=self.info.grid,
            bands=bands,
            dtype="float32" if self.wish.scaled else dtype,
            composite=self.wish.composite,
            resampling=_words(self.wish.resampling, self.info.bands, bands),
            rule=self.wish.quality.rule if self.wish.quality else None,
            label=self.info.url,
        )

    def identities_in(self, window: Window) -> tuple[Identity, ...]:
        """The files that may show in a window, topmost first."""
        touching = self._footprints.touching(window)
        return tuple(identity for index in touching for identity in self.identities[index])

    def described_in(self, window: Window) -> str:
        """A digest of what decides the pixels of a window besides its files' bytes."""
        return digest(tuple(self.scenes[index] for index in self._footprints.touching(window)))

    @cached_property
    def _footprints(self) -> Footprints:
        return Footprints(self.scenes, self.info.grid)


def find_scenes(wish: ScenesWish) -> FoundScenes:
    """List scenes and look at them; refuses what cannot be read, by name."""
    listings = Listings()
    listed = list_scenes(wish, listings)
    entries = in_order(listed, wish.order)
    beside = look_beside({asset.url for entry in entries for asset in entry.files}, listings)
    facts = look_at(entries, beside.lone)
    layout = lay_out(
        listed[0],
        facts,
        mask_band=wish.quality.band if wish.quality else None,
        scaled=wish.scaled,
        nodata=wish.nodata,
    )
    scenes = tuple(make_scene(entry, facts, layout) for entry in entries)
    warn_of_other_scales(entries, facts, layout)
    grid = choose_grid([file.grid for scene in scenes for file in scene.files], wish.grid)
    scenes = tuple(scene.knowing(beside.lone, beside.masked) for scene in scenes)
    known = identify_all(entries, [mask_of(url) for url in beside.masked])
    identities = tuple(_identities(entry, known) for entry in entries)
    side = CELL_PX[wish.composite]
    info = SourceInfo(
        url=_label(listed),
        grid=grid,
        bands=layout.bands,
        identities=tuple(identity for scene in identities for identity in scene),
        block_shape=(side, side),
    )
    return FoundScenes(info, scenes, identities, _dtypes(entries, facts, layout), wish)


def _identities(entry: Entry, known: Mapping[str, Identity]) -> tuple[Identity, ...]:
    """Who a scene's files are, and the masks beside them."""
    urls = dict.fromkeys(asset.url for asset in entry.files)
    masks = (mask_of(url) for url in urls)
    return tuple(known[url] for url in [*urls, *masks] if url in known)


def list_scenes(wish: ScenesWish, listings: Listings) -> list[Entry]:
    """Scenes as they are listed, in the order given; ``listings`` knows afterwards what lies around them."""
    mask = wish.quality.file if wish.quality else None
    if wish.search is not None:
        return stac_scenes(wish.search, assets=wish.assets, mask=mask)

    def of(urls: Sequence[str]) -> list[Entry]:
        if wish.band_files is None:
            return single_files(urls, mask=mask, listings=listings)
        return folders(urls, band_files=wish.band_files, mask=mask, listings=listings)

    if wish.index is None:
        return of(wish.urls)
    entries = []
    for row in read_index(wish.index):
        time, cover = time_of(row), cloud_cover_of(row, wish.index)
        entries += [entry.described(time, cover) for entry in of([url_of(row, wish.index)])]
    return entries


def _words(
    resampling: Resampling | Mapping[str, Resampling], known: Sequence[BandInfo], bands: Sequence[int]
) -> tuple[Resampling, ...]:
    """How each band is warped; one that a map does not name, bilinear."""
    if isinstance(resampling, str):
        return (resampling,) * len(bands)
    names = {
        band.number: {str(name).lower() for name in (band.number, band.name, *band.aliases)} for band in known
    }
    unknown = [name for name in resampling if not any(name.lower() in own for own in names.values())]
    if unknown:
        have = ", ".join(str(band.name or band.number) for band in known)
        raise SettingsError(f"source.resampling: there is no band {unknown[0]!r}; scenes have {have}")
    wishes = {name.lower(): word for name, word in resampling.items()}

    def word(number: int) -> Resampling:
        return next((wishes[name] for name in sorted(names[number]) if name in wishes), "bilinear")

    return tuple(word(number) for number in bands)


def _dtypes(
    entries: Sequence[Entry], facts: Mapping[str, Facts], layout: Layout
) -> dict[int, frozenset[str]]:
    """Types of each band's samples over all scenes."""
    found: dict[int, set[str]] = {band.number: set() for band in layout.bands}
    for entry in entries:
        for key, numbers in layout.numbers.items():
            types = {band.dtype for band in facts[entry.assets[key].url].bands}
            for number in numbers:
                found[number] |= types
    return {number: frozenset(types) for number, types in found.items()}


def _label(entries: Sequence[Entry]) -> str:
    first = entries[0].name
    return first if len(entries) == 1 else f"{len(entries)} scenes, the first {first}"
