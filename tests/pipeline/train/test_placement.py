"""Where labels come to lie on a mosaic's pixels."""

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS, Transformer

from pipeline.errors import SettingsError
from pipeline.raster.grid import Grid
from pipeline.raster.window import Window
from pipeline.train.evaluate.placement import CELL_PX, Shifted, Warped, cells, place
from tests.pipeline.raster.mosaics import ROTATED, UPRIGHT, UTM

NEXT_ZONE = CRS.from_epsg(32634).to_wkt()
DEGREES = CRS.from_epsg(4326).to_wkt()
MOSAIC = Grid(700, 900, UPRIGHT, UTM)


def laid(mosaic, labels, **scene):
    return place(mosaic, labels, "labels.tif", **({"origin": (0, 0), "scene_shape": None} | scene))


@pytest.mark.parametrize("transform", [UPRIGHT, ROTATED])
@pytest.mark.parametrize(("col", "row"), [(0, 0), (-120, 40), (300, 600)])
def test_whole_pixels_are_a_shift(transform, col, row):
    mosaic = Grid(700, 900, transform, UTM)
    labels = Grid(250, 300, transform @ Affine.translation(col, row), UTM)
    assert laid(mosaic, labels) == Shifted(-row, -col)


@pytest.mark.parametrize(
    "transform",
    [
        UPRIGHT @ Affine.translation(0.5, 0),
        UPRIGHT @ Affine.scale(2),
        UPRIGHT @ Affine.scale(1.0001),
        UPRIGHT @ Affine.rotation(0.1),
        UPRIGHT @ Affine.scale(1, -1),
    ],
)
def test_anything_else_on_the_ground_is_looked_up(transform):
    assert isinstance(laid(MOSAIC, Grid(700, 900, transform, UTM)), Warped)


def test_two_spellings_of_one_crs_are_one():
    other = CRS.from_epsg(32633).to_wkt("WKT1_GDAL")
    assert other != UTM
    assert laid(MOSAIC, Grid(700, 900, UPRIGHT, other)) == Shifted(0, 0)


def test_without_a_common_crs_sizes_decide():
    plain = Grid(700, 900)
    assert laid(MOSAIC, plain) == Shifted(0, 0)
    assert laid(plain, MOSAIC) == Shifted(0, 0)
    whole = Grid(2000, 3000)
    assert laid(plain, whole, origin=(384, 768), scene_shape=(2000, 3000)) == Shifted(384, 768)
    with pytest.raises(
        SettingsError, match=r"must have the mosaic's 700 × 900 px or its scene's 2000 × 3000"
    ):
        laid(plain, Grid(2000, 2999), origin=(384, 768), scene_shape=(2000, 3000))


def exact(warped, window):
    """The label pixel under every centre, one point at a time."""
    rows, cols = np.mgrid[window.row : window.row_stop, window.col : window.col_stop] + 0.5
    transform = warped.mosaic.transform
    x = transform.a * cols + transform.b * rows + transform.c
    y = transform.d * cols + transform.e * rows + transform.f
    source, target = (CRS.from_wkt(grid.crs_wkt) for grid in (warped.mosaic, warped.labels))
    x, y = Transformer.from_crs(source, target, always_xy=True).transform(x, y)
    back = ~warped.labels.transform
    return back.d * x + back.e * y + back.f, back.a * x + back.b * y + back.c


def near_an_edge(values):
    return np.abs(values - np.rint(values)) < 0.011


NEIGHBOUR = Grid(500, 800, Affine(12, 0.5, -169_000, 0.3, -11, 5_036_000), NEXT_ZONE)
IN_DEGREES = Grid(900, 1100, Affine(1.1e-4, 0, 12.47, 0, -8e-5, 45.13), DEGREES)


@pytest.mark.parametrize("labels", [NEIGHBOUR, IN_DEGREES])
def test_centres_find_their_label(labels):
    warped = Warped(MOSAIC, labels)
    inside = 0
    for cell in cells(MOSAIC.window):
        rows, cols = warped.label_pixels(cell)
        exact_rows, exact_cols = exact(warped, cell)
        for found, expected in ((rows, exact_rows), (cols, exact_cols)):
            sure = ~near_an_edge(expected) & (expected >= 0)
            np.testing.assert_array_equal(found[sure], np.floor(expected[sure]))
            assert (found[expected < -0.02] < 0).all()
        inside += np.count_nonzero((rows >= 0) & (rows < labels.height) & (cols >= 0) & (cols < labels.width))
    assert inside > 50_000, "the grids must overlap, or nothing is tested"


def test_where_projections_break_every_point_is_projected_by_itself():
    """A polar grid over the pole, looked up in degrees: no interpolation may cross the jump of longitude."""
    polar = Grid(CELL_PX, CELL_PX, Affine(2000, 0, -256_000, 0, -2000, 256_000), CRS.from_epsg(3995).to_wkt())
    globe = Grid(1800, 3600, Affine(0.1, 0, -180, 0, -0.1, 90), DEGREES)
    warped = Warped(polar, globe)
    rows, cols = warped.label_pixels(Window(0, 0, CELL_PX, CELL_PX))
    exact_rows, exact_cols = exact(warped, polar.window)
    assert np.mean(rows == np.floor(exact_rows)) > 0.999
    assert np.mean(cols == np.floor(exact_cols)) > 0.999


def test_what_no_projection_reaches_has_no_label():
    """Half of a cell lies beyond the edge of an orthographic view."""
    view = CRS.from_proj4("+proj=ortho +lat_0=0 +lon_0=0").to_wkt()
    mosaic = Grid(CELL_PX, CELL_PX, Affine(100_000, 0, -12_800_000, 0, -100_000, 12_800_000), view)
    rows, cols = Warped(mosaic, Grid(180, 360, Affine(1, 0, -180, 0, -1, 90), DEGREES)).label_pixels(
        Window(0, 0, CELL_PX, CELL_PX)
    )
    row, col = np.mgrid[0:CELL_PX, 0:CELL_PX] + 0.5
    beyond = np.hypot(row - 128, col - 128) > 64.5
    assert (rows[beyond] == -1).all()
    assert (cols[beyond] == -1).all()
    on_earth = np.hypot(row - 128, col - 128) < 63
    assert (rows[on_earth] >= 0).all()


@settings(max_examples=30, deadline=None)
@given(st.floats(0.3, 3), st.floats(-180, 180), st.floats(-400, 400), st.floats(-400, 400))
def test_the_footprint_holds_every_labelled_pixel(scale, degrees, x, y):
    centre = UPRIGHT @ Affine.translation(450 + x, 350 + y)
    transform = centre @ Affine.rotation(degrees) @ Affine.scale(scale) @ Affine.translation(-100, -100)
    warped = Warped(MOSAIC, Grid(200, 200, transform, UTM))
    footprint = warped.footprint()
    for cell in cells(MOSAIC.window):
        rows, cols = warped.label_pixels(cell)
        inside = (rows >= 0) & (rows < 200) & (cols >= 0) & (cols < 200)
        for row, col in np.argwhere(inside)[::997]:
            pixel = Window(cell.row + int(row), cell.col + int(col), 1, 1)
            if MOSAIC.window.contains(pixel):
                assert footprint.contains(pixel)
