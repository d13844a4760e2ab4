"""COCO-Stuff 164k: 80 things and 91 stuffs; labels hold ids less 1, with gaps for 11 things never drawn."""

from collections.abc import Iterator

from pipeline.errors import SettingsError
from pipeline.storage import Folder, redact
from pipeline.train.tiles.public_sets.layout import (
    Pairing,
    PublicSet,
    Side,
    make_meaning,
    pair_folders,
    read_classes,
)

UNLABELLED = 255
LABELS = ("annotations/", "stuffthingmaps/", "stuffthingmaps_trainval2017/")
SPLITS = {"train2017": "train", "val2017": "val"}


def make() -> PublicSet:
    """The data set."""
    return PublicSet(make_meaning(read_classes("coco_stuff.json"), ignore=[UNLABELLED]), _parts)


def _parts(folder: Folder) -> Iterator[Pairing]:
    """Images of train2017 and val2017 with the maps of ``stuffthingmaps_trainval2017.zip``."""
    for root in (folder, folder.child("dataset")):
        for labels in LABELS:
            if _holds(root, labels):
                return _in(root, "images/" if _holds(root, "images/") else "", labels)
    raise SettingsError(
        f"COCO-Stuff must be unpacked in {redact(folder.url)}, with val2017/ of the maps in one of "
        f"{', '.join(LABELS)}; there is none"
    )


def _in(root: Folder, images: str, labels: str) -> Iterator[Pairing]:
    for name, split in SPLITS.items():
        sides = Side(f"{images}{name}", ".jpg"), Side(f"{labels}{name}", ".png")
        yield pair_folders(root, *sides, split=split)


def _holds(root: Folder, part: str) -> bool:
    return any(True for _ in root.listing(f"{part}val2017/"))
