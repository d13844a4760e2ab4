"""The demo's landscape: true to its seed, credible, its labels fit its picture and its files each other."""

import numpy as np
import pytest
import rasterio
from numpy.lib.stride_tricks import sliding_window_view
from rasterio.warp import transform as to_crs
from rio_cogeo.cogeo import cog_validate

from pipeline.demo.config import DemoConfig
from pipeline.synthetic.cover import BUILT_UP, CLASSES, FOREST, WATER
from pipeline.synthetic.landscape import (
    COARSE,
    GAP_PX,
    IGNORED,
    TILE_PX,
    TRAINED_SHARE,
    make_landscape,
    write_landscape,
)
from pipeline.synthetic.noise import blurred, enlarge, fractal, hashed
from pipeline.synthetic.terrain import LAKE_DEPTH_M, make_terrain

SIDE = 1024


@pytest.fixture(scope="module")
def landscape():
    return make_landscape(SIDE, seed=3)


def test_a_seed_is_a_landscape(landscape):
    image_CHW, labels_HW = make_landscape(SIDE, seed=3)
    assert np.array_equal(image_CHW, landscape[0])
    assert np.array_equal(labels_HW, landscape[1])
    assert not np.array_equal(make_landscape(SIDE, seed=4)[1], labels_HW)


def test_every_class_is_there_and_none_is_everywhere(landscape):
    labels_HW = landscape[1]
    counts = np.bincount(labels_HW[labels_HW != IGNORED], minlength=len(CLASSES))
    shares = counts / counts.sum()
    assert len(counts) == len(CLASSES)
    assert shares.min() > 0.01
    assert shares.max() < 0.6


def test_what_is_not_seen_is_not_labelled(landscape):
    image_CHW, labels_HW = landscape
    unseen = (image_CHW == 0).all(axis=0)
    assert np.array_equal((image_CHW == 0).any(axis=0), unseen)
    assert 0.01 < unseen.mean() < 0.2
    assert (labels_HW[unseen] == IGNORED).all()
    assert not unseen.all(axis=0).any() or unseen.all(axis=0).mean() < 0.1
    edge = unseen.argmin(axis=1)
    assert len(set(edge)) > SIDE // 40  # ragged and slanting, no straight line


def test_clouds_are_bright_and_unlabelled(landscape):
    image_CHW, labels_HW = landscape
    blue = image_CHW[0]
    cloud = (labels_HW == IGNORED) & (blue > 0)
    assert cloud.any()
    assert np.median(blue[cloud]) > 3 * np.median(blue[labels_HW != IGNORED])


def test_surfaces_look_like_themselves(landscape):
    image_CHW, labels_HW = landscape
    _, green, red, nir = (np.maximum(band.astype(float), 1) for band in image_CHW)
    greenness = (nir - red) / (nir + red)
    wetness = (green - nir) / (green + nir)
    median = {name: np.median(greenness[labels_HW == i]) for i, name in enumerate(CLASSES)}
    assert median["forest"] > 0.5 > median["built-up"] > median["water"]
    assert np.median(wetness[labels_HW == WATER]) > 0 > np.median(wetness[labels_HW == FOREST])


def test_no_band_alone_tells_the_classes_apart(landscape):
    """Otherwise a threshold would do, and the demo would show nothing."""
    image_CHW, labels_HW = landscape
    for band in image_CHW:
        low, high = np.percentile(band[labels_HW == BUILT_UP], (10, 90))
        others = band[(labels_HW != BUILT_UP) & (labels_HW != IGNORED)]
        assert ((others > low) & (others < high)).mean() > 0.05


def test_water_runs_down_and_lakes_are_level():
    terrain = make_terrain(96, np.random.default_rng(0))
    levels = terrain.heights_m + terrain.hollows_m
    lake = terrain.hollows_m > LAKE_DEPTH_M
    for course, drained in terrain.rivers:
        cols, rows = np.clip(np.array(course.coords).astype(int), 0, 95).T
        assert levels[rows[0], cols[0]] <= levels[rows[-1], cols[-1]] + 1  # from mouth to spring
        assert drained >= 1
    assert (terrain.hollows_m >= 0).all()
    assert lake.mean() < 0.5


