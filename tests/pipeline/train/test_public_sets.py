"""Published data sets, in small directories laid out as their archives unpack."""

from contextlib import closing

import numpy as np
import pytest
import rasterio

from pipeline.errors import SettingsError
from pipeline.train.tiles.import_set import PUBLIC_SETS, import_set
from pipeline.train.tiles.index import load_tile_set
from pipeline.train.tiles.settings import LabelsSettings, TilesSettings
from pipeline.train.tiles.tile_reader import IGNORE, TileReader
from tests.pipeline.train.conftest import write_raster

SHAPE = (24, 32)

LAYOUTS = {
    "voc2012": (
        "JPEGImages/{0}.jpg",
        "SegmentationClass/{0}.png",
        {"a1": "train", "a2": "train", "b1": "val"},
    ),
    "cityscapes": (
        "leftImg8bit/{0}_leftImg8bit.png",
        "gtFine/{0}_gtFine_labelIds.png",
        {"train/ulm/ulm_0_19": "train", "train/bonn/bonn_1_19": "train", "val/lindau/lindau_0_19": "val"},
    ),
    "ade20k": (
        "ADEChallengeData2016/images/{0}.jpg",
        "ADEChallengeData2016/annotations/{0}.png",
        {"training/ADE_train_00000001": "train", "validation/ADE_val_00000001": "val"},
    ),
    "coco-stuff": (
        "dataset/images/{0}.jpg",
        "dataset/annotations/{0}.png",
        {"train2017/000000000009": "train", "val2017/000000000139": "val"},
    ),
    "loveda": (
        "{0}.png",
        "",
        {
            "Train/Urban/images_png/1": "train",
            "Train/Rural/images_png/1": "train",
            "Val/Rural/images_png/7": "val",
        },
    ),
    "landcoverai": ("images/{0}.tif", "masks/{0}.tif", {"M-33-7": None, "M-34-1": None, "N-33-6": None}),
}
"""Where images and labels lie, and each pair's name and official split."""


def layout(root, name):
    """Makes the directory; gives each pair's name, split and labels."""
    image_key, label_key, pairs = LAYOUTS[name]
    made = []
    table = PUBLIC_SETS[name]().meaning
    values = np.array(sorted(value for value in table.values if 0 <= value < 256), np.uint8)
    for number, (key, split) in enumerate(pairs.items()):
        random = np.random.default_rng(number)
        image = random.integers(1, 255, (3, *SHAPE), np.uint8)
        labels = random.choice(values, SHAPE)
        write_raster(root / image_key.format(key), image)
        where = label_key.format(key) if label_key else f"{key.replace('images_png', 'masks_png')}.png"
        write_raster(root / where, labels)
        made.append((key, split, labels))
    if name == "voc2012":
        for split in ("train", "val"):
            path = root / f"ImageSets/Segmentation/{split}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{key}\n" for key, own in pairs.items() if own == split))
        write_raster(root / "JPEGImages/of_another_challenge.jpg", image)
    return made


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_labels_and_official_splits(tmp_path, name):
    made = layout(tmp_path / "data", name)
    settings = TilesSettings(url=str(tmp_path / "data"), manifest=str(tmp_path / "set"))
    indexed, _ = import_set(name, settings)
    tiles = indexed.tiles
    assert not tiles.bad
    assert len(tiles.tiles) == len(made)
    assert not list((tmp_path / "data").rglob("tiles.json"))
    again = load_tile_set(TilesSettings(url=str(tmp_path / "set")), LabelsSettings(), None)
    assert again == tiles
    meaning = PUBLIC_SETS[name]().meaning
    with closing(TileReader(again)) as reader:
        for key, split, labels in made:
            (tile,) = (one for one in tiles.tiles if one.image.endswith(tuple(f"/{key}{e}" for e in ENDINGS)))
            assert split is None or (tile.split, tile.group) == (split, split)
            found = reader.read(tile, tile.grid.window).labels_HW
            expected = np.vectorize(meaning.values.__getitem__)(labels)
            np.testing.assert_array_equal(found, expected)
    assert import_set(name, settings)[0].num_read == 0


ENDINGS = (".jpg", ".png", ".tif", "_leftImg8bit.png")


