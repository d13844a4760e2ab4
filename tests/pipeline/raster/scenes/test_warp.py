"""What warping does to samples: nothing where pixels coincide, nothing invented where they do not."""

import numpy as np
import pytest
from affine import Affine

from pipeline.raster.window import Window
from tests.pipeline.raster.scenes.scene_files import (
    PLACE,
    UTM32,
    UTM33,
    find,
    moved,
    nearest,
    present,
    read,
    write_scene,
)

HALF_A_PIXEL_OFF = {"crs": UTM33, "resolution": 10, "origin": [500_005, 5_400_005]}


def holes(height, width):
    """Ragged, with single pixels alone on either side."""
    rng = np.random.default_rng(3)
    there = rng.random((height, width)) > 0.1
    there[10:20, 5:30] = False
    there[14, 15] = True
    return there


@pytest.mark.parametrize("kind", ["nodata", "nan", "mask"])
@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "cubic", "average"])
def test_what_is_no_data_weighs_nothing(tmp_path, kind, resampling):
    there = holes(50, 60)
    values = np.where(there, 1000, 0)
    if kind == "nan":
        path = write_scene(tmp_path / "a.tif", np.where(there, 1000.0, np.nan).astype(np.float32))
    elif kind == "nodata":
        path = write_scene(tmp_path / "a.tif", values.astype(np.uint16), nodata=0)
    else:
        path = write_scene(tmp_path / "a.tif", np.where(there, 1000, 30_000).astype(np.uint16), mask=there)
    found = find([path], grid=HALF_A_PIXEL_OFF, resampling=resampling)
    pixels = read(found)
    np.testing.assert_array_equal(pixels.samples_CHW[0], np.where(pixels.valid_HW, 1000, 0))
    under = nearest_presence(found.info.grid, there)
    if resampling == "average":
        assert (pixels.valid_HW | ~under)[1:-1, 1:-1].all()
    else:
        np.testing.assert_array_equal(pixels.valid_HW[1:-1, 1:-1], under[1:-1, 1:-1])


def nearest_presence(grid, there):
    """Half a pixel off, centres lie on corners: GDAL takes the pixel below and right, as floor does."""
    rows, cols = np.mgrid[0 : grid.height, 0 : grid.width]
    inside = (rows < there.shape[0]) & (cols < there.shape[1])
    return inside & there[rows.clip(0, there.shape[0] - 1), cols.clip(0, there.shape[1] - 1)]


def test_each_band_has_its_own_holes(tmp_path):
    first, second = np.full((40, 40), 500, np.int16), np.full((40, 40), -70, np.int16)
    first[:, 20:], second[10:12] = -999, -999
    path = write_scene(tmp_path / "a.tif", [first, second], nodata=-999)
    pixels = read(find([path], grid=HALF_A_PIXEL_OFF))
    there = present(pixels)
    np.testing.assert_array_equal(pixels.samples_CHW, np.where(there, [[[500]], [[-70]]], 0))
    assert there[0][:, 25:].sum() == 0
    assert there[1][:, 25:39].sum() > 0
    assert pixels.valid_HW[5, 30]


def test_bilinear_halfway_is_the_mean_of_four(tmp_path):
    values = np.random.default_rng(0).integers(0, 60_000, (30, 33)).astype(np.uint16)
    found = find([write_scene(tmp_path / "a.tif", values)], grid=HALF_A_PIXEL_OFF)
    pixels = read(found)
    wide = values.astype(np.float64)
    means = (wide[:-1, :-1] + wide[1:, :-1] + wide[:-1, 1:] + wide[1:, 1:]) / 4
    np.testing.assert_array_equal(pixels.samples_CHW[0][1:30, 1:33], np.floor(means + 0.5))


def test_average_is_the_mean_of_what_is_known(tmp_path):
    rng = np.random.default_rng(1)
    values = rng.integers(1, 200, (64, 80)).astype(np.uint8)
    values[rng.random(values.shape) < 0.3] = 0
    values[8:12, 8:12] = 0
    path = write_scene(tmp_path / "a.tif", values, nodata=0)
    pixels = read(find([path], grid={"resolution": 40, "crs": UTM33}, resampling="average"))
    squares = (
        np.where(values == 0, np.nan, values).reshape(16, 4, 20, 4).transpose(0, 2, 1, 3).reshape(16, 20, 16)
    )
    known = ~np.isnan(squares).all(axis=2)
    np.testing.assert_array_equal(pixels.valid_HW, known)
    means = np.nanmean(np.where(known[:, :, None], squares, 0), axis=2)
    assert np.abs(pixels.samples_CHW[0] - np.where(known, np.floor(means + 0.5), 0)).max() <= 1
    assert not known[2, 2]


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32"])
def test_pixels_on_the_grid_are_copied_to_the_bit(tmp_path, dtype):
    rng = np.random.default_rng(2)
    info = np.finfo(dtype) if dtype == "float32" else np.iinfo(dtype)
    values = rng.uniform(float(info.min) / 2, float(info.max) / 2, (2, 70, 50)).astype(dtype)
    values[:, 0, 0], values[:, 0, 1] = info.min, info.max
    paths = [
        write_scene(tmp_path / "a.tif", values[:, :40], transform=PLACE),
        write_scene(tmp_path / "b.tif", values[:, 40:], transform=moved(40, 0)),
    ]
    pixels = read(find(paths))
    np.testing.assert_array_equal(pixels.samples_CHW, values)
    assert pixels.samples_CHW.dtype == dtype
    assert pixels.valid_HW.all()