def test_open_water_is_there_to_learn_from_and_to_be_judged_by():
    """Of the demo's own land, the first thing that its seed makes: crops that show nothing but deep water."""
    side = DemoConfig().side
    trained = int(side * TRAINED_SHARE) // TILE_PX * TILE_PX
    terrain = make_terrain(side // COARSE, np.random.default_rng(DemoConfig().seed))
    is_deep = terrain.hollows_m > 1.6 * LAKE_DEPTH_M
    for part in (is_deep[:, : trained // COARSE], is_deep[:, (trained + GAP_PX) // COARSE :]):
        crops = sliding_window_view(part, (17, 17))[::8, ::8]
        assert crops.all(axis=(2, 3)).any()


def test_rivers_carry_all_the_water_that_falls():
    terrain = make_terrain(64, np.random.default_rng(1))
    assert max(drained for _, drained in terrain.rivers) <= 64 * 64


def test_files_fit_together(tmp_path):
    files = write_landscape(tmp_path, side=2048, seed=3)
    image_CHW, labels_HW = make_landscape(2048, seed=3)
    with rasterio.open(files.scene) as scene, rasterio.open(files.held_out) as held_out:
        assert scene.crs.to_epsg() == 32633
        assert scene.descriptions == ("blue", "green", "red", "nir")
        assert scene.nodata == 0
        assert np.array_equal(scene.read(), image_CHW)
        first = round((held_out.bounds.left - scene.bounds.left) / 10)
        assert np.array_equal(held_out.read(1), labels_HW[:, first:])
        longitude, latitude = to_crs(scene.crs, "EPSG:4326", [scene.bounds.left], [scene.bounds.top])
        assert 12 < longitude[0] < 15.1
        assert 48 < latitude[0] < 49
    assert cog_validate(files.scene, quiet=True)[0]
    everything = set(range(len(CLASSES)))
    assert everything <= set(np.unique(labels_HW[:, first:]))
    assert everything <= set(np.unique(labels_HW[:, : first - GAP_PX]))
    tiles = sorted((files.tiles / "images").glob("*.tif"))
    assert [tile.name for tile in tiles] == [
        tile.name for tile in sorted((files.tiles / "labels").glob("*.tif"))
    ]
    for tile in tiles:
        with rasterio.open(tile) as image, rasterio.open(files.tiles / "labels" / tile.name) as labels:
            assert image.transform == labels.transform
            col, row = (round(v) for v in ~scene.transform @ (image.bounds.left, image.bounds.top))
            rows, cols = slice(row, row + image.height), slice(col, col + image.width)
            assert np.array_equal(image.read(), image_CHW[:, rows, cols])
            assert np.array_equal(labels.read(1), labels_HW[rows, cols])
            assert col + image.width + GAP_PX <= first


def test_sides_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="side must be a multiple of 8, got 1001"):
        make_landscape(1001, seed=0)


def test_enlarging_strips_gives_the_whole():
    coarse = fractal(16, roughness=2, largest=0.5, rng=np.random.default_rng(0))
    whole = enlarge(coarse, 128)
    assert np.array_equal(
        np.concatenate([enlarge(coarse, 128, slice(r, r + 32)) for r in range(0, 128, 32)]), whole
    )
    assert whole.min() >= coarse.min()
    assert whole.max() <= coarse.max()


def test_hashes_are_even_and_differ_by_every_key():
    numbers = np.arange(20_000)
    values = hashed(numbers, 1, seed=5)
    assert abs(values.mean() - 0.5) < 0.01
    assert np.histogram(values, 20, (0, 1))[0].min() > 850
    for other in (hashed(numbers, 2, seed=5), hashed(numbers, 1, seed=6), np.roll(values, 1)):
        assert abs(np.corrcoef(values, other)[0, 1]) < 0.03


def test_blur_keeps_the_sum_of_light():
    values = np.random.default_rng(0).random((20, 30), np.float32)
    assert np.isclose(blurred(values).sum(), values.sum(), rtol=1e-4)
