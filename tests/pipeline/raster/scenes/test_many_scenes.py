"""Four hundred scenes in two UTM zones as one raster: right everywhere, and few files open."""

import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyproj
import pytest
from affine import Affine

from pipeline.errors import SourceError
from pipeline.raster.scenes import scene_source
from pipeline.raster.scenes.places import extent_in
from pipeline.raster.window import Window
from tests.pipeline.raster.scenes.scene_files import UTM32, UTM33, find, read, write_scene

SIDE, OVERLAP, PIXEL_M = 40, 6, 100
ROWS, COLS = 20, 10
CORNERS = {UTM33: (250_000, 5_450_000), UTM32: (690_000, 5_450_000)}  # the zones' border runs between them


def truth(crs, x, y):
    """A smooth field on the ground, the same in every CRS."""
    lon, lat = pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True).transform(x, y)
    return 1000 + 300 * np.sin(np.asarray(lon) * 9) * np.cos(np.asarray(lat) * 7)


def place(crs, row, col):
    step = (SIDE - OVERLAP) * PIXEL_M
    x, y = CORNERS[crs]
    return Affine(PIXEL_M, 0, x + col * step, 0, -PIXEL_M, y - row * step)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    rows, cols = np.mgrid[0:SIDE, 0:SIDE] + 0.5
    for crs in CORNERS:
        for row in range(ROWS):
            for col in range(COLS):
                transform = place(crs, row, col)
                values = truth(crs, *(transform @ (cols, rows))).astype(np.float32)
                write_scene(
                    folder / f"{crs[-2:]}_{row:02d}_{col:02d}.tif", values, transform=transform, crs=crs
                )
    return folder


@pytest.fixture(scope="module")
def found(folder):
    return find([f"{folder}/33_*.tif", f"{folder}/32_*.tif"])


@pytest.fixture(scope="module")
def whole(found):
    return read(found)


def test_every_pixel_is_the_ground_beneath_it(found, whole):
    grid, pixels = found.info.grid, whole
    assert len(found.scenes) == 400
    rows, cols = np.mgrid[0 : grid.height, 0 : grid.width] + 0.5
    x, y = grid.transform @ (cols, rows)
    covered = np.zeros(grid.window.shape, bool)
    surely = covered.copy()
    for crs, (left, top) in CORNERS.items():
        u, v = pyproj.Transformer.from_crs(grid.crs_wkt, crs, always_xy=True).transform(x, y)
        height, width = (
            (ROWS * (SIDE - OVERLAP) + OVERLAP) * PIXEL_M,
            (COLS * (SIDE - OVERLAP) + OVERLAP) * PIXEL_M,
        )
        from_edge = np.minimum.reduce([u - left, left + width - u, top - v, v - (top - height)])
        covered |= from_edge > -1
        surely |= from_edge > 1
    assert not (pixels.valid_HW & ~covered).any()
    assert not (surely & ~pixels.valid_HW).any()
    # Half a pixel at scenes' edges is extrapolated: by no more than the field changes there.
    error = np.abs(pixels.samples_CHW[0] - truth(grid.crs_wkt, x, y))[pixels.valid_HW]
    assert np.median(error) < 0.05
    assert error.max() < 3.0


def test_the_tree_finds_every_scene_that_shows(found):
    grid, spec = found.info.grid, found.spec((1,))
    for window in (Window(200, 250, 64, 64), Window(0, 0, 5, 5), Window(600, 400, 100, 3)):
        touching = {identity.url for identity in found.identities_in(window)}
        shown = set()
        for index, scene in enumerate(spec.scenes):
            url = found.identities[index][0].url
            box = extent_in(scene.files[0].grid, grid).grow(20)
            if box.intersect(window).num_pixels:  # others are far away by any measure
                alone = replace(found, scenes=(scene,), identities=(found.identities[index],))
                shown |= {url} if read(alone, window).valid_HW.any() else set()
            else:
                assert url not in touching
        assert shown <= touching
    assert found.identities_in(Window(-500, -500, 100, 100)) == ()
    assert len(found.identities_in(grid.window)) == 400


def test_no_more_files_are_opened_than_a_cell_touches(found, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(scene_source.CELL_PX, "first", 128)  # a small part of this small mosaic
    window, cell = Window(140, 140, 80, 80), Window(128, 128, 128, 128)
    touching = {Path(identity.url) for identity in found.identities_in(cell)}
    hidden = [file for file in folder.glob("*.tif") if file not in touching]
    assert 300 < len(hidden) < 400
    expected = read(found, window)
    for file in hidden:
        file.rename(tmp_path / file.name)
    try:
        np.testing.assert_array_equal(read(found, window).samples_CHW, expected.samples_CHW)
        with pytest.raises(SourceError, match=r"there must be a raster at .*\.tif; there is no such file"):
            read(found, Window(128, 300, 10, 10))
    finally:
        for file in hidden:
            (tmp_path / file.name).rename(file)


def test_a_failed_read_is_tried_again_when_asked_for_again(found, folder, tmp_path, whole):
    victim = folder / "33_05_05.tif"
    grids = [scene.files[0].grid for scene in found.scenes if scene.files[0].url == str(victim)]
    window = extent_in(grids[0], found.info.grid)
    source = found.spec((1,)).open()
    try:
        victim.rename(tmp_path / victim.name)
        with pytest.raises(SourceError, match=r"33_05_05\.tif"):
            source.read(window)
        (tmp_path / victim.name).rename(victim)
        expected = whole.samples_CHW[:, *window.slices]
        np.testing.assert_array_equal(source.read(window).samples_CHW, expected)
    finally:
        source.close()


def test_few_files_stay_open(found, monkeypatch):
    monkeypatch.setattr(scene_source, "MOST_IDLE_FILES", 7)
    source = found.spec((1,)).open()
    try:
        source.read(Window(0, 0, 250, 250))
        names = [os.path.realpath(descriptor) for descriptor in Path("/proc/self/fd").iterdir()]
        assert 0 < sum(name.endswith(".tif") for name in names) <= 7
    finally:
        source.close()


def test_many_threads_read_what_one_reads(found, whole):
    from concurrent.futures import ThreadPoolExecutor

    source = found.spec((1,)).with_threads(4).open()
    windows = [Window(row, col, 300, 300) for row in range(0, 400, 200) for col in range(0, 400, 200)]
    try:
        with ThreadPoolExecutor(6) as threads:
            for window, pixels in zip(windows, threads.map(source.read, windows), strict=True):
                inside = window.intersect(found.info.grid.window)
                np.testing.assert_array_equal(
                    pixels.samples_CHW[:, *inside.relative_to(window).slices],
                    whole.samples_CHW[:, *inside.slices],
                )
    finally:
        source.close()


def test_ten_thousand_scenes_travel_light(found):
    spec = found.spec((1,))
    many = tuple(
        replace(scene, files=tuple(replace(file, url=f"{file.url}.{index}") for file in scene.files))
        for index in range(25)
        for scene in spec.scenes
    )
    assert len(pickle.dumps(replace(spec, scenes=many))) < 6 << 20


def test_who_and_how_are_in_the_fingerprint(folder):
    few = [f"{folder}/33_00_*.tif", f"{folder}/32_00_*.tif"]
    found, same = find(few), find(few)
    assert same.spec((1,)).result_fields() == found.spec((1,)).result_fields()
    assert same.info.identities == found.info.identities
    for changes in ({"resampling": "nearest"}, {"composite": "median"}, {"nodata": 0}):
        other = find(few, **changes)
        assert other.spec((1,)).result_fields() != found.spec((1,)).result_fields()
