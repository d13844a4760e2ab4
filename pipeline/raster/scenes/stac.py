"""Scenes from STAC items: assets by key or common name, and all that items say of their files.

What the ``proj`` and ``raster`` extensions tell need not be read from files: where they tell grid and types
of every band, no file is opened before its pixels are wanted. A file that is not as its item says fails the
block that meets it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError

from pipeline.errors import SourceError
from pipeline.raster.common_names import common_names
from pipeline.raster.grid import Grid
from pipeline.raster.scenes.entry import Asset, Entry, Facts
from pipeline.raster.scenes.index import resolve
from pipeline.raster.scenes.order import some_of
from pipeline.raster.source import BandInfo, Identity
from pipeline.raster.stac_search import Item, Search, find_items, item_time, stated_number
from pipeline.storage import normalise_url, redact

DTYPES = (
    "uint8",
    "int8",
    "uint16",
    "int16",
    "uint32",
    "int32",
    "uint64",
    "int64",
    "float16",
    "float32",
    "float64",
)


def stac_scenes(search: Search, *, assets: Sequence[str], mask: str | None) -> list[Entry]:
    """A scene for each item that is found."""
    base = normalise_url(str(search.file or search.url))
    items = find_items(search)
    wanted = [*assets, *([mask] if mask is not None else [])]
    lacking = {name: [_name(item) for item in items if find_asset(item, name) is None] for name in wanted}
    for name, without in lacking.items():
        if without:
            first = next(item for item in items if _name(item) == without[0])
            raise SourceError(
                f"every STAC item must have the asset {name!r}, but {some_of(without)} of {len(items)} "
                f"have none; {without[0]} has {', '.join(sorted(first.get('assets') or {}))}"
            )
    return [_entry(item, assets, mask, base) for item in items]


def find_asset(item: Item, wanted: str) -> tuple[str, Mapping[str, Any]] | None:
    """An asset by key, or the only one whose single band has that name or common name."""
    assets: Mapping[str, Mapping[str, Any]] = item.get("assets") or {}
    by_key = [key for key in assets if key == wanted] or [
        key for key in assets if key.lower() == wanted.lower()
    ]
    if by_key:
        return by_key[0], assets[by_key[0]]
    answering = [
        key
        for key, asset in assets.items()
        if len(bands := _bands(asset)) == 1 and wanted.lower() in {name.lower() for name in _names(bands[0])}
    ]
    if len(answering) > 1:
        raise SourceError(
            f"source.stac.assets: {wanted!r} must mean one asset, but {', '.join(sorted(answering))} of "
            f"{_name(item)} all answer to it; name one by its key"
        )
    return (answering[0], assets[answering[0]]) if answering else None


def _entry(item: Item, assets: Sequence[str], mask: str | None, base: str) -> Entry:
    properties = item.get("properties") or {}
    cover = properties.get("eo:cloud_cover")
    platform = (
        f"{properties.get('platform', '')} {properties.get('constellation', '')} {item.get('collection', '')}"
    )
    found = {name: _asset(item, name, base, platform) for name in assets}
    return Entry(
        name=_name(item),
        assets=found,
        mask=None if mask is None else _asset(item, mask, base, platform),
        time=item_time(item),
        cloud_cover=None if cover is None else stated_number(cover, f"eo:cloud_cover of {_name(item)}"),
        platform=platform,
    )


def _asset(item: Item, wanted: str, base: str, platform: str) -> Asset:
    found = find_asset(item, wanted)
    if found is None:
        raise SourceError(f"{_name(item)} must have the asset {wanted!r}, got none")
    key, asset = found
    self_link = next(
        (link.get("href") for link in item.get("links") or [] if link.get("rel") == "self"), None
    )
    url = resolve(str(asset["href"]), str(self_link) if self_link else base)
    said = _said_of_bands(item, asset)
    bands = [_band(number, wanted, key, band, platform) for number, band in enumerate(said, 1)]
    if len(bands) > 1:
        bands = [_numbered(band, said[band.number - 1], wanted, platform) for band in bands]
    grid = _grid(item, asset)
    nodata = {value for band in said if (value := _number(band.get("nodata"), "nodata")) is not None}
    is_complete = grid is not None and bool(bands) and all(band.dtype for band in bands)
    size, checksum = asset.get("file:size"), asset.get("file:checksum")
    known = Identity(redact(url), size, str(checksum), None) if checksum else None
    return Asset(
        url,
        facts=Facts(grid, tuple(bands), nodata.pop() if len(nodata) == 1 else None)
        if is_complete and grid and len(nodata) < 2
        else None,
        said=tuple(bands),
        identity=known,
        modified=asset.get("updated") or (item.get("properties") or {}).get("updated"),
    )


def _band(number: int, wanted: str, key: str, band: Mapping[str, Any], platform: str) -> BandInfo:
    """The only band of an asset: it bears the name that the user asked for."""
    names = [key, *_names(band)]
    others = {name for own in names for name in (own, *common_names(own, platform)) if name != wanted}
    dtype = str(band.get("data_type") or "")
    return BandInfo(
        number,
        wanted,
        dtype if dtype in DTYPES else "",
        is_alpha=False,
        aliases=tuple(sorted(others)),
        scale=_or(_number(band.get("scale", band.get("raster:scale")), "scale"), 1.0),
        offset=_or(_number(band.get("offset", band.get("raster:offset")), "offset"), 0.0),
    )


def _numbered(band: BandInfo, said: Mapping[str, Any], wanted: str, platform: str) -> BandInfo:
    """One of several bands of an asset: it bears its own name."""
    names = _names(said)
    own = names[0] if names else f"{wanted}.{band.number}"
    others = {name for each in names for name in (each, *common_names(each, platform)) if name != own}
    return BandInfo(
        band.number, own, band.dtype, False, tuple(sorted(others)), scale=band.scale, offset=band.offset
    )


def _bands(asset: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What an asset says of its bands' names: STAC 1.1, else the ``eo`` extension of 1.0."""
    return list(asset.get("bands") or asset.get("eo:bands") or [])


