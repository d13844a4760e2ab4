"""A mosaic as a STAC item, so that catalogues find it: where it lies, what it holds, which model made it.

STAC 1.1 with the extensions projection, raster, classification and machine learning model (mlm). The item
lies in ``<mosaic>.run/item.json``; it names the mosaic and the report relatively, so that all may move.
"""

import json
import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import shapely

from pipeline.errors import SettingsError, StorageError
from pipeline.raster.grid import Grid
from pipeline.raster.lonlat import AroundPole, cut_at_antimeridian, to_lon_lat
from pipeline.raster.mosaic import CONFIDENCE_NODATA, CONFIDENCE_STEPS, Mosaic, MosaicLayout
from pipeline.raster.pixel_size import parse_crs, side_m
from pipeline.storage import Folder, normalise_url, redact, split_url

logger = logging.getLogger(__name__)

ITEM_KEY = "item.json"

EXTENSIONS = {
    "proj": "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "raster": "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
    "classification": "https://stac-extensions.github.io/classification/v2.0.0/schema.json",
    "mlm": "https://stac-extensions.github.io/mlm/v1.5.2/schema.json",
}

POINTS_PER_EDGE = 64
"""The outline's edges bend in longitude and latitude."""

LON_LAT_DIGITS = 7

MOST_SOURCES = 100
"""Sources named as links; a region of thousands of scenes names them in its own attributes."""

EXPORTS = "cog_"
"""Assets that exports added; writing the item again keeps them."""

REPORTS = {
    "report": ("report.html", "text/html", ["overview"]),
    "report_json": ("report.json", "application/json", ["metadata"]),
    "plan": ("plan.json", "application/json", ["metadata"]),
}


def write_stac_item(mosaic_url: str) -> str:
    """Write or renew a mosaic's item; gives its URL."""
    mosaic = Mosaic.open(mosaic_url)
    url = normalise_url(mosaic_url)
    folder = Folder(f"{url}.run")
    item = stac_item(mosaic, url, folder, _read(folder))
    folder.write(ITEM_KEY, json.dumps(item, ensure_ascii=False, indent=1).encode())
    return redact(f"{folder.url}/{ITEM_KEY}")


def add_export(mosaic_url: str, array: str, export_url: str) -> None:
    """Name an exported COG in the mosaic's item, if it has one that can be written."""
    folder = Folder(f"{normalise_url(mosaic_url)}.run")
    item = _read(folder)
    if item is None:
        return
    layout = Mosaic.open(mosaic_url).layout
    bands = [band for band in _bands(layout) if band["name"] == array]
    if array == "logits":
        bands = [{"name": name, "data_type": "float32", "nodata": "nan"} for name in layout.class_names]
    key = EXPORTS + re.sub(r"\W+", "_", split_url(export_url)[1].rpartition(".")[0])
    item["assets"][key] = {
        "href": redact(export_url),
        "type": "image/tiff; application=geotiff; profile=cloud-optimized",
        "title": f"{array} as a cloud-optimised GeoTIFF",
        "roles": ["data"],
        "bands": bands,
    }
    try:
        folder.write(ITEM_KEY, json.dumps(item, ensure_ascii=False, indent=1).encode())
    except StorageError as error:
        logger.warning("the export is not named in the mosaic's STAC item: %s", error)


