"""What a mosaic says of its place: coordinates are pixel centres; nothing is claimed that is not known."""

import numpy as np
import pytest
from affine import Affine
from pyproj import CRS

from pipeline.raster import georeference
from pipeline.raster.grid import Grid

UTM = Affine(10, 0, 300_000, 0, -10, 5_000_000)
ROTATED = UTM @ Affine.rotation(20)


def wkt(code):
    return CRS.from_epsg(code).to_wkt()


def test_coordinates_are_pixel_centres():
    found = georeference.coordinates(Grid(3, 2, UTM))
    np.testing.assert_array_equal(found["x"], [300_005, 300_015])
    np.testing.assert_array_equal(found["y"], [4_999_995, 4_999_985, 4_999_975])


@pytest.mark.parametrize("size", [1, 2, 4, 5, 6, 8, 9, 513, 1023, 1024, 1025])
@pytest.mark.parametrize("step", [1, 2, 4, 8])
def test_nodes_lie_at_every_step_and_reach_the_last_pixel(size, step):
    x = georeference.coordinates(Grid(1, size, UTM), step_px=step)["x"]
    assert len(x) == -(-(size - 1) // step) + 1
    np.testing.assert_allclose(x, 300_005 + 10 * step * np.arange(len(x)))
    assert x[-1] >= 300_005 + 10 * (size - 1)


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        (Grid(2, 2), False),
        (Grid(2, 2, ROTATED, wkt(32633)), False),
        (Grid(2, 2, UTM, wkt(32633)), True),
        (Grid(2, 2, UTM), True),
    ],
)
def test_only_upright_grids_have_coordinate_arrays(grid, expected):
    assert georeference.has_coordinate_arrays(grid) == expected


def test_the_transform_is_written_as_gdal_reads_it_without_losing_a_bit():
    grid = Grid(2, 2, ROTATED @ Affine.scale(1 / 3), wkt(32633))
    written = georeference.grid_mapping_attributes(grid)["GeoTransform"].split()
    assert Affine.from_gdal(*(float(value) for value in written)) == grid.transform


def test_the_crs_is_written_for_every_reader():
    attributes = georeference.grid_mapping_attributes(Grid(2, 2, UTM, wkt(32633)))
    assert CRS.from_wkt(attributes["crs_wkt"]).to_epsg() == 32633
    assert attributes["spatial_ref"] == attributes["crs_wkt"]
    assert attributes["grid_mapping_name"] == "transverse_mercator"
    conventions = georeference.convention_attributes(Grid(7, 5, UTM, wkt(32633)))
    assert conventions["proj:code"] == "EPSG:32633"
    assert conventions["spatial:shape"] == [7, 5]
    assert conventions["spatial:transform"] == [10, 0, 300_000, 0, -10, 5_000_000]
    assert conventions["spatial:bbox"] == [300_000, 4_999_930, 300_050, 5_000_000]


def test_a_grid_without_a_place_claims_none():
    attributes = georeference.grid_mapping_attributes(Grid(2, 2))
    assert set(attributes) == {"GeoTransform"}
    assert not [name for name in georeference.convention_attributes(Grid(2, 2)) if name.startswith("proj:")]


def test_a_crs_that_proj_does_not_know_is_kept_as_it_is():
    attributes = georeference.grid_mapping_attributes(Grid(2, 2, UTM, "NONSENSE[1]"))
    assert attributes["crs_wkt"] == "NONSENSE[1]"
    assert "proj:wkt2" not in georeference.convention_attributes(Grid(2, 2, UTM, "NONSENSE[1]"))


@pytest.mark.parametrize(
    ("crs", "name", "units"),
    [
        (wkt(32633), "projection_x_coordinate", "metre"),
        (wkt(4326), "longitude", "degrees_east"),
        (wkt(2263), "projection_x_coordinate", "US survey foot"),
    ],
)
def test_axes_say_what_they_measure(crs, name, units):
    x = georeference.coordinate_attributes(Grid(2, 2, UTM, crs))["x"]
    assert (x["standard_name"], x["units"], x["axis"]) == (name, units, "X")


def test_axes_without_a_crs_claim_no_unit():
    assert "units" not in georeference.coordinate_attributes(Grid(2, 2, UTM))["x"]
