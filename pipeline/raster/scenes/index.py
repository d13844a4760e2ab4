"""Index files: one row a scene. CSV, GeoJSON, GeoParquet and GeoPackage, as ``gdaltindex`` and GTI have them.

Footprints in an index are not looked at: where a scene lies, it says itself.
"""

import csv
import io
import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

from pipeline.errors import SettingsError, SourceError
from pipeline.raster.parquet import open_parquet
from pipeline.storage import is_local, join_url, normalise_url, read_url, redact, split_url

Row = dict[str, Any]

URL_COLUMNS = ("url", "location", "path", "href")
TIME_COLUMNS = ("datetime", "time", "date", "acquired")
CLOUD_COLUMNS = ("cloud_cover", "eo:cloud_cover", "cloudcover")


def read_index(url: str) -> list[Row]:
    """The rows of an index, with columns in small letters."""
    url = normalise_url(url)
    suffix = PurePosixPath(redact(url)).suffix.lower()
    readers = {
        ".csv": _read_csv,
        ".geojson": _read_geojson,
        ".json": _read_geojson,
        ".parquet": read_parquet,
        ".geoparquet": read_parquet,
        ".gpkg": _read_geopackage,
    }
    if suffix not in readers:
        raise SettingsError(f"source.index must end in {', '.join(readers)}, got {redact(url)}")
    try:
        rows = readers[suffix](read_url(url))
    except (ValueError, KeyError, TypeError, AttributeError, OSError, csv.Error, sqlite3.Error) as error:
        raise SourceError(
            f"source.index must be a {suffix} file, got {redact(url)}: {type(error).__name__}: {error}"
        ) from error
    if not rows:
        raise SourceError(f"source.index must list scenes, got none in {redact(url)}")
    if "assets" in rows[0] or "stac_version" in rows[0]:
        raise SettingsError(
            f"{redact(url)} holds STAC items; give it as source.stac.file, with source.stac.assets"
        )
    return [{str(name).strip().lower(): value for name, value in row.items()} for row in rows]


def url_of(row: Mapping[str, Any], index_url: str) -> str:
    """Where a row's scene lies; a relative path counts from the index's folder."""
    value = _first(row, URL_COLUMNS)
    if value is None:
        raise SourceError(
            f"source.index must have a column {' or '.join(URL_COLUMNS)} with a value in every row, "
            f"got columns {', '.join(row)} in {redact(index_url)}"
        )
    return resolve(str(value), index_url)


def time_of(row: Mapping[str, Any]) -> str | None:
    """When a row's scene was taken."""
    value = _first(row, TIME_COLUMNS)
    if value is None:
        return None
    return value.isoformat() if isinstance(value, datetime) else str(value)


def cloud_cover_of(row: Mapping[str, Any], index_url: str) -> float | None:
    """Percentage of clouds in a row's scene."""
    value = _first(row, CLOUD_COLUMNS)
    try:
        return None if value is None else float(value)
    except ValueError as error:
        raise SourceError(
            f"cloud_cover must be a percentage, got {value!r} in {redact(index_url)}"
        ) from error


def resolve(location: str, base_url: str) -> str:
    """A URL or path, relative ones counted from the folder of the file that names them."""
    if "://" in location or location.startswith("/"):
        return normalise_url(location)
    folder, _ = split_url(normalise_url(base_url))
    while location.startswith(("./", "../")):
        dots, _, location = location.partition("/")
        folder = split_url(folder)[0] if dots == ".." else folder
    joined = join_url(folder, location)
    return normalise_url(joined) if is_local(joined) else joined


def _first(row: Mapping[str, Any], columns: Sequence[str]) -> Any:  # noqa: ANN401 - whatever a table holds
    for column in columns:
        value = row.get(column)
        if value is not None and value != "":
            return value
    return None


def _read_csv(data: bytes) -> list[Row]:
    return list(csv.DictReader(io.StringIO(data.decode("utf-8-sig")), strict=True))


def _read_geojson(data: bytes) -> list[Row]:
    document = json.loads(data)
    features = document["features"] if document.get("type") == "FeatureCollection" else [document]
    return [feature if "assets" in feature else dict(feature.get("properties") or {}) for feature in features]


def read_parquet(data: bytes) -> list[Row]:
    """The rows of a Parquet file, geometries left out."""
    file = open_parquet(data, "an index in GeoParquet", extra="stac")
    columns = [name for name in file.schema_arrow.names if name not in ("geometry", "geom", "wkb_geometry")]
    rows: list[Row] = file.read(columns=columns).to_pylist()
    return rows


def _read_geopackage(data: bytes) -> list[Row]:
    with closing(sqlite3.connect(":memory:")) as database:
        database.deserialize(data)
        database.row_factory = sqlite3.Row
        kinds = "('features', 'attributes')"
        found = database.execute(f"SELECT table_name FROM gpkg_contents WHERE data_type IN {kinds}")  # noqa: S608
        tables = [row["table_name"] for row in found]
        if len(tables) != 1:
            raise ValueError(f"there must be one table of scenes, got {len(tables)}")
        quoted = tables[0].replace('"', '""')
        return [dict(row) for row in database.execute(f'SELECT * FROM "{quoted}"')]  # noqa: S608