@pytest.mark.parametrize(
    ("name", "num_classes", "raw", "index", "class_name", "color"),
    [
        ("voc2012", 21, 15, 15, "person", "#c08080"),
        ("voc2012", 21, 20, 20, "tvmonitor", "#004080"),
        ("cityscapes", 19, 7, 0, "road", "#804080"),
        ("cityscapes", 19, 33, 18, "bicycle", "#770b20"),
        ("ade20k", 150, 1, 0, "wall", "#787878"),
        ("ade20k", 150, 150, 149, "flag", "#5c00ff"),
        ("coco-stuff", 171, 0, 0, "person", "#dc143c"),
        ("coco-stuff", 171, 12, 11, "stop sign", "#dcdc00"),
        ("coco-stuff", 171, 89, 79, "toothbrush", "#bfa2d0"),
        ("coco-stuff", 171, 91, 80, "banner", None),
        ("coco-stuff", 171, 181, 170, "wood", None),
        ("loveda", 7, 4, 3, "water", "#0000ff"),
        ("landcoverai", 5, 2, 2, "woodland", "#267300"),
    ],
)
def test_classes_values_and_colours(name, num_classes, raw, index, class_name, color):
    meaning = PUBLIC_SETS[name]().meaning
    assert len(meaning.classes) == len(set(meaning.classes)) == len(meaning.colors) == num_classes
    assert meaning.values[raw] == index
    assert meaning.classes[index] == class_name
    assert color is None or meaning.colors[index] == color
    classes = [one for one in meaning.values.values() if one != IGNORE]
    assert sorted(classes) == list(range(num_classes))


@pytest.mark.parametrize(
    ("name", "ignored", "absent"),
    [
        ("voc2012", {255}, {21}),
        ("cityscapes", {-1, 0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30}, {34, 255}),
        ("ade20k", {0}, {151, 255}),
        ("coco-stuff", {255}, {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90, 182}),
        ("loveda", {0}, {8}),
        ("landcoverai", set(), {5, 255}),
    ],
)
def test_what_is_not_labelled_and_what_must_not_be_there(name, ignored, absent):
    values = PUBLIC_SETS[name]().meaning.values
    assert {raw for raw, index in values.items() if index == IGNORE} == ignored
    assert not absent & set(values)


def test_a_listed_image_without_its_files_is_told(tmp_path):
    layout(tmp_path, "voc2012")
    (tmp_path / "SegmentationClass/a1.png").unlink()
    indexed, _ = import_set("voc2012", TilesSettings(url=str(tmp_path)))
    assert [(bad.id, bad.reason) for bad in indexed.tiles.bad] == [
        ("a1", "no label file found for 'a1' of train")
    ]


def test_grey_photographs_and_images_that_come_twice_stay_in_a_published_set(tmp_path):
    made = layout(tmp_path, "coco-stuff")
    first, second = (tmp_path / f"dataset/images/{key}.jpg" for key, *_ in made)
    second.write_bytes(first.read_bytes())
    random = np.random.default_rng(9)
    write_raster(tmp_path / "dataset/images/train2017/grey.jpg", random.integers(1, 255, SHAPE, np.uint8))
    write_raster(tmp_path / "dataset/annotations/train2017/grey.png", np.ones(SHAPE, np.uint8))
    indexed, _ = import_set("coco-stuff", TilesSettings(url=str(tmp_path)))
    assert not indexed.tiles.bad
    assert len(indexed.tiles.tiles) == 3


def test_pieces_of_orthophotos_keep_their_lists(tmp_path):
    layout(tmp_path, "landcoverai")
    for number, split in enumerate(("train", "val", "test")):
        random = np.random.default_rng(number)
        write_raster(tmp_path / f"output/M-33-7_{number}.jpg", random.integers(0, 255, (3, *SHAPE), np.uint8))
        write_raster(tmp_path / f"output/M-33-7_{number}_m.png", random.integers(0, 5, SHAPE, np.uint8))
        (tmp_path / f"{split}.txt").write_text(f"M-33-7_{number}\n")
    indexed, _ = import_set("landcoverai", TilesSettings(url=str(tmp_path)))
    assert {tile.id: tile.split for tile in indexed.tiles.tiles} == {
        "M-33-7_0": "train", "M-33-7_1": "val", "M-33-7_2": "test",
    }  # fmt: skip


def test_orthophotos_are_split_by_the_ground(tmp_path):
    made = layout(tmp_path, "landcoverai")
    for number, (key, *_) in enumerate(made):
        with rasterio.open(tmp_path / f"images/{key}.tif", "r+") as dataset:
            dataset.crs = "EPSG:2180"
            dataset.transform = rasterio.Affine(0.5, 0, 500_000 + 10_000 * number, 0, -0.5, 500_000)
    indexed, _ = import_set("landcoverai", TilesSettings(url=str(tmp_path)))
    assert len({tile.group for tile in indexed.tiles.tiles}) == 3
    assert {tile.split for tile in indexed.tiles.tiles} == {"train", "val"}


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_another_directory_is_refused(tmp_path, name):
    (tmp_path / "something.txt").write_text("else")
    with pytest.raises(SettingsError, match="must be unpacked in"):
        import_set(name, TilesSettings(url=str(tmp_path)))