@pytest.mark.parametrize("dtype", ["uint32", "int32"])
def test_large_whole_numbers_survive_warping(tmp_path, dtype):
    values = np.full((30, 30), np.iinfo(dtype).max - 5, dtype)
    pixels = read(find([write_scene(tmp_path / "a.tif", values)], grid=HALF_A_PIXEL_OFF))
    assert set(np.unique(pixels.samples_CHW[0][pixels.valid_HW])) == {np.iinfo(dtype).max - 5}


def test_cubic_overshoot_stays_in_the_type(tmp_path):
    values = np.zeros((40, 40), np.uint8)
    values[:, 20:] = 255
    pixels = read(find([write_scene(tmp_path / "a.tif", values)], grid=HALF_A_PIXEL_OFF, resampling="cubic"))
    row = pixels.samples_CHW[0][20, 2:38]
    assert (np.diff(row.astype(int)) >= 0).all(), "an overshoot wrapped around"


def test_each_band_its_own_resampling(tmp_path):
    values = np.random.default_rng(4).integers(0, 250, (2, 30, 30)).astype(np.uint8)
    path = write_scene(tmp_path / "a.tif", values, names=["red", "kind"])
    pixels = read(find([path], grid=HALF_A_PIXEL_OFF, resampling={"kind": "nearest"}))
    np.testing.assert_array_equal(pixels.samples_CHW[1][1:30, 1:30], values[1][1:, 1:])
    assert (pixels.samples_CHW[0][1:30, 1:30] != values[0][1:, 1:]).mean() > 0.5
    turned = read(find([path], grid=HALF_A_PIXEL_OFF, resampling={"kind": "nearest"}), bands=(2, 1, 2))
    np.testing.assert_array_equal(turned.samples_CHW, pixels.samples_CHW[[1, 0, 1]])


def test_scenes_of_several_types_meet_in_one_that_holds_all(tmp_path):
    paths = [
        write_scene(tmp_path / "a.tif", np.full((20, 20), 200, np.uint8)),
        write_scene(tmp_path / "b.tif", np.full((20, 20), -30_000, np.int16), transform=moved(0, 20)),
    ]
    pixels = read(find(paths))
    assert pixels.samples_CHW.dtype == np.int16
    np.testing.assert_array_equal(
        pixels.samples_CHW[0], np.repeat([[200, -30_000]], 20, axis=1).repeat(20, axis=0)
    )


def test_a_rotated_scene_lands_where_it_lies(tmp_path):
    values = np.random.default_rng(5).integers(1, 255, (60, 50)).astype(np.uint8)
    place = PLACE @ Affine.translation(30, 10) @ Affine.rotation(27)
    path = write_scene(tmp_path / "a.tif", values, transform=place)
    found = find([path], grid={"resolution": 10}, resampling="nearest")
    samples, there, close = nearest(found.info.grid, path)
    pixels = read(found)
    np.testing.assert_array_equal(pixels.valid_HW[~close], there[0][~close])
    np.testing.assert_array_equal(pixels.samples_CHW[:, ~close], samples[:, ~close])


def test_a_much_finer_scene_is_read_in_parts_that_leave_no_seam(tmp_path):
    """Eight pixels a target pixel, so that a cell takes four reads; the values are a plane."""
    side = 2600
    rows, cols = np.mgrid[0:side, 0:side].astype(np.float32)
    path = write_scene(
        tmp_path / "a.tif", rows + 2 * cols, transform=Affine(10, 0, 500_000, 0, -10, 5_400_000)
    )
    found = find([path], grid={"resolution": 80}, resampling="bilinear")
    pixels = read(found)
    middle = slice(2, -2)
    got = pixels.samples_CHW[0][middle, middle]
    rows, cols = np.mgrid[0 : got.shape[0], 0 : got.shape[1]] + 2
    np.testing.assert_allclose(got, rows * 8 + 3.5 + 2 * (cols * 8 + 3.5), atol=0.05)


@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "cubic", "average"])
def test_a_window_never_changes_a_pixel(tmp_path, resampling):
    rng = np.random.default_rng(6)
    values = rng.normal(1000, 200, (1, 700, 640)).astype(np.float32)
    values[0, rng.random(values.shape[1:]) < 0.02] = np.nan
    path = write_scene(tmp_path / "a.tif", values)
    found = find([path], grid={"crs": UTM32, "resolution": 11}, resampling=resampling)
    whole, source = read(found), found.spec((1,)).open()
    try:
        for _ in range(12):
            row, col = rng.integers(-50, 700, 2)
            window = Window(int(row), int(col), *(int(size) for size in rng.integers(1, 400, 2)))
            part, inside = source.read(window), window.intersect(found.info.grid.window)
            here, there = inside.relative_to(window).slices, inside.slices
            np.testing.assert_array_equal(part.samples_CHW[:, *here], whole.samples_CHW[:, *there])
            np.testing.assert_array_equal(part.valid_HW[here], whole.valid_HW[there])
    finally:
        source.close()
