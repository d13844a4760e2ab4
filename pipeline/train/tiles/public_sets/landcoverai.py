"""LandCover.ai: orthophotos of Poland at 0.25 and 0.5 m; 4 classes, numbered from 1, and the background.

Whole orthophotos are tiles here and split by the ground. Where its own ``split.py`` has cut them, the pieces
in ``output`` are taken, with the official lists.
"""

from collections.abc import Iterator
from dataclasses import replace

from pipeline.storage import Folder
from pipeline.train.tiles.public_sets.layout import (
    Pairing,
    PublicSet,
    Side,
    find_root,
    make_meaning,
    pair_folders,
    pair_listed,
    read_list,
)
from pipeline.train.tiles.tile_set import SPLITS

CLASSES = (
    (0, "background", (0, 0, 0)),
    (1, "building", (97, 74, 74)),
    (2, "woodland", (38, 115, 0)),
    (3, "water", (0, 197, 255)),
    (4, "road", (207, 207, 207)),
)


def make() -> PublicSet:
    """The data set."""
    return PublicSet(make_meaning(CLASSES, ignore=[]), _parts)


def _parts(folder: Folder) -> Iterator[Pairing]:
    root = find_root(folder, ("", "landcover.ai.v1", "landcover.ai"), "masks/", "LandCover.ai")
    if any(True for _ in root.listing("output/")):
        images, labels = Side("output", ".jpg"), Side("output", "_m.png")
        for split in SPLITS:
            yield pair_listed(root, read_list(root, f"{split}.txt"), images, labels, split=split)
        return
    pairs, bad = pair_folders(root, Side("images", ".tif"), Side("masks", ".tif"), split="")
    yield [replace(pair, group=None, split=None) for pair in pairs], bad
