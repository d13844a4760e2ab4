"""What a challenger learns from, and what nobody may touch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import MismatchError
from pipeline.raster.grid import Grid
from pipeline.train.retrain.intake import contents, sort_tiles
from pipeline.train.tiles.tile_set import Tile, TileSet


def tile(name, split="train", sha="1", pixels=100):
    files = (f"{name}.tif", f"{name}.png")
    return Tile(name, *files, Grid(10, 10), ("red",), "uint8", (pixels, 0), sha, None, name, split)


def tile_set(*tiles):
    return TileSet("set", ("a", "b"), ("#000000", "#ffffff"), ("red",), {0: 0, 1: 1}, (), tiles)


def names(tiles):
    return [each.id for each in tiles]


def test_the_first_round_learns_from_all_and_freezes_validation():
    tiles = tile_set(tile("a"), tile("b"), tile("v", "val"), tile("t", "test"))
    intake = sort_tiles(tiles, seen={}, frozen=None, rejected={})
    assert (names(intake.new), names(intake.old)) == (["a", "b"], [])
    assert (names(intake.validation), names(intake.waiting)) == (["v"], [])
    assert names(intake.tile_set(tiles).tiles) == ["a", "b", "v"]


def test_later_rounds_tell_new_from_old_by_content():
    tiles = tile_set(tile("a"), tile("b", sha="2"), tile("c"), tile("v", "val"), tile("w", "val"))
    intake = sort_tiles(tiles, seen={"a": "1", "b": "1"}, frozen={"v": "1"}, rejected={})
    assert (names(intake.new), names(intake.old)) == (["b", "c"], ["a"])
    assert (names(intake.validation), names(intake.waiting)) == (["v"], ["w"])
    assert "w" not in names(intake.tile_set(tiles).tiles)


def test_tiles_that_came_with_a_turned_down_challenger_wait_until_they_change():
    rejected = {"b": "1", "c": "1"}
    tiles = tile_set(tile("a"), tile("b"), tile("c", sha="2"), tile("v", "val"))
    intake = sort_tiles(tiles, seen={"a": "1"}, frozen={"v": "1"}, rejected=rejected)
    assert (names(intake.new), names(intake.rejected)) == (["c"], ["b"])
    assert "b" not in names(intake.tile_set(tiles).tiles)


@pytest.mark.parametrize(
    "tiles",
    [
        tile_set(tile("a"), tile("v", "val")),
        tile_set(tile("a"), tile("v", "val"), tile("w", "val", sha="2")),
        tile_set(tile("a"), tile("v", "val"), tile("w", "train")),
    ],
    ids=["gone", "changed", "in another split"],
)
def test_a_frozen_split_that_changed_is_refused_by_name(tiles):
    with pytest.raises(MismatchError, match=r"1 of its 2 tiles are gone, changed or in another split: w;"):
        sort_tiles(tiles, seen={}, frozen={"v": "1", "w": "1"}, rejected={})


@given(
    new=st.lists(st.integers(1, 10_000), min_size=1, max_size=6),
    old=st.lists(st.integers(1, 10_000), min_size=1, max_size=6),
    share=st.floats(0.05, 0.95),
)
def test_new_tiles_make_up_their_share_of_what_is_seen(new, old, share):
    tiles = [tile(f"n{i}", pixels=pixels) for i, pixels in enumerate(new)]
    tiles += [tile(f"o{i}", pixels=pixels) for i, pixels in enumerate(old)]
    seen = contents(each for each in tiles if each.id.startswith("o"))
    intake = sort_tiles(tile_set(*tiles, tile("v", "val")), seen=seen, frozen=None, rejected={})
    weights = intake.weights(share)
    area = {each.id: weights[each.id] * sum(each.class_pixels) for each in tiles}
    fresh = sum(value for name, value in area.items() if name.startswith("n"))
    assert np.isclose(fresh / sum(area.values()), share)
    assert max(weights.values()) == pytest.approx(1)


def test_without_old_tiles_there_is_nothing_to_weigh():
    intake = sort_tiles(tile_set(tile("a"), tile("v", "val")), seen={}, frozen=None, rejected={})
    assert intake.weights(0.5) == {}
