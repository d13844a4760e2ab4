import base64
from io import BytesIO

import numpy as np
import pytest
import zarr
from PIL import Image
from zarr.storage import WrapperStore

from pipeline.raster.grid import Grid
from pipeline.raster.mosaic import Mosaic, create_mosaic
from pipeline.report import pictures
from pipeline.report.pictures import (
    picture_of_classes,
    picture_of_confidence,
    read_preview,
    sampling_step,
)
from pipeline.segment import overviews
from pipeline.storage import Folder
from tests.pipeline.report.fabricated import layout, write_mosaic


def decode(picture):
    data = base64.b64decode(picture.data_uri.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(BytesIO(data)).convert("RGBA"))


class CountingStore(WrapperStore):
    """Remembers which chunks were asked for."""

    def __init__(self, store):
        super().__init__(store)
        self.chunks = []

    async def get(self, key, prototype, byte_range=None):
        if "/c/" in key:
            self.chunks.append(key)
        return await super().get(key, prototype, byte_range)


def test_classes_keep_their_colours_and_nodata_is_transparent(tmp_path):
    classes = np.array([[0, 1, 2], [3, 255, 0]], np.uint8)
    write_mosaic(str(tmp_path / "m"), layout(Grid(2, 3)), classes, np.full((2, 3), 254, np.uint8))
    picture = picture_of_classes(Mosaic.open(str(tmp_path / "m")), has_overviews=False)
    shown = decode(picture)
    assert picture.step == 1
    assert shown[0, 0].tolist() == [0x2F, 0x6F, 0x9F, 255]
    assert shown[1, 0].tolist() == [0xA4, 0x43, 0x3A, 255]
    assert shown[1, 1, 3] == 0


def test_more_than_255_classes_are_drawn_too(tmp_path):
    names = [f"class {index}" for index in range(300)]
    colors = [f"#{index % 256:02x}{index // 256:02x}00" for index in range(300)]
    classes = np.array([[0, 299, 65535]], np.uint16)
    write_mosaic(
        str(tmp_path / "m"), layout(Grid(1, 3), names, colors), classes, np.full((1, 3), 9, np.uint8)
    )
    shown = decode(picture_of_classes(Mosaic.open(str(tmp_path / "m")), has_overviews=False))
    assert shown[0].tolist() == [[0, 0, 0, 255], [299 - 256, 1, 0, 255], [0, 0, 0, 0]]


def test_a_colour_that_is_none_becomes_grey_and_nothing_else(tmp_path):
    mosaic_layout = layout(Grid(1, 2), colors=("red;x:url(//evil)", "#2e6b3c", "#d9b650", "#a4433a"))
    write_mosaic(str(tmp_path / "m"), mosaic_layout, np.array([[0, 1]], np.uint8), np.zeros((1, 2), np.uint8))
    shown = decode(picture_of_classes(Mosaic.open(str(tmp_path / "m")), has_overviews=False))
    assert shown[0].tolist() == [[0x8A, 0x8A, 0x8A, 255], [0x2E, 0x6B, 0x3C, 255]]


def test_confidence_grows_lighter_and_its_mean_leaves_nodata_out(tmp_path):
    confidence = np.array([[0, 127, 254, 255]], np.uint8)
    write_mosaic(str(tmp_path / "m"), layout(Grid(1, 4)), np.zeros((1, 4), np.uint8), confidence)
    picture = picture_of_confidence(Mosaic.open(str(tmp_path / "m")), has_overviews=False)
    shown = decode(picture)[0].astype(int)
    light = shown[:3, :3] @ [2126, 7152, 722]
    assert light[0] < light[1] < light[2]
    assert shown[:, 3].tolist() == [255, 255, 255, 0]
    assert picture.mean == pytest.approx(0.5)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """2100 × 3300 px of chance, with overviews."""
    url = str(tmp_path_factory.mktemp("large") / "m")
    random = np.random.default_rng(0)
    classes = random.integers(0, 4, (2100, 3300)).astype(np.uint8)
    mosaic_layout = layout(Grid(2100, 3300))
    write_mosaic(url, mosaic_layout, classes, random.integers(0, 255, (2100, 3300)).astype(np.uint8))
    overviews.create_overviews(Folder.at(url), mosaic_layout)
    for base in overviews.rounds(2100, 3300):
        for task in overviews.tasks(2100, 3300, base):
            overviews.OverviewWorker(Folder.at(url), mosaic_layout)(task)
    return url, classes


def test_the_finest_overview_that_fits_is_shown(large):
    mosaic = Mosaic.open(large[0])
    preview = read_preview(mosaic, "classes", 1000, has_overviews=True)
    assert preview.step == 4
    assert not preview.is_sampled
    assert np.array_equal(preview.values_HW, np.asarray(mosaic.array("overviews/4/classes")[:]))


def test_without_overviews_pixels_are_sampled_in_place(large):
    url, classes = large
    preview = read_preview(Mosaic.open(url), "classes", 1000, has_overviews=False)
    assert (preview.step, preview.is_sampled) == (4, True)
    assert np.array_equal(preview.values_HW, classes[2::4, 2::4])


def test_overviews_that_were_created_but_not_filled_are_not_shown(tmp_path):
    url, mosaic_layout = str(tmp_path / "m"), layout(Grid(2100, 100))
    write_mosaic(url, mosaic_layout, np.ones((2100, 100), np.uint8), np.ones((2100, 100), np.uint8))
    overviews.create_overviews(Folder.at(url), mosaic_layout)
    preview = read_preview(Mosaic.open(url), "classes", 1000, has_overviews=False)
    assert (preview.values_HW == 1).all()


def test_a_huge_mosaic_is_looked_at_in_few_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "MOST_CHUNKS", 100)
    url = str(tmp_path / "m")
    side = 60_000  # 59 × 59 chunks
    create_mosaic(Folder.at(url), layout(Grid(side, side)))
    store = CountingStore(Folder.at(url).zarr_store(read_only=True))
    mosaic = Mosaic(zarr.open_group(store, mode="r"), store)
    preview = read_preview(mosaic, "classes", 1600, has_overviews=False)
    assert 50 <= preview.values_HW.size <= 100
    assert len(store.chunks) == len(set(store.chunks)) == preview.values_HW.size
    assert (preview.values_HW == 255).all()


@pytest.mark.parametrize(("height", "width"), [(1601, 1), (10**6, 10**6), (10**6, 5000), (3, 10**7)])
def test_pictures_fit_and_touch_a_bounded_number_of_chunks(height, width):
    step = sampling_step(height, width, 1600)
    rows, cols = -(-height // step), -(-width // step)
    chunks = min(-(-height // 1024), rows) * min(-(-width // 1024), cols)
    assert max(rows, cols) <= 1600
    assert chunks <= pictures.MOST_CHUNKS
