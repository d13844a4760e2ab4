"""A tile set as plain data: which images and labels, what they mean, and which split each is in."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from pipeline.raster.grid import Grid

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
IGNORE = 255
"""The index of pixels that have no label."""


@dataclass(frozen=True)
class BandMoments:
    """Count, mean and summed squared deviation of a band's samples: what means and deviations add up from."""

    count: int
    mean: float
    squares: float

    def merge(self, other: "BandMoments") -> "BandMoments":
        """The moments of both together (Chan, Golub and LeVeque)."""
        count = self.count + other.count
        if not count:
            return self
        step = other.mean - self.mean
        share = other.count / count
        squares = self.squares + other.squares + step * step * self.count * share
        return BandMoments(count, self.mean + step * share, squares)


@dataclass(frozen=True)
class Tile:
    """An image and its labels.

    Attributes:
        id: Its name, unique in the set and the same on every machine.
        image: URL of the image.
        labels: URL of the labels: a raster or GeoJSON polygons.
        grid: The image's pixels.
        bands: Of the image, in the set's order: its bands' names, or "band 1" for one without.
        dtype: Type of the image's samples.
        class_pixels: Pixels of each class where the image has data; those not labelled are left out.
        sha256: Of image and labels together.
        date: When the image was taken, in ISO 8601; None where nobody says.
        group: Tiles of one group are always in one split.
        split: What it is for.
        image_sha256: Of the image alone, which tells one that comes twice.
        nodata_is_class: Whether the value that the labels declare as nodata is a class all the same.
        moments: Of each band, over the pixels that have data; empty where nobody measured.
        stamp: Tells whether files or settings changed since it was measured.
    """

    id: str
    image: str
    labels: str
    grid: Grid
    bands: tuple[str, ...]
    dtype: str
    class_pixels: tuple[int, ...]
    sha256: str
    date: str | None
    group: str
    split: Split
    image_sha256: str = ""
    nodata_is_class: bool = False
    moments: tuple[BandMoments, ...] = ()
    stamp: str = ""


@dataclass(frozen=True)
class BadTile:
    """A tile that is left out."""

    id: str
    image: str | None
    labels: str | None
    reason: str


@dataclass(frozen=True)
class TileSet:
    """Tiles and what their labels mean.

    Attributes:
        url: Folder or prefix of the manifest.
        classes: Names, by index.
        colors: ``#rrggbb`` of each class.
        bands: Names of the bands that are learnt from.
        values: Class index of every raw label value that is allowed; ``IGNORE`` for one that means no label.
        ignore: Raw label values that mean: not labelled.
        tiles: The good ones, by id.
        bad: Those left out, and why.
        seed: Of the split.
        other: Class index of every other raw value; None: there must be none.
        property: Of GeoJSON, the property that holds the class.
        outside: Class index of pixels that no polygon covers, or ``IGNORE``.
    """

    url: str
    classes: tuple[str, ...]
    colors: tuple[str, ...]
    bands: tuple[str, ...]
    values: Mapping[int, int]
    ignore: tuple[int, ...]
    tiles: tuple[Tile, ...]
    bad: tuple[BadTile, ...] = ()
    seed: int = 0
    other: int | None = None
    property: str = "class"
    outside: int = IGNORE
    _by_split: dict[str, tuple[Tile, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def of(self, split: str) -> tuple[Tile, ...]:
        """The tiles of a split, by id.

        Args:
            split: train, val or test.
        """
        if split not in self._by_split:
            self._by_split[split] = tuple(tile for tile in self.tiles if tile.split == split)
        return self._by_split[split]

    @cached_property
    def digest(self) -> str:
        """One hash of what the tiles are, wherever they lie: ids, contents and splits."""
        what = sorted([tile.id, tile.sha256, tile.split] for tile in self.tiles)
        return hashlib.sha256(json.dumps(what, ensure_ascii=False).encode()).hexdigest()
