"""Which tiles are learnt from and which are kept apart: by groups that are never split. Pure arithmetic.

A group is a block of ground, or whatever somebody names (a patient, a flight), or a tile by itself. A hash of
seed and group decides its split, so that no tile's split depends on which others there are.
"""

import hashlib
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import shapely

from pipeline.errors import SettingsError
from pipeline.train.tiles.ground import Outline, outline_of
from pipeline.train.tiles.tile_set import SPLITS, BadTile, Split, Tile

AUTO_BLOCK_SIDES = 4
OVERLAP_SHARE = 0.01
"""Of the smaller of two tiles: what both may show before they count as the same ground."""


@dataclass(frozen=True)
class SplitRules:
    """How tiles are split.

    Attributes:
        seed: Of the hash.
        val_share: Share of the groups that validate.
        test_share: Share of the groups that test.
        group: Regular expression whose first group names a tile's group, or None.
        block_m: Side of a block of ground in m; None: chosen from the tiles.
    """

    seed: int
    val_share: float
    test_share: float
    group: str | None
    block_m: float | None


@dataclass(frozen=True)
class Said:
    """What somebody says of a tile: its group, its split."""

    group: str | None = None
    split: str | None = None


def split_of(group: str, rules: SplitRules) -> Split:
    """The split of a group, whatever other groups there are.

    Args:
        group: Its name.
        rules: How tiles are split.
    """
    place = _place(group, rules.seed)
    if place < rules.test_share:
        return "test"
    return "val" if place < rules.test_share + rules.val_share else "train"


def assign_splits(
    tiles: Sequence[Tile], known: Mapping[str, Tile], said: Mapping[str, Said], rules: SplitRules
) -> tuple[list[Tile], list[BadTile], float | None]:
    """Tiles with their groups and splits, those left out, and the side of the blocks of ground.

    Left out are tiles that show ground of a tile in another split: they would give answers away.

    Args:
        tiles: All of them.
        known: Those that already have a split, which they keep, by id.
        said: What somebody says, by id.
        rules: How tiles are split.
    """
    outlines = {tile.id: outline for tile in tiles if (outline := outline_of(tile.grid)) is not None}
    sides = [outline.side for outline in outlines.values()]
    block_m = rules.block_m or (AUTO_BLOCK_SIDES * statistics.median(sides) if sides else None)
    groups: dict[str, str] = {}
    for tile in tiles:
        told = said.get(tile.id, Said())
        recorded = known[tile.id].group if tile.id in known else None
        groups[tile.id] = (
            told.group or told.split or recorded or _group_of(tile.id, outlines.get(tile.id), rules, block_m)
        )
    splits = _splits_of_groups(groups, known, said, rules)
    placed = [replace(tile, group=groups[tile.id], split=splits[groups[tile.id]]) for tile in tiles]
    kept, left_out = _without_overlaps(placed, known, outlines)
    return kept, left_out, block_m


def _splits_of_groups(
    groups: Mapping[str, str], known: Mapping[str, Tile], said: Mapping[str, Said], rules: SplitRules
) -> dict[str, Split]:
    splits: dict[str, Split] = {}
    for tile, group in groups.items():
        wanted = said[tile].split if tile in said else None
        if wanted is None:
            continue
        split = _checked(tile, wanted)
        if splits.setdefault(group, split) != split:
            raise SettingsError(
                f"tiles of one group must be in one split, but group {group!r} is said to be in "
                f"{splits[group]} and, by tile {tile!r}, in {split}"
            )
    for tile, group in groups.items():
        if tile in known:
            splits.setdefault(group, known[tile].split)
    free = sorted({*groups.values()} - {*splits})
    chosen: dict[str, Split] = {group: split_of(group, rules) for group in free}
    return splits | chosen if splits else _with_all_kinds(chosen, rules)


def _with_all_kinds(splits: dict[str, Split], rules: SplitRules) -> dict[str, Split]:
    """Splits of a first index: of few groups, chance may leave none to learn from or none to validate on.

    The group nearest to being in that split then is; written down, it stays.
    """
    groups = sorted(splits, key=lambda group: _place(group, rules.seed))
    if groups and "train" not in splits.values():
        splits[groups[-1]] = "train"
    learning = [group for group in groups if splits[group] == "train"]
    if rules.val_share and "val" not in splits.values() and len(learning) > 1:
        splits[learning[0]] = "val"
    return splits


def _checked(tile: str, split: str) -> Split:
    for known in SPLITS:
        if split == known:
            return known
    raise SettingsError(f"a split must be {', '.join(SPLITS)}, got {split!r} for tile {tile!r}")


def _group_of(tile: str, outline: Outline | None, rules: SplitRules, block_m: float | None) -> str:
    if rules.group is not None:
        match = re.search(rules.group, tile)
        return match[1] if match and match[1] is not None else tile
    if outline is None or not block_m:
        return tile
    centre = outline.polygon.centroid
    return f"{outline.frame}block {math.floor(centre.x / block_m)},{math.floor(centre.y / block_m)}"


def _without_overlaps(
    tiles: Sequence[Tile], known: Mapping[str, Tile], outlines: Mapping[str, Outline]
) -> tuple[list[Tile], list[BadTile]]:
    """Tiles whose ground no other split shows: known ones first, then test, validation, training."""
    order = sorted(tiles, key=lambda tile: (tile.id not in known, -SPLITS.index(tile.split), tile.id))
    placed = [tile for tile in order if tile.id in outlines]
    polygons = [outlines[tile.id].polygon for tile in placed]
    tree = shapely.STRtree(polygons)
    accepted: set[int] = set()
    left_out: dict[str, BadTile] = {}
    for number, tile in enumerate(placed):
        near = (int(other) for other in tree.query(polygons[number]) if other in accepted)
        rival = next((placed[other] for other in near if _straddle(tile, placed[other], outlines)), None)
        if rival is None:
            accepted.add(number)
            continue
        left_out[tile.id] = BadTile(
            tile.id,
            tile.image,
            tile.labels,
            f"would be in {tile.split}, but shows ground of {rival.id!r} in {rival.split}; "
            "larger tiles.split_block_m or a common group keeps them together",
        )
    return [tile for tile in tiles if tile.id not in left_out], list(left_out.values())


def _straddle(one: Tile, other: Tile, outlines: Mapping[str, Outline]) -> bool:
    return one.split != other.split and outlines[one.id].shares_ground(outlines[other.id], OVERLAP_SHARE)


def _place(group: str, seed: int) -> float:
    """Where a group falls between 0 and 1."""
    digest = hashlib.sha256(f"{seed}:{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
