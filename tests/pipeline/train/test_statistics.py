"""Means and deviations of the training split, against numpy over everything at once."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import SettingsError
from pipeline.raster.grid import Grid
from pipeline.raster.source import Pixels, SourceInfo
from pipeline.raster.window import Window
from pipeline.train.tiles import statistics
from pipeline.train.tiles.index import load_tile_set
from pipeline.train.tiles.settings import LabelsSettings, TilesSettings
from pipeline.train.tiles.statistics import NOTHING, cheap_windows, measure_pixels, training_statistics
from tests.pipeline.train.conftest import write_pair, write_raster


@pytest.fixture
def tiles(tmp_path):
    images = {}
    for number in range(4):
        image, labels = write_pair(tmp_path, f"t{number}", seed=number, shape=(61, 83), bands=2)
        image = image.astype(np.uint16) * 37 + number * 5000
        image[:, :number] = 0
        image[1, 30, 40:] = 0
        write_raster(
            tmp_path / f"images/t{number}.tif", image, nodata=0, tiled=True, blockxsize=16, blockysize=16
        )
        images[f"t{number}"] = image, labels
    (tmp_path / "index.csv").write_text("id,split\nt0,train\nt1,val\nt2,train\nt3,train\n")
    given = TilesSettings(url=str(tmp_path), images="images/*.tif", labels="labels/*.png")
    return load_tile_set(given, LabelsSettings(values={0: "a", 1: "b", 2: "c"}), None), images


@pytest.mark.parametrize("measured", [True, False], ids=["from the index", "read again"])
def test_only_training_pixels_with_data_count(tiles, measured, monkeypatch):
    monkeypatch.setattr(statistics, "SAMPLES_AT_ONCE", 2 * 32 * 32)  # many windows a tile
    tile_set, images = tiles
    if not measured:
        tile_set = replace(tile_set, tiles=tuple(replace(tile, moments=()) for tile in tile_set.tiles))
    found = training_statistics(tile_set)
    kept = [images[name] for name in ("t0", "t2", "t3")]
    for band in range(2):
        values = np.concatenate([image[band][image[band] > 0] for image, _ in kept]).astype(np.float64)
        assert found.mean[band] == pytest.approx(values.mean(), rel=1e-12)
        assert found.std[band] == pytest.approx(values.std(), rel=1e-12)
    counts = sum(np.bincount(labels[image.any(axis=0)], minlength=3) for image, labels in kept)
    assert found.class_pixels == tuple(counts.tolist())


def test_large_values_keep_their_deviation():
    samples = np.random.default_rng(0).normal(1e7, 1.0, (1, 200, 200)).astype(np.float64)
    parts = np.split(samples, 20, axis=1)
    total = NOTHING
    for part in parts:
        (share,) = measure_pixels(Pixels(part, np.ones(part.shape[1:], bool), None))
        total = total.merge(share)
    assert np.sqrt(total.squares / total.count) == pytest.approx(samples.std(), rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 300), st.integers(1, 300), st.integers(1, 400), st.integers(1, 400), st.integers(1, 9),
    st.integers(1, 50_000),
)  # fmt: skip
def test_windows_cover_every_pixel_once_and_stay_small(height, width, rows, cols, bands, most):
    info = SourceInfo("a", Grid(height, width), (), (), (rows, cols))
    seen = np.zeros((height, width), int)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "SAMPLES_AT_ONCE", most)
        for window in cheap_windows(info, bands):
            assert Window(0, 0, height, width).contains(window)
            seen[window.slices] += 1
            block = min(rows, height) * min(cols, width)
            assert window.num_pixels <= max(block, most // bands)
    assert (seen == 1).all()


def test_nothing_to_learn_from_is_refused(tiles):
    tile_set, _ = tiles
    with pytest.raises(SettingsError, match="the 0 training tiles"):
        training_statistics(replace(tile_set, tiles=tile_set.of("val")))


def test_a_band_without_variation_can_be_divided_by(tmp_path):
    write_pair(tmp_path, "a", seed=1, image=np.full((1, 37, 53), 9, np.uint8))
    given = TilesSettings(url=str(tmp_path), images="images/*.tif", labels="labels/*.png")
    found = training_statistics(load_tile_set(given, LabelsSettings(values={0: "a", 1: "b", 2: "c"}), None))
    assert found.mean == (9.0,)
    assert found.std[0] > 0
