"""GeoJSON and GeoParquet in: where their polygons come to lie, and what is refused."""

import json

import numpy as np
import pytest
import shapely
from affine import Affine
from pyproj import CRS, Transformer
from rasterio.features import rasterize
from shapely.geometry import mapping

from pipeline.errors import SettingsError, StorageError
from pipeline.raster.grid import Grid
from pipeline.raster.polygons import from_file, mask
from pipeline.raster.vectors.export import PolygonWish, export_polygons
from pipeline.storage import Folder
from tests.pipeline.raster.mosaics import make_contents

UTM = CRS.from_epsg(32633)
GRID = Grid(80, 100, Affine(100, 0, 500_000, 0, -100, 5_300_000), UTM.to_wkt())
SQUARE = shapely.box(502_030, 5_294_030, 506_030, 5_298_030)  # in UTM


def in_degrees(polygon):
    back = Transformer.from_crs(UTM, "OGC:CRS84", always_xy=True)
    dense = shapely.segmentize(polygon, 50)
    return shapely.transform(dense, lambda xy: np.column_stack(back.transform(xy[:, 0], xy[:, 1])))


def expected(polygon):
    return rasterize([polygon], out_shape=GRID.window.shape, transform=GRID.transform).astype(bool)


@pytest.fixture
def store(tmp_path):
    def write(document):
        path = tmp_path / "region.geojson"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return str(path)

    return write


def test_degrees_are_projected(store):
    """The same square, told in longitude and latitude (which most files are, in this order)."""
    region = from_file(GRID, store(mapping(in_degrees(SQUARE))))
    assert np.mean(mask(region, GRID.window) != expected(SQUARE)) < 0.002
    assert mask(region, GRID.window).sum() == pytest.approx(1600, abs=10)


@pytest.mark.parametrize("name", ["EPSG:32633", "urn:ogc:def:crs:EPSG::32633"])
def test_a_named_crs_is_taken(store, name):
    document = mapping(SQUARE) | {"crs": {"type": "name", "properties": {"name": name}}}
    region = from_file(GRID, store(document))
    np.testing.assert_array_equal(mask(region, GRID.window), expected(SQUARE))


@pytest.mark.parametrize("name", ["EPSG:4326", "urn:ogc:def:crs:OGC:1.3:CRS84"])
def test_longitude_comes_first_whatever_the_crs_says_of_its_axes(store, name):
    document = dict(mapping(in_degrees(SQUARE))) | {"crs": {"type": "name", "properties": {"name": name}}}
    plain = from_file(GRID, store(mapping(in_degrees(SQUARE))))
    np.testing.assert_array_equal(
        mask(from_file(GRID, store(document)), GRID.window), mask(plain, GRID.window)
    )


def test_a_null_crs_is_none(store):
    region = from_file(GRID, store(dict(mapping(in_degrees(SQUARE))) | {"crs": None}))
    assert mask(region, GRID.window).any()


def test_every_way_to_wrap_polygons_is_understood(store):
    polygon = mapping(in_degrees(SQUARE))
    feature = {"type": "Feature", "properties": {}, "geometry": polygon}
    nothing = {"type": "Feature", "properties": None, "geometry": None}
    point = {"type": "Feature", "properties": {}, "geometry": {"type": "Point", "coordinates": [0, 0]}}
    documents = [
        polygon,
        feature,
        {"type": "MultiPolygon", "coordinates": [polygon["coordinates"]]},
        {"type": "GeometryCollection", "geometries": [polygon]},
        {"type": "FeatureCollection", "features": [nothing, point, feature]},
    ]
    masks = [mask(from_file(GRID, store(document)), GRID.window) for document in documents]
    assert masks[0].any()
    for found in masks[1:]:
        np.testing.assert_array_equal(found, masks[0])


def test_overlapping_polygons_are_one_region(store):
    """Not an even-odd fill: where two overlap is inside."""
    other = shapely.affinity.translate(SQUARE, 2000, 0)
    collection = {"type": "GeometryCollection", "geometries": [mapping(SQUARE), mapping(other)]}
    document = collection | {"crs": {"type": "name", "properties": {"name": "EPSG:32633"}}}
    region = from_file(GRID, store(document))
    np.testing.assert_array_equal(mask(region, GRID.window), expected(SQUARE) | expected(other))


def test_a_bow_tie_is_mended(store):
    """Hand-drawn outlines cross themselves; both wings are meant."""
    bow = [[502_030, 5_294_030], [506_030, 5_298_030], [506_030, 5_294_030], [502_030, 5_298_030]]
    document = {
        "type": "Polygon",
        "coordinates": [[*bow, bow[0]]],
        "crs": {"type": "name", "properties": {"name": "EPSG:32633"}},
    }
    region = from_file(GRID, store(document))
    assert mask(region, GRID.window).sum() == pytest.approx(800, abs=45)


def test_a_long_edge_follows_its_parallel(store):
    """Twenty degrees along a parallel bend by kilometres in UTM: corners alone would cut them off."""
    grid = Grid(400, 1600, Affine(1000, 0, -300_000, 0, -1000, 5_600_000), UTM.to_wkt())
    region = from_file(grid, store(mapping(shapely.box(6, 48, 24, 50))))
    cols, rows = np.meshgrid(np.arange(1600) + 0.5, np.arange(400) + 0.5)
    back = Transformer.from_crs(UTM, "OGC:CRS84", always_xy=True)
    longitude, latitude = back.transform(-300_000 + 1000 * cols, 5_600_000 - 1000 * rows)
    inside = (longitude > 6) & (longitude < 24) & (latitude > 48) & (latitude < 50)
    assert np.mean(mask(region, grid.window) != inside) < 0.0005


