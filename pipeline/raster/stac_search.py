"""STAC items: from a file, or from an API through pystac-client, which knows how to page.

The same conditions are put to an API and, once more, to what it answers: not every API knows every condition,
and an item too many would be seen in the mosaic.
"""

import calendar
import importlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import Any

from pipeline.errors import SettingsError, SourceError
from pipeline.raster.scenes.entry import parse_time
from pipeline.raster.scenes.index import read_parquet
from pipeline.storage import normalise_url, read_url, redact, redact_text

logger = logging.getLogger(__name__)

# Its warnings before each new try repeat whole addresses, signatures among them; the last failure is told.
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)

Item = dict[str, Any]
Box = tuple[float, float, float, float]

PAGE_ITEMS = 250
OPEN_END = ("", "..")


@dataclass(frozen=True)
class Search:
    """Where items are, and which are wanted.

    Attributes:
        url: An API's root, or None.
        file: A file of items, or None.
        collections: Names; empty: any.
        bbox: West, south, east, north in degrees, or None.
        datetime: A time or an interval, or None.
        query: Further conditions of the API's query extension.
        cloud_cover_max: Percentage, or None.
        limit: The most items taken, or None.
    """

    url: str | None
    file: str | None
    collections: tuple[str, ...]
    bbox: Box | None
    datetime: str | None
    query: Mapping[str, Any] | None
    cloud_cover_max: float | None
    limit: int | None

    @property
    def place(self) -> str:
        """Where items are, fit for logs."""
        return redact(str(self.url or self.file))


def find_items(search: Search) -> list[Item]:
    """All items that fit, in the order in which they are listed."""
    listed = _from_api(search) if search.url is not None else _from_file(str(search.file))
    items: list[Item] = []
    for item in listed:
        if _fits(item, search):
            items.append(item)
        if search.limit is not None and len(items) == search.limit:
            logger.warning("%s: no more than the first %d items are used (source.stac.limit)",
                           search.place, search.limit)  # fmt: skip
            break
    if not items:
        raise SourceError(
            f"source.stac must find items, but none in {search.place} fits; check collections, bbox, "
            "datetime and cloud_cover_max"
        )
    return items


def item_time(item: Mapping[str, Any]) -> str | None:
    """When an item was taken, or when that began."""
    properties = item.get("properties") or {}
    found = properties.get("datetime") or properties.get("start_datetime")
    return found.isoformat() if isinstance(found, datetime) else found


def _from_api(search: Search) -> Iterable[Item]:
    try:
        client = importlib.import_module("pystac_client")
        errors = importlib.import_module("pystac_client.exceptions")
    except ImportError as error:
        raise SettingsError(
            "source.stac.url needs pystac-client, which is not installed; install terrazzo[stac]"
        ) from error
    query = dict(search.query or {})
    if search.cloud_cover_max is not None:
        query.setdefault("eo:cloud_cover", {"lte": search.cloud_cover_max})
    try:
        found = client.Client.open(search.url).search(
            collections=list(search.collections) or None,
            bbox=search.bbox,
            datetime=search.datetime,
            query=query or None,
            limit=PAGE_ITEMS if search.limit is None else min(PAGE_ITEMS, search.limit),
        )
        yield from found.items_as_dicts()
    except (errors.APIError, OSError, ValueError, KeyError, TypeError) as error:
        # Not "from error": its text holds whole requests, signatures among them.
        said = redact_text(str(error)).split("\n", 1)[0]
        raise SourceError(f"cannot search {search.place}: {type(error).__name__}: {said}") from None


def _from_file(file: str) -> list[Item]:
    url = normalise_url(file)
    data = read_url(url)
    if PurePosixPath(redact(url)).suffix.lower() in (".parquet", ".geoparquet"):
        return [_item_of_row(row) for row in read_parquet(data)]
    try:
        document = json.loads(data)
        kind = document.get("type")
        if kind == "FeatureCollection":
            return list(document["features"])
    except (ValueError, KeyError, AttributeError) as error:
        raise SourceError(
            f"source.stac.file must hold items as JSON, got {redact(url)}: {type(error).__name__}: {error}"
        ) from error
    if kind != "Feature":
        raise SourceError(
            f"source.stac.file must hold an item or a collection of items, got type {kind!r} in "
            f"{redact(url)}; give the root of an API as source.stac.url"
        )
    return [document]


