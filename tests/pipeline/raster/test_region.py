"""Regions: which pixels are wanted, whichever window asks, against rasterio on the whole grid."""

import pickle

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.features import rasterize

from pipeline.errors import SettingsError
from pipeline.raster.grid import Grid
from pipeline.raster.polygons import mask
from pipeline.raster.quadtree import Spans
from pipeline.raster.region import from_bbox, from_polygons, from_window, whole
from pipeline.raster.window import Window

UPRIGHT = Affine(10, 0, 1000, 0, -10, 9000)
ROTATED = Affine.translation(1000, 9000) @ Affine.rotation(27) @ Affine.scale(10, -10)
HEIGHT, WIDTH = 50, 60

coordinates = st.floats(-0.2, 1.2).map(lambda share: share + 1e-4)  # off pixel centres: ties belong to nobody
windows = st.builds(
    Window, st.integers(-10, 60), st.integers(-10, 70), st.integers(1, 40), st.integers(1, 40)
)
grids = st.sampled_from([Grid(HEIGHT, WIDTH, UPRIGHT), Grid(HEIGHT, WIDTH, ROTATED)])


def centres(grid):
    cols, rows = np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
    t = grid.transform
    return t.a * cols + t.b * rows + t.c, t.d * cols + t.e * rows + t.f


def touches(region, window):
    rows, cols = Spans.of([(window.row, window.row_stop)]), Spans.of([(window.col, window.col_stop)])
    return bool(region.touches_grid(rows, cols)[0, 0])


def cut(full, window):
    """A full-size mask as a window sees it that may pass the edges."""
    padded = np.pad(full, 120)
    return padded[window.shift(120, 120).slices]


@given(grids, windows, st.tuples(coordinates, coordinates), st.tuples(coordinates, coordinates))
@settings(max_examples=150, deadline=None)
def test_a_bbox_wants_the_pixels_whose_centres_it_holds(grid, window, xs, ys):
    left, bottom, right, top = grid.bounds()
    x = sorted(left + share * (right - left) for share in xs)
    y = sorted(bottom + share * (top - bottom) for share in ys)
    if x[1] - x[0] < 1e-3 or y[1] - y[0] < 1e-3:
        return
    world_x, world_y = centres(grid)
    expected = (world_x > x[0]) & (world_x < x[1]) & (world_y > y[0]) & (world_y < y[1])
    try:
        region = from_bbox(grid, (x[0], y[0], x[1], y[1]))
    except SettingsError:
        assert not expected.any()
        return
    wanted = mask(region, window)
    np.testing.assert_array_equal(wanted, cut(expected, window))
    assert wanted.any() <= touches(region, window)


@given(grids, windows, st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_polygons_cut_by_a_window_equal_rasterio_on_the_whole_grid(grid, window, seed):
    random = np.random.default_rng(seed)
    left, bottom, right, top = grid.bounds()
    points = random.random((8, 2)) * (right - left, top - bottom) + (left, bottom)
    outline = shapely.convex_hull(shapely.multipoints(points))
    hole = shapely.affinity.scale(outline, 0.4, 0.4)
    corner = shapely.box(left, bottom, left + 33, bottom + 41)
    polygons = shapely.union_all([outline.difference(hole), corner])
    expected = rasterize([polygons], out_shape=(HEIGHT, WIDTH), transform=grid.transform).astype(bool)
    region = from_polygons(grid, polygons, "test")
    wanted = mask(region, window)
    np.testing.assert_array_equal(wanted, cut(expected, window))
    assert wanted.any() <= touches(region, window)
    assert not mask(region, window)[~mask(whole(grid), window)].any()


def test_touching_tells_windows_apart():
    """An L leaves one quarter free: its box meets every window, the polygons do not."""
    grid = Grid(100, 100, Affine.identity(), None)
    ell = shapely.box(0, 0, 100, 100).difference(shapely.box(40, 40, 200, 200))
    region = from_polygons(grid, ell, "test")
    halves = Spans.of([(0, 50), (50, 100)])
    assert region.touches_grid(halves, halves).tolist() == [[True, True], [True, False]]
    assert region.touches_grid(Spans.of([]), halves).shape == (0, 2)
    assert not touches(region, Window(200, 0, 5, 5))
    assert not touches(region, Window(0, -5, 5, 5))


def test_a_window_passing_the_edges_is_cut():
    grid = Grid(HEIGHT, WIDTH)
    region = from_window(grid, Window(-5, 50, 20, 100))
    assert region.box == Window(0, 50, 15, 10)
    assert mask(region, Window(-2, 45, 10, 20)).sum() == 8 * 10


def test_the_whole_of_a_source():
    assert mask(whole(Grid(3, 4)), Window(0, 0, 3, 4)).all()
    assert mask(whole(Grid(3, 4)), Window(-1, -1, 5, 6)).sum() == 12


@pytest.mark.parametrize("window", [Window(50, 0, 5, 5), Window(0, -5, 5, 5), Window(3, 3, 0, 5)])
def test_a_window_beside_the_source_is_refused(window):
    with pytest.raises(SettingsError, match="must meet the source's 50 × 60 px, got first row"):
        from_window(Grid(HEIGHT, WIDTH), window)


@pytest.mark.parametrize(
    ("bbox", "sentence"),
    [
        ((5, 0, 5, 9), "left < right and bottom < top"),
        ((5, 9, 6, 9), "left < right and bottom < top"),
        ((0, 0, 10, 10), "region.bbox must meet the source, whose bounds are"),
    ],
)
def test_an_impossible_bbox_is_refused(bbox, sentence):
    with pytest.raises(SettingsError, match=sentence):
        from_bbox(Grid(HEIGHT, WIDTH, UPRIGHT), bbox)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bbox_of_no_numbers_is_refused(bad):
    with pytest.raises(SettingsError, match=r"region\.bbox must be numbers"):
        from_bbox(Grid(HEIGHT, WIDTH, UPRIGHT), (1000, 8500, bad, 9000))


def test_a_region_survives_the_way_to_a_worker():
    region = from_polygons(Grid(100, 100), shapely.Point(50, 50).buffer(20), "test")
    mask(region, Window(0, 0, 100, 100))  # prepared geometry is at hand now
    again = pickle.loads(pickle.dumps(region))  # noqa: S301 - our own bytes
    window = Window(20, 20, 50, 50)
    np.testing.assert_array_equal(mask(again, window), mask(region, window))
    assert touches(again, window)
