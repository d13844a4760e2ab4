"""Which blocks must be computed anew, as pure arithmetic over what they depend on."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.segment.nightly.block_identity import BlockIdentities, Reason, compare

FIELDS = {
    "model": {"sha256": "aa"},
    "source": {"files": [1, 2], "scenes": "digest", "grid": {"height": 9}, "nodata": float("nan")},
    "inference": {"scales": (1.0,)},
}


def scene(url, etag="1"):
    return {"url": url, "size_bytes": 10, "etag": etag, "modified": "2026"}


def identities(blocks, fields=FIELDS, described=None):
    """From each block's files, as (URL, ETag)."""
    scenes = list(dict.fromkeys(itertools.chain(*blocks.values())))
    places = {name: [scenes.index(one) for one in files] for name, files in blocks.items()}
    return BlockIdentities.of(fields, [scene(*one) for one in scenes], places, described or {})


A, B, C = ("a", "1"), ("b", "2"), ("c", "3")


@pytest.mark.parametrize(
    ("before", "now", "became"),
    [
        ([A, B], [A, B], None),
        ([A], [("elsewhere/a", "1")], None),
        ([A], [A, B], {("added", "b")}),
        ([A, B], [B], {("removed", "a")}),
        ([A, B], [A, ("b", "9")], {("changed", "b")}),
        ([A, B, C], [B, A, C], {("reordered", "a"), ("reordered", "b")}),
        ([A, B], [("b", "9"), A], {("changed", "b")}),
        ([], [A], {("added", "a")}),
        ([], [], None),
    ],
    ids=str,
)
def test_a_block_is_stale_where_other_versions_show_or_in_another_order(before, now, became):
    found = compare(identities({"x": now}), identities({"x": before}))
    if became is None:
        assert found.stale == {}
    else:
        assert found.stale["x"].kind == "scenes"
        assert set(found.stale["x"].scenes) == became


def test_other_blocks_are_left_alone():
    before = identities({"x": [A], "y": [A, B], "z": [C]})
    found = compare(identities({"x": [A], "y": [A, ("b", "9")], "z": [C], "new": []}), before)
    assert found.stale == {"y": Reason("scenes", (("changed", "b"),)), "new": Reason("new")}


def test_what_all_blocks_share_makes_all_stale_and_is_named():
    fields = {**FIELDS, "inference": {"scales": (1.0, 1.5)}, "source": {**FIELDS["source"], "nodata": 0}}
    found = compare(identities({"x": [A], "y": []}, fields), identities({"x": [A], "y": []}))
    assert found.fields == ["inference.scales", "source.nodata"]
    assert {reason.kind for reason in found.stale.values()} == {"settings"}
    model = {**fields, "model": {"sha256": "bb"}}
    assert compare(identities({"x": [A]}, model), identities({"x": [A]})).stale["x"].kind == "model"


def test_files_and_their_description_belong_to_blocks_alone():
    """A scene added far away changes the whole source's list and digest, but no block here."""
    source = {**FIELDS["source"], "files": [1, 2, 3], "scenes": "another digest"}
    assert compare(identities({"x": [A]}, {**FIELDS, "source": source}), identities({"x": [A]})).stale == {}
    now = identities({"x": [A], "y": [B]}, described={"x": "moved", "y": "same"})
    before = identities({"x": [A], "y": [B]}, described={"x": "here", "y": "same"})
    assert compare(now, before).stale == {"x": Reason("description")}


@given(
    st.dictionaries(
        st.sampled_from(["x", "y", "z"]),
        st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("12")), unique_by=lambda one: one[0]),
    )
)
def test_identities_survive_their_file(blocks):
    """Read back from JSON, they equal themselves: nothing is stale, NaN included."""
    import json

    now = identities(blocks, described=dict.fromkeys(blocks, "d"))
    stored = BlockIdentities.from_json(json.loads(json.dumps(now.to_json())))
    assert compare(now, stored).stale == {}
    assert not compare(now, stored).fields
