"""Windows of tiles: pixels and class indices, at and beyond the edges, from rasters and from polygons."""

import json
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import zarr
from affine import Affine
from rasterio.features import rasterize
from rasterio.warp import transform as warp_points

from pipeline.errors import BlockError, SettingsError, SourceError
from pipeline.raster.window import Window
from pipeline.train.tiles import tile_reader
from pipeline.train.tiles.index import load_tile_set
from pipeline.train.tiles.settings import LabelsSettings, TilesSettings
from pipeline.train.tiles.tile_reader import IGNORE, TileReader
from tests.pipeline.train.conftest import write_pair, write_raster

NAMES = {0: "soil", 1: "water", 2: "wood"}


def load(root, names=None, *, ignore=(), classes=None, images="images/*.tif", labels="labels/*.png", **more):
    settings = TilesSettings(url=str(root), images=images, labels=labels, max_bad_share=1.0)
    meaning = LabelsSettings(values=NAMES if names is None else names, ignore=ignore, **more)
    return load_tile_set(settings, meaning, classes)


def read(tiles, name, window):
    tile = next(tile for tile in tiles.tiles if tile.id == name)
    with closing(TileReader(tiles)) as reader:
        return reader.read(tile, window)


@pytest.mark.parametrize(
    "window",
    [
        Window(0, 0, 37, 53),
        Window(5, 7, 11, 13),
        Window(-4, -9, 50, 70),
        Window(30, 50, 20, 20),
        Window(90, 0, 3, 4),
    ],
    ids=["all", "inside", "around", "corner", "beyond"],
)
def test_a_window_is_the_image_and_labels_there_and_nothing_beyond(tmp_path, window):
    image, labels = write_pair(tmp_path, "a", seed=1)
    found = read(load(tmp_path), "a", window)
    frame = Window(-100, -100, 300, 300)
    expected = np.zeros((3, *frame.shape), np.uint8)
    expected_labels = np.full(frame.shape, IGNORE, np.uint8)
    inside = Window(0, 0, 37, 53).relative_to(frame).slices
    expected[:, *inside], expected_labels[inside] = image, labels
    part = window.relative_to(frame).slices
    np.testing.assert_array_equal(found.pixels.samples_CHW, expected[:, *part])
    np.testing.assert_array_equal(found.labels_HW, expected_labels[part])
    np.testing.assert_array_equal(found.pixels.valid_HW, expected_labels[part] != IGNORE)
    assert found.labels_HW.dtype == np.uint8


def test_values_are_mapped_ignored_and_left_as_they_are(tmp_path):
    labels = np.random.default_rng(0).choice(np.array([0, 2, 9, 255], np.uint8), (37, 53))
    write_pair(tmp_path, "a", seed=1, labels=labels)
    tiles = load(tmp_path, {255: "vessel"}, ignore=(9,), classes=["background", "vessel", "disc"])
    expected = np.select([labels == 0, labels == 2, labels == 255], [0, 2, 1], IGNORE)
    np.testing.assert_array_equal(read(tiles, "a", Window(0, 0, 37, 53)).labels_HW, expected)
    assert tiles.tiles[0].class_pixels == tuple(int((expected == index).sum()) for index in range(3))


def test_each_thing_with_a_value_of_its_own_is_one_class(tmp_path):
    labels = np.random.default_rng(0).integers(0, 4000, (37, 53), np.uint16)
    write_pair(tmp_path, "a", seed=1, labels=labels)
    tiles = load(tmp_path, {0: "background"}, other="nucleus")
    np.testing.assert_array_equal(
        read(tiles, "a", Window(0, 0, 37, 53)).labels_HW, (labels > 0).astype(np.uint8)
    )


def test_a_palette_is_read_by_its_indices(tmp_path):
    labels = np.random.default_rng(0).integers(0, 3, (37, 53), np.uint8)
    write_pair(tmp_path, "a", seed=1)
    with rasterio.open(
        tmp_path / "labels/a.png", "w", driver="PNG", height=37, width=53, count=1, dtype="uint8"
    ) as dataset:
        dataset.write(labels, 1)
        dataset.write_colormap(1, {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0)})
    np.testing.assert_array_equal(read(load(tmp_path), "a", Window(0, 0, 37, 53)).labels_HW, labels)


