"""LoveDA: urban and rural China at 0.3 m; 7 classes numbered from 1, 0 where there is no data."""

from collections.abc import Iterator
from itertools import product

from pipeline.storage import Folder
from pipeline.train.tiles.public_sets.layout import (
    Pairing,
    PublicSet,
    Side,
    find_root,
    make_meaning,
    pair_folders,
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
    return PublicSet(make_meaning(CLASSES, ignore=[NO_DATA]), _parts)


def _parts(folder: Folder) -> Iterator[Pairing]:
    """Its labels of the test split are not published."""
    root = find_root(folder, ("", "LoveDA"), "Train/", "LoveDA")
    for (name, split), area in product(SPLITS.items(), AREAS):
        images, labels = (Side(f"{name}/{area}/{side}", ".png") for side in ("images_png", "masks_png"))
        yield pair_folders(root, images, labels, split=split, prefix=f"{name}/{area}/")
