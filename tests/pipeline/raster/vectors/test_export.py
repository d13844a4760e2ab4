"""Polygons in files: opened by others' software, in the right place, with the right attributes."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
from affine import Affine
from pyproj import CRS, Geod, Transformer
from rasterio.features import rasterize
from shapely.geometry import shape

from pipeline.errors import SettingsError, StorageError
from pipeline.raster.export.region import RegionWish
from pipeline.raster.grid import Grid
from pipeline.raster.mosaic import MosaicWriter, create_mosaic
from pipeline.raster.vectors.export import PolygonWish, export_polygons
from pipeline.storage import Folder, read_url
from tests.pipeline.raster.mosaics import ROTATED, UPRIGHT, make_contents

ROOT = Path(__file__).resolve().parents[4]


def written(tmp_path, contents, wish=None, *, suffix="geojson"):
    folder = Folder.at(tmp_path / "m")
    if folder.is_empty():
        contents.write(folder)
    url = str(tmp_path / "out" / f"p.{suffix}")
    report = export_polygons(folder.url, url, wish or PolygonWish())
    assert report.size_bytes == Path(url).stat().st_size
    assert [path.name for path in Path(url).parent.glob("*")] == [f"p.{suffix}"]
    Path(url).rename(tmp_path / f"p.{suffix}")
    return report, tmp_path / f"p.{suffix}"


def read_geojson(path):
    document = json.loads(path.read_text())
    return document, [(shape(each["geometry"]), each["properties"]) for each in document["features"]]


def at(grid, **changes):
    """Small contents on another grid."""
    contents = make_contents(grid.height, grid.width)
    return replace(contents, layout=replace(contents.layout, grid=grid, **changes))


def to_grid(geometry, grid):
    to_crs = Transformer.from_crs("OGC:CRS84", CRS.from_wkt(grid.crs_wkt), always_xy=True)
    return shapely.transform(geometry, lambda xy: np.column_stack(to_crs.transform(xy[:, 0], xy[:, 1])))


class TestGeoJson:
    @pytest.mark.parametrize("transform", [UPRIGHT, ROTATED])
    def test_burnt_again_it_is_the_mosaic(self, tmp_path, transform):
        contents = make_contents(300, 410, transform=transform)
        report, path = written(tmp_path, contents)
        document, features = read_geojson(path)
        assert "crs" not in document  # RFC 7946: always longitude and latitude
        back = to_grid(np.array([geometry for geometry, _ in features]), contents.layout.grid)
        burnt = rasterize(
            zip(back, (each["class"] for _, each in features), strict=True),
            out_shape=(300, 410), transform=transform, fill=255, dtype="uint8",
        )  # fmt: skip
        np.testing.assert_array_equal(burnt, contents.classes)
        assert report.features == len(features)
        assert report.pixels == (contents.classes != 255).sum() == sum(each["pixels"] for _, each in features)
        assert all(geometry.is_valid and geometry.exterior.is_ccw for geometry, _ in features)

    def test_attributes(self, tmp_path):
        contents = make_contents(300, 410)
        contents.classes[:], contents.confidence[:] = 0, 100
        contents.classes[10:20, 30:50], contents.confidence[10:20, 30:50] = 2, 50
        contents.confidence[10, 30] = 254
        _, path = written(tmp_path, contents)
        _, features = read_geojson(path)
        properties = next(each for _, each in features if each["class"] == 2)
        expected = (50 * 199 + 254) / 200 / 254
        assert properties == {"class": 2, "class_name": "class 2", "pixels": 200, "area": 20_000.0,
                              "confidence": pytest.approx(expected, abs=1e-6)}  # fmt: skip

    def test_across_the_antimeridian_it_is_cut(self, tmp_path):
        grid = Grid(40, 60, Affine(10_000, 0, 100_000, 0, -10_000, 8_000_000), CRS.from_epsg(32701).to_wkt())
        contents = at(grid)
        contents.classes[:] = 1
        _, path = written(tmp_path, contents)
        _, ((geometry, _),) = read_geojson(path)
        assert geometry.is_valid
        assert geometry.geom_type == "MultiPolygon"
        west, east = sorted(part.bounds for part in geometry.geoms)
        assert west[0] == -180.0
        assert east[2] == 180.0
        true = Geod(ellps="WGS84").geometry_area_perimeter(geometry)[0]
        assert abs(true) == pytest.approx(grid.pixel_area * 2400, rel=0.01)

    def test_around_a_pole_it_is_refused(self, tmp_path):
        grid = Grid(50, 50, Affine(10_000, 0, -250_000, 0, -10_000, 250_000), CRS.from_epsg(3031).to_wkt())
        contents = at(grid)
        contents.classes[:] = 1
        with pytest.raises(SettingsError, match="around a pole"):
            written(tmp_path, contents)
        assert list((tmp_path / "out").iterdir()) == []

    def test_long_edges_follow_their_bend(self, tmp_path):
        """A straight edge of 400 km in UTM is no straight line in longitude and latitude."""
        grid = Grid(30, 400, Affine(1000, 0, 300_000, 0, -1000, 7_000_000), CRS.from_epsg(32633).to_wkt())
        contents = at(grid)
        contents.classes[:] = 1
        _, path = written(tmp_path, contents)
        _, ((geometry, _),) = read_geojson(path)
        dense = shapely.segmentize(geometry, 0.001)
        frame = shapely.box(*grid.bounds()).boundary
        assert shapely.hausdorff_distance(to_grid(dense, grid).boundary, shapely.segmentize(frame, 500)) < 300

    def test_areas_of_degrees_are_square_metres_on_the_ellipsoid(self, tmp_path):
        grid = Grid(300, 200, Affine(0.01, 0, 10, 0, -0.01, 61), CRS.from_epsg(4326).to_wkt())
        _, path = written(tmp_path, at(grid))
        _, features = read_geojson(path)
        geod = Geod(ellps="WGS84")
        for geometry, properties in features[::20]:
            true = abs(geod.geometry_area_perimeter(shapely.segmentize(geometry, 0.005))[0])
            assert properties["area"] == pytest.approx(true, rel=1e-5)


class TestUnits:
    def test_slides_in_micrometres(self, tmp_path):
        grid = Grid(100, 150, Affine(0.5, 0, 0, 0, 0.5, 0), None, "micrometer")
        report, path = written(tmp_path, at(grid))
        document, features = read_geojson(path)
        assert report.area_unit == "µm²"
        assert document["metadata"]["coordinates"].startswith("µm")
        for geometry, properties in features:
            assert properties["area"] == properties["pixels"] / 4 == geometry.area

    def test_pixels_where_nothing_is_known_or_on_request(self, tmp_path):
        contents = make_contents(90, 120, transform=Affine.identity(), crs_wkt=None)
        _, path = written(tmp_path, contents)
        plain = path.read_text()
        _, features = read_geojson(path)
        burnt = rasterize([(geometry, each["class"]) for geometry, each in features],
                          out_shape=(90, 120), fill=255, dtype="uint8")  # fmt: skip
        np.testing.assert_array_equal(burnt, contents.classes)
        with pytest.raises(SettingsError, match="units: um needs a mosaic that says how large"):
            written(tmp_path, contents, PolygonWish(units="um"))
        georeferenced = tmp_path / "g"
        _, asked = written(georeferenced, make_contents(90, 120), PolygonWish(units="px"))
        assert asked.read_text() == plain


class TestChoices:
    def test_classes_by_name_and_index(self, tmp_path):
        contents = make_contents(300, 410)
        _, path = written(tmp_path, contents, PolygonWish(classes=("class 2", 0)))
        _, features = read_geojson(path)
        counts = dict.fromkeys((0, 1, 2), 0)
        for _, each in features:
            counts[each["class"]] += each["pixels"]
        assert counts == {0: (contents.classes == 0).sum(), 1: 0, 2: (contents.classes == 2).sum()}
        with pytest.raises(
            SettingsError, match="there is no class 'forest'; the mosaic has class 0, class 1"
        ):
            written(tmp_path, contents, PolygonWish(classes=("forest",)))

    def test_a_region_cuts_polygons_at_whole_pixels(self, tmp_path):
        contents = make_contents(300, 410)
        region = RegionWish(window=(37, 41, 100, 150))
        report, path = written(tmp_path, contents, PolygonWish(region=region, units="px"))
        _, features = read_geojson(path)
        part = contents.classes[37:137, 41:191]
        assert report.pixels == (part != 255).sum()
        burnt = rasterize([(geometry, each["class"]) for geometry, each in features],
                          out_shape=(300, 410), fill=255, dtype="uint8")  # fmt: skip
        np.testing.assert_array_equal(burnt[37:137, 41:191], part)
        assert (burnt != 255).sum() == (part != 255).sum()

    def test_small_areas_in_square_metres(self, tmp_path):
        contents = make_contents(300, 410)
        _, path = written(tmp_path, contents, PolygonWish(min_area=40_000.0))
        _, features = read_geojson(path)
        assert min(each["area"] for _, each in features) == 40_000.0
        report, path = written(tmp_path, contents, PolygonWish(min_area=40_000.1))
        assert read_geojson(path)[1] == []  # squares of 400 px are the largest there are
        assert report.features == 0

    def test_an_unknown_ending_is_refused_before_anything_is_read(self, tmp_path):
        with pytest.raises(SettingsError, match=r"--output must end in \.geojson"):
            export_polygons(str(tmp_path / "absent"), str(tmp_path / "a.shp"), PolygonWish())


class TestOthersSoftware:
    @pytest.mark.parametrize("connectivity", [4, 8])
    @pytest.mark.parametrize("suffix", ["geojson", "parquet", "fgb"])
    def test_geopandas_opens_it(self, tmp_path, suffix, connectivity):
        pytest.importorskip("pyogrio", reason="FlatGeobuf and reading back need pyogrio")
        geopandas = pytest.importorskip("geopandas", reason="files are opened with geopandas")
        contents = make_contents(1100, 1300)
        wish = PolygonWish(connectivity=connectivity, simplify_px=1.5)
        report, path = written(tmp_path, contents, wish, suffix=suffix)
        frame = geopandas.read_parquet(path) if suffix == "parquet" else geopandas.read_file(path)
        assert len(frame) == report.features
        assert frame.is_valid.all()
        assert frame.crs == ("EPSG:4326" if suffix == "geojson" else "EPSG:32633")
        sums = frame.groupby("class").pixels.sum()
        np.testing.assert_array_equal(sums, np.bincount(contents.classes[contents.classes != 255]))
        assert set(frame.class_name) == set(contents.layout.class_names)

    def test_geoparquet_says_what_it_must(self, tmp_path):
        parquet = pytest.importorskip("pyarrow.parquet")
        contents = make_contents(300, 410)
        _, path = written(tmp_path, contents, suffix="parquet")
        file = parquet.ParquetFile(path)
        geo = json.loads(file.metadata.metadata[b"geo"])
        column = geo["columns"]["geometry"]
        assert (geo["version"], geo["primary_column"]) == ("1.1.0", "geometry")
        assert (column["encoding"], column["geometry_types"]) == ("WKB", ["Polygon"])
        assert CRS.from_json_dict(column["crs"]) == CRS.from_epsg(32633)
        assert column["bbox"] == [300_000.0, 4_997_000.0, 304_100.0, 5_000_000.0]
        table = file.read()
        shapes = shapely.from_wkb(table["geometry"].to_pylist())
        boxes = np.array([list(box.values()) for box in table["bbox"].to_pylist()])
        np.testing.assert_array_equal(boxes, shapely.bounds(shapes))


class TestFiles:
    def test_blocks_of_any_size_give_the_same_file(self, tmp_path):
        contents = make_contents(1100, 1060)
        files = []
        for block_px in (1024, 2048):
            folder = Folder.at(tmp_path / f"m{block_px}")
            contents.write(folder, contents.windows(block_px))
            path = tmp_path / str(block_px) / "p.geojson"
            export_polygons(folder.url, str(path), PolygonWish(simplify_px=1.5))
            files.append(path.read_bytes())
        assert files[0] == files[1]

    def test_a_damaged_mosaic_leaves_the_old_file(self, tmp_path):
        make_contents(1100, 1100).write(Folder.at(tmp_path / "m"))
        (tmp_path / "m" / "classes" / "c" / "1" / "0").write_bytes(b"no zstd frame at all")
        old = tmp_path / "a.geojson"
        old.write_bytes(b"old")
        with pytest.raises(StorageError, match="damaged"):
            export_polygons(str(tmp_path / "m"), str(old), PolygonWish())
        assert old.read_bytes() == b"old"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.geojson", "m"]

    def test_to_and_from_a_bucket(self, s3_bucket, tmp_path):
        contents = make_contents(300, 410)
        contents.write(Folder.at(f"{s3_bucket.url}/m"))
        report = export_polygons(f"{s3_bucket.url}/m", f"{s3_bucket.url}/maps/p.geojson", PolygonWish())
        data = read_url(f"{s3_bucket.url}/maps/p.geojson")
        assert report.size_bytes == len(data)
        (tmp_path / "local").mkdir()
        _, path = written(tmp_path / "local", contents)
        assert path.read_bytes() == data


MEASURE = """
import sys
from pathlib import Path
from pipeline.raster.vectors.export import PolygonWish, export_polygons
def peak():
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
before = peak()
report = export_polygons(sys.argv[1], sys.argv[2], PolygonWish(simplify_px=1.0))
print((peak() - before) // 1024, report.features, report.pixels)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_memory_stays_bounded(tmp_path):
    """60 000 × 40 000 px, a strip at each end written: 2.4 GB of classes and as much confidence."""
    contents = make_contents(1024, 40_000)
    layout = replace(contents.layout, grid=Grid(60_000, 40_000, UPRIGHT, contents.layout.grid.crs_wkt))
    folder = Folder.at(tmp_path / "m")
    create_mosaic(folder, layout)
    writer = MosaicWriter(folder, layout)
    for row in (0, 57 * 1024):
        for window in contents.windows():
            writer.write(window.shift(row, 0), contents.arrays(window))
    command = [sys.executable, "-c", MEASURE, folder.url, str(tmp_path / "a.geojson")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    megabytes, features, pixels = (int(value) for value in done.stdout.split())
    assert megabytes < 700
    assert pixels == 2 * (contents.classes != 255).sum()
    assert features > 100_000