@pytest.mark.parametrize("mapped", [True, False])
def test_declared_nodata_is_no_label_unless_it_is_mapped(tmp_path, mapped):
    _, labels = write_pair(tmp_path, "a", seed=1)
    (tmp_path / "labels/a.png").unlink()
    write_raster(tmp_path / "labels/a.tif", labels, nodata=0)
    names = NAMES if mapped else {1: "water", 2: "wood"}
    tiles = load(tmp_path, names, classes=["soil", "water", "wood"], labels="labels/*.tif")
    expected = labels if mapped else np.where(labels == 0, IGNORE, labels)
    np.testing.assert_array_equal(read(tiles, "a", Window(0, 0, 37, 53)).labels_HW, expected)


def test_images_and_labels_in_zarr(tmp_path):
    image, labels = write_pair(tmp_path, "a", seed=1)
    for name, path in (("images", "images/a.zarr"), ("labels", "labels/a.zarr")):
        values = image if name == "images" else labels
        dims = ("band", "y", "x")[-values.ndim :]
        group = zarr.create_group(tmp_path / path)
        array = group.create_array(
            "values",
            shape=values.shape,
            chunks=(*values.shape[:-2], 16, 16),
            dtype="uint8",
            dimension_names=dims,
        )
        array[...] = values
    tiles = load(tmp_path, images="images/*.zarr", labels="labels/*.zarr/values")
    found = read(tiles, "a", Window(-2, 3, 30, 40))
    np.testing.assert_array_equal(found.labels_HW[2:], labels[:28, 3:43])
    np.testing.assert_array_equal(found.pixels.samples_CHW[:, 2:], image[:, :28, 3:43])


UTM = "EPSG:32633"
PLACE = Affine(1.0, 0.0, 500000.0, 0.0, -1.0, 5300000.0)


def polygon(corners, **properties):
    ring = [*corners, corners[0]]
    return {
        "type": "Feature",
        "properties": properties,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
    }


@pytest.mark.parametrize("crs", [None, "EPSG:32633", "EPSG:3857"], ids=["lonlat", "utm", "mercator"])
def test_polygons_of_any_crs_are_burnt_as_if_at_once(tmp_path, crs):
    write_pair(tmp_path, "a", seed=1, shape=(600, 700), crs=UTM, transform=PLACE)
    pixels = [
        ([20.3, 30.7, 300.2, 250.9], [10.1, 400.6, 380.2, 5.5]),
        ([100.0, 580.0, 500.0], [50.0, 90.0, 690.0]),
    ]
    features, shapes = [], []
    for index, (rows, cols) in enumerate(pixels):
        x, y = PLACE @ (np.array(cols), np.array(rows))
        lon, lat = warp_points(UTM, crs or "OGC:CRS84", x, y)
        features.append(polygon(list(zip(lon, lat, strict=True)), kind={"name": ["water", 2][index]}))
        ring = [*zip(cols, rows, strict=True)]
        shapes.append(({"type": "Polygon", "coordinates": [[*ring, ring[0]]]}, index + 1))
    document = {"type": "FeatureCollection", "features": features}
    if crs:
        document["crs"] = {"type": "name", "properties": {"name": crs}}
    (tmp_path / "labels/a.png").unlink()
    (tmp_path / "labels/a.geojson").write_text(json.dumps(document))
    tiles = load(tmp_path, labels="labels/*.geojson", property="kind.name", outside="soil")
    expected = rasterize(shapes, out_shape=(600, 700), fill=0, dtype="uint8")
    whole = read(tiles, "a", Window(0, 0, 600, 700)).labels_HW
    # Edges that are straight in one CRS bend in another: a handful of pixels along them.
    assert (whole != expected).sum() <= (0 if crs == UTM else 12)
    part = read(tiles, "a", Window(-30, 240, 400, 500)).labels_HW
    np.testing.assert_array_equal(part[30:, :460], whole[:370, 240:])
    assert (part[:30] == IGNORE).all()
    assert (part[:, 460:] == IGNORE).all()


def test_a_polygon_that_no_class_of_the_set_names_is_refused(tmp_path):
    write_pair(tmp_path, "a", seed=1)
    (tmp_path / "labels/a.png").unlink()
    square = polygon([(10, 5), (20, 5), (20, 15), (10, 15)], **{"class": "water"})
    drawn = json.dumps({"type": "FeatureCollection", "features": [square]})
    (tmp_path / "labels/a.geojson").write_text(drawn)
    tiles = load(tmp_path, labels="labels/*.geojson")
    (tmp_path / "labels/a.geojson").write_text(drawn.replace("water", "marsh"))
    sentence = r"must have one of the classes \(soil, water, wood\) as its property 'class', got 'marsh'"
    with pytest.raises(SettingsError, match=sentence):
        read(tiles, "a", Window(0, 0, 37, 53))


