"""The README's picture: a telling place, and in both halves the same one."""

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image
from pyproj import CRS

from pipeline.demo.postcard import GUTTER_PX, SIDE_PX, most_varied, write_postcard
from pipeline.raster.grid import Grid
from pipeline.raster.mosaic import BlockArrays, MosaicWriter, create_mosaic
from pipeline.raster.window import Window
from pipeline.storage import Folder
from tests.pipeline.report.fabricated import COLORS, layout

HEIGHT, WIDTH, FIRST, CELL_PX = 1024, 1600, 600, 40
SHADES = np.array([[500, 700, 900], [300, 900, 400], [1500, 1400, 300], [1600, 900, 900]])


def test_the_place_is_where_classes_mix_and_little_is_hidden():
    labels_HW = np.zeros((1000, 1000), np.uint8)
    mixed_HW = np.indices((256, 256)).sum(axis=0) // 16 % 3
    labels_HW[512:768, 128:384] = mixed_HW
    labels_HW[128:384, 640:896] = np.where(np.arange(256) < 64, mixed_HW + 2, 255)  # more, but under a cloud
    assert most_varied(labels_HW, 256) == Window(512, 128, 256, 256)


def test_where_nothing_is_known_there_is_still_a_place():
    assert most_varied(np.full((300, 300), 255, np.uint8), 256) == Window(0, 0, 256, 256)


@pytest.fixture
def files(tmp_path):
    """A scene, its true mosaic, and labels of the part from ``FIRST`` on; some of the scene has no data."""
    rng = np.random.default_rng(3)
    cells = rng.integers(0, 4, (HEIGHT // CELL_PX + 1, WIDTH // CELL_PX))
    labels_HW = np.kron(cells, np.ones((CELL_PX, CELL_PX), np.uint8))[:HEIGHT].astype(np.uint8)
    bands_CHW = np.moveaxis(SHADES[labels_HW], -1, 0).astype(np.uint16)
    bands_CHW[:, :, -200:] = 0
    labels_HW[:, -200:] = 255
    transform = Affine(10, 0, 500_000, 0, -10, 5_200_000)
    grid = Grid(HEIGHT, WIDTH, transform, CRS(32633).to_wkt())
    made = layout(grid)
    folder = Folder.at(tmp_path / "mosaic.zarr")
    create_mosaic(folder, made)
    confidence_HW = np.where(labels_HW == 255, 255, 200).astype(np.uint8)
    MosaicWriter(folder, made).write(Window(0, 0, 2048, 2048), BlockArrays(labels_HW, confidence_HW, None))
    profile = {"driver": "GTiff", "crs": "EPSG:32633", "height": HEIGHT}
    with rasterio.open(
        tmp_path / "scene.tif",
        "w",
        count=3,
        dtype="uint16",
        width=WIDTH,
        nodata=0,
        transform=transform,
        **profile,
    ) as scene:
        scene.write(bands_CHW)
    held_out_HW = labels_HW[:, FIRST:]
    shifted = transform @ Affine.translation(FIRST, 0)
    with rasterio.open(
        tmp_path / "held.tif",
        "w",
        count=1,
        dtype="uint8",
        width=WIDTH - FIRST,
        nodata=255,
        transform=shifted,
        **profile,
    ) as labels:
        labels.write(held_out_HW, 1)
    return tmp_path, labels_HW


def test_both_halves_show_the_same_land(files):
    folder, labels_HW = files
    write_postcard(folder / "a.png", folder / "scene.tif", folder / "mosaic.zarr", folder / "held.tif")
    with Image.open(folder / "a.png") as picture:
        pixels = np.asarray(picture.convert("RGBA"))
    assert pixels.shape == (SIDE_PX, 2 * SIDE_PX + GUTTER_PX, 4)
    assert (pixels[:, SIDE_PX : SIDE_PX + GUTTER_PX, 3] == 0).all()
    seen, drawn = pixels[:, :SIDE_PX].reshape(-1, 4), pixels[:, SIDE_PX + GUTTER_PX :].reshape(-1, 4)
    step = HEIGHT // SIDE_PX
    place = most_varied(labels_HW[:, FIRST:], SIDE_PX * step).shift(0, FIRST)
    expected = labels_HW[place.slices][step // 2 :: step, step // 2 :: step].ravel()
    for index, color in enumerate(COLORS):
        here = expected == index
        assert (drawn[here] == [*bytes.fromhex(color[1:]), 255]).all()
        shades = seen[here & (seen[:, 3] == 255)]
        assert len(np.unique(shades, axis=0)) < 40  # mixed only where cells meet
        middle = np.median(shades, axis=0)
        assert (np.abs(shades - middle).max(axis=1) < 40).mean() > 0.9
    assert (drawn[expected == 255, 3] == 0).all()
    assert list(folder.glob("*.part")) == []
