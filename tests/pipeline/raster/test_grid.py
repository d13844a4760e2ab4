"""Grids keep pixels where they are, on rotated and sheared grids too."""

import json

import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from pipeline.raster.grid import Grid
from pipeline.raster.window import Window

ROTATED = Affine.translation(300_000, 5_000_000) @ Affine.rotation(33) @ Affine.scale(10, -10)
TRANSFORMS = [
    Affine(10, 0, 300_000, 0, -10, 5_000_000),
    Affine(0.25, 0, -180, 0, 0.25, -90),  # rows go up
    ROTATED,
    ROTATED @ Affine.shear(10, 5),
]


def place_of(transform, col, row):
    """Written out, so that it shares nothing with the code under test."""
    return (
        transform.a * col + transform.b * row + transform.c,
        transform.d * col + transform.e * row + transform.f,
    )


@pytest.mark.parametrize("transform", TRANSFORMS)
@given(row=st.integers(-50, 500), col=st.integers(-50, 500))
def test_a_cropped_grid_lies_where_its_pixels_lay(transform, row, col):
    grid = Grid(700, 900, transform, "a CRS")
    cropped = grid.crop(Window(row, col, 20, 30))
    assert (cropped.height, cropped.width, cropped.crs_wkt) == (20, 30, "a CRS")
    for r, c in ((0, 0), (20, 30), (7.5, 3.25)):
        assert place_of(cropped.transform, c, r) == pytest.approx(place_of(transform, col + c, row + r))


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("factor", [1, 2, 8])
def test_a_coarser_grid_covers_the_fine_one_from_the_same_corner(transform, factor):
    grid = Grid(701, 1023, transform)
    coarse = grid.coarsen(factor)
    assert coarse.height * factor >= grid.height > (coarse.height - 1) * factor
    assert coarse.width * factor >= grid.width > (coarse.width - 1) * factor
    for r, c in ((0, 0), (3, 5)):
        assert place_of(coarse.transform, c, r) == pytest.approx(place_of(transform, c * factor, r * factor))
    assert coarse.pixel_area == pytest.approx(grid.pixel_area * factor**2)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_bounds_are_the_smallest_box_around_all_corners(transform):
    grid = Grid(70, 90, transform)
    corners = [place_of(transform, col, row) for col in (0, 90) for row in (0, 70)]
    xs, ys = zip(*corners, strict=True)
    assert grid.bounds() == pytest.approx((min(xs), min(ys), max(xs), max(ys)))


def test_pixel_area_of_a_rotated_grid():
    assert Grid(1, 1, ROTATED).pixel_area == pytest.approx(100)


@pytest.mark.parametrize(
    ("grid", "is_georeferenced", "is_rotated"),
    [
        (Grid(1, 1), False, False),
        (Grid(1, 1, crs_wkt="x"), True, False),
        (Grid(1, 1, TRANSFORMS[0]), True, False),
        (Grid(1, 1, ROTATED, "x"), True, True),
        (Grid(1, 1, Affine(1, 0, 0, 0.001, 1, 0)), True, True),
    ],
)
def test_what_a_grid_knows_of_itself(grid, is_georeferenced, is_rotated):
    assert (grid.is_georeferenced, grid.is_rotated) == (is_georeferenced, is_rotated)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_json_and_back_loses_no_bit(transform):
    grid = Grid(7, 9, transform @ Affine.scale(1 / 3), "PROJCRS[...]")
    assert Grid.from_json(json.loads(json.dumps(grid.to_json()))) == grid
