"""Polygons and points drawn by people, as labels or as regions on a mosaic's pixels.

GeoJSON is in longitude and latitude unless it names a CRS; on a mosaic without a CRS, such as a slide, it is
in pixels of the scene, x to the right and y down, as annotation tools write it. A pixel belongs to a polygon
that holds its centre, and to a point that lies in it; what comes later in the file lies on top.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyproj
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyproj.exceptions import ProjError
from rasterio.features import rasterize
from shapely.errors import ShapelyError
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from pipeline.errors import SettingsError
from pipeline.raster.grid import Grid
from pipeline.raster.window import Window
from pipeline.storage import read_url, redact
from pipeline.train.evaluate.placement import cells
from pipeline.train.tiles.label_values import UNKNOWN, LabelsRead, LabelValues

BURNABLE = ("Polygon", "MultiPolygon", "Point", "MultiPoint", "GeometryCollection")
WHOLE_NUMBER = re.compile(r"-?[0-9]+")
BENDS = 100
"""Long edges bend when projected: so many points along a geometry's extent keep them where they belong."""


@dataclass(frozen=True)
class Drawn:
    """Geometries on a mosaic; plain values that travel to workers.

    Attributes:
        wkb: Geometries in pixels of the mosaic, later ones on top.
        keys: What each stands for: a class index or a region's number.
        footprint: Mosaic pixels outside are not drawn on.
    """

    wkb: tuple[bytes, ...]
    keys: tuple[int, ...]
    footprint: Window

    def open(self) -> "Burner":
        """Ready to be burnt."""
        return Burner(self)


@dataclass(frozen=True)
class DrawnLabels:
    """Labels from a file of polygons.

    Attributes:
        name: What it is called in reports.
        url: Where it lies.
        drawn: Its geometries by class index.
        outside: The class of pixels within ``footprint`` that nothing covers; the unlabelled index for none.
        footprint: Mosaic pixels outside have no label here.
    """

    name: str
    url: str
    drawn: Drawn
    outside: int
    footprint: Window

    def open(self) -> "OpenDrawnLabels":
        """The labels, to read from."""
        return OpenDrawnLabels(self)


class OpenDrawnLabels:
    """Burns labels by window of the mosaic."""

    def __init__(self, labels: DrawnLabels) -> None:
        self._outside = labels.outside
        self._burner = labels.drawn.open()

    def read(self, window: Window) -> LabelsRead:
        """The labels of a window of the mosaic."""
        return LabelsRead(self._burner.burn(window, self._outside).astype(np.uint16), Counter())


class Burner:
    """Burns geometries into windows, in fixed cells: no pixel depends on the window that asked for it."""

    def __init__(self, drawn: Drawn) -> None:
        self._geometries = [shapely.from_wkb(one) for one in drawn.wkb]
        self._keys = drawn.keys
        self._tree = shapely.STRtree(self._geometries)

    def burn(self, window: Window, empty: int) -> NDArray[np.int32]:
        """The key of the last geometry over each pixel."""
        burnt = np.full(window.shape, empty, np.int32)
        for cell, found in self._touched(window):
            shapes = [(self._geometries[index], self._keys[index]) for index in found]
            _paste(burnt, window, cell, _rasterize(shapes, cell, empty))
        return burnt

    def masks(self, window: Window) -> Iterator[tuple[int, NDArray[np.bool_]]]:
        """Every key that touches a window, and the pixels it covers; keys may overlap."""
        box = _box(window)
        found = np.sort(self._tree.query(box, predicate="intersects"))
        for key in sorted({self._keys[index] for index in found}):
            covered = np.zeros(window.shape, np.bool_)
            for cell, touched in self._touched(window):
                shapes = [(self._geometries[index], 1) for index in touched if self._keys[index] == key]
                if shapes:
                    _paste(covered, window, cell, _rasterize(shapes, cell, 0).astype(np.bool_))
            yield key, covered

    def _touched(self, window: Window) -> Iterator[tuple[Window, list[int]]]:
        for cell in cells(window):
            found = np.sort(self._tree.query(_box(cell), predicate="intersects"))
            if len(found):
                yield cell, found.tolist()


def read_drawn(
    url: str, mosaic: Grid, *, origin: tuple[int, int], key_of: Callable[[int, Mapping[str, Any]], int]
) -> Drawn:
    """The geometries of a GeoJSON file on a mosaic.

    Args:
        url: The file.
        mosaic: The mosaic's grid.
        origin: Row and column of the mosaic's first pixel in its scene.
        key_of: From a feature's number and properties to what it stands for.
    """
    features, crs_name = _read_features(url)
    to_pixels = _to_pixels(mosaic, origin, crs_name, redact(url))
    wkb, keys, boxes = [], [], []
    for number, (geometry, properties) in enumerate(features):
        bounds = geometry.bounds
        extent = max(bounds[2] - bounds[0], bounds[3] - bounds[1])
        dense = shapely.segmentize(geometry, extent / BENDS) if extent and mosaic.crs_wkt else geometry
        in_pixels = shapely.transform(dense, to_pixels)
        if not np.isfinite(in_pixels.bounds).all():
            raise SettingsError(
                f"polygons must lie where the mosaic's CRS is defined, got bounds {list(bounds)} in feature "
                f"{number} of {redact(url)}; is the file in another CRS than it says?"
            )
        inside = _around(in_pixels).intersect(mosaic.window)
        if inside.num_pixels:
            wkb.append(shapely.to_wkb(in_pixels))
            keys.append(key_of(number, properties))
            boxes.append(inside)
    return Drawn(tuple(wkb), tuple(keys), _hull(boxes))


