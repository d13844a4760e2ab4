"""The run folder: what is listed is done, whoever else writes there, and a mismatch says where."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import MismatchError, StorageError
from pipeline.segment.ledger import Ledger, check_fingerprint, fingerprint, to_bytes
from pipeline.segment.plan import Block
from pipeline.storage import Folder

A, B, C = (Block(0, column).id for column in range(3))


@pytest.fixture
def ledger(tmp_path):
    return Ledger(Folder.at(tmp_path / "mosaic.zarr.run"))


def test_the_ledger_lies_beside_the_mosaic(tmp_path):
    ledger = Ledger.beside(f"{tmp_path}/mosaic.zarr/")
    ledger.write_plan({"a": 1})
    assert (tmp_path / "mosaic.zarr.run" / "plan.json").is_file()
    assert Ledger.beside("s3://bucket/deep/mosaic.zarr/").folder.url == "s3://bucket/deep/mosaic.zarr.run"


def test_where_nothing_was_begun_nothing_is_found(ledger):
    assert ledger.read_plan() is None
    assert ledger.finished() == ledger.failed() == set()
    assert list(ledger.records()) == []
    ledger.forget_failures()


def test_what_remains_is_a_set_difference(ledger):
    for block in (A, C):
        ledger.record_finished(block, {"state": "done", "block": block})
    assert ledger.finished() == {A, C}
    assert [block for block in (A, B, C) if block not in ledger.finished()] == [B]
    assert list(ledger.records()) == [(block, {"state": "done", "block": block}) for block in (A, C)]


def test_a_block_recorded_twice_counts_once_with_its_last_record(ledger):
    ledger.record_finished(A, {"attempt": 1})
    ledger.record_finished(A, {"attempt": 2})
    assert list(ledger.records()) == [(A, {"attempt": 2})]


def test_failed_blocks_are_neither_finished_nor_lost(ledger):
    ledger.record_failed(A, {"reason": "no"})
    ledger.record_finished(B, {})
    assert (ledger.failed(), ledger.finished()) == ({A}, {B})
    ledger.forget_failures()
    assert (ledger.failed(), ledger.finished()) == (set(), {B})


def test_a_forgotten_block_is_to_be_done_again(ledger):
    ledger.record_finished(A, {})
    ledger.record_finished(B, {})
    ledger.forget(A)
    assert ledger.finished() == {B}


def test_other_peoples_files_are_no_blocks(ledger, tmp_path):
    ledger.record_finished(A, {"state": "done"})
    ledger.record_failed(B, {"reason": "no"})
    run = tmp_path / "mosaic.zarr.run"
    foreign = (
        ".DS_Store",
        f"._{C}.json",
        f"{C}.json.bak",
        f"{C} (1).json",
        "notes.json",
        f"{C}",
        f"x{C}.json",
    )
    for name in foreign:
        (run / "blocks" / name).write_bytes(b"\x00not ours")
        (run / "failed" / name).write_bytes(b"\x00not ours")
    (run / "blocks" / "old").mkdir()
    (run / "blocks" / "old" / f"{C}.json").write_text("{}")
    assert ledger.finished() == {A}
    assert ledger.failed() == {B}
    assert list(ledger.records()) == [(A, {"state": "done"})]


def test_records_come_in_order_and_with_their_own_block(ledger):
    blocks = [Block(row, col).id for row in range(6) for col in range(7)]
    for block in reversed(blocks):
        ledger.record_finished(block, {"block": block})
    assert list(ledger.records()) == [(block, {"block": block}) for block in blocks]


@pytest.mark.parametrize("content", [b"", b'{"state": "do', b"\x00\x00\x00", b"[]"])
def test_a_record_that_is_no_record_is_named(ledger, content):
    ledger.folder.write(f"blocks/{A}.json", content)
    with pytest.raises(StorageError, match=rf"blocks/{A}\.json .* must be .*computed again"):
        list(ledger.records())


def test_of_two_attempts_that_begin_at_once_one_joins_the_other(ledger):
    first, second = {"run_id": "1"}, {"run_id": "2"}
    assert ledger.begin(first) == first
    ledger.record_finished(A, {})
    assert ledger.begin(second) == first == ledger.read_plan()
    assert ledger.finished() == {A}


def test_records_without_a_plan_belong_to_no_run_and_are_not_trusted(ledger, tmp_path):
    """Whoever deletes plan.json, or is killed while deleting, leaves them."""
    ledger.record_finished(A, {"state": "empty"})
    ledger.record_failed(B, {"reason": "no"})
    ledger.folder.write("overviews.json", b"{}")
    ledger.folder.write("notes.txt", b"mine")
    ledger.begin({"run_id": "1"})
    assert ledger.finished() == ledger.failed() == set()
    assert sorted(path.name for path in (tmp_path / "mosaic.zarr.run").iterdir() if path.is_file()) == [
        "notes.txt", "plan.json",
    ]  # fmt: skip


def test_forgetting_a_run_forgets_its_plan_last(ledger, monkeypatch):
    """Cut short at any moment, the plan still tells whose the rest is."""
    ledger.begin({"run_id": "1"})
    for block in (A, B, C):
        ledger.record_finished(block, {})

    def killed(_folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(Folder, "delete_all", killed)
    with pytest.raises(KeyboardInterrupt):
        ledger.delete_all()
    assert ledger.read_plan() == {"run_id": "1"}
    assert ledger.finished() == set()
    monkeypatch.undo()
    ledger.delete_all()
    assert ledger.read_plan() is None


def test_a_run_of_another_format_is_refused_by_name(ledger):
    ledger.write_plan({"format": "terrazzo-run/2"})
    with pytest.raises(MismatchError, match=r"format terrazzo-run/1, got terrazzo-run/2 in .*--overwrite"):
        ledger.read_plan()


def test_a_run_of_another_kind_is_refused(ledger):
    """Evaluations keep a ledger, too: its plan has nothing that a segmentation could go on with."""
    assert ledger.read_segmentation() is None
    ledger.write_plan({"kind": "evaluation", "fingerprint": "0", "fingerprint_fields": {}})
    with pytest.raises(MismatchError, match="another kind of run; give another --output"):
        ledger.read_segmentation()


def test_a_plan_that_is_no_plan_is_named(ledger):
    ledger.folder.write("plan.json", b"{")
    with pytest.raises(StorageError, match=r"plan\.json .*--overwrite"):
        ledger.read_plan()


# Fingerprints

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), VALUES))
def test_what_comes_back_from_plan_json_is_no_other_run(fields):
    """NaN as nodata, deep groups, any text: none of it may look changed after a round trip."""
    stored = json.loads(to_bytes({"fingerprint_fields": fields}))["fingerprint_fields"]
    check_fingerprint(stored, fields, "out.zarr")
    assert fingerprint(stored) == fingerprint(fields)


def test_order_does_not_matter_and_content_does():
    assert fingerprint({"a": 1, "b": {"c": 2, "d": 3}}) == fingerprint({"b": {"d": 3, "c": 2}, "a": 1})
    seen = {fingerprint({"a": value}) for value in (1, 2, "1", None, [1], {"1": 1}, True, math.nan)}
    assert len(seen) == 8


def test_every_difference_is_named_with_both_values():
    stored = {"model": {"sha256": "aa"}, "crop": {"size_px": 513, "stride_px": 384}, "scales": [1.0]}
    current = {"model": {"sha256": "bb"}, "crop": {"size_px": 513, "stride_px": 256}, "scales": [1.0, 2.0]}
    with pytest.raises(MismatchError) as refused:
        check_fingerprint(stored, current, "s3://user:secret@bucket/out.zarr?key=1")
    message = str(refused.value)
    assert 'model.sha256 = "aa", now "bb"' in message
    assert "crop.stride_px = 384, now 256" in message
    assert "scales = [1.0], now [1.0, 2.0]" in message
    assert "size_px" not in message
    assert "--overwrite" in message
    assert "secret" not in message


@pytest.mark.parametrize(
    ("stored", "current", "name"),
    [
        ({}, {"nodata": 0}, "nodata = null, now 0"),
        ({"nodata": 0}, {}, "nodata = 0, now null"),
        ({"region": None}, {"region": {"window": [0, 0, 5, 5]}}, "region = null, now"),
        ({"nodata": math.nan}, {"nodata": 0.0}, "nodata = NaN, now 0.0"),
        ({"on": True}, {"on": False}, "on = true, now false"),
    ],
)
def test_what_was_added_or_taken_away_is_a_difference(stored, current, name):
    with pytest.raises(MismatchError, match="begun with") as refused:
        check_fingerprint(stored, current, "out.zarr")
    assert name in str(refused.value)


def test_json_is_written_for_people():
    assert to_bytes({"place": "Ås", "n": 1}).decode() == '{\n "place": "Ås",\n "n": 1\n}\n'
