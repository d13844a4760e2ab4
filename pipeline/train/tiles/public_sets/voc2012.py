"""Pascal VOC 2012: 20 kinds of things and the background; a border of 5 px is not labelled."""

from collections.abc import Iterator

from pipeline.storage import Folder
from pipeline.train.tiles.public_sets.layout import (
    Color,
    Pairing,
    PublicSet,
    Side,
    find_root,
    make_meaning,
    pair_listed,
    read_list,
)

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train"),
    "tvmonitor",
)
BORDER = 255
LISTS = "ImageSets/Segmentation"


def make() -> PublicSet:
    """The data set."""
    table = [(value, name, _color(value)) for value, name in enumerate(CLASSES)]
    return PublicSet(make_meaning(table, ignore=[BORDER]), _parts)


def _parts(folder: Folder) -> Iterator[Pairing]:
    """The segmentation challenge's images, a small part of ``JPEGImages``, by its official lists."""
    root = find_root(folder, ("", "VOC2012", "VOCdevkit/VOC2012"), f"{LISTS}/train.txt", "VOC 2012")
    images, labels = Side("JPEGImages", ".jpg"), Side("SegmentationClass", ".png")
    for split in ("train", "val"):
        yield pair_listed(root, read_list(root, f"{LISTS}/{split}.txt"), images, labels, split=split)


def _color(value: int) -> Color:
    """VOC's colours: the value's bits dealt out to red, green and blue in turn, the highest first."""
    channels = [0, 0, 0]
    for place in range(8):
        for channel in range(3):
            channels[channel] |= (value >> (3 * place + channel) & 1) << (7 - place)
    return channels[0], channels[1], channels[2]
