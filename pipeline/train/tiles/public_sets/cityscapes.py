"""Cityscapes: streets in 50 cities; the 19 classes that are evaluated, from the ids that its labels hold."""

from collections.abc import Iterator

from pipeline.storage import Folder
from pipeline.train.tiles.public_sets.layout import (
    Pairing,
    PublicSet,
    Side,
    find_root,
    make_meaning,
    pair_folders,
)

# id in *_gtFine_labelIds.png, name, colour; the row is the official trainId.
CLASSES = (
    (7, "road", (128, 64, 128)),
    (8, "sidewalk", (244, 35, 232)),
    (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)),
    (13, "fence", (190, 153, 153)),
    (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)),
    (20, "traffic sign", (220, 220, 0)),
    (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)),
    (23, "sky", (70, 130, 180)),
    (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)),
    (26, "car", (0, 0, 142)),
    (27, "truck", (0, 0, 70)),
    (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)),
    (32, "motorcycle", (0, 0, 230)),
    (33, "bicycle", (119, 11, 32)),
)
NOT_EVALUATED = (-1, 0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)


def make() -> PublicSet:
    """The data set."""
    return PublicSet(make_meaning(CLASSES, ignore=NOT_EVALUATED), _parts)


def _parts(folder: Folder) -> Iterator[Pairing]:
    """Fine annotations; those of the test cities are not published."""
    root = find_root(folder, ("", "cityscapes"), "gtFine/", "Cityscapes")
    for split in ("train", "val"):
        images = Side(f"leftImg8bit/{split}", "_leftImg8bit.png")
        labels = Side(f"gtFine/{split}", "_gtFine_labelIds.png")
        yield pair_folders(root, images, labels, split=split)
