"""Pairs to a tile set: looked at, measured and split; what is known and unchanged is not read again."""

import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from pipeline.errors import Refused, SettingsError
from pipeline.raster.bands import choose_bands
from pipeline.train.tiles.catalog import Pair
from pipeline.train.tiles.manifest import Manifest
from pipeline.train.tiles.meaning import Meaning
from pipeline.train.tiles.measure_tile import Looked, dtype_of, look, measure
from pipeline.train.tiles.settings import TilesSettings
from pipeline.train.tiles.splits import Said, SplitRules, assign_splits
from pipeline.train.tiles.tile_labels import label_values
from pipeline.train.tiles.tile_reader import band_name
from pipeline.train.tiles.tile_set import BadTile, Tile, TileSet

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_WORDS = 10.0
RGB = 3

One = TypeVar("One")
Other = TypeVar("Other")


@dataclass(frozen=True)
class Indexed:
    """A tile set and how it came to be.

    Attributes:
        tiles: The set.
        block_m: Side of the blocks of ground that its splits keep together.
        num_read: Tiles that were read, being new or changed.
    """

    tiles: TileSet
    block_m: float | None
    num_read: int


def index_pairs(
    url: str,
    pairs: Sequence[Pair],
    unpaired: Sequence[BadTile],
    meaning: Meaning,
    settings: TilesSettings,
    known: Manifest | None,
    *,
    is_official: bool = False,
) -> Indexed:
    """The tile set that pairs make.

    Args:
        url: Folder of its manifest.
        pairs: Images with labels.
        unpaired: What is no pair, and why.
        meaning: What labels mean.
        settings: Bands and splits.
        known: What is known already.
        is_official: Whether it is a published set, kept as it is, even where an image comes twice.
    """
    stamps = {pair.id: _stamp(pair, meaning, settings) for pair in pairs}
    recorded = {tile.id: tile for tile in known.tiles.tiles} if known else {}
    reused = {
        pair.id: replace(recorded[pair.id], date=pair.date or recorded[pair.id].date)
        for pair in pairs
        if pair.id in recorded and recorded[pair.id].stamp == stamps[pair.id]
    }
    fresh = [pair for pair in pairs if pair.id not in reused]
    skeleton = _skeleton(url, meaning, settings, known)
    bands, read, bad = _read(fresh, skeleton, meaning, settings, list(reused.values()))
    stamped = [replace(tile, stamp=stamps[tile.id]) for tile in read]
    tiles = [*reused.values(), *stamped]
    twice: list[BadTile] = []
    if not is_official:
        tiles, twice = _without_duplicates(tiles, recorded)
    said = {pair.id: Said(pair.group, pair.split) for pair in pairs if pair.group or pair.split}
    good, straddling, block_m = assign_splits(
        sorted(tiles, key=lambda tile: tile.id), recorded, said, _rules(settings, known)
    )
    left_out = sorted([*unpaired, *bad, *twice, *straddling], key=lambda tile: tile.id)
    whole = replace(skeleton, bands=bands, tiles=tuple(good), bad=tuple(left_out))
    return Indexed(whole, block_m, len(fresh))


def _skeleton(url: str, meaning: Meaning, settings: TilesSettings, known: Manifest | None) -> TileSet:
    return TileSet(
        url=url,
        classes=meaning.classes,
        colors=meaning.colors,
        bands=known.tiles.bands if known else (),
        values=meaning.values,
        ignore=meaning.ignore,
        tiles=(),
        seed=settings.seed,
        other=meaning.other,
        property=meaning.property,
        outside=meaning.outside,
    )


def _rules(settings: TilesSettings, known: Manifest | None) -> SplitRules:
    given = None if settings.split_block_m == "auto" else settings.split_block_m
    block_m = given or (known.block_m if known else None)  # new tiles join the blocks that there are
    return SplitRules(settings.seed, settings.val_share, settings.test_share, settings.group, block_m)


def _stamp(pair: Pair, meaning: Meaning, settings: TilesSettings) -> str:
    """Tells whether a pair's files, or how they are to be read, changed."""
    how = [
        meaning.classes,
        sorted(meaning.values.items()),
        sorted(meaning.mapped),
        meaning.other,
        meaning.property,
        meaning.outside,
        settings.bands,
    ]
    what = json.dumps([pair.image.url, pair.labels.url, pair.image.stamp, pair.labels.stamp, how])
    return hashlib.sha256(what.encode()).hexdigest()[:32]


