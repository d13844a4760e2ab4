import numpy as np
import pytest
from affine import Affine
from pyproj import CRS, Geod, Transformer

from pipeline.raster.grid import Grid
from pipeline.raster.window import Window
from pipeline.report.ground import Ground, _ellipsoid_pixel_m2, area_unit, round_length

UTM = CRS(32633).to_wkt()
ALPS = Affine(10.0, 0.0, 500_000.0, 0.0, -10.0, 5_200_000.0)


def geodesic_area_m2(crs, grid, window, points=400):
    """Oracle: the window's outline, densely sampled, as a polygon on the ellipsoid."""
    along = np.linspace(0, 1, points)
    top, left = window.row, window.col
    bottom, right = window.row_stop, window.col_stop
    cols = np.concatenate([left + along * (right - left), np.full(points, right)])
    cols = np.concatenate([cols, right - along * (right - left), np.full(points, left)])
    rows = np.concatenate([np.full(points, top), top + along * (bottom - top)])
    rows = np.concatenate([rows, np.full(points, bottom), bottom - along * (bottom - top)])
    x, y = zip(*(grid.transform @ (col, row) for col, row in zip(cols, rows, strict=True)), strict=True)
    lon, lat = Transformer.from_crs(crs, 4326, always_xy=True).transform(x, y)
    return abs(Geod(ellps="WGS84").polygon_area_perimeter(lon, lat)[0])


def test_metric_projections_are_measured_in_their_plane():
    ground = Ground.under(Grid(100, 200, ALPS, UTM), {})
    window = Window(0, 0, 100, 200)
    assert ground.class_areas_m2([(window, np.array([30, 0, 12]))]) == [3000.0, 0.0, 1200.0]
    assert ground.width_m() == 2000.0
    assert "UTM" in ground.note


def test_feet_are_not_taken_for_metres():
    feet = CRS(2225)  # California zone 1, US survey feet
    grid = Grid(10, 10, Affine(3.0, 0, 6_000_000, 0, -3.0, 2_000_000), feet.to_wkt())
    foot_m = 1200 / 3937
    ground = Ground.under(grid, {})
    assert ground.pixel_area_m2(grid.window) == pytest.approx((3 * foot_m) ** 2, rel=1e-9)
    assert ground.width_m() == pytest.approx(30 * foot_m, rel=1e-9)


@pytest.mark.parametrize(
    "transform",
    [
        Affine(0.001, 0, 10.0, 0, -0.001, 60.0),
        Affine(0.001, 0, 10.0, 0, -0.001, 0.5),
        Affine(0.0008, 0.0003, 10.0, 0.0003, -0.0008, 70.0),
    ],
    ids=["north", "equator", "rotated"],
)
def test_degrees_become_square_metres_of_the_ellipsoid(transform):
    grid = Grid(2000, 1500, transform, CRS(4326).to_wkt())
    window = Window(500, 200, 1024, 1024)
    area = Ground.under(grid, {}).pixel_area_m2(window) * window.num_pixels
    assert area == pytest.approx(geodesic_area_m2(4326, grid, window), rel=1e-4)


def test_web_mercator_does_not_inflate_areas():
    x, y = Transformer.from_crs(4326, 3857, always_xy=True).transform(25.0, 60.2)
    grid = Grid(4096, 4096, Affine(10, 0, x, 0, -10, y), CRS(3857).to_wkt())
    ground = Ground.under(grid, {})
    area = ground.pixel_area_m2(grid.window) * grid.window.num_pixels
    assert area == pytest.approx(geodesic_area_m2(3857, grid, grid.window), rel=1e-4)
    assert area < 0.3 * 100 * grid.window.num_pixels  # the plane shows four times as much
    assert "ellipsoid" in ground.note


def test_windows_across_the_antimeridian_are_no_larger_than_others():
    crs = CRS(3832)  # a Mercator around the Pacific
    x, y = Transformer.from_crs(4326, crs, always_xy=True).transform(179.9, -45.0)
    grid = Grid(1000, 2000, Affine(30, 0, x, 0, -30, y), crs.to_wkt())
    area = Ground.under(grid, {}).pixel_area_m2(grid.window) * grid.window.num_pixels
    assert area == pytest.approx(geodesic_area_m2(crs, grid, grid.window), rel=1e-4)


def test_beside_the_earth_there_is_no_ground():
    crs = CRS("+proj=ortho +lat_0=0 +lon_0=0 +ellps=WGS84")
    grid = Grid(100, 100, Affine(1e5, 0, 7e6, 0, -1e5, 9e6), crs.to_wkt())
    assert _ellipsoid_pixel_m2(crs, grid, grid.window) == 0.0


def test_the_scale_bar_of_a_geographic_grid_is_true_at_its_centre():
    grid = Grid(100, 400, Affine(0.001, 0, 10.0, 0, -0.001, 50.05), CRS(4326).to_wkt())
    lon, lat = grid.transform @ (200, 50)
    expected = Geod(ellps="WGS84").inv(lon - 0.2, lat, lon + 0.2, lat)[2]
    assert Ground.under(grid, {}).width_m() == pytest.approx(expected, rel=1e-4)


def test_slides_are_measured_by_their_stated_pixel_size():
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "unit": "micrometer"} for n in ("y", "x"))]
    dataset = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1.0, 0.25, 0.5]}]}
    ome = {"ome": {"multiscales": [{"axes": axes, "datasets": [dataset]}]}}
    ground = Ground.under(Grid(1000, 1000), ome)
    assert ground.pixel_area_m2(Window(0, 0, 10, 10)) == pytest.approx(0.125e-12)
    assert ground.width_m() == pytest.approx(500e-6)


def test_without_any_scale_nothing_is_invented():
    ground = Ground.under(Grid(10, 10), {})
    assert not ground.is_known
    assert ground.width_m() is None
    assert "pixels" in ground.note
    with pytest.raises(ValueError, match="no known size"):
        ground.pixel_area_m2(Window(0, 0, 1, 1))


@pytest.mark.parametrize(
    ("total_m2", "sign"),
    [(3.6e9, "km²"), (1e7, "km²"), (9.9e6, "ha"), (1e5, "ha"), (400.0, "m²"), (2e-4, "mm²"), (1e-9, "µm²")],
)
def test_areas_get_the_unit_that_reads_best(total_m2, sign):
    assert area_unit(total_m2).sign == sign


@pytest.mark.parametrize(
    ("at_most", "text"),
    [
        (10_800, "10 km"),
        (999, "500 m"),
        (2_000, "2 km"),
        (0.00049, "200 µm"),
        (0.5, "500 mm"),
        (7e5, "500 km"),
    ],
)
def test_scale_bars_have_round_lengths(at_most, text):
    length, told = round_length(at_most)
    assert told.replace("\u202f", " ") == text
    assert 0.3 * at_most < length <= at_most * (1 + 1e-9)
