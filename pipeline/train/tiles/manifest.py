"""``tiles.json``: a tile set written down, a tile a line, with places relative to it where they lie below."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import SettingsError
from pipeline.raster.grid import Grid
from pipeline.storage import Folder, is_local, join_url, normalise_url, redact
from pipeline.train.tiles.settings import MANIFEST_NAME
from pipeline.train.tiles.tile_set import BadTile, BandMoments, Tile, TileSet

VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """A tile set and how it came about.

    Attributes:
        tiles: The set.
        made_by: Settings that it was indexed with (``tiles``, ``labels``, ``classes``), or ``import``.
        block_m: Side of the blocks of ground that its splits keep together.
    """

    tiles: TileSet
    made_by: Mapping[str, Any]
    block_m: float | None


def read_manifest(folder: Folder) -> Manifest | None:
    """The manifest in a folder; None where there is none."""
    try:
        data = folder.read(MANIFEST_NAME)
    except FileNotFoundError:
        return None
    try:
        document = json.loads(data)
        if document["version"] != VERSION:
            raise SettingsError(
                f"a tile set must be of version {VERSION}, got {document['version']} in "
                f"{redact(folder.url)}/{MANIFEST_NAME}; index it again"
            )
        return Manifest(_to_set(document, folder), document["made_by"], document["block_m"])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise SettingsError(
            f"{redact(folder.url)}/{MANIFEST_NAME} must be a manifest of tiles, as `jobs/tiles.py index` "
            f"writes it: {type(error).__name__}: {error}"
        ) from error


def write_manifest(folder: Folder, manifest: Manifest) -> None:
    """Write a manifest at once: readers see the old one or the new one."""
    tiles = manifest.tiles
    crs = sorted({tile.grid.crs_wkt for tile in tiles.tiles if tile.grid.crs_wkt is not None})
    numbers = {wkt: number for number, wkt in enumerate(crs)}
    head = {
        "version": VERSION,
        "made_by": manifest.made_by,
        "classes": tiles.classes,
        "colors": tiles.colors,
        "bands": tiles.bands,
        "values": {str(value): index for value, index in tiles.values.items()},
        "ignore": tiles.ignore,
        "other": tiles.other,
        "property": tiles.property,
        "outside": tiles.outside,
        "seed": tiles.seed,
        "block_m": manifest.block_m,
        "crs": crs,
    }
    lines = [f" {json.dumps(name)}: {_text(value)}," for name, value in head.items()]
    good = [_text(_from_tile(tile, numbers, folder)) for tile in tiles.tiles]
    bad = [_text(_from_bad(tile, folder)) for tile in tiles.bad]
    text = "\n".join(["{", *lines, f' "tiles": {_list(good)},', f' "bad": {_list(bad)}', "}", ""])
    folder.write(MANIFEST_NAME, text.encode())


def _from_tile(tile: Tile, crs: Mapping[str, int], folder: Folder) -> dict[str, Any]:
    wkt = tile.grid.crs_wkt
    return {
        "id": tile.id,
        "image": _shorten(tile.image, folder),
        "labels": _shorten(tile.labels, folder),
        "grid": tile.grid.to_json() | {"crs_wkt": None if wkt is None else crs[wkt]},
        "bands": tile.bands,
        "dtype": tile.dtype,
        "class_pixels": {str(index): pixels for index, pixels in enumerate(tile.class_pixels) if pixels},
        "sha256": tile.sha256,
        "image_sha256": tile.image_sha256,
        "date": tile.date,
        "group": tile.group,
        "split": tile.split,
        "nodata_is_class": tile.nodata_is_class,
        "moments": [[moments.count, moments.mean, moments.squares] for moments in tile.moments],
        "stamp": tile.stamp,
    }


def _to_tile(entry: Mapping[str, Any], document: Mapping[str, Any], folder: Folder) -> Tile:
    grid, pixels = entry["grid"], entry["class_pixels"]
    wkt = None if grid["crs_wkt"] is None else document["crs"][grid["crs_wkt"]]
    return Tile(
        id=entry["id"],
        image=_lengthen(entry["image"], folder),
        labels=_lengthen(entry["labels"], folder),
        grid=Grid.from_json(grid | {"crs_wkt": wkt}),
        bands=tuple(entry["bands"]),
        dtype=entry["dtype"],
        class_pixels=tuple(pixels.get(str(index), 0) for index in range(len(document["classes"]))),
        sha256=entry["sha256"],
        date=entry["date"],
        group=entry["group"],
        split=entry["split"],
        image_sha256=entry["image_sha256"],
        nodata_is_class=entry["nodata_is_class"],
        moments=tuple(BandMoments(*moments) for moments in entry["moments"]),
        stamp=entry["stamp"],
    )


def _from_bad(tile: BadTile, folder: Folder) -> dict[str, Any]:
    places = {"image": tile.image, "labels": tile.labels}
    short = {name: None if url is None else _shorten(url, folder) for name, url in places.items()}
    return {"id": tile.id, **short, "reason": tile.reason}


def _to_set(document: Mapping[str, Any], folder: Folder) -> TileSet:
    return TileSet(
        url=folder.url,
        classes=tuple(document["classes"]),
        colors=tuple(document["colors"]),
        bands=tuple(document["bands"]),
        values={int(value): index for value, index in document["values"].items()},
        ignore=tuple(document["ignore"]),
        tiles=tuple(_to_tile(entry, document, folder) for entry in document["tiles"]),
        bad=tuple(_to_bad(entry, folder) for entry in document["bad"]),
        seed=document["seed"],
        other=document["other"],
        property=document["property"],
        outside=document["outside"],
    )


def _to_bad(entry: Mapping[str, Any], folder: Folder) -> BadTile:
    image, labels = (
        None if entry[name] is None else _lengthen(entry[name], folder) for name in ("image", "labels")
    )
    return BadTile(entry["id"], image, labels, entry["reason"])


def _shorten(url: str, folder: Folder) -> str:
    """Relative to the manifest where it lies below, so that the whole may be moved; without passwords."""
    below = f"{folder.url.rstrip('/')}/"
    return url.removeprefix(below) if url.startswith(below) else redact(url)


def _lengthen(place: str, folder: Folder) -> str:
    is_whole = "://" in place or (is_local(place) and place.startswith("/"))
    return normalise_url(place) if is_whole else join_url(folder.url, place)


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _list(lines: list[str]) -> str:
    return "[\n  " + ",\n  ".join(lines) + "\n ]" if lines else "[]"
