"""ADE20K as the scene parsing benchmark has it: 150 classes, numbered from 1; 0 is everything else."""

from pipeline.storage import Folder
from pipeline.train.tiles.public_sets.layout import (
    Pairing,
    PublicSet,
    Side,
    find_root,
    make_meaning,
    pair_folders,
    read_classes,
    together,
)

EVERYTHING_ELSE = 0
SPLITS = {"training": "train", "validation": "val"}


def make() -> PublicSet:
    """The data set."""
    return PublicSet(make_meaning(read_classes("ade20k.json"), [EVERYTHING_ELSE]), _pairs)


def _pairs(folder: Folder) -> Pairing:
    root = find_root(folder, ("", "ADEChallengeData2016"), "annotations/", "ADE20K")
    return together(
        pair_folders(root, Side(f"images/{name}", ".jpg"), Side(f"annotations/{name}", ".png"), split=split)
        for name, split in SPLITS.items()
    )
