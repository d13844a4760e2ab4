"""Splits: stable, by blocks of ground, never across shared ground."""

from collections import defaultdict
from dataclasses import replace

import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS

from pipeline.errors import SettingsError
from pipeline.raster.grid import Grid
from pipeline.train.tiles.splits import Said, SplitRules, assign_splits, split_of
from pipeline.train.tiles.tile_set import Tile

RULES = SplitRules(seed=0, val_share=0.3, test_share=0.2, group=None, block_m=None)
UTM = CRS.from_epsg(32633).to_wkt()
LONLAT = CRS.from_epsg(4326).to_wkt()
SIDE_M = 1000.0


def tile(name, place=None, *, wkt=UTM, side_px=100):
    """A tile of 1 km, at so many km east and north; without a place, one that has none."""
    grid = Grid(side_px, side_px)
    if place is not None:
        step = SIDE_M / side_px
        east, north = 500_000 + place[0] * SIDE_M, 5_300_000 + place[1] * SIDE_M
        grid = Grid(side_px, side_px, Affine(step, 0, east, 0, -step, north), wkt)
    return Tile(name, f"{name}.tif", f"{name}.png", grid, ("band 1",), "uint8", (1,), name, None, "", "train")


def assign(tiles, known=(), said=None, rules=RULES):
    recorded = {one.id: one for one in known}
    kept, left_out, block_m = assign_splits(tiles, recorded, said or {}, rules)
    return {one.id: one for one in kept}, {one.id: one.reason for one in left_out}, block_m


names = st.lists(st.text("abcdefgh", min_size=1, max_size=4), min_size=1, max_size=30, unique=True)


@settings(max_examples=80, deadline=None)
@given(names, st.data(), st.integers(0, 5))
def test_splits_of_known_tiles_never_change_when_others_arrive_or_leave(ids, data, seed):
    rules = replace(RULES, seed=seed)
    early = data.draw(st.lists(st.sampled_from(ids), min_size=1, unique=True))
    first, _, _ = assign([tile(name) for name in early], rules=rules)
    later, _, _ = assign([tile(name) for name in ids], first.values(), rules=replace(rules, val_share=0.01))
    assert {name: later[name].split for name in early} == {name: one.split for name, one in first.items()}
    rest = [name for name in ids if name not in early]
    assert all(later[name].split == split_of(name, replace(rules, val_share=0.01)) for name in rest)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=2, max_size=40, unique=True),
    st.randoms(use_true_random=False),
    st.integers(0, 3),
)
def test_order_of_arrival_matters_neither_to_groups_nor_to_tiles_in_them(places, random, seed):
    tiles = [tile(f"{x},{y}", (x, y)) for x, y in places]
    rules = replace(RULES, seed=seed, block_m=3000.0)
    expected, out, _ = assign(tiles, rules=rules)
    shuffled = random.sample(tiles, len(tiles))
    found, out_too, _ = assign(shuffled, rules=rules)
    assert (found, out) == (expected, out_too)
    by_group = defaultdict(set)
    for one in expected.values():
        by_group[one.group].add(one.split)
    assert all(len(splits) == 1 for splits in by_group.values())


def test_neighbours_share_a_block_of_four_tiles_a_side():
    tiles = [tile(f"{x},{y}", (x, y)) for x in range(12) for y in range(12)]
    found, out, block_m = assign(tiles)
    assert block_m == pytest.approx(4 * SIDE_M, rel=0.01)
    assert not out
    groups = {one.group for one in found.values()}
    assert 9 <= len(groups) <= 16
    near = defaultdict(set)
    for x in range(12):
        for y in range(11):
            near[found[f"{x},{y}"].group == found[f"{x},{y + 1}"].group].add((x, y))
    assert len(near[True]) > 2 * len(near[False])


def test_one_ground_in_two_coordinate_systems_is_one_block():
    here = tile("utm", (0.0, 1.0))
    grid = Grid(100, 100, Affine(0.0000133, 0, 15.0, 0, -0.000009, 47.8527), LONLAT)
    there = replace(here, id="lonlat", grid=grid)
    found, out, _ = assign([here, there], rules=replace(RULES, block_m=50_000.0))
    assert not out
    assert found["utm"].group == found["lonlat"].group


