"""A mosaic's classes as polygons in a file that other software opens."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SettingsError
from pipeline.raster.export.file import put_in_place, workplace, writing
from pipeline.raster.export.region import RegionWish, check_plane, find_region, outside
from pipeline.raster.mosaic import CHUNK_PX, CONFIDENCE_STEPS, Mosaic
from pipeline.raster.plane import Plane
from pipeline.raster.region import Region
from pipeline.raster.vectors.cells import NOTHING, Cells
from pipeline.raster.vectors.files import Layer, Table, writer_of
from pipeline.raster.vectors.placement import Placement, VectorUnits, place
from pipeline.raster.vectors.polygonise import Features, Rules, Surface, polygonise
from pipeline.raster.window import Window
from pipeline.storage import normalise_url, redact

EVERYWHERE = RegionWish()
FIRST_PLANE = Plane(0, 0)

CELL_PX = CHUNK_PX
"""Side of the fixed cells; simplified borders keep a point where they cross from one to the next."""


@dataclass(frozen=True)
class PolygonWish:
    """What polygons are asked for.

    Attributes:
        classes: Names or indices; None: all classes.
        region: What part of the mosaic.
        min_area: Smaller ones are left out; in m², µm² or px², whatever ``area`` is told in.
        simplify_px: How far a border may move.
        connectivity: 4: pixels of one polygon share a side; 8: or a corner.
        units: What coordinates are counted in.
        plane: Which plane of a stack.
    """

    classes: tuple[str | int, ...] | None = None
    region: RegionWish = EVERYWHERE
    min_area: float = 0.0
    simplify_px: float = 0.0
    connectivity: int = 4
    units: VectorUnits = "auto"
    plane: Plane = FIRST_PLANE


@dataclass(frozen=True)
class ExportedPolygons:
    """What was written."""

    url: str
    format: str
    features: int
    pixels: int
    area_unit: str
    size_bytes: int
    seconds: float


def export_polygons(mosaic_url: str, output_url: str, wish: PolygonWish) -> ExportedPolygons:
    """Write the polygons of a mosaic.

    Args:
        mosaic_url: The mosaic.
        output_url: The file, local or in a bucket; its ending names the format.
        wish: What is asked for.
    """
    began = time.monotonic()
    output_url = normalise_url(output_url)
    format_name, write = writer_of(output_url)
    mosaic = Mosaic.open(mosaic_url)
    region = find_region(mosaic.grid, wish.region)
    wanted = choose_classes(mosaic.layout.class_names, wish.classes)
    placement = place(mosaic.grid, wish.units, lon_lat=format_name == "GeoJSON")
    layer = _layer(output_url, placement, wish)
    rules = Rules(wish.connectivity == 8, placement.steps(wish.min_area), wish.simplify_px)
    plane = check_plane(mosaic.layout, wish.plane)
    surface = _surface(mosaic, region, plane, placement, wanted)
    counts = _Counts()
    with workplace(output_url) as folder:
        path = folder / f"polygons{Path(output_url).suffix}"
        features = polygonise(surface, rules, folder)
        tables = (_table(each, placement, mosaic.layout.class_names, layer, counts) for each in features)
        with writing(output_url):
            write(path, layer, tables)
            size_bytes = path.stat().st_size
            put_in_place(path, output_url)
    return ExportedPolygons(
        redact(output_url),
        format_name,
        counts.features,
        counts.pixels,
        placement.area_unit,
        size_bytes,
        time.monotonic() - began,
    )


def choose_classes(names: Sequence[str], wish: Sequence[str | int] | None) -> NDArray[np.bool_]:
    """Which classes are meant, by name or index."""
    chosen = np.zeros(len(names), np.bool_)
    for each in range(len(names)) if wish is None else wish:
        is_index = isinstance(each, int) and 0 <= each < len(names)
        if not is_index and each not in names:
            raise SettingsError(f"classes: there is no class {each!r}; the mosaic has {', '.join(names)}")
        chosen[each if isinstance(each, int) and is_index else list(names).index(str(each))] = True
    return chosen


@dataclass
class _Counts:
    """Added up while features are written."""

    features: int = 0
    pixels: int = 0


def _surface(
    mosaic: Mosaic, region: Region, plane: Plane, placement: Placement, wanted: NDArray[np.bool_]
) -> Surface:
    nodata = mosaic.layout.class_nodata

    def values(window: Window) -> NDArray[np.int32]:
        box = window.intersect(region.box)
        if not box.num_pixels:
            return np.full(window.shape, NOTHING, np.int32)
        result = mosaic.classes(window, t=plane.t, z=plane.z).astype(np.int32)
        result[result == nodata] = NOTHING
        beyond = outside(region, window)
        if beyond is not None:
            result[beyond] = NOTHING
        return result

    cells = Cells(mosaic.grid.window, CELL_PX)
    confidence = partial(mosaic.confidence, t=plane.t, z=plane.z)
    return Surface(cells, values, confidence, placement.areas, wanted)


def _layer(output_url: str, placement: Placement, wish: PolygonWish) -> Layer:
    crs = None if placement.is_lon_lat else placement.crs
    as_multi = wish.connectivity == 8
    coordinates = {
        "crs": "as the mosaic's CRS",
        "um": "µm, x to the right, y down",
        "px": "px, x to the right, y down",
    }
    notes = {
        "coordinates": "CRS84" if placement.is_lon_lat else coordinates[placement.units],
        "area": placement.area_unit,
        "confidence": "mean probability of the class",
        "simplify_px": wish.simplify_px,
    }
    return Layer(Path(output_url).stem, crs, as_multi, notes)


def _table(
    features: Features, placement: Placement, names: Sequence[str], layer: Layer, counts: _Counts
) -> Table:
    measures = features.measures
    counts.features += len(features.values)
    counts.pixels += int(measures.pixels.sum())
    return Table(
        placement.geometries(features, as_multi=layer.as_multi),
        {
            "class": features.values,
            "class_name": np.array(names, np.object_)[features.values],
            "pixels": measures.pixels,
            "area": measures.area * placement.quantum,
            "confidence": np.round(measures.confidence / measures.pixels / CONFIDENCE_STEPS, 6),
        },
    )