def class_of_feature(
    url: str, property_name: str, class_names: tuple[str, ...], values: LabelValues, *, wanted: str
) -> Callable[[int, Mapping[str, Any]], int]:
    """From a feature to its class: by the class's name, or by a value as label rasters have them.

    Args:
        url: The file of polygons.
        property_name: Where a feature says its class.
        class_names: The classes.
        values: From a label raster's values to classes.
        wanted: What a feature must have, as an error says it, such as "a class of the mosaic".
    """

    def key_of(number: int, properties: Mapping[str, Any]) -> int:
        value = property_of(properties, property_name)
        if isinstance(value, str) and value in class_names:
            return class_names.index(value)
        if isinstance(value, str) and WHOLE_NUMBER.fullmatch(value.strip()):
            value = int(value)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        found = values.index(value) if is_number else UNKNOWN
        if found == UNKNOWN:
            raise SettingsError(
                f"every polygon must have {wanted} ({', '.join(class_names)}) as its property "
                f"{property_name!r}, got {value!r} in feature {number} of {redact(url)}; labels.property "
                "names another property, labels.values maps numbers to classes"
            )
        return found

    return key_of


def property_of(properties: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401 - any JSON value
    """A property by its name; dots lead into objects, as in ``classification.name``."""
    if name in properties:
        return properties[name]
    value: Any = properties
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _read_features(url: str) -> tuple[list[tuple[BaseGeometry, Mapping[str, Any]]], str | None]:
    """Geometries with their properties, and the CRS that the file names."""
    try:
        document = json.loads(read_url(url))
        # QuPath and others write a bare list of features.
        document = {"features": document} if isinstance(document, list) else document
        features = document.get("features", [document])
        found = [
            (_burnable(shape(feature.get("geometry") or feature)), feature.get("properties") or {})
            for feature in features
            if feature.get("geometry") or "coordinates" in feature
        ]
        named = (document.get("crs") or {}).get("properties", {}).get("name")
    except (ValueError, KeyError, TypeError, AttributeError, ShapelyError) as error:
        raise SettingsError(
            f"polygons must be GeoJSON, got {redact(url)}: {type(error).__name__}: {error}"
        ) from error
    if not found:
        raise SettingsError(f"{redact(url)} must hold polygons or points; it holds none")
    return found, named


def _burnable(geometry: BaseGeometry) -> BaseGeometry:
    if geometry.geom_type not in BURNABLE:
        raise ValueError(f"a {geometry.geom_type} covers no pixels: polygons and points do")
    return geometry if geometry.is_valid else shapely.make_valid(geometry)


def _to_pixels(
    mosaic: Grid, origin: tuple[int, int], crs_name: str | None, where: str
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """From the file's coordinates to pixels of the mosaic, column first."""
    if mosaic.crs_wkt is None:
        if crs_name is not None:
            raise SettingsError(
                f"polygons for a mosaic without a CRS must be in pixels, got {crs_name} in {where}"
            )
        return lambda xy: xy - np.array([origin[1], origin[0]], np.float64)
    try:
        crs = pyproj.CRS.from_wkt(mosaic.crs_wkt)
        transformer = pyproj.Transformer.from_crs(crs_name or "OGC:CRS84", crs, always_xy=True)
    except ProjError as error:
        raise SettingsError(
            f"no way from {crs_name or 'OGC:CRS84'} of {where} to the mosaic: {error}"
        ) from error
    back = ~mosaic.transform

    def to_pixels(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y = (np.asarray(axis) for axis in transformer.transform(xy[:, 0], xy[:, 1]))
        with np.errstate(invalid="ignore"):
            return np.column_stack((back.a * x + back.b * y + back.c, back.d * x + back.e * y + back.f))

    return to_pixels


def _rasterize(shapes: list[tuple[BaseGeometry, int]], cell: Window, empty: int) -> NDArray[np.int32]:
    place = Affine.translation(cell.col, cell.row)
    burnt = rasterize(shapes, out_shape=cell.shape, transform=place, fill=empty, dtype="int32")
    return np.asarray(burnt, np.int32)


def _paste(target: NDArray[Any], window: Window, cell: Window, values: NDArray[Any]) -> None:
    own = cell.intersect(window)
    target[own.relative_to(window).slices] = values[own.relative_to(cell).slices]


def _around(geometry: BaseGeometry) -> Window:
    left, top, right, bottom = geometry.bounds
    low = [int(value) for value in np.floor([top, left])]
    return Window.from_bounds(low[0], low[1], int(np.floor(bottom)) + 1, int(np.floor(right)) + 1)


def _hull(boxes: list[Window]) -> Window:
    if not boxes:
        return Window(0, 0, 0, 0)
    return Window.from_bounds(
        min(box.row for box in boxes),
        min(box.col for box in boxes),
        max(box.row_stop for box in boxes),
        max(box.col_stop for box in boxes),
    )


def _box(window: Window) -> BaseGeometry:
    return shapely.box(window.col, window.row, window.col_stop, window.row_stop)
