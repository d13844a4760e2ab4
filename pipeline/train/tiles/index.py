"""A tile set from where its settings say: read from its manifest, or found, measured, split and written down.

A tile whose files have not changed is not read again, and keeps its split whatever arrives.
"""

import json
import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.errors import MismatchError, SettingsError, SourceError, StorageError
from pipeline.raster.window import Window
from pipeline.storage import Folder, redact
from pipeline.train.tiles.catalog import Pair, find_pairs
from pipeline.train.tiles.index_pairs import Indexed, index_pairs, refuse_bad
from pipeline.train.tiles.manifest import Manifest, read_manifest, write_manifest
from pipeline.train.tiles.meaning import Meaning, resolve_meaning
from pipeline.train.tiles.settings import (
    DEFAULT_IMAGES,
    DEFAULT_LABELS,
    MANIFEST_NAME,
    LabelsSettings,
    TilesSettings,
    is_drawn,
)
from pipeline.train.tiles.tile_labels import find_labels, label_band
from pipeline.train.tiles.tile_notes import read_notes, with_notes
from pipeline.train.tiles.tile_set import IGNORE, TileSet

logger = logging.getLogger(__name__)

PLACES = ("url", "manifest", "readers", "max_bad_share")
"""Of ``TilesSettings``, what does not change which tiles there are."""

GLIMPSE_PX = 1024
MOST_VALUES = 20


def load_tile_set(tiles: TilesSettings, labels: LabelsSettings, classes: Sequence[str] | None) -> TileSet:
    """The tile set to learn from or to be judged by; refuses one of which too much is bad.

    Args:
        tiles: Where it lies. Without patterns, its manifest is taken as it is.
        labels: What labels mean; what a manifest says must agree.
        classes: The model's classes in their order, or None to follow the labels.
    """
    folder = Folder.at(tiles.manifest_folder)
    known = read_manifest(folder)
    if known is not None and tiles.images is None:
        _check_labels(known.tiles, labels)
        _warn_of_idle(known, tiles)
        found = known.tiles
        if classes is not None and tuple(classes) != found.classes:
            found = reorder(found, tuple(classes))
    else:
        found = _index_and_keep(folder, tiles, labels, classes, known)
    refuse_bad(found, tiles.max_bad_share)
    for bad in found.bad:
        logger.warning("tile %s is left out: %s", bad.id, bad.reason)
    if not found.of("val"):
        logger.warning("no tile validates; tiles.val_share, tiles.split_block_m and tiles.group decide")
    return found


def look_at_tiles(
    tiles: TilesSettings, labels: LabelsSettings, classes: Sequence[str] | None, *, write: bool
) -> TileSet:
    """The tile set as it is now: new files are looked at even where a manifest is in place.

    Args:
        tiles: Where it lies.
        labels: What labels mean.
        classes: The classes in their order, or None to follow the labels.
        write: Whether the manifest is extended.
    """
    folder = Folder.at(tiles.manifest_folder)
    known = read_manifest(folder)
    if known is not None and tiles.images is None:
        if "tiles" not in known.made_by:  # imported: its files are listed by the import alone
            return load_tile_set(tiles, labels, classes)
        tiles, labels, classes = _as_before(known, tiles, labels, classes)
    if write:
        found = _index_and_keep(folder, tiles, labels, classes, known)
    else:
        found = _index(folder, tiles, labels, classes, known).tiles
    refuse_bad(found, tiles.max_bad_share)
    return found


def extend_manifest(
    tiles: TilesSettings, labels: LabelsSettings, classes: Sequence[str] | None
) -> tuple[Indexed, Manifest | None]:
    """Index a tile set and write its manifest; what it was before, if there was one.

    Without patterns, those of the manifest that there is are used again, with its labels' meaning.

    Args:
        tiles: Where it lies.
        labels: What labels mean.
        classes: The classes in their order, or None to follow the labels.
    """
    folder = Folder.at(tiles.manifest_folder)
    known = read_manifest(folder)
    if known is not None and tiles.images is None:
        tiles, labels, classes = _as_before(known, tiles, labels, classes)
    indexed = _index(folder, tiles, labels, classes, known)
    write_manifest(folder, Manifest(indexed.tiles, _made_by(tiles, labels, classes), indexed.block_m))
    return indexed, known


def reorder(tiles: TileSet, classes: tuple[str, ...]) -> TileSet:
    """The same tiles with their classes in a model's order.

    Args:
        tiles: The set.
        classes: Its classes, and maybe more.
    """
    strangers = [name for name in tiles.classes if name not in classes]
    if strangers:
        raise SettingsError(
            f"the model must have every class of the tiles in {redact(tiles.url)}, but lacks "
            f"{', '.join(strangers)}; it has {', '.join(classes)}"
        )
    place = [classes.index(name) for name in tiles.classes]
    colors = resolve_meaning(
        LabelsSettings(colors=dict(zip(tiles.classes, tiles.colors, strict=True))), classes, drawn=True
    ).colors

    def counted(pixels: tuple[int, ...]) -> tuple[int, ...]:
        by_class = dict(zip(place, pixels, strict=True))
        return tuple(by_class.get(index, 0) for index in range(len(classes)))

    return replace(
        tiles,
        classes=classes,
        colors=colors,
        values={raw: index if index == IGNORE else place[index] for raw, index in tiles.values.items()},
        other=None if tiles.other is None else place[tiles.other],
        outside=tiles.outside if tiles.outside == IGNORE else place[tiles.outside],
        tiles=tuple(replace(tile, class_pixels=counted(tile.class_pixels)) for tile in tiles.tiles),
    )


