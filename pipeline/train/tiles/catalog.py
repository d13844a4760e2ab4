"""Images and labels found below a folder or prefix, and paired by what their patterns' ``*`` stands for."""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from pipeline.errors import SettingsError
from pipeline.storage import Folder, StoredObject, is_local, join_url, redact
from pipeline.train.tiles.settings import MANIFEST_NAME, is_drawn
from pipeline.train.tiles.tile_set import BadTile

ZARR_NODES = ("zarr.json", ".zarray", ".zgroup")
"""Objects that make the folder that they lie in an array or a group."""

BESIDE_RASTERS = (
    ".aux.xml", ".ovr", ".msk", ".tfw", ".jgw", ".pgw", ".wld", ".prj", ".xml", ".txt", ".csv", ".md", ".db",
)  # fmt: skip
"""Files beside rasters that are none; a pattern that leaves the kind of file open passes them over."""

HASH_BYTES = 16 << 20


@dataclass(frozen=True)
class Found:
    """A file, or a Zarr array or group, below a folder.

    Attributes:
        folder: The folder.
        key: Its path below.
        objects: What it is stored as.
    """

    folder: Folder
    key: str
    objects: tuple[StoredObject, ...]

    @property
    def url(self) -> str:
        """Where it lies."""
        return join_url(self.folder.url, self.key)

    @cached_property
    def stamp(self) -> str:
        """What its store says of it: tells whether it may have changed."""
        # A local file's ETag holds its inode, which a copy changes; its size and time say enough.
        local = is_local(self.folder.url)
        said = [
            [found.key, found.size_bytes, found.modified if local or not found.etag else found.etag]
            for found in self.objects
        ]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]

    def sha256(self) -> str:
        """The hash of its bytes; of Zarr, of every object's path and bytes."""
        digest = hashlib.sha256()
        for found in self.objects:
            if len(self.objects) > 1:
                digest.update(found.key.removeprefix(self.key).encode())
            for start in range(0, found.size_bytes, HASH_BYTES):
                length = min(HASH_BYTES, found.size_bytes - start)
                digest.update(self.folder.read_range(found.key, start, length))
        return digest.hexdigest()


@dataclass(frozen=True)
class Pair:
    """An image and its labels, not yet looked at.

    Attributes:
        id: The tile's name.
        image: The image.
        labels: Its labels.
        group: What must not be split, where somebody says.
        split: The split it is in, where somebody says.
        date: When the image was taken, where somebody says.
    """

    id: str
    image: Found
    labels: Found
    group: str | None = None
    split: str | None = None
    date: str | None = None

    def bad(self, reason: str) -> BadTile:
        """The tile, left out."""
        return BadTile(self.id, self.image.url, self.labels.url, reason)


def find_pairs(folder: Folder, images: str, labels: str) -> tuple[list[Pair], list[BadTile]]:
    """Images and labels that belong together, and those that are alone or not alone of their name.

    Args:
        folder: Where both lie.
        images: Pattern of the images.
        labels: Pattern of the labels.
    """
    alike = _num_wildcards(images) == _num_wildcards(labels)
    found_images = _by_name(find(folder, images), whole=alike)
    if not found_images:
        raise SettingsError(f"tiles.images must match images, but {images!r} matches none in {_told(folder)}")
    found_labels = find(folder, labels)
    if not found_labels:
        raise SettingsError(f"tiles.labels must match labels, but {labels!r} matches none in {_told(folder)}")
    if not _num_wildcards(labels) and is_drawn(labels):
        _, shared = found_labels[0]
        return _pair(found_images, {name: [shared] for name in found_images})
    return _pair(found_images, _by_name(found_labels, whole=alike))


def find(folder: Folder, pattern: str) -> list[tuple[tuple[str, ...], Found]]:
    """What fits a pattern, each with what its wildcards stand for.

    Args:
        folder: Where it lies.
        pattern: ``*`` and ``?`` within a name, ``**`` for any depth, ``{a,b}`` for either.
    """
    regex = re.compile(_regex(pattern))
    is_open = "." not in pattern.rpartition("/")[2] or pattern.endswith(".*")
    matches = []
    for found in entries(folder, _fixed(pattern)):
        match = regex.fullmatch(found.key)
        name = found.key.rpartition("/")[2]
        beside = name.startswith(".") or (is_open and name.lower().endswith(BESIDE_RASTERS))
        if match and not beside and found.key != MANIFEST_NAME:
            matches.append((tuple(part or "" for part in match.groups()) or (found.key,), found))
    return matches