def _said_of_bands(item: Item, asset: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All that is said of each band, in 1.1 and in 1.0, by the asset and for all assets of the item."""
    named, measured = _bands(asset), list(asset.get("raster:bands") or [])
    properties = item.get("properties") or {}
    shared = {
        name: value
        for name in ("data_type", "nodata", "raster:scale", "raster:offset")
        if (value := asset.get(name, properties.get(name))) is not None
    }
    count = max(len(named), len(measured), 1 if shared else 0)
    if named and measured and len(named) != len(measured):
        return []  # they contradict each other: the file itself is asked
    return [
        shared | dict(named[index] if named else {}) | dict(measured[index] if measured else {})
        for index in range(count)
    ]


def _names(band: Mapping[str, Any]) -> list[str]:
    found = (band.get("name"), band.get("common_name"), band.get("eo:common_name"))
    return [str(name) for name in found if name]


def _grid(item: Item, asset: Mapping[str, Any]) -> Grid | None:
    properties = item.get("properties") or {}

    def said(name: str) -> Any:  # noqa: ANN401 - whatever JSON holds
        return asset.get(name, properties.get(name))

    shape, transform = said("proj:shape"), said("proj:transform")
    code = said("proj:code") or said("proj:wkt2") or said("proj:projjson") or said("proj:epsg")
    if not shape or not transform or not code or len(transform) < 6:
        return None
    try:
        crs = CRS.from_epsg(code) if isinstance(code, int) else CRS.from_user_input(code)
        return Grid(int(shape[0]), int(shape[1]), Affine(*transform[:6]), crs.to_wkt())
    except (CRSError, ValueError, TypeError):
        return None  # the file itself is asked


def _number(value: object, what: str) -> float | None:
    """A number as STAC has it, where NaN and infinities are words."""
    if value is None:
        return None
    number = stated_number(value, what)
    return None if math.isinf(number) else number


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _name(item: Item) -> str:
    return str(item.get("id"))