def _item_of_row(row: Mapping[str, Any]) -> Item:
    """An item from a row of stac-geoparquet, which has properties as columns and every asset that any has."""
    own = ("id", "collection", "assets", "links", "bbox", "type", "stac_version", "stac_extensions")
    item: Item = {name: row[name] for name in own if name in row}
    item["properties"] = {name: value for name, value in row.items() if name not in own and value is not None}
    item["assets"] = {
        key: {name: value for name, value in asset.items() if value is not None}
        for key, asset in (row.get("assets") or {}).items()
        if asset is not None
    }
    box = row.get("bbox")
    if isinstance(box, Mapping):
        item["bbox"] = [box["xmin"], box["ymin"], box["xmax"], box["ymax"]]
    return item


def _fits(item: Item, search: Search) -> bool:
    if search.collections and item.get("collection") not in search.collections:
        return False
    if search.bbox is not None and not _meets(item.get("bbox"), search.bbox):
        return False
    if search.datetime is not None and not _within(item_time(item), search.datetime, str(item.get("id"))):
        return False
    if search.cloud_cover_max is not None:
        cover = (item.get("properties") or {}).get("eo:cloud_cover")
        if cover is None:
            raise SourceError(
                f"source.stac.cloud_cover_max needs eo:cloud_cover of every item, but {item.get('id')!r} of "
                f"{search.place} has none"
            )
        return stated_number(cover, f"eo:cloud_cover of {item.get('id')}") <= search.cloud_cover_max
    return True


def stated_number(value: object, what: str) -> float:
    """A number of an item; STAC writes NaN and infinities as words.

    Args:
        value: What stands there.
        what: What it is, for messages.
    """
    try:
        return float(str(value))
    except ValueError as error:
        raise SourceError(f"{what} must be a number in a STAC item, got {value!r}; mend the item") from error


def _meets(box: Sequence[float] | None, wanted: Box) -> bool:
    """Whether two boxes in degrees meet, over the antimeridian too; an item without a place is everywhere."""
    if not box:
        return True
    half = len(box) // 2
    west, south, east, north = box[0], box[1], box[half], box[half + 1]
    if north < wanted[1] or south > wanted[3]:
        return False
    theirs, ours = _spans(west, east), _spans(wanted[0], wanted[2])
    return any(a[0] <= b[1] and b[0] <= a[1] for a in theirs for b in ours)


def _spans(west: float, east: float) -> list[tuple[float, float]]:
    return [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]


def _within(time: str | None, wanted: str, where: str) -> bool:
    if time is None:
        return False
    first, separator, last = wanted.partition("/")
    taken = parse_time(time, where)
    begins = None if first in OPEN_END else _span_of(first)[0]
    ends_with = last if separator else first
    ends = None if ends_with in OPEN_END else _span_of(ends_with)[1]
    return (begins is None or taken >= begins) and (ends is None or taken <= ends)


def _span_of(text: str) -> tuple[datetime, datetime]:
    """First and last moment of a year, a month, a day or a time."""
    parts = text.strip().split("-")
    try:
        if len(parts) == 1:
            year = int(parts[0])
            return datetime(year, 1, 1, tzinfo=UTC), _end_of_day(datetime(year, 12, 31, tzinfo=UTC))
        if len(parts) == 2:
            year, month = int(parts[0]), int(parts[1])
            last = calendar.monthrange(year, month)[1]
            return datetime(year, month, 1, tzinfo=UTC), _end_of_day(datetime(year, month, last, tzinfo=UTC))
        begins = parse_time(text, "source.stac.datetime")
    except ValueError as error:
        raise SettingsError(
            f"source.stac.datetime must be a time or an interval as 2024-05-01/2024-05-31, got {text!r}"
        ) from error
    return begins, _end_of_day(begins) if len(text.strip()) == 10 else begins


def _end_of_day(day: datetime) -> datetime:
    return day + timedelta(days=1) - timedelta(microseconds=1)
