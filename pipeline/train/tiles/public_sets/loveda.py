"""LoveDA: urban and rural China at 0.3 m; 7 classes numbered from 1, 0 where there is no data."""

from pipeline.storage import Folder
from pipeline.train.tiles.public_sets.layout import (
    Pairing,
    PublicSet,
    Side,
    find_root,
    hexadecimal,
    make_meaning,
    pair_folders,
    together,
)

CLASSES = (
    (1, "background", (255, 255, 255)),
    (2, "building", (255, 0, 0)),
    (3, "road", (255, 255, 0)),
    (4, "water", (0, 0, 255)),
    (5, "barren", (159, 129, 183)),
    (6, "forest", (0, 255, 0)),
    (7, "agricultural", (255, 195, 128)),
)
NO_DATA = 0
SPLITS = {"Train": "train", "Val": "val"}
AREAS = ("Urban", "Rural")


def make() -> PublicSet:
    """The data set."""
    table = [(value, name, hexadecimal(*color)) for value, name, color in CLASSES]
    return PublicSet(make_meaning(table, [NO_DATA]), _pairs)


def _pairs(folder: Folder) -> Pairing:
    """Its labels of the test split are not published."""
    root = find_root(folder, ("", "LoveDA"), "Train/", "LoveDA")
    return together(
        pair_folders(
            root,
            Side(f"{name}/{area}/images_png", ".png"),
            Side(f"{name}/{area}/masks_png", ".png"),
            split=split,
            prefix=f"{name}/{area}/",
        )
        for name, split in SPLITS.items()
        for area in AREAS
    )