def stac_item(mosaic: Mosaic, url: str, folder: Folder, earlier: Mapping[str, Any] | None) -> dict[str, Any]:
    """The item of a mosaic.

    Args:
        mosaic: The mosaic.
        url: Where it lies.
        folder: Where the item lies, and the report.
        earlier: The item that is there already; of the same run, its time and exports are kept.
    """
    layout, attributes = mosaic.layout, mosaic.attributes
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    run_id = str(attributes.get("run_id") or split_url(url)[1])
    same = (
        earlier if earlier is not None and earlier.get("id") == run_id else {"properties": {}, "assets": {}}
    )
    created = same["properties"].get("created", now)
    geometry, bbox = footprint(layout.grid)
    model = _model(layout, attributes)
    assets = _assets(layout, url, folder, attributes)
    assets |= {key: asset for key, asset in same["assets"].items() if key.startswith(EXPORTS)}
    used = [name for name in EXTENSIONS if name != "mlm" or model]
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [EXTENSIONS[name] for name in used],
        "id": run_id,
        "geometry": geometry,
        **({"bbox": bbox} if bbox else {}),
        "properties": {
            "title": split_url(url)[1],
            "datetime": created,
            "created": created,
            "updated": now,
            **_projection(layout.grid),
            **model,
            "terrazzo:software": attributes.get("software"),
            "terrazzo:fingerprint": attributes.get("fingerprint"),
        },
        "links": [
            {"rel": "derived_from", "href": source["url"]}
            for source in list(attributes.get("sources", []))[:MOST_SOURCES]
        ],
        "assets": assets,
    }


def footprint(grid: Grid) -> tuple[dict[str, Any] | None, list[float] | None]:
    """Outline and box in longitude and latitude, cut at the antimeridian; nothing for grids without a CRS."""
    crs = parse_crs(grid.crs_wkt)
    if crs is None:
        return None, None
    rows, cols = _outline(grid)
    x, y = grid.transform @ (cols, rows)
    lon, lat = to_lon_lat(crs).transform(x, y)
    known = np.isfinite(lon) & np.isfinite(lat)
    if known.sum() < 3:
        raise SettingsError(f"the mosaic must lie where {crs.name} is defined; its outline does not")
    points = np.round(np.column_stack([lon, lat])[known], LON_LAT_DIGITS)
    outline = np.array([shapely.orient_polygons(shapely.Polygon(points))])
    try:
        shape = cut_at_antimeridian(outline)[0]
    except AroundPole:
        pole = 90.0 if points[:, 1].mean() > 0 else -90.0
        low, high = sorted((pole, float(min(points[:, 1], key=abs))))
        shape = shapely.orient_polygons(shapely.box(-180.0, low, 180.0, high))
    west, south, east, north = (float(side) for side in shape.bounds)
    if shape.geom_type == "MultiPolygon":  # across the antimeridian, west is the larger number
        sides = shapely.bounds(shapely.get_parts(shape))
        west, east = float(sides[:, 0].max()), float(sides[:, 2].min())
    return json.loads(shapely.to_geojson(shape)), [west, south, east, north]


def _outline(grid: Grid) -> tuple[Any, Any]:
    """Points all around a grid, in pixels, the last one left out."""
    share = np.arange(POINTS_PER_EDGE) / POINTS_PER_EDGE
    zero, one = np.zeros_like(share), np.ones_like(share)
    rows = np.concatenate([share, one, 1 - share, zero]) * grid.height
    cols = np.concatenate([zero, share, one, 1 - share]) * grid.width
    return rows, cols


def _projection(grid: Grid) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "proj:shape": [grid.height, grid.width],
        "proj:transform": [float(value) for value in list(grid.transform)[:6]],
        "proj:bbox": [float(value) for value in grid.bounds()],
    }
    crs = parse_crs(grid.crs_wkt)
    if crs is None:
        return fields | {"proj:code": None}
    authority = crs.to_authority(min_confidence=100)
    return fields | {"proj:code": ":".join(authority) if authority else None, "proj:wkt2": crs.to_wkt()}


def _assets(layout: MosaicLayout, url: str, folder: Folder, attributes: Mapping[str, Any]) -> dict[str, Any]:
    assets: dict[str, Any] = {
        "mosaic": {
            "href": f"../{split_url(url)[1]}",
            "type": "application/vnd.zarr; version=3",
            "title": "the mosaic, a Zarr group",
            "roles": ["data"],
            "bands": _bands(layout),
        }
    }
    for key, (name, kind, roles) in REPORTS.items():
        if folder.exists(name):
            assets[key] = {"href": f"./{name}", "type": kind, "roles": roles}
    model = attributes.get("model") or {}
    if model.get("url"):
        assets["model"] = {
            "href": f"{model['url']}/model.safetensors",
            "type": "application/octet-stream; framework=pytorch",
            "title": "the model's weights",
            "roles": ["mlm:model", "mlm:weights"],
            "mlm:artifact_type": "safetensors.torch.save_file",
        }
    return assets