def test_pixels_that_no_polygon_covers_are_not_labelled_by_themselves(tmp_path):
    write_pair(tmp_path, "a", seed=1)
    (tmp_path / "labels/a.png").unlink()
    square = polygon([(10, 5), (20, 5), (20, 15), (10, 15)], **{"class": "water"})
    (tmp_path / "labels/a.geojson").write_text(
        json.dumps({"type": "FeatureCollection", "features": [square]})
    )
    tiles = load(tmp_path, {1: "water", 2: "wood"}, labels="labels/*.geojson")
    labels = read(tiles, "a", Window(0, 0, 37, 53)).labels_HW
    assert tiles.classes == ("water", "wood")
    assert (labels[5:15, 10:20] == 0).all()
    assert (labels == 0).sum() == 100
    assert (labels == IGNORE).sum() == labels.size - 100


def test_masked_imagery_is_not_valid_and_is_not_counted(tmp_path):
    image, labels = write_pair(tmp_path, "a", seed=1, nodata=0)
    image[:, :10] = 0
    image[1, 20, 20] = 0
    write_raster(tmp_path / "images/a.tif", image, nodata=0)
    tiles = load(tmp_path)
    found = read(tiles, "a", Window(0, 0, 37, 53))
    assert not found.pixels.valid_HW[:10].any()
    assert found.pixels.missing_CHW[1, 20, 20]
    assert tiles.tiles[0].class_pixels == tuple(np.bincount(labels[10:].ravel(), minlength=3).tolist())


def test_many_threads_read_more_tiles_than_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr(tile_reader, "MOST_OPEN", 2)
    made = {f"t{number}": write_pair(tmp_path, f"t{number}", seed=number) for number in range(6)}
    tiles = load(tmp_path)
    with closing(TileReader(tiles)) as reader, ThreadPoolExecutor(8) as pool:
        wanted = [tile for _ in range(20) for tile in tiles.tiles]
        found = list(pool.map(lambda tile: reader.read(tile, Window(1, 2, 30, 40)), wanted))
        assert len(reader._open) <= 2
    for tile, one in zip(wanted, found, strict=True):
        image, labels = made[tile.id]
        np.testing.assert_array_equal(one.pixels.samples_CHW, image[:, 1:31, 2:42])
        np.testing.assert_array_equal(one.labels_HW, labels[1:31, 2:42])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read")]


def test_a_reader_travels_without_its_files(tmp_path):
    write_pair(tmp_path, "a", seed=1)
    tiles = load(tmp_path)
    with closing(TileReader(tiles, num_threads=3)) as reader:
        here = reader.read(tiles.tiles[0], Window(0, 0, 9, 9))
        with closing(pickle.loads(pickle.dumps(reader))) as other:  # noqa: S301
            assert other._num_threads == 3
            there = other.read(tiles.tiles[0], Window(0, 0, 9, 9))
    np.testing.assert_array_equal(here.labels_HW, there.labels_HW)


def test_labels_that_changed_since_are_told(tmp_path):
    _, labels = write_pair(tmp_path, "a", seed=1)
    tiles = load(tmp_path)
    write_raster(tmp_path / "labels/a.png", labels + np.uint8(70))
    with pytest.raises(BlockError, match=r"no class \(70, 71, 72\).*index the tiles again"):
        read(tiles, "a", Window(0, 0, 37, 53))


def test_an_image_that_changed_since_is_told(tmp_path):
    write_pair(tmp_path, "a", seed=1)
    tiles = load(tmp_path)
    write_pair(tmp_path, "a", seed=1, shape=(40, 53))
    with pytest.raises(SourceError, match="37 × 53 px"):
        read(tiles, "a", Window(0, 0, 37, 53))
    write_pair(tmp_path, "a", seed=1)
    renamed = replace(tiles, tiles=(replace(tiles.tiles[0], bands=("red",)),))
    with pytest.raises(SourceError, match="bands red"):
        read(renamed, "a", Window(0, 0, 37, 53))