def entries(folder: Folder, prefix: str) -> Iterator[Found]:
    """Files below a prefix; a Zarr store counts as its arrays and groups, not as its chunks.

    Args:
        folder: Where they lie.
        prefix: Of their keys; empty, or ending at a ``/``.
    """
    stores: dict[str, list[StoredObject]] = defaultdict(list)
    for stored in folder.listing(prefix):
        root = re.match(r"(.*?\.zarr)/", stored.key)
        if root:
            stores[root[1]].append(stored)
        else:
            yield Found(folder, stored.key, (stored,))
    for objects in stores.values():
        objects.sort(key=lambda stored: stored.key)
        for stored in objects:
            node, _, name = stored.key.rpartition("/")
            if name in ZARR_NODES:
                inside = tuple(other for other in objects if other.key.startswith(f"{node}/"))
                yield Found(folder, node, inside)


def _pair(
    images: Mapping[str, list[Found]], labels: Mapping[str, list[Found]]
) -> tuple[list[Pair], list[BadTile]]:
    pairs, bad = [], []
    for name in sorted({*images, *labels}):
        image, label = images.get(name, []), labels.get(name, [])
        if len(image) == 1 and len(label) == 1:
            pairs.append(Pair(name, image[0], label[0]))
            continue
        if not label:
            reason = "no labels found for the image"
        elif not image:
            reason = "no image found for the labels"
        else:
            several = ", ".join(redact(found.key) for found in (image if len(image) > 1 else label))
            reason = f"duplicate: several files of one name ({several})"
        urls = [found[0].url if found else None for found in (image, label)]
        bad.append(BadTile(name, urls[0], urls[1], reason))
    return pairs, bad


def _by_name(found: Iterable[tuple[tuple[str, ...], Found]], *, whole: bool) -> dict[str, list[Found]]:
    """By all that wildcards stand for; by the last alone, where images and labels lie at different depths."""
    names: dict[str, list[Found]] = defaultdict(list)
    for parts, one in found:
        kept = [part for part in parts if part]
        names["/".join(kept if whole else kept[-1:])].append(one)
    return names


def _fixed(pattern: str) -> str:
    """The folders that a pattern begins with, so that nothing else need be listed."""
    parts = []
    for part in pattern.split("/")[:-1]:
        if any(sign in part for sign in "*?{"):
            break
        parts.append(part)
    zarr = next((number for number, part in enumerate(parts) if part.endswith(".zarr")), len(parts))
    return "".join(f"{part}/" for part in parts[:zarr])


def _num_wildcards(pattern: str) -> int:
    return re.compile(_regex(pattern)).groups


def _regex(pattern: str) -> str:
    """A pattern as a regular expression whose groups are its wildcards, those of a file's ending left out."""
    *folders, name = pattern.split("/")
    stem, dot, ending = name.rpartition(".")
    if not dot:
        stem = ending
    built = "".join(r"(?:(.+)/)?" if part == "**" else f"{_part(part)}/" for part in folders)
    if dot:
        return f"{built}{_part(stem)}\\.{_part(ending, star='[^/]*', mark='[^/]')}"
    # Without an ending in the pattern, a file's own is no part of its name.
    own = r"(?:\.[^/.]+)?" if "*" in stem else ""
    return f"{built}{_part(stem, star='([^/]*?)')}{own}"


def _part(text: str, *, star: str = "([^/]*)", mark: str = "([^/])") -> str:
    built = ""
    for piece in re.findall(r"\*+|\?|\{[^{}]*\}|[^*?{}]+|[{}]", text):
        if piece[0] == "*":
            built += star
        elif piece == "?":
            built += mark
        elif piece[0] == "{" and len(piece) > 1:
            built += f"(?:{'|'.join(re.escape(either) for either in piece[1:-1].split(','))})"
        else:
            built += re.escape(piece)
    return built


def _told(folder: Folder) -> str:
    return redact(folder.url)