@pytest.mark.parametrize(
    "document",
    [
        "no JSON",
        "[1, 2]",
        '"a string"',
        {"type": "FeatureCollection"},
        {"type": "FeatureCollection", "features": [3]},
        {"type": "Polygon"},
        {"type": "Polygon", "coordinates": [[[0, 0], [1]]]},
        {"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]},
        {"type": "Polygon", "coordinates": [[["a", "b"], [1, 1], [2, 2], [0, 0]]]},
    ],
)
def test_what_is_no_geojson_is_refused(store, document):
    with pytest.raises(SettingsError, match=r"region\.polygon must be GeoJSON, got .*region\.geojson: "):
        from_file(GRID, store(document))


@pytest.mark.parametrize(
    "document",
    [
        {"type": "Point", "coordinates": [1, 2]},
        {"type": "FeatureCollection", "features": []},
        {"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [2, 2], [0, 0]]]},
        {},
    ],
)
def test_a_file_without_polygons_is_refused(store, document):
    with pytest.raises(SettingsError, match=r"region\.polygon must hold polygons, got none in "):
        from_file(GRID, store(document))


def test_polygons_need_a_place_on_the_ground(store):
    with pytest.raises(SettingsError, match=r"georeferenced; use region\.window"):
        from_file(Grid(10, 10), store(mapping(in_degrees(SQUARE))))


def test_polygons_elsewhere_are_refused_with_the_bounds(store):
    with pytest.raises(SettingsError, match=r"region\.polygon .* must meet the source, whose bounds are"):
        from_file(GRID, store(mapping(shapely.box(40, 40, 41, 41))))


def test_metres_taken_for_degrees_are_refused(store):
    """The commonest mistake: projected coordinates in a file that does not say so."""
    with pytest.raises(SettingsError, match="where the source's CRS is defined"):
        from_file(GRID, store(mapping(SQUARE)))


def test_an_unknown_crs_is_refused(store):
    document = mapping(SQUARE) | {"crs": {"type": "name", "properties": {"name": "EPSG:999999"}}}
    with pytest.raises(SettingsError, match=r"region\.polygon: no way from 'EPSG:999999'"):
        from_file(GRID, store(document))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"there must be a file at .*none\.geojson"):
        from_file(GRID, str(tmp_path / "none.geojson"))


class TestGeoParquet:
    @pytest.fixture
    def frame(self):
        geopandas = pytest.importorskip("geopandas", reason="GeoParquet is written with geopandas")
        pytest.importorskip("pyarrow", reason="GeoParquet needs pyarrow (the extra 'vectors')")
        half = shapely.transform(SQUARE, lambda xy: xy + np.array([3000, 0]))
        return geopandas.GeoDataFrame({"name": ["a", "b", None]}, geometry=[SQUARE, half, None], crs=UTM)

    @pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:3035", "EPSG:4326", "OGC:CRS84"])
    def test_polygons_in_any_crs(self, frame, tmp_path, crs):
        path = str(tmp_path / "region.parquet")
        frame.to_crs(crs).to_parquet(path)
        # Corners alone are projected there, and the bend of edges between them is not.
        off = mask(from_file(GRID, path), GRID.window) != expected(shapely.union_all(frame.geometry.dropna()))
        assert off.sum() <= (0 if crs == "EPSG:32633" else 8)

    def test_others_than_polygons_are_passed_over(self, frame, tmp_path):
        path = str(tmp_path / "region.geoparquet")
        frame["geometry"] = [SQUARE, shapely.Point(500_000, 5_300_000), None]
        frame.to_parquet(path)
        np.testing.assert_array_equal(mask(from_file(GRID, path), GRID.window), expected(SQUARE))

    def test_a_crs_that_is_unknown_or_left_out(self, frame, tmp_path):
        path = str(tmp_path / "region.parquet")
        frame.set_crs(None, allow_override=True).to_parquet(path)
        with pytest.raises(SettingsError, match=r"must say its CRS, but .*region\.parquet says"):
            from_file(GRID, path)

    def test_polygons_that_we_exported_are_a_region(self, tmp_path):
        contents = make_contents(300, 410)
        contents.write(Folder.at(tmp_path / "m"))
        path = str(tmp_path / "p.parquet")
        export_polygons(str(tmp_path / "m"), path, PolygonWish(classes=(1,)))
        region = from_file(contents.layout.grid, path)
        np.testing.assert_array_equal(mask(region, contents.layout.grid.window), contents.classes == 1)

    @pytest.mark.parametrize("what", ["no parquet", "no geo"])
    def test_what_is_none_is_refused(self, tmp_path, what):
        path = tmp_path / "region.parquet"
        path.write_bytes(b"hello")
        if what == "no geo":
            arrow = pytest.importorskip("pyarrow")
            pytest.importorskip("pyarrow.parquet").write_table(arrow.table({"a": [1]}), path)
        with pytest.raises(SettingsError, match=r"must be GeoParquet, got .*region\.parquet: "):
            from_file(GRID, str(path))
