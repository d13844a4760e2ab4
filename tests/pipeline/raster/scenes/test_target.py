"""The grid that scenes are laid on: asked for, or the one that spares most of them warping."""

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS

from pipeline.errors import SettingsError, SourceError
from pipeline.raster.grid import Grid
from pipeline.raster.scenes.places import whole_pixel_shift
from pipeline.raster.scenes.target import GridWish, choose_grid
from tests.pipeline.raster.scenes.scene_files import PLACE, UTM32, UTM33, find, moved, write_scene

WKT = {name: CRS.from_string(name).to_wkt() for name in (UTM32, UTM33, "EPSG:4326")}


def grid(transform=PLACE, crs=UTM33, height=100, width=80):
    return Grid(height, width, transform, WKT[crs])


def chosen(*grids, **wish):
    return choose_grid(grids, GridWish(**wish))


def test_the_commonest_crs_and_its_finest_resolution():
    coarse, fine = PLACE @ Affine.scale(2), PLACE @ Affine.translation(0.5, 0) @ Affine.scale(0.5)
    found = chosen(grid(crs=UTM32), grid(coarse), grid(fine))
    assert found.crs_wkt == WKT[UTM33]
    assert (found.transform.a, found.transform.e) == (5, -5)
    assert whole_pixel_shift(grid(fine), found) is not None


def test_a_tie_goes_to_the_first():
    assert chosen(grid(crs=UTM32), grid()).crs_wkt == WKT[UTM32]
    assert chosen(grid(), grid(crs=UTM32)).crs_wkt == WKT[UTM33]


def test_most_scenes_of_the_finest_resolution_need_no_warping():
    off, on = moved(0.5, 0.25), PLACE
    found = chosen(grid(off), grid(on), grid(moved(300, -40)))
    assert whole_pixel_shift(grid(off), found) is None
    assert whole_pixel_shift(grid(on), found) is not None
    assert found.bounds() == (499_600, 5_396_000, 500_810, 5_400_000)


def test_aligned_scenes_are_covered_without_a_pixel_more():
    found = chosen(grid(), grid(moved(100, 80)))
    assert (found.height, found.width) == (200, 160)
    assert found.transform == PLACE


def test_bounds_begin_the_grid_where_no_origin_is_given():
    found = chosen(grid(), crs=UTM33, resolution=(10, 20), bounds=(500_003, 5_390_000, 500_100, 5_390_050))
    assert found == Grid(3, 10, Affine(10, 0, 500_003, 0, -20, 5_390_050), WKT[UTM33])


def test_bounds_snap_outward_to_an_origin():
    found = chosen(
        grid(), crs=UTM33, resolution=(10, 10), bounds=(500_003, 5_390_002, 500_100, 5_390_051), origin=(5, 5)
    )
    assert found.bounds() == (499_995, 5_389_995, 500_105, 5_390_055)


def test_a_grid_like_another_is_that_grid(tmp_path):
    scene = write_scene(tmp_path / "a.tif", np.ones((20, 20), np.uint8))
    like = write_scene(tmp_path / "b.tif", np.ones((7, 9), np.uint8), transform=moved(3.5, 1), crs=UTM32)
    found = find([scene], grid={"like": like}).info.grid
    with rasterio.open(like) as dataset:
        assert (found.height, found.width, found.transform) == (7, 9, dataset.transform)
        assert CRS.from_wkt(found.crs_wkt) == dataset.crs


@pytest.mark.parametrize("crs", ["EPSG:999999", "nonsense"])
def test_a_crs_that_is_none_is_refused(crs):
    with pytest.raises(SettingsError, match=rf"source\.grid\.crs must be a CRS as EPSG:32633, got '{crs}'"):
        chosen(grid(), crs=crs)


def test_a_foreign_crs_needs_a_resolution():
    with pytest.raises(SettingsError, match=r"source\.grid\.resolution must be given"):
        chosen(grid(), crs="EPSG:4326")


def test_a_resolution_in_the_wrong_unit_is_refused():
    with pytest.raises(SettingsError, match="at most 1073741824 px"):
        chosen(grid(), resolution=(1e-9, 1e-9))


def test_a_scene_without_a_place_is_named(tmp_path):
    paths = [write_scene(tmp_path / f"{name}.tif", np.ones((8, 8), np.uint8)) for name in "ab"]
    paths.append(write_scene(tmp_path / "lost.tif", np.ones((8, 8), np.uint8), crs=None))
    with pytest.raises(SourceError, match=r"every scene must say where it lies, but .*lost\.tif has no CRS"):
        find(paths)


def test_equal_systems_spelt_differently_are_one(tmp_path):
    spelt = CRS.from_wkt(CRS.from_epsg(32633).to_wkt(version="WKT2_2019"))
    paths = [
        write_scene(tmp_path / "a.tif", np.ones((8, 8), np.uint8)),
        write_scene(tmp_path / "b.vrt.tif", np.ones((8, 8), np.uint8), crs=spelt, transform=moved(8, 0)),
    ]
    found = find(paths)
    assert len({scene.files[0].grid.crs_wkt for scene in found.scenes}) == 1
    assert (found.info.grid.height, found.info.grid.width) == (16, 8)