def _bands(layout: MosaicLayout) -> list[dict[str, Any]]:
    """The mosaic's arrays as bands."""
    size = side_m(layout.grid)
    placed = {} if size is None else {"raster:spatial_resolution": size}
    bands = [
        {
            "name": "classes",
            "data_type": layout.class_dtype.name,
            "nodata": layout.class_nodata,
            "classification:classes": _classes(layout),
            **placed,
        },
        {
            "name": "confidence",
            "description": "probability of the class",
            "data_type": "uint8",
            "nodata": CONFIDENCE_NODATA,
            "raster:scale": 1 / CONFIDENCE_STEPS,
            "raster:offset": 0,
            **placed,
        },
    ]
    if layout.logits != "none":
        coarser = layout.node_px if layout.logits == "lattice" else 1
        there = {} if size is None else {"raster:spatial_resolution": size * coarser}
        bands.append({"name": "logits", "data_type": "float16", "nodata": "nan", **there})
    return bands


def _classes(layout: MosaicLayout) -> list[dict[str, Any]]:
    named = zip(layout.class_names, layout.class_colors, strict=True)
    return [
        {
            "value": index,
            "name": _slug(name, index),
            "title": name,
            "description": name,
            "color_hint": color.removeprefix("#").upper(),
        }
        for index, (name, color) in enumerate(named)
    ]


def _slug(name: str, index: int) -> str:
    """A name of letters, digits, hyphens and underscores, as the extension wants it."""
    return re.sub(r"[^0-9A-Za-z_-]+", "-", name).strip("-") or f"class-{index}"


def _plain_name(name: str) -> str:
    """A model's name without slashes and the like, which the extension refuses: smp/Unet, timm/xception65."""
    return re.sub(r"[^0-9A-Za-z_. -]+", "-", name).strip(" -_.")


def _model(layout: MosaicLayout, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The model by the mlm extension; nothing where the mosaic does not name one that can be found."""
    model = attributes.get("model") or {}
    if not model.get("url") or not {"arch", "bands"} <= set(model):
        return {}
    settings = attributes.get("settings") or {}
    crop_px = int((settings.get("crop") or {}).get("size_px", -1))
    scaling = [
        {"type": "z-score", "mean": mean, "stddev": std}
        for mean, std in zip(model.get("mean", ()), model.get("std", ()), strict=True)
    ]
    num_bands = len(model["bands"])
    classes = [{key: entry[key] for key in ("value", "name", "description")} for entry in _classes(layout)]
    inference = settings.get("inference") or {}
    return {
        "mlm:name": _plain_name(f"{model['arch']} {model.get('backbone', '')}"),
        "mlm:architecture": model["arch"],
        "mlm:framework": "PyTorch",
        "mlm:tasks": ["semantic-segmentation"],
        "mlm:input": [
            {
                "name": "crop",
                "description": f"bands: {', '.join(str(band) for band in model['bands'])}",
                "bands": [],
                "input": {
                    "shape": [-1, num_bands, crop_px, crop_px],
                    "dim_order": ["batch", "channel", "height", "width"],
                    "data_type": "float32",
                },
                **({"value_scaling": scaling} if scaling else {}),
            }
        ],
        "mlm:output": [
            {
                "name": "classes",
                "tasks": ["semantic-segmentation"],
                "result": {
                    "shape": [-1, layout.num_classes, crop_px, crop_px],
                    "dim_order": ["batch", "class", "height", "width"],
                    "data_type": "float32",
                },
                "classification:classes": classes,
            }
        ],
        **({"mlm:hyperparameters": {**inference, "sha256": model["sha256"]}} if "sha256" in model else {}),
    }


def _read(folder: Folder) -> dict[str, Any] | None:
    """The item that is there; None where there is none that can be read."""
    try:
        found = json.loads(folder.read(ITEM_KEY))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) and "assets" in found and "properties" in found else None