def test_coordinates_under_a_microscope_are_no_common_ground():
    grid = Grid(100, 100, Affine(0.65, 0, 0, 0, 0.65, 0), None, "micrometer")
    slides = [replace(tile(f"slide{number}"), grid=grid) for number in range(5)]
    found, out, _ = assign(slides)
    assert not out
    assert {one.group for one in found.values()} == set(found)


def test_ground_that_two_splits_would_show_is_left_out_of_training():
    rules = replace(RULES, block_m=1000.0, val_share=0.5, test_share=0.0)
    tiles = [tile(f"{x}", (x / 2, 0)) for x in range(20)]
    found, out, _ = assign(tiles, rules=rules)
    assert out
    assert {one.split for one in found.values()} == {"train", "val"}
    for one in found.values():
        for other in found.values():
            if one.split != other.split:
                assert abs(int(one.id) - int(other.id)) >= 2
    assert all("shows ground of" in reason and "in val" in reason for reason in out.values())


def test_a_new_tile_gives_way_to_a_known_one():
    known = [replace(tile("old", (0, 0)), group="g", split="train")]
    new = tile("new", (0.5, 0))
    found, out, _ = assign([*known, new], known, {"new": Said(split="val")})
    assert set(found) == {"old"}
    assert "'old' in train" in out["new"]


def test_touching_tiles_do_not_share_ground():
    _, out, _ = assign(
        [tile("a", (0, 0)), tile("b", (1, 0))], said={"a": Said(split="val"), "b": Said(split="train")}
    )
    assert not out


def test_groups_by_a_part_of_the_name():
    tiles = [tile(f"p{patient}_{eye}") for patient in range(40) for eye in ("left", "right")]
    found, _, _ = assign(tiles, rules=replace(RULES, group="^([^_]+)_"))
    assert {one.group for one in found.values()} == {f"p{patient}" for patient in range(40)}
    assert all(found[f"p{patient}_left"].split == found[f"p{patient}_right"].split for patient in range(40))
    assert {one.split for one in found.values()} == {"train", "val", "test"}


def test_shares_are_met_over_many_groups():
    found = [split_of(str(number), RULES) for number in range(20_000)]
    assert found.count("val") / 20_000 == pytest.approx(0.3, abs=0.02)
    assert found.count("test") / 20_000 == pytest.approx(0.2, abs=0.02)


def test_few_groups_are_not_left_without_validation():
    rules = replace(RULES, val_share=0.01, test_share=0.0)
    found, _, _ = assign([tile("a"), tile("b"), tile("c")], rules=rules)
    assert sorted(one.split for one in found.values()) == ["train", "train", "val"]
    alone, _, _ = assign([tile("a")], rules=rules)
    assert alone["a"].split == "train"
    rules = replace(RULES, val_share=0.5, test_share=0.49)
    found, _, _ = assign([tile("a"), tile("b"), tile("c")], rules=rules)
    assert [one.split for one in found.values()].count("train") == 1


def test_what_is_said_goes_first_and_moves_no_other():
    first, _, _ = assign([tile("a", (0, 0)), tile("b", (0.1, 5))], rules=replace(RULES, block_m=90_000.0))
    assert first["a"].group == first["b"].group
    split = "test" if first["a"].split != "test" else "val"
    later, _, _ = assign([tile("a", (0, 0)), tile("b", (0.1, 5))], first.values(), {"a": Said(split=split)})
    assert later["a"].split == split
    assert later["b"].split == first["b"].split


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"a": Said("g", "val"), "b": Said("g", "train")}, "group 'g' is said to be in val"),
        ({"a": Said(split="validation")}, "train, val, test, got 'validation' for tile 'a'"),
    ],
)
def test_contradictions_are_refused(said, message):
    with pytest.raises(SettingsError, match=message):
        assign([tile("a"), tile("b")], said=said)