def _index_and_keep(
    folder: Folder,
    tiles: TilesSettings,
    labels: LabelsSettings,
    classes: Sequence[str] | None,
    known: Manifest | None,
) -> TileSet:
    """Index, and write the result down unless a manifest of other patterns or meanings is in its place."""
    made_by = _made_by(tiles, labels, classes)
    indexed = _index(folder, tiles, labels, classes, known)
    if known is not None and known.made_by != made_by:
        logger.warning(
            "%s/%s is of other settings and stays as it is; tiles.manifest names another place",
            redact(folder.url),
            MANIFEST_NAME,
        )
    elif known is None or known.tiles != indexed.tiles:
        try:
            write_manifest(folder, Manifest(indexed.tiles, made_by, indexed.block_m))
        except StorageError as error:
            logger.warning("the tile set is not written down, and will be read again next time: %s", error)
    return indexed.tiles


def _index(
    folder: Folder,
    tiles: TilesSettings,
    labels: LabelsSettings,
    classes: Sequence[str] | None,
    known: Manifest | None,
) -> Indexed:
    root = Folder.at(tiles.url)
    images, label_pattern = tiles.images or DEFAULT_IMAGES, tiles.labels or DEFAULT_LABELS
    pairs, unpaired = find_pairs(root, images, label_pattern)
    notes = read_notes(root, tiles.index)
    pairs = [with_notes(pair, notes) for pair in pairs]
    meaning = _meaning(pairs, labels, classes)
    return index_pairs(folder.url, pairs, unpaired, meaning, tiles, known)


def _meaning(pairs: Sequence[Pair], labels: LabelsSettings, classes: Sequence[str] | None) -> Meaning:
    drawn = bool(pairs) and all(is_drawn(pair.labels.url) for pair in pairs)
    try:
        return resolve_meaning(labels, classes, drawn=drawn)
    except SettingsError as error:
        if classes or labels.values or labels.other or not pairs or drawn:
            raise
        raise SettingsError(f"{error}; {_glimpse(pairs[0])}") from error


def _glimpse(pair: Pair) -> str:
    """Which values a user could name: those that one tile's labels hold."""
    try:
        found = find_labels(pair.labels.url)
        with closing(found.spec((label_band(found.info),)).open()) as source:
            pixels = source.read(Window(0, 0, GLIMPSE_PX, GLIMPSE_PX).intersect(found.info.grid.window))
    except SourceError as error:
        return str(error)
    values = np.unique(pixels.samples_CHW[0][pixels.valid_HW]).tolist()
    told = ", ".join(f"{value:g}" for value in values[:MOST_VALUES])
    return f"{redact(pair.labels.url)} holds {told}{' and more' if len(values) > MOST_VALUES else ''}"


def _made_by(tiles: TilesSettings, labels: LabelsSettings, classes: Sequence[str] | None) -> dict[str, Any]:
    kept = tiles.model_dump(mode="json", exclude={*PLACES})
    made_by = {
        "tiles": kept | {"images": tiles.images or DEFAULT_IMAGES, "labels": tiles.labels or DEFAULT_LABELS},
        "labels": labels.model_dump(mode="json"),
        "classes": None if classes is None else list(classes),
    }
    as_written: dict[str, Any] = json.loads(json.dumps(made_by))
    return as_written


def _as_before(
    known: Manifest, tiles: TilesSettings, labels: LabelsSettings, classes: Sequence[str] | None
) -> tuple[TilesSettings, LabelsSettings, Sequence[str] | None]:
    """Settings of the last time, under those given now."""
    if "tiles" not in known.made_by:
        raise SettingsError(
            f"the tile set in {redact(known.tiles.url)} was made by importing {known.made_by.get('import')}; "
            "import it again, or give tiles.images and tiles.labels"
        )
    given = tiles.model_dump(mode="json", exclude_defaults=True)
    meaning = labels.model_dump(mode="json", exclude_defaults=True)
    return (
        TilesSettings.model_validate(known.made_by["tiles"] | given),
        LabelsSettings.model_validate(known.made_by["labels"] | meaning),
        classes if classes is not None else known.made_by["classes"],
    )


def _warn_of_idle(known: Manifest, tiles: TilesSettings) -> None:
    """Say which settings a manifest that is taken as it is leaves without effect."""
    given = tiles.model_dump(mode="json", exclude_defaults=True, exclude={*PLACES})
    before = known.made_by.get("tiles", {})
    idle = [f"tiles.{name}" for name, value in given.items() if before.get(name) != value]
    if idle:
        logger.warning(
            "%s/%s is taken as it is, so that %s has no effect; jobs/tiles.py index applies it",
            redact(known.tiles.url),
            MANIFEST_NAME,
            ", ".join(idle),
        )


def _check_labels(tiles: TileSet, labels: LabelsSettings) -> None:
    """What settings say of labels must be what the tiles were indexed with; saying nothing agrees."""
    names = (*tiles.classes, *("" for _ in range(IGNORE + 1 - len(tiles.classes))))
    said = {raw: names[index] for raw, index in tiles.values.items()}
    wrong = [f"{raw}: {name}" for raw, name in labels.values.items() if said.get(raw) != name]
    wrong += [f"{raw} ignored" for raw in labels.ignore if raw not in tiles.ignore]
    others = {"other": tiles.other, "outside": None if tiles.outside == IGNORE else tiles.outside}
    for setting, index in others.items():
        name = getattr(labels, setting)
        if name is not None and (index is None or tiles.classes[index] != name):
            wrong.append(f"{setting}: {name}")
    if wrong:
        raise MismatchError(
            f"labels must mean what {redact(tiles.url)}/{MANIFEST_NAME} was indexed with, but settings say "
            f"{', '.join(wrong)}; index the tiles again with these settings: python jobs/tiles.py index URL"
        )
