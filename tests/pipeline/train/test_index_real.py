"""Indexing of real tile sets: land cover in four bands, vessels, nuclei, cells in OME-Zarr."""

import shutil

import numpy as np
import zarr

from pipeline.raster.window import Window
from pipeline.storage import Folder
from pipeline.train.tiles.index import load_tile_set
from pipeline.train.tiles.manifest import read_manifest
from pipeline.train.tiles.settings import LabelsSettings, TilesSettings
from pipeline.train.tiles.statistics import training_statistics
from pipeline.train.tiles.tile_reader import IGNORE, TileReader


def test_land_cover_scenes(shared_data, tmp_path):
    tiles = load_tile_set(
        TilesSettings(
            url=str(shared_data / "s2_india_lulc"),
            images="images/*.tif",
            labels="labels/*.png",
            manifest=str(tmp_path),
        ),
        LabelsSettings(values={1: "built-up", 2: "vegetation", 3: "water"}, ignore=(0,)),
        None,
    )
    lines = [line.split(",") for line in (shared_data / "s2_india_lulc/index.csv").read_text().split()[1:]]
    assert {tile.id: tile.class_pixels for tile in tiles.tiles} == {
        line[0]: tuple(int(value) for value in line[6:9]) for line in lines
    }
    assert not tiles.bad
    assert tiles.classes == ("built-up", "vegetation", "water")
    assert tiles.bands == ("red", "green", "blue", "nir")
    found = training_statistics(tiles)
    assert sum(found.class_pixels) == sum(sum(tile.class_pixels) for tile in tiles.of("train"))


def test_vessels_and_nuclei(shared_data, tmp_path):
    vessels = load_tile_set(
        TilesSettings(
            url=str(shared_data / "hrf_fundus"),
            images="images/*_h.jpg",
            labels="vessel_masks/*_h.tif",
            manifest=str(tmp_path / "hrf"),
        ),
        LabelsSettings(values={255: "vessel"}),
        ["background", "vessel"],
    )
    assert [tile.id for tile in vessels.tiles] == ["02", "03"]
    assert all(sum(tile.class_pixels) == 3504 * 2336 for tile in vessels.tiles)
    assert all(0.03 < tile.class_pixels[1] / sum(tile.class_pixels) < 0.2 for tile in vessels.tiles)
    some = tmp_path / "dsb"
    ids = sorted(path.stem for path in (shared_data / "dsb2018_nuclei/images").iterdir())[:6]
    for kind in ("images", "instances"):
        (some / kind).mkdir(parents=True)
        for name in ids:
            shutil.copy(shared_data / f"dsb2018_nuclei/{kind}/{name}.png", some / kind)
    nuclei = load_tile_set(
        TilesSettings(url=str(some), images="images/*.png", labels="instances/*.png"),
        LabelsSettings(values={0: "background"}, other="nucleus"),
        None,
    )
    assert len(nuclei.tiles) == 6
    assert nuclei.bands == ("band 1", "band 2", "band 3")  # alpha is none
    with_reader = TileReader(nuclei)
    read = with_reader.read(nuclei.tiles[0], nuclei.tiles[0].grid.window)
    assert set(np.unique(read.labels_HW)) <= {0, 1, IGNORE}
    assert int((read.labels_HW == 1).sum()) == nuclei.tiles[0].class_pixels[1] > 0
    with_reader.close()


def test_cells_in_ome_zarr(shared_data, tmp_path):
    folder = shared_data / "omezarr_cardio"
    tiles = load_tile_set(
        TilesSettings(
            url=str(folder), images="*.zarr", labels="*.zarr/labels/nuclei", manifest=str(tmp_path)
        ),
        LabelsSettings(values={0: "background"}, other="nucleus"),
        None,
    )
    (tile,) = tiles.tiles
    instances = zarr.open_array(folder / f"{tile.id}.zarr/labels/nuclei/1", mode="r")[0]
    assert tile.bands == ("DAPI", "nanog", "Lamin B1")
    assert tile.class_pixels == (int((instances == 0).sum()), int((instances > 0).sum()))
    assert read_manifest(Folder.at(tmp_path)).tiles == tiles
    with_reader = TileReader(tiles)
    found = with_reader.read(tile, Window(100, 200, 300, 400)).labels_HW
    np.testing.assert_array_equal(found, instances[100:400, 200:600] > 0)
    with_reader.close()