def _read(
    pairs: Sequence[Pair],
    skeleton: TileSet,
    meaning: Meaning,
    settings: TilesSettings,
    reused: Sequence[Tile],
) -> tuple[tuple[str, ...], list[Tile], list[BadTile]]:
    """The set's bands, the tiles that could be read, and those that could not."""
    looked: list[Looked] = []
    bad: list[BadTile] = []
    for found in _each(look, pairs, settings.readers, "looked at"):
        if isinstance(found, Looked):
            looked.append(found)
        else:
            bad.append(found)
    bands = skeleton.bands if reused else _usual_bands(looked, settings)
    dtype = reused[0].dtype if reused else _usual_dtype(looked, bands)
    fitting: list[tuple[Looked, tuple[str, ...]]] = []
    for one in looked:
        own = _fit(one, bands, settings)
        if own is None:
            bad.append(one.pair.bad(f"wrong bands: {_listing(one)}; most tiles have {', '.join(bands)}"))
        elif dtype_of(one, own) != dtype:
            bad.append(one.pair.bad(f"samples of {dtype_of(one, own)}, but those of most tiles are {dtype}"))
        else:
            fitting.append((one, own))
    values = label_values(skeleton)

    def read(which: tuple[Looked, tuple[str, ...]]) -> Tile | BadTile:
        return measure(which[0], which[1], skeleton, values, meaning)

    tiles: list[Tile] = []
    for result in _each(read, fitting, settings.readers, "read"):
        if isinstance(result, Tile):
            tiles.append(result)
        else:
            bad.append(result)
    return bands, tiles, bad


def _each(work: Callable[[One], Other], items: Sequence[One], readers: int, done: str) -> Iterator[Other]:
    """Work done by several threads, in order; says now and then how far it is."""
    told = time.monotonic()
    with ThreadPoolExecutor(readers, thread_name_prefix="tiles") as pool:
        for number, result in enumerate(pool.map(work, items), 1):
            if time.monotonic() - told > SECONDS_BETWEEN_WORDS:
                told = time.monotonic()
                logger.info("%d of %d tiles %s", number, len(items), done)
            yield result


def _usual_bands(looked: Iterable[Looked], settings: TilesSettings) -> tuple[str, ...]:
    """What most tiles' bands are called."""
    own = (_chosen(one, settings) for one in looked)
    counted = Counter(bands for bands in own if bands is not None)
    return max(counted, key=lambda bands: (counted[bands], bands), default=())


def _usual_dtype(looked: Iterable[Looked], bands: tuple[str, ...]) -> str:
    counted = Counter(dtype_of(one, bands) for one in looked if {*bands} <= {band_name(b) for b in one.bands})
    return max(counted, key=lambda dtype: (counted[dtype], dtype), default="")


def _chosen(one: Looked, settings: TilesSettings) -> tuple[str, ...] | None:
    """Names of the bands that ``tiles.bands`` means in an image; None where it lacks one."""
    if settings.bands is None:
        return tuple(band_name(band) for band in one.bands)
    try:
        numbers = choose_bands(
            one.info.bands, wanted=settings.bands, model_bands=None, in_channels=len(settings.bands)
        )
    except Refused:
        return None
    by_number = {band.number: band for band in one.info.bands}
    return tuple(band_name(by_number[number]) for number in numbers)


def _fit(one: Looked, bands: tuple[str, ...], settings: TilesSettings) -> tuple[str, ...] | None:
    """An image's own names of the set's bands, in the set's order; None where it has others."""
    own = _chosen(one, settings)
    if own is None or settings.bands is not None:
        return own
    if {*bands} <= {*own}:
        return bands
    unnamed = not any(band.name for band in one.bands)
    numbered = all(band.startswith("band ") for band in bands)
    if len(own) == len(bands) and (unnamed or numbered):
        return own
    if len(own) == 1 and len(bands) == RGB and unnamed and numbered:
        return own * RGB  # a grey photograph among coloured ones
    return None


def _listing(one: Looked) -> str:
    return ", ".join(band_name(band) for band in one.bands)


def _without_duplicates(
    tiles: Sequence[Tile], recorded: Mapping[str, Tile]
) -> tuple[list[Tile], list[BadTile]]:
    """Tiles each of whose images comes once: twice it might be learnt from and be judged by."""
    first: dict[str, Tile] = {}
    twice = []
    for tile in sorted(tiles, key=lambda tile: (tile.id not in recorded, tile.id)):
        other = first.setdefault(tile.image_sha256, tile)
        if other is not tile:
            reason = f"duplicate: the same image as tile {other.id!r}"
            twice.append(BadTile(tile.id, tile.image, tile.labels, reason))
    return list(first.values()), twice


def refuse_bad(tiles: TileSet, max_bad_share: float) -> None:
    """Refuse a set of which too much is bad, and say what is.

    Args:
        tiles: The set.
        max_bad_share: The largest share of bad tiles that is taken.
    """
    total = len(tiles.tiles) + len(tiles.bad)
    if not tiles.tiles or len(tiles.bad) > max_bad_share * total:
        listed = "\n".join(f"  {tile.id}: {tile.reason}" for tile in tiles.bad)
        raise SettingsError(
            f"at most {max_bad_share:.0%} of the tiles may be bad (tiles.max_bad_share), not all of them; "
            f"got {len(tiles.bad)} bad ones of {total} in {tiles.url}:\n{listed}"
        )
