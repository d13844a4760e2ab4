"""ADE20K as the scene parsing benchmark has it: 150 classes, numbered from 1; 0 is everything else."""

from collections.abc import Iterator

from pipeline.storage import Folder
from pipeline.train.tiles.public_sets.layout import (
    Pairing,
    PublicSet,
    Side,
    find_root,
    make_meaning,
    pair_folders,
    read_classes,
)

EVERYTHING_ELSE = 0
SPLITS = {"training": "train", "validation": "val"}


def make() -> PublicSet:
    """The data set."""
    return PublicSet(make_meaning(read_classes("ade20k.json"), ignore=[EVERYTHING_ELSE]), _parts)


def _parts(folder: Folder) -> Iterator[Pairing]:
    root = find_root(folder, ("", "ADEChallengeData2016"), "annotations/", "ADE20K")
    for name, split in SPLITS.items():
        images, labels = Side(f"images/{name}", ".jpg"), Side(f"annotations/{name}", ".png")
        yield pair_folders(root, images, labels, split=split)
