"""Vector files written as features come: GeoJSON by us, GeoParquet by pyarrow, FlatGeobuf by pyogrio."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

from pipeline.errors import SettingsError, StorageError

FORMATS = {".geojson": "GeoJSON", ".json": "GeoJSON", ".parquet": "GeoParquet", ".fgb": "FlatGeobuf"}


@dataclass(frozen=True)
class Table:
    """Features with their attributes, column by column.

    Attributes:
        geometry: Polygons and multipolygons.
        columns: Attributes by name, each as long as ``geometry``.
    """

    geometry: NDArray[np.object_]
    columns: Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Layer:
    """What a file says of all its features.

    Attributes:
        name: The layer's name.
        crs: CRS of the coordinates; None for none.
        as_multi: Whether every geometry is a multipolygon, for formats that take one kind only.
        notes: What else there is to say.
    """

    name: str
    crs: pyproj.CRS | None
    as_multi: bool
    notes: Mapping[str, Any]


Write = Callable[[Path, Layer, Iterator[Table]], None]


def writer_of(url: str) -> tuple[str, Write]:
    """The format that a file's name asks for, and what writes it; refuses early what could not be written."""
    suffix = Path(url).suffix.lower()
    if suffix not in FORMATS:
        known = ", ".join(FORMATS)
        raise SettingsError(f"--output must end in {known}, got {url!r}")
    name = FORMATS[suffix]
    if name == "GeoParquet":
        _need("pyarrow", name)
        return name, write_parquet
    if name == "FlatGeobuf":
        _need("pyarrow", name)
        _need("pyogrio", name)
        return name, write_flatgeobuf
    return name, write_geojson


def write_geojson(path: Path, layer: Layer, tables: Iterator[Table]) -> None:
    """RFC 7946 where coordinates are longitude and latitude; plain numbers otherwise, as the notes say."""
    head = {"type": "FeatureCollection", "name": layer.name, "metadata": dict(layer.notes)}
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps(head, ensure_ascii=False)[:-1] + ', "features": [')
        separator = "\n"
        for table in tables:
            geometries = shapely.to_geojson(table.geometry)
            columns = {name: values.tolist() for name, values in table.columns.items()}
            for place, geometry in enumerate(geometries):
                properties = {name: values[place] for name, values in columns.items()}
                text = json.dumps(properties, ensure_ascii=False)
                file.write(f'{separator}{{"type": "Feature", "properties": {text}, "geometry": {geometry}}}')
                separator = ",\n"
        file.write("\n]}\n")


def write_parquet(path: Path, layer: Layer, tables: Iterator[Table]) -> None:
    """GeoParquet 1.1 with a box for each row, so that readers fetch only what they look at."""
    import pyarrow as pa  # type: ignore[import-untyped,unused-ignore]  # noqa: PLC0415 - an extra
    from pyarrow import parquet  # type: ignore[import-untyped,unused-ignore]  # noqa: PLC0415

    box = pa.struct([(name, pa.float64()) for name in ("xmin", "ymin", "xmax", "ymax")])
    fields = [*_fields(), pa.field("geometry", pa.binary()), pa.field("bbox", box)]
    kinds: set[str] = set()
    bounds = np.array([np.inf, np.inf, -np.inf, -np.inf])
    with parquet.ParquetWriter(path, pa.schema(fields), compression="zstd") as writer:
        for table in tables:
            boxes = shapely.bounds(table.geometry)
            bounds = np.concatenate([np.minimum(bounds[:2], boxes[:, :2].min(0)),
                                     np.maximum(bounds[2:], boxes[:, 2:].max(0))])  # fmt: skip
            kinds.update(shapely.get_type_id(table.geometry).tolist())
            arrays = [pa.array(table.columns[field.name], field.type) for field in _fields()]
            arrays.append(pa.array(shapely.to_wkb(table.geometry).tolist(), pa.binary()))
            arrays.append(pa.StructArray.from_arrays([pa.array(side) for side in boxes.T], fields=list(box)))
            writer.write_table(pa.Table.from_arrays(arrays, schema=pa.schema(fields)))
        writer.add_key_value_metadata({"geo": json.dumps(_geo_metadata(layer, kinds, bounds))})


def write_flatgeobuf(path: Path, layer: Layer, tables: Iterator[Table]) -> None:
    """FlatGeobuf with its spatial index."""
    import pyarrow as pa  # noqa: PLC0415
    import pyogrio  # type: ignore[import-untyped,import-not-found,unused-ignore]  # noqa: PLC0415
    from pyogrio.errors import DataSourceError  # type: ignore[import-untyped,import-not-found,unused-ignore]  # noqa: PLC0415

    schema = pa.schema(
        [*_fields(), pa.field("geometry", pa.binary(), metadata={"ARROW:extension:name": "ogc.wkb"})]
    )

    def batches() -> Iterator[Any]:
        for table in tables:
            arrays = [pa.array(table.columns[field.name], field.type) for field in _fields()]
            arrays.append(pa.array(shapely.to_wkb(table.geometry).tolist(), pa.binary()))
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    try:
        pyogrio.write_arrow(
            pa.RecordBatchReader.from_batches(schema, batches()),
            path,
            layer=layer.name,
            driver="FlatGeobuf",
            geometry_name="geometry",
            geometry_type="MultiPolygon" if layer.as_multi else "Polygon",
            crs=layer.crs.to_wkt() if layer.crs else None,
        )
    except DataSourceError as error:
        raise StorageError(f"cannot write {path.name}: {error}") from error


def _fields() -> list[Any]:
    import pyarrow as pa  # noqa: PLC0415

    return [
        pa.field("class", pa.int32()),
        pa.field("class_name", pa.string()),
        pa.field("pixels", pa.int64()),
        pa.field("area", pa.float64()),
        pa.field("confidence", pa.float64()),
    ]


def _geo_metadata(layer: Layer, kinds: set[str], bounds: NDArray[np.float64]) -> dict[str, Any]:
    names = {3: "Polygon", 6: "MultiPolygon"}
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": sorted(names[int(kind)] for kind in kinds),
        "crs": layer.crs.to_json_dict() if layer.crs else None,
        "orientation": "counterclockwise",
        "edges": "planar",
        "covering": {"bbox": {name: ["bbox", name] for name in ("xmin", "ymin", "xmax", "ymax")}},
    }
    if np.isfinite(bounds).all():
        column["bbox"] = bounds.tolist()
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def _need(module: str, name: str) -> None:
    try:
        __import__(module)
    except ImportError as error:
        raise SettingsError(
            f"{name} needs {module}: install terrazzo[vectors], or give --output as .geojson"
        ) from error
