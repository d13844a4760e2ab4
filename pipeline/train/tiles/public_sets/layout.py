"""What published data sets have in common: a table of classes, and folders of images and labels."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from pipeline.errors import SettingsError
from pipeline.storage import Folder, join_url, redact
from pipeline.train.tiles.catalog import Found, Pair, entries
from pipeline.train.tiles.meaning import Meaning
from pipeline.train.tiles.tile_set import IGNORE, BadTile

Pairing = tuple[list[Pair], list[BadTile]]
Color = tuple[int, int, int]


@dataclass(frozen=True)
class PublicSet:
    """A published data set.

    Attributes:
        meaning: Its classes, their colours and label values.
        parts: Its images and labels in a folder where it is unpacked, split by split.
    """

    meaning: Meaning
    parts: Callable[[Folder], Iterable[Pairing]]

    def pairs(self, folder: Folder) -> Pairing:
        """All images and labels.

        Args:
            folder: Where the data set is unpacked.
        """
        pairs: list[Pair] = []
        bad: list[BadTile] = []
        for good, rest in self.parts(folder):
            pairs += good
            bad += rest
        return pairs, bad


@dataclass(frozen=True)
class Side:
    """Where images or labels of one split lie: a folder, and what their names end with."""

    folder: str
    ending: str


def make_meaning(classes: Iterable[tuple[int, str, Color]], *, ignore: Sequence[int]) -> Meaning:
    """What labels mean.

    Args:
        classes: Label value, name and colour of each class, in the order of their indices.
        ignore: Label values that mean: not labelled.
    """
    table = tuple(classes)
    values = {value: index for index, (value, _, _) in enumerate(table)}
    return Meaning(
        classes=tuple(name for _, name, _ in table),
        colors=tuple("#" + bytes(color).hex() for _, _, color in table),
        values=values | dict.fromkeys(ignore, IGNORE),
        ignore=tuple(ignore),
        mapped=frozenset(values),
        other=None,
        property="class",
        outside=IGNORE,
    )


def read_classes(name: str) -> list[tuple[int, str, Color]]:
    """A table of classes too long for a program, from the file beside this one.

    Args:
        name: The file.
    """
    document: dict[str, Any] = json.loads(resources.files(__package__).joinpath(name).read_text("utf-8"))
    return [(entry["value"], entry["name"], _color(entry["color"])) for entry in document["classes"]]


def find_root(folder: Folder, roots: Sequence[str], must_hold: str, name: str) -> Folder:
    """The folder that a data set is unpacked in: the given one, or one of those that archives make in it.

    Args:
        folder: Where a user says it is.
        roots: Folders below; "" for the given one.
        must_hold: A folder, ending with ``/``, or a file that it must hold.
        name: The data set's name.
    """
    for root in roots:
        there = folder.child(root) if root else folder
        if must_hold.endswith("/") and any(True for _ in there.listing(must_hold)):
            return there
        if not must_hold.endswith("/") and there.exists(must_hold):
            return there
    raise SettingsError(
        f"{name} must be unpacked in {redact(folder.url)}, with {must_hold} in it or in "
        f"{', '.join(root for root in roots if root) or 'it'}; there is none"
    )


def pair_folders(folder: Folder, images: Side, labels: Side, *, split: str, prefix: str = "") -> Pairing:
    """Images and labels of one split, by their names without endings.

    Args:
        folder: Where the data set is unpacked.
        images: Where its images lie.
        labels: Where its labels lie.
        split: The official split.
        prefix: What makes names unique in the whole set.
    """
    found = [_names(folder, side) for side in (images, labels)]
    names = sorted({*found[0], *found[1]})
    return _pair(names, *found, split=split, prefix=prefix)


def pair_listed(folder: Folder, names: Sequence[str], images: Side, labels: Side, *, split: str) -> Pairing:
    """Images and labels that an official list names.

    Args:
        folder: Where the data set is unpacked.
        names: The list.
        images: Where its images lie.
        labels: Where its labels lie.
        split: The official split.
    """
    return _pair(names, _names(folder, images), _names(folder, labels), split=split, prefix="")


def read_list(folder: Folder, key: str) -> list[str]:
    """The names in a list, one a line.

    Args:
        folder: Where the data set is unpacked.
        key: The list's path below.
    """
    return folder.read(key).decode().split()


def _color(hexadecimal: str) -> Color:
    red, green, blue = bytes.fromhex(hexadecimal.removeprefix("#"))
    return red, green, blue


def _pair(
    names: Sequence[str],
    images: Mapping[str, Found],
    labels: Mapping[str, Found],
    *,
    split: str,
    prefix: str,
) -> Pairing:
    pairs, bad = [], []
    for name in names:
        image, label = images.get(name), labels.get(name)
        if image is not None and label is not None:
            pairs.append(Pair(prefix + name, image, label, group=split, split=split))
            continue
        lacks = "image" if image is None else "label file"
        urls = [None if found is None else found.url for found in (image, label)]
        bad.append(BadTile(prefix + name, urls[0], urls[1], f"no {lacks} found for {name!r} of {split}"))
    return pairs, bad


def _names(folder: Folder, side: Side) -> dict[str, Found]:
    """Files below a folder, by their paths in it without the ending that they share."""
    start = join_url(side.folder, "")
    return {
        found.key.removeprefix(start).removesuffix(side.ending): found
        for found in entries(folder, start)
        if found.key.endswith(side.ending)
    }
