"""From tiles to samples: the right place, read no further than needed, normalised, with labels in place."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.raster.source import Pixels
from pipeline.raster.window import Window
from pipeline.train.samples.batches import BatchLoader
from pipeline.train.samples.positions import CELL_PX, find_positions
from pipeline.train.samples.sample import SampleSource, normalise, place_window
from pipeline.train.samples.tile_cache import TileCache, cut
from pipeline.train.tiles.tile_reader import LabelledPixels, TileReader
from tests.pipeline.train.small_tiles import job_of, settings, write_tiles


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiles")
    return job_of(settings(write_tiles(folder / "tiles"), folder / "model"))


class Recording:
    """A reader that remembers what it was asked for."""

    def __init__(self, tiles) -> None:
        self.reader = TileReader(tiles)
        self.windows: list[Window] = []

    def read(self, tile, window):
        self.windows.append(window)
        return self.reader.read(tile, window)

    def close(self) -> None:
        self.reader.close()


@given(
    height=st.integers(1, 60), width=st.integers(1, 60), side=st.integers(1, 60),
    place=st.none() | st.tuples(st.floats(0, 1), st.floats(0, 1)), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_window_holds_its_place_and_as_much_of_the_tile_as_it_can(height, width, side, place, seed):
    tile = Window(0, 0, height, width)
    spot = place and (int(place[0] * height), int(place[1] * width))  # up to a cell beyond the edge
    window = place_window(tile, side, spot, np.random.default_rng(seed))
    assert window.shape == (side, side)
    assert window.intersect(tile).shape == (min(side, height), min(side, width))
    if spot:
        row, col = min(spot[0], height - 1), min(spot[1], width - 1)
        assert window.contains(Window(row, col, 1, 1))


def test_every_place_of_a_crop_may_be_the_one_aimed_at():
    rng = np.random.default_rng(0)
    windows = [place_window(Window(0, 0, 100, 100), 20, (50, 50), rng) for _ in range(500)]
    assert {50 - window.row for window in windows} == set(range(20))


def test_a_small_tile_is_read_once_and_whole_and_a_large_one_by_the_window(job):
    tile = job.tiles.of("train")[0]
    windows = [Window(5, 7, 30, 30), Window(-9, 120, 60, 60), Window(100, -20, 65, 65)]
    plain = TileReader(job.tiles)
    for num_bytes, expected in ((1 << 20, [tile.grid.window]), (1000, windows)):
        reader = Recording(job.tiles)
        cache = TileCache(reader, num_classes=3, num_bytes=num_bytes)
        for window in windows:
            got, wanted = cache.read(tile, window), plain.read(tile, window)
            np.testing.assert_array_equal(got.labels_HW, wanted.labels_HW)
            np.testing.assert_array_equal(got.pixels.valid_HW, wanted.pixels.valid_HW)
            np.testing.assert_array_equal(got.pixels.samples_CHW, wanted.pixels.samples_CHW)
        assert reader.windows == expected


def test_the_cache_lets_go_of_what_was_used_longest_ago(job):
    reader = Recording(job.tiles)
    cache = TileCache(reader, num_classes=3, num_bytes=400_000)  # 90 kB a tile: four fit

    def reads_of(*indices: int) -> int:
        before = len(reader.windows)
        for index in indices:
            cache.read(job.tiles.tiles[index], Window(0, 0, 5, 5))
        return len(reader.windows) - before

    assert reads_of(0, 1, 2, 3, 0, 1) == 4
    assert reads_of(4) == 1
    assert reads_of(0, 1, 3, 4) == 0, "2 was used longest ago"
    assert reads_of(2) == 1


def test_missing_samples_are_cut_with_the_rest():
    rng = np.random.default_rng(0)
    missing_CHW = rng.random((2, 9, 8)) > 0.5
    pixels = Pixels(rng.integers(0, 99, (2, 9, 8)), np.ones((9, 8), bool), missing_CHW)
    part = cut(LabelledPixels(pixels, np.zeros((9, 8), np.uint8)), Window(6, -2, 5, 6))
    assert part.pixels.missing_CHW is not None
    np.testing.assert_array_equal(part.pixels.missing_CHW[:, :3, 2:], missing_CHW[:, 6:, :4])
    assert not part.pixels.missing_CHW[:, 3:].any()
    crop = normalise(part, np.full(2, 5, np.float32), np.full(2, 2, np.float32))
    assert (crop.image.numpy()[part.pixels.missing_CHW] == 0).all()


def test_normalising_leaves_the_mean_and_no_label_where_there_is_no_data():
    samples_CHW = np.arange(2 * 4 * 5, dtype=np.uint16).reshape(2, 4, 5)
    valid_HW = np.ones((4, 5), bool)
    valid_HW[1, 2] = False
    read = LabelledPixels(Pixels(samples_CHW, valid_HW, None), np.full((4, 5), 1, np.uint8))
    crop = normalise(read, np.array([3, 4], np.float32), np.array([2, 0.5], np.float32))
    expected = (samples_CHW - np.reshape([3, 4], (2, 1, 1))) / np.reshape([2, 0.5], (2, 1, 1))
    expected[:, 1, 2] = 0
    np.testing.assert_allclose(crop.image.numpy(), expected, rtol=1e-6)
    assert crop.labels[0, 1, 2] == 255
    assert (crop.labels != 255).sum() == 19


@pytest.mark.parametrize("largest", [1 << 30, 4000])
def test_positions_lie_where_their_class_is(largest, monkeypatch):
    monkeypatch.setattr("pipeline.train.samples.positions.LARGEST_SCAN_PIXELS", largest)
    monkeypatch.setattr("pipeline.train.samples.positions.PROBE_PX", 32)
    labels_HW = np.full((150, 200), 255, np.uint8)
    labels_HW[20:70, 30:140] = 0
    labels_HW[100:104, 150:155] = 2
    read: list[Window] = []

    def read_labels(window: Window) -> np.ndarray:
        read.append(window)
        return labels_HW[window.slices]

    positions = find_positions(Window(0, 0, 150, 200), 3, read_labels)
    rng = np.random.default_rng(0)
    for target in (0, 2, None):
        known = len(positions.cells_K[target]) if target is not None else len(positions.labelled)
        for _ in range(30 if known else 0):
            row, col = positions.pick(target, rng)
            cell = labels_HW[row // CELL_PX * CELL_PX :, col // CELL_PX * CELL_PX :][:CELL_PX, :CELL_PX]
            assert (cell == target).any() if target is not None else (cell != 255).any()
    assert positions.pick(1, rng) is not None, "a class that was not found gives way to any"
    if largest == 4000:
        assert sum(window.num_pixels for window in read) < 8000, "a large tile is only probed"
    else:
        assert len(positions.cells_K[2]) >= 1


def test_a_tile_without_labels_has_no_positions():
    positions = find_positions(Window(0, 0, 40, 40), 2, lambda window: np.full(window.shape, 255, np.uint8))
    assert positions.pick(None, np.random.default_rng(0)) is None
    assert positions.pick(1, np.random.default_rng(0)) is None


def test_a_sample_is_the_same_whenever_and_by_whomever_it_is_loaded(job):
    one, two = SampleSource(job.samples), SampleSource(job.samples)
    forth = [one.load(number) for number in range(12)]
    back = [two.load(number) for number in reversed(range(12))][::-1]
    for a, b in zip(forth, back, strict=True):
        np.testing.assert_array_equal(a.image_CHW, b.image_CHW)
        np.testing.assert_array_equal(a.labels_HW, b.labels_HW)
    assert forth[0].image_CHW.shape == (3, 65, 65)
    assert forth[0].image_CHW.dtype == np.float32
    assert len({sample.image_CHW.tobytes() for sample in forth}) == 12


def test_rare_classes_are_seen_far_more_often_than_they_occur(tmp_path):
    tiles = write_tiles(tmp_path / "tiles")
    shares = []
    for rare_share in (0.0, 0.8):
        small = {"train": {"crop_px": 17}, "augment": {"scale": [1.0, 1.0]}}
        document = settings(tiles, tmp_path / "model", sampling={"rare_share": rare_share}, **small)
        source = SampleSource(job_of(document).samples)
        counts = sum(
            np.bincount(source.load(number).labels_HW.ravel(), minlength=256)[:3] for number in range(60)
        )
        shares.append(counts[2] / counts.sum())
    assert shares[1] > 2 * shares[0] > 0


@pytest.mark.parametrize("kind", ["threads", pytest.param("processes", marks=pytest.mark.slow)])
def test_batches_come_in_order_however_they_are_loaded(job, kind):
    source = SampleSource(job.samples)
    threads = torch.get_num_threads()
    loader = BatchLoader(
        job.samples, kind=kind, loaders=2, first=5, batch=7, parts=2, rank=1, world_size=2, pin=False
    )
    try:
        for first in (5, 12, 19):
            # Of 7 samples the parts are 3 and 4, of which rank 1 has the last 2 and 2.
            expected = [[first + 1, first + 2], [first + 5, first + 6]]
            for batch, numbers in zip(loader.next_step(), expected, strict=True):
                assert batch.images_NCHW.shape == (2, 3, 65, 65)
                for index, number in enumerate(numbers):
                    sample = source.load(number)
                    np.testing.assert_array_equal(batch.images_NCHW[index].numpy(), sample.image_CHW)
                    np.testing.assert_array_equal(batch.labels_NHW[index].numpy(), sample.labels_HW)
        assert loader.samples_per_s_alone(0.1) > 0
        assert (loader.loaders_cpu_s() > 0) == (kind == "processes"), "threads are this process's own"
        assert torch.get_num_threads() == threads
    finally:
        loader.close()


@pytest.mark.parametrize("kind", ["threads", pytest.param("processes", marks=pytest.mark.slow)])
def test_a_tile_that_cannot_be_read_stops_the_run_with_the_reason(tmp_path, kind):
    job = job_of(settings(write_tiles(tmp_path / "tiles"), tmp_path / "model"))
    for tile in job.tiles.tiles:
        with open(tile.image, "r+b") as file:  # noqa: PTH123
            file.truncate(200)
    loader = BatchLoader(
        job.samples, kind=kind, loaders=1, first=0, batch=2, parts=1, rank=0, world_size=1, pin=False
    )
    try:
        with pytest.raises(Exception, match=r"tile-\d"):
            loader.next_step()
    finally:
        loader.close()
