"""Labels of every form and CRS, against what is true of the whole raster."""

import itertools
import json

import numpy as np
import pytest
import shapely
import zarr
from affine import Affine
from pyproj import CRS, Transformer
from rasterio.features import rasterize
from rasterio.warp import Resampling, reproject

from pipeline.errors import SettingsError
from tests.pipeline.raster.mosaics import ROTATED, UPRIGHT
from tests.pipeline.train.evaluated import (
    NAMES,
    UNLABELLED,
    confusion_of,
    geojson,
    run,
    truth_of,
    without_time,
    write_labels,
    write_mosaic,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("sources")


@pytest.fixture(scope="module")
def contents(place):
    return write_mosaic(place / "mosaic.zarr", 1100, 1300)


ELSEWHERE = {  # CRS, size and place of label grids that overlap the mosaic, finer, coarser and turned
    "finer, next zone": ("EPSG:32634", (1900, 2300), Affine(6, 0.4, -170_500, 0.2, -6, 5_037_500)),
    "degrees": ("EPSG:4326", (700, 900), Affine(1.9e-4, 0, 12.46, 0, -1.4e-4, 45.14)),
    "coarser, same CRS": ("EPSG:32633", (500, 600), Affine(27, 0, 300_105, 0, -27, 4_999_905)),
    "turned, same CRS": ("EPSG:32633", (900, 900), UPRIGHT @ Affine.rotation(20) @ Affine.scale(1.3)),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_labels_on_another_grid_are_looked_up_as_gdal_does(contents, place, tmp_path, name):
    """GDAL warps the whole raster at once, exactly; edges between pixels aside, the same labels come out."""
    crs, shape, transform = ELSEWHERE[name]
    random = np.random.default_rng(5)
    coarse = random.integers(0, 3, (shape[0] // 9 + 1, shape[1] // 9 + 1), dtype=np.uint8)
    labels = np.kron(coarse, np.ones((9, 9), np.uint8))[: shape[0], : shape[1]]
    labels[:20] = UNLABELLED
    write_labels(tmp_path / "labels.tif", labels, transform=transform, crs=crs)
    warped = np.full(contents.classes.shape, UNLABELLED, np.uint8)
    reproject(
        labels, warped, src_transform=transform, src_crs=crs, src_nodata=UNLABELLED,
        dst_transform=UPRIGHT, dst_crs="EPSG:32633", dst_nodata=UNLABELLED,
        resampling=Resampling.nearest, tolerance=0,
    )  # fmt: skip
    found = run(place / "mosaic.zarr", tmp_path / "labels.tif", tmp_path / "out")
    expected = confusion_of(contents.classes, warped)
    assert expected.sum() > 200_000
    assert np.abs(np.array(found["confusion"]) - expected).sum() < 0.003 * expected.sum()
    whole = run(place / "mosaic.zarr", tmp_path / "labels.tif", tmp_path / "whole", block={"size_px": 2048})
    assert without_time(whole) == without_time(found)


def test_labels_far_finer_than_the_mosaic_are_read_in_pieces(contents, place, tmp_path, monkeypatch):
    from pipeline.train.evaluate import raster_labels

    fine = np.repeat(np.repeat(truth_of(contents)[:130, :150], 9, axis=0), 9, axis=1)
    transform = UPRIGHT @ Affine.scale(1 / 9)
    write_labels(tmp_path / "fine.tif", fine, transform=transform, tiled=True, compress="deflate")
    whole = run(place / "mosaic.zarr", tmp_path / "fine.tif", tmp_path / "out")
    monkeypatch.setattr(raster_labels, "LARGEST_READ_PX", 5000)
    pieces = run(place / "mosaic.zarr", tmp_path / "fine.tif", tmp_path / "pieces")
    assert pieces["confusion"] == whole["confusion"]
    labels = np.full(contents.classes.shape, UNLABELLED, np.uint8)
    labels[:130, :150] = fine[4::9, 4::9]
    np.testing.assert_array_equal(whole["confusion"], confusion_of(contents.classes, labels))


def test_a_slide_has_no_crs_and_matches_by_pixels(tmp_path):
    """The mosaic of a region, labels of the whole slide: the mosaic says where in it it lies."""
    scene = np.random.default_rng(2).integers(0, 3, (900, 1100), dtype=np.uint8)
    grid = {"height": 900, "width": 1100, "transform": [1, 0, 0, 0, 1, 0], "crs_wkt": None}
    attributes = {"source_origin": [384, 768], "settings": {"source": {"grid": grid}}}
    contents = write_mosaic(
        tmp_path / "m.zarr", 300, 250, transform=Affine.identity(), crs_wkt=None, attributes=attributes
    )
    write_labels(tmp_path / "slide.png", scene, transform=None, driver="PNG")
    found = run(tmp_path / "m.zarr", tmp_path / "slide.png", tmp_path / "out")
    expected = confusion_of(contents.classes, scene[384:684, 768:1018])
    np.testing.assert_array_equal(found["confusion"], expected)
    assert found["area"]["unit"] == "px"


def test_labels_may_be_a_zarr_array(tmp_path):
    contents = write_mosaic(tmp_path / "m.zarr", 300, 250, transform=Affine.identity(), crs_wkt=None)
    truth = truth_of(contents)
    zarr.create_array(str(tmp_path / "l.zarr"), data=truth, chunks=(128, 128), dimension_names=("y", "x"))
    found = run(tmp_path / "m.zarr", tmp_path / "l.zarr", tmp_path / "out")
    np.testing.assert_array_equal(found["confusion"], confusion_of(contents.classes, truth))


def test_annotations_on_a_slide_are_in_its_pixels(tmp_path):
    attributes = {"source_origin": [384, 768]}
    contents = write_mosaic(
        tmp_path / "m.zarr", 300, 250, transform=Affine.identity(), crs_wkt=None, attributes=attributes
    )
    box = shapely.box(768 + 20, 384 + 30, 768 + 120, 384 + 90)  # x to the right, y down
    annotations = [{"type": "Feature", "geometry": shapely.geometry.mapping(box),
                    "properties": {"classification": {"name": "class 1"}}}]  # fmt: skip
    (tmp_path / "qupath.geojson").write_text(json.dumps(annotations))
    labels = {"urls": str(tmp_path / "qupath.geojson"), "property": "classification.name"}
    found = run(tmp_path / "m.zarr", labels, tmp_path / "out")
    truth = np.full(contents.classes.shape, UNLABELLED, np.uint8)
    truth[30:90, 20:120] = 1
    np.testing.assert_array_equal(found["confusion"], confusion_of(contents.classes, truth))


def blobs(count=40, seed=0):
    """Overlapping odd shapes all over the mosaic and beyond, with a class each, in its CRS."""
    random = np.random.default_rng(seed)
    centres = np.column_stack(
        (300_000 + random.uniform(-500, 13_500, count), 5_000_000 - random.uniform(-500, 11_500, count))
    )
    shapes = [
        shapely.affinity.rotate(shapely.Point(centre).buffer(radius, quad_segs=3), 7).difference(
            shapely.Point(centre).buffer(radius / 3)
        )
        for centre, radius in zip(centres, random.uniform(40, 1500, count), strict=True)
    ]
    return [(shape, int(index)) for shape, index in zip(shapes, random.integers(0, 3, count), strict=True)]


def burnt(shapes, size, transform=UPRIGHT, fill=UNLABELLED):
    return rasterize(shapes, out_shape=size, transform=transform, fill=fill, dtype="uint8")


@pytest.mark.parametrize("transform", [UPRIGHT, ROTATED])
def test_polygons_are_burnt_as_on_the_whole_raster(tmp_path, transform):
    contents = write_mosaic(tmp_path / "m.zarr", 1100, 1300, transform=transform)
    shapes = blobs()
    geojson(tmp_path / "l.geojson", [(shape, {"class": NAMES[index]}) for shape, index in shapes])
    expected = confusion_of(contents.classes, burnt(shapes, contents.classes.shape, transform))
    found = run(tmp_path / "m.zarr", tmp_path / "l.geojson", tmp_path / "out")
    # Burning in pixels instead of metres rounds otherwise: single centres on an edge may fall either way.
    assert np.abs(np.array(found["confusion"]) - expected).sum() <= 20
    whole = run(tmp_path / "m.zarr", tmp_path / "l.geojson", tmp_path / "whole", block={"size_px": 2048})
    assert without_time(whole) == without_time(found)


def test_polygons_in_degrees_by_number_and_what_they_leave_out(contents, place, tmp_path):
    shapes = blobs()
    back = Transformer.from_crs(CRS.from_epsg(32633), "OGC:CRS84", always_xy=True)

    def in_degrees(shape):
        return shapely.transform(shape, lambda xy: np.column_stack(back.transform(xy[:, 0], xy[:, 1])))

    features = [(in_degrees(shape), {"code": [11, 12, 13][index]}) for shape, index in shapes]
    geojson(tmp_path / "l.geojson", features, crs=None)
    labels = {
        "urls": str(tmp_path / "l.geojson"),
        "property": "code",
        "values": {11: "class 0", 12: "class 1", 13: "class 2"},
        "outside": "class 2",
    }
    found = run(place / "mosaic.zarr", labels, tmp_path / "out")
    expected = confusion_of(contents.classes, burnt(shapes, contents.classes.shape, fill=2))
    assert sum(map(sum, found["confusion"])) == contents.classes.size
    assert np.abs(np.array(found["confusion"]) - expected).sum() < 0.002 * contents.classes.size


def test_points_are_samples_of_one_pixel(contents, place, tmp_path):
    random = np.random.default_rng(8)
    places = random.integers([0, 0], contents.classes.shape, (60, 2))
    truth = np.full(contents.classes.shape, UNLABELLED, np.uint8)
    features = []
    for row, col in places.tolist():
        truth[row, col] = 1
        x, y = UPRIGHT @ (col + 0.3, row + 0.7)
        features.append((shapely.Point(x, y), {"class": "class 1"}))
    geojson(tmp_path / "points.geojson", features)
    found = run(place / "mosaic.zarr", tmp_path / "points.geojson", tmp_path / "out")
    np.testing.assert_array_equal(found["confusion"], confusion_of(contents.classes, truth))


@pytest.mark.parametrize(
    ("properties", "sentence"),
    [
        ({"class": "marsh"}, "must have a class of the mosaic .* got 'marsh' in feature 0"),
        ({"klass": "class 1"}, "as its property 'class', got None"),
        ({"class": 7}, "got 7"),
        ({"class": "--1"}, "got '--1'"),
        ({"class": "²"}, "got '²'"),
        ({"class": True}, "got True"),
    ],
)
def test_a_polygon_without_a_class_is_refused(place, contents, tmp_path, properties, sentence):
    geojson(tmp_path / "l.geojson", [(shapely.box(300_000, 4_999_000, 301_000, 5_000_000), properties)])
    with pytest.raises(SettingsError, match=sentence):
        run(place / "mosaic.zarr", tmp_path / "l.geojson", tmp_path / "out")
    assert contents.classes.size


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("no json", "polygons must be GeoJSON"),
        ('{"type": "FeatureCollection", "features": []}', "must hold polygons or points"),
        ('{"type": "LineString", "coordinates": [[0, 0], [1, 1]]}', "a LineString covers no pixels"),
    ],
)
def test_what_covers_no_pixels_is_refused(place, contents, tmp_path, text, sentence):
    (tmp_path / "l.geojson").write_text(text)
    with pytest.raises(SettingsError, match=sentence):
        run(place / "mosaic.zarr", tmp_path / "l.geojson", tmp_path / "out")
    assert contents.classes.size


def test_regions_are_reported_by_themselves_and_may_overlap(contents, place, tmp_path):
    truth = truth_of(contents)
    write_labels(tmp_path / "l.tif", truth)
    west = shapely.box(300_000, 4_988_000, 308_000, 5_000_000)
    middle = shapely.box(304_000, 4_990_000, 311_000, 4_995_000)
    beyond = shapely.box(400_000, 4_990_000, 401_000, 4_995_000)
    regions = [(west, {"name": "west"}), (middle, {"name": "middle"}), (beyond, {"name": "beyond"})]
    geojson(tmp_path / "regions.geojson", regions)
    url = str(tmp_path / "regions.geojson")
    found = run(place / "mosaic.zarr", tmp_path / "l.tif", tmp_path / "out", regions={"url": url})
    assert [region["name"] for region in found["regions"]] == ["west", "middle"]
    for region, shape in zip(found["regions"], (west, middle), strict=True):
        inside = burnt([(shape, 1)], truth.shape, fill=0) == 1
        expected = confusion_of(contents.classes, np.where(inside, truth, UNLABELLED))
        assert region["pixels"] == expected.sum()
        assert region["pixel_accuracy"] == pytest.approx(np.trace(expected[:, :3]) / expected.sum())
    total = confusion_of(contents.classes, truth)
    np.testing.assert_array_equal(found["confusion"], total)


def test_regions_elsewhere_are_refused(contents, place, tmp_path):
    write_labels(tmp_path / "l.tif", truth_of(contents))
    geojson(tmp_path / "r.geojson", [(shapely.box(400_000, 4_990_000, 401_000, 4_995_000), {})])
    with pytest.raises(SettingsError, match="regions must meet the mosaic"):
        run(
            place / "mosaic.zarr",
            tmp_path / "l.tif",
            tmp_path / "o",
            regions={"url": str(tmp_path / "r.geojson")},
        )


def test_areas_in_degrees_are_measured_on_the_ellipsoid(tmp_path):
    """Rows near the pole hold less ground: a class that lies in the north has fewer square metres a pixel."""
    transform = Affine(0.01, 0, 20, 0, -0.01, 75)
    degrees = CRS.from_epsg(4326).to_wkt()
    contents = write_mosaic(tmp_path / "m.zarr", 2100, 300, transform=transform, crs_wkt=degrees)
    write_labels(tmp_path / "l.tif", truth_of(contents), transform=transform, crs="EPSG:4326")
    found = run(tmp_path / "m.zarr", tmp_path / "l.tif", tmp_path / "out")
    other = run(tmp_path / "m.zarr", tmp_path / "l.tif", tmp_path / "two", block={"size_px": 2048})
    rows, cols = np.nonzero(contents.classes != UNLABELLED)
    geod = CRS.from_wkt(degrees).get_geod()
    lat = np.linspace(75, 54, 2101)
    row_m2 = [
        abs(geod.polygon_area_perimeter([20, 20.01, 20.01, 20], [a, a, b, b])[0])
        for a, b in itertools.pairwise(lat)
    ]
    assert cols.size
    assert found["area"]["total"] == pytest.approx(np.sum(np.array(row_m2)[rows]), rel=2e-3)
    assert other["area"] == found["area"]
