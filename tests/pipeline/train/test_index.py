"""Indexing: what is found, what is left out and why, what is read again, and what is written down."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import rasterio
from affine import Affine

from pipeline.errors import MismatchError, SettingsError
from pipeline.raster.window import Window
from pipeline.storage import Folder
from pipeline.train.tiles import index_pairs
from pipeline.train.tiles.index import extend_manifest, load_tile_set
from pipeline.train.tiles.manifest import read_manifest
from pipeline.train.tiles.settings import LabelsSettings, TilesSettings
from pipeline.train.tiles.tile_reader import TileReader
from tests.pipeline.train.conftest import write_pair, write_raster

NAMES = {0: "soil", 1: "water", 2: "wood"}
UTM = {"crs": "EPSG:32633"}


def settings(root, **more):
    return TilesSettings(**({"url": str(root), "images": "images/*", "labels": "labels/*"} | more))


def load(root, *, names=None, classes=None, **more):
    given = settings(root, **({"max_bad_share": 1.0} | more))
    return load_tile_set(given, LabelsSettings(values=names or NAMES), classes)


def reasons(tiles):
    return {bad.id: bad.reason for bad in tiles.bad}


@pytest.fixture
def reads(monkeypatch):
    """Ids of the tiles whose pixels were read."""
    read = []
    measure = index_pairs.measure

    def recording(looked, *others):
        read.append(looked.pair.id)
        return measure(looked, *others)

    monkeypatch.setattr(index_pairs, "measure", recording)
    return read


def test_a_tile_says_what_it_is(tmp_path):
    place = Affine(10.0, 0.0, 400000.0, 0.0, -10.0, 5000000.0)
    image, labels = write_pair(
        tmp_path, "a", seed=1, bands=2, transform=place, descriptions=("red", "nir"), **UTM,
        tags={"TIFFTAG_DATETIME": "2021:07:09 10:11:12"},
    )  # fmt: skip
    (tile,) = load(tmp_path).tiles
    assert (tile.id, tile.bands, tile.dtype, tile.date) == (
        "a",
        ("red", "nir"),
        "uint8",
        "2021-07-09T10:11:12",
    )
    assert (tile.grid.height, tile.grid.width, tile.grid.transform) == (37, 53, place)
    assert "32633" in tile.grid.crs_wkt
    assert tile.class_pixels == tuple(np.bincount(labels.ravel()).tolist())
    assert [moments.mean for moments in tile.moments] == pytest.approx(image.mean(axis=(1, 2)).tolist())
    assert tile.image == str(tmp_path / "images/a.tif")
    assert tile.split == "train"
    assert tile.group.startswith("block ")


def test_bad_tiles_are_listed_with_their_reasons_and_left_out(tmp_path):
    for name in ("good", "fine"):
        write_pair(tmp_path, name, seed=len(name) + ord(name[0]))
    write_pair(tmp_path, "small", seed=1)
    write_raster(tmp_path / "labels/small.png", np.zeros((37, 52), np.uint8))
    write_pair(tmp_path, "strange", seed=2, labels=np.full((37, 53), 7, np.uint8))
    write_pair(tmp_path, "bands", seed=3, bands=4)
    (tmp_path / "images/bands.tif").unlink()
    write_raster(tmp_path / "images/bands.tif", np.ones((2, 37, 53), np.uint8))
    write_pair(tmp_path, "deep", seed=4, image=np.ones((3, 37, 53), np.uint16))
    write_pair(tmp_path, "broken", seed=5)
    (tmp_path / "images/broken.tif").write_bytes(b"II*\0 and no more")
    write_pair(tmp_path, "cut", seed=6, shape=(400, 400))
    (tmp_path / "images/cut.tif").rename(tmp_path / "whole.tif")
    with rasterio.open(tmp_path / "whole.tif") as dataset:
        write_raster(tmp_path / "images/cut.jpg", dataset.read())
    write_pair(tmp_path, "short", seed=9, shape=(400, 400))
    for cut in ("images/cut.jpg", "labels/short.png"):
        data = (tmp_path / cut).read_bytes()
        (tmp_path / cut).write_bytes(data[: len(data) // 2])
    write_pair(tmp_path, "colours", seed=7)
    write_raster(tmp_path / "labels/colours.png", np.zeros((3, 37, 53), np.uint8))
    write_pair(tmp_path, "lonely", seed=8)
    (tmp_path / "labels/lonely.png").unlink()
    shutil.copy(tmp_path / "labels/good.png", tmp_path / "labels/orphan.png")
    shutil.copy(tmp_path / "images/good.tif", tmp_path / "images/twin.tif")
    shutil.copy(tmp_path / "labels/good.png", tmp_path / "labels/twin.png")
    tiles = load(tmp_path)
    found = reasons(tiles)
    assert [tile.id for tile in tiles.tiles] == ["fine", "good"]
    assert found.pop("small") == "size mismatch: the image has 37 × 53 px, its labels 37 × 52 px"
    assert found.pop("strange") == "labels outside the classes: 7 (1961 px); allowed are 0 to 2"
    assert found.pop("bands") == "wrong bands: band 1, band 2; most tiles have band 1, band 2, band 3"
    assert found.pop("deep") == "samples of uint16, but those of most tiles are uint8"
    assert found.pop("broken").startswith("unreadable: cannot open")
    assert found.pop("cut").startswith("unreadable: cannot read")
    assert found.pop("short").startswith("unreadable: the file is cut short")
    assert found.pop("colours").startswith("labels must be one band of class values, got 3 bands")
    assert found.pop("lonely") == "no labels found for the image"
    assert found.pop("orphan") == "no image found for the labels"
    assert found.pop("twin") == "duplicate: the same image as tile 'good'"
    assert not found


def test_a_file_is_what_it_holds_whatever_its_name(tmp_path):
    """Only PNG files end with a mark that tells whether they are whole."""
    image, _ = write_pair(tmp_path, "good", seed=1, shape=(64, 64))
    write_raster(tmp_path / "photograph.jpg", image)
    (tmp_path / "photograph.jpg").rename(tmp_path / "images/photograph.png")
    shutil.copy(tmp_path / "labels/good.png", tmp_path / "labels/photograph.png")
    tiles = load(tmp_path, images="images/*")
    assert [tile.id for tile in tiles.tiles] == ["good", "photograph"]
    assert not tiles.bad


def test_too_many_bad_tiles_are_refused_with_the_list(tmp_path):
    for number in range(8):
        write_pair(tmp_path, f"t{number}", seed=number)
    write_pair(tmp_path, "bad", seed=99, labels=np.full((37, 53), 7, np.uint8))
    with pytest.raises(
        SettingsError, match=r"at most 10%.*got 1 bad ones of 9.*\n  bad: labels outside"
    ) as caught:
        load(tmp_path, max_bad_share=0.1)
    assert "t0" not in str(caught.value)
    assert len(load(tmp_path, max_bad_share=0.12).tiles) == 8


@pytest.mark.parametrize(("off_px", "taken"), [(0.0, True), (0.3, True), (5.0, False)])
def test_labels_must_lie_where_their_image_does(tmp_path, off_px, taken):
    place = Affine(10.0, 0.0, 400000.0, 0.0, -10.0, 5000000.0)
    _, labels = write_pair(tmp_path, "a", seed=1, transform=place, **UTM)
    (tmp_path / "labels/a.png").unlink()
    moved = Affine(10.0, 0.0, 400000.0 + 10 * off_px, 0.0, -10.0, 5000000.0)
    write_raster(tmp_path / "labels/a.tif", labels, transform=moved, **UTM)
    write_pair(tmp_path, "b", seed=2)
    assert reasons(load(tmp_path)) == (
        {} if taken else {"a": "labels lie elsewhere: up to 5.0 px from their image on the ground"}
    )


def test_only_what_is_new_or_changed_is_read_again_and_splits_stay(tmp_path, reads):
    for number in range(12):
        write_pair(tmp_path, f"t{number}", seed=number)
    first = load(tmp_path)
    assert len(reads) == 12
    reads.clear()
    assert load(tmp_path) == first
    assert not reads
    written = (tmp_path / "tiles.json").read_bytes()
    for number in range(12, 20):
        write_pair(tmp_path, f"t{number}", seed=number)
    write_pair(tmp_path, "t3", seed=333)
    (tmp_path / "labels/t5.png").unlink()
    (tmp_path / "images/t5.tif").unlink()
    second = load(tmp_path)
    assert sorted(reads) == sorted(["t3", *(f"t{number}" for number in range(12, 20))])
    assert (tmp_path / "tiles.json").read_bytes() != written
    splits = {tile.id: tile.split for tile in second.tiles}
    assert "t5" not in splits
    assert all(splits[tile.id] == tile.split for tile in first.tiles if tile.id != "t5")
    old, new = ({tile.id: tile for tile in tiles.tiles} for tiles in (first, second))
    assert new["t3"].sha256 != old["t3"].sha256
    assert new["t4"] == old["t4"]
    assert second.digest != first.digest


def test_other_label_values_read_all_tiles_again_and_keep_their_splits(tmp_path, reads):
    for number in range(6):
        write_pair(tmp_path, f"t{number}", seed=number)
    indexed, before = extend_manifest(settings(tmp_path), LabelsSettings(values=NAMES), None)
    assert before is None
    reads.clear()
    names = {0: "land", 1: "water", 2: "land"}
    again, before = extend_manifest(settings(tmp_path, seed=5), LabelsSettings(values=names), None)
    assert before.tiles == indexed.tiles
    assert len(reads) == 6
    assert again.tiles.classes == ("land", "water")
    splits = [[(tile.id, tile.split) for tile in one.tiles.tiles] for one in (indexed, again)]
    assert splits[0] == splits[1]


def test_indexing_again_without_settings_uses_those_of_the_last_time(tmp_path):
    write_pair(tmp_path, "a", seed=1)
    extend_manifest(settings(tmp_path, bands=(3, 1)), LabelsSettings(values=NAMES, ignore=(255,)), None)
    write_pair(tmp_path, "b", seed=2)
    indexed, _ = extend_manifest(TilesSettings(url=str(tmp_path)), LabelsSettings(), None)
    assert [tile.id for tile in indexed.tiles.tiles] == ["a", "b"]
    assert indexed.tiles.bands == ("band 3", "band 1")
    assert indexed.tiles.classes == ("soil", "water", "wood")
    assert indexed.num_read == 1


def test_a_manifest_is_read_back_as_it_was(tmp_path):
    write_pair(tmp_path, "a", seed=1, **UTM)
    write_pair(tmp_path, "b", seed=2)
    (tmp_path / "labels/c.png").write_bytes(b"")
    made = load(tmp_path)
    assert read_manifest(Folder.at(tmp_path)).tiles == made
    document = json.loads((tmp_path / "tiles.json").read_text())
    assert document["tiles"][0]["image"] == "images/a.tif"
    moved = tmp_path.parent / "moved"
    shutil.copytree(tmp_path, moved)
    there = load_tile_set(TilesSettings(url=f"{moved}/tiles.json", max_bad_share=1.0), LabelsSettings(), None)
    assert there.tiles[0].image == str(moved / "images/a.tif")
    assert there.digest == made.digest
    with_reader = TileReader(there)
    assert with_reader.read(there.tiles[0], Window(0, 0, 5, 5)).labels_HW.shape == (5, 5)
    with_reader.close()


def test_a_manifest_elsewhere_names_images_where_they_lie(tmp_path):
    write_pair(tmp_path / "data", "a", seed=1)
    write_pair(tmp_path / "data", "b", seed=2)
    load(tmp_path / "data", manifest=str(tmp_path / "sets/one"))
    assert not (tmp_path / "data/tiles.json").exists()
    found = load_tile_set(TilesSettings(url=str(tmp_path / "sets/one")), LabelsSettings(), None)
    assert found.tiles[0].image == str(tmp_path / "data/images/a.tif")


def test_training_leaves_a_manifest_of_other_settings_alone(tmp_path):
    write_pair(tmp_path, "a", seed=1)
    write_pair(tmp_path, "b", seed=2)
    load(tmp_path)
    before = (tmp_path / "tiles.json").read_bytes()
    found = load(tmp_path, names={0: "land", 1: "water", 2: "land"})
    assert found.classes == ("land", "water")
    assert (tmp_path / "tiles.json").read_bytes() == before


def test_settings_must_agree_with_the_manifest(tmp_path):
    write_pair(tmp_path, "a", seed=1)
    load(tmp_path)
    there = TilesSettings(url=str(tmp_path))
    assert load_tile_set(there, LabelsSettings(values={1: "water"}), None).classes == (
        "soil",
        "water",
        "wood",
    )
    with pytest.raises(MismatchError, match="settings say 1: wood, 0 ignored, outside: soil; index"):
        load_tile_set(there, LabelsSettings(values={1: "wood"}, ignore=(0,), outside="soil"), None)


def test_settings_without_effect_are_told(tmp_path, caplog):
    write_pair(tmp_path, "a", seed=1)
    load(tmp_path, seed=4)
    caplog.clear()
    load_tile_set(TilesSettings(url=str(tmp_path), seed=4, readers=2), LabelsSettings(), None)
    assert "no effect" not in caplog.text
    load_tile_set(TilesSettings(url=str(tmp_path), seed=4, val_share=0.5), LabelsSettings(), None)
    assert "so that tiles.val_share has no effect" in caplog.text


def test_classes_in_a_models_order(tmp_path):
    _, labels = write_pair(tmp_path, "a", seed=1)
    load(tmp_path)
    there = TilesSettings(url=str(tmp_path))
    found = load_tile_set(there, LabelsSettings(), ["ice", "wood", "soil", "water"])
    plain = load_tile_set(there, LabelsSettings(), None)
    counts = np.bincount(labels.ravel(), minlength=3).tolist()
    assert found.tiles[0].class_pixels == (0, counts[2], counts[0], counts[1])
    assert found.values == {0: 2, 1: 3, 2: 1}
    assert [found.colors[index] for index in (2, 3, 1)] == list(plain.colors)
    with pytest.raises(SettingsError, match="lacks wood; it has soil, water"):
        load_tile_set(there, LabelsSettings(), ["soil", "water"])


def test_without_names_the_refusal_says_which_values_there_are(tmp_path):
    write_pair(tmp_path, "a", seed=1)
    with pytest.raises(SettingsError, match=r"must name the classes.*labels/a\.png holds 0, 1, 2$"):
        load_tile_set(settings(tmp_path), LabelsSettings(), None)


def test_bands_by_name_in_any_order_and_grey_among_coloured(tmp_path):
    names = ("red", "green", "nir")
    image, _ = write_pair(tmp_path, "a", seed=1, descriptions=names)
    write_pair(tmp_path, "b", seed=2, descriptions=names)
    order = [2, 0, 1]
    write_pair(
        tmp_path, "c", seed=3, image=image[order] + np.uint8(1), descriptions=[names[i] for i in order]
    )
    tiles = load(tmp_path)
    assert tiles.bands == names
    with_reader = TileReader(tiles)
    found = with_reader.read(tiles.tiles[2], Window(0, 0, 37, 53)).pixels.samples_CHW
    np.testing.assert_array_equal(found, image + np.uint8(1))
    with_reader.close()
    photos = tmp_path / "photos"
    for number in range(3):
        write_pair(photos, f"t{number}", seed=number)
    grey, _ = write_pair(photos, "grey", seed=9, bands=1)
    tiles = load(photos)
    with_reader = TileReader(tiles)
    (one,) = [tile for tile in tiles.tiles if tile.id == "grey"]
    found = with_reader.read(one, Window(0, 0, 37, 53)).pixels.samples_CHW
    np.testing.assert_array_equal(found, np.repeat(grey, 3, axis=0))
    with_reader.close()


def test_what_the_index_file_says_goes_first(tmp_path):
    for number in range(6):
        write_pair(tmp_path, f"t{number}", seed=number)
    (tmp_path / "index.csv").write_text(
        "id,set,split,group,date\nt0,x,test,,2020-01-02\nt1,x,,fields,\nt2,x,,fields,\n"
    )
    tiles = {tile.id: tile for tile in load(tmp_path).tiles}
    assert (tiles["t0"].split, tiles["t0"].date) == ("test", "2020-01-02")
    assert tiles["t1"].group == tiles["t2"].group == "fields"
    assert tiles["t1"].split == tiles["t2"].split
    (tmp_path / "index.csv").write_text("name,split\nt0,test\n")
    with pytest.raises(SettingsError, match="must have a column id beside split, got name, split"):
        load(tmp_path)


def test_a_set_that_cannot_be_written_to_is_used_all_the_same(tmp_path, caplog):
    write_pair(tmp_path, "a", seed=1)
    write_pair(tmp_path, "b", seed=2)
    (tmp_path / "blocked").write_text("a file where a folder should be")
    found = load(tmp_path, manifest=str(tmp_path / "blocked/below"))
    assert len(found.tiles) == 2
    assert "is not written down" in caplog.text


def test_a_damaged_manifest_is_refused(tmp_path):
    write_pair(tmp_path, "a", seed=1)
    (tmp_path / "tiles.json").write_text('{"version": 1}')
    with pytest.raises(SettingsError, match=r"tiles\.json must be a manifest of tiles.*KeyError"):
        load(tmp_path)
    (tmp_path / "tiles.json").write_text('{"version": 99}')
    with pytest.raises(SettingsError, match="must be of version 1, got 99"):
        load(tmp_path)


def test_a_bucket(tmp_path, s3_bucket, reads):
    root = Folder.at(s3_bucket.url).child("sets/one")
    made = {}
    for number in range(2):
        made[f"t{number}"] = write_pair(tmp_path, f"t{number}", seed=number)
        for key in (f"images/t{number}.tif", f"labels/t{number}.png"):
            root.write(key, (tmp_path / key).read_bytes())
    tiles = load(root.url)
    assert root.exists("tiles.json")
    assert [tile.id for tile in tiles.tiles] == ["t0", "t1"]
    reads.clear()
    assert load(root.url) == tiles
    assert not reads
    with_reader = TileReader(tiles)
    for tile in tiles.tiles:
        found = with_reader.read(tile, Window(-1, 0, 20, 20))
        np.testing.assert_array_equal(found.pixels.samples_CHW[:, 1:], made[tile.id][0][:, :19, :20])
        np.testing.assert_array_equal(found.labels_HW[1:], made[tile.id][1][:19, :20])
    with_reader.close()
    assert {tile.sha256 for tile in load(tmp_path).tiles} == {tile.sha256 for tile in tiles.tiles}


def test_splits_are_cached_apart_for_a_changed_set(tmp_path):
    write_pair(tmp_path, "a", seed=1)
    write_pair(tmp_path, "b", seed=2)
    tiles = load(tmp_path)
    assert {split: len(tiles.of(split)) for split in ("train", "val")} == {"train": 1, "val": 1}
    less = replace(tiles, tiles=tiles.of("train"))
    assert not less.of("val")
