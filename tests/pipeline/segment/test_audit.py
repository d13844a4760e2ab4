"""The audit finds whatever is done to a store behind the program's back."""

import threading
from pathlib import Path

import numpy as np
import pytest

from pipeline.raster.grid import Grid
from pipeline.raster.mosaic import BlockArrays, MosaicLayout, MosaicWriter, create_mosaic
from pipeline.raster.region import Region
from pipeline.raster.window import Window
from pipeline.segment import audit as subject
from pipeline.segment.audit import audit
from pipeline.segment.lattice import Lattice
from pipeline.segment.ledger import Ledger
from pipeline.segment.plan import Plan
from pipeline.storage import Folder

SIZE = (1100, 2050)
"""Two rows and three columns of blocks."""


class Store:
    """A small mosaic with its ledger, written block by block; one block is empty."""

    def __init__(self, root, logits="lattice"):
        self.path = Path(root) / "mosaic.zarr"
        self.output, self.ledger = Folder.at(self.path), Ledger.beside(str(self.path))
        lattice = Lattice.over(*SIZE, crop_px=513, stride_px=384, node_px=4)
        self.plan = Plan(lattice, Region(Window(0, 0, *SIZE)), 1024)
        self.layout = MosaicLayout(Grid(*SIZE), ("a", "b"), ("#000000", "#ffffff"), logits, 4, {})
        create_mosaic(self.output, self.layout)
        self.writer = MosaicWriter(self.output, self.layout)
        self.blocks = list(self.plan.blocks())
        for block in self.blocks[:-1]:
            self.write(block)
        self.ledger.record_finished(self.blocks[-1].id, {"state": "empty"})

    def write(self, block):
        window = self.plan.window(block)
        rng = np.random.default_rng(block.row * 10 + block.col)
        layouts = {"lattice": self.plan.lattice.node_window(window).shape, "full": window.shape}
        logits = layouts.get(self.layout.logits)
        arrays = BlockArrays(
            rng.integers(0, 2, window.shape).astype(np.uint8),
            rng.integers(0, 255, window.shape).astype(np.uint8),
            None if logits is None else -rng.random((2, *logits)).astype(np.float16),
        )
        objects = self.writer.write(window, arrays)
        self.ledger.record_finished(block.id, {"state": "done", "objects": objects})

    def audit(self):
        return audit(self.output, self.ledger, self.plan, self.layout)

    def objects_of(self, block):
        return dict(self.ledger.records())[block.id]["objects"]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


@pytest.mark.parametrize(("logits", "arrays"), [("none", 2), ("lattice", 3), ("full", 3)])
def test_a_whole_mosaic_is_complete(logits, arrays, tmp_path):
    found = Store(tmp_path, logits).audit()
    assert found.is_complete
    assert list(found.lines()) == []
    assert found.objects == 5 * arrays


def test_what_is_stored_is_read_again_and_each_objects_byte_counts(store):
    for array in ("classes", "confidence", "logits"):
        block = store.blocks[1]
        key = next(key for key in store.objects_of(block) if key.startswith(f"{array}/"))
        file = store.path / key
        data = file.read_bytes()
        middle = len(data) // 2
        file.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
        found = store.audit()
        assert not found.is_complete
        assert found.damaged == {block.id: f"{key} is not what was written"}
        assert list(found.lines()) == [f"block {block.id}: {key} is not what was written"]
        assert found.missing == found.strays == []
        file.write_bytes(data)
    assert store.audit().is_complete


def test_objects_larger_than_a_part_are_read_part_by_part(store, monkeypatch):
    """Else sixteen readers would hold sixteen shards of any size."""
    longest = 0
    read_range = Folder.read_range

    def noting(folder, key, start, length):
        nonlocal longest
        longest = max(longest, length)
        return read_range(folder, key, start, length)

    monkeypatch.setattr(subject, "PART_BYTES", 1000)
    monkeypatch.setattr(Folder, "read_range", noting)
    assert store.audit().is_complete
    assert longest == 1000
    key = max(store.objects_of(store.blocks[0]), key=lambda key: (store.path / key).stat().st_size)
    data = (store.path / key).read_bytes()
    assert len(data) > 2500
    (store.path / key).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert store.audit().damaged == {store.blocks[0].id: f"{key} is not what was written"}


def test_asked_to_stop_it_reads_no_more_and_still_counts_blocks(store, monkeypatch):
    store.ledger.forget(store.blocks[2].id)
    stop, reads = threading.Event(), []

    def checking(*reading):
        reads.append(reading)
        stop.set()

    monkeypatch.setattr(subject, "_first_fault", checking)
    monkeypatch.setattr(subject, "READERS", 1)
    found = audit(store.output, store.ledger, store.plan, store.layout, stop)
    assert len(reads) == 1
    assert found.missing == [store.blocks[2].id]
    assert found.strays == [], "what was not looked for is not missed"
    again = audit(store.output, store.ledger, store.plan, store.layout, stop)
    assert len(reads) == 1
    assert again.missing == [store.blocks[2].id]


def test_an_object_cut_short_or_taken_away_is_named(store):
    key, other = sorted(store.objects_of(store.blocks[0]))[0], sorted(store.objects_of(store.blocks[3]))[-1]
    (store.path / key).unlink()
    (store.path / other).write_bytes((store.path / other).read_bytes()[:-1])
    assert store.audit().damaged == {
        store.blocks[0].id: f"{key} is missing",
        store.blocks[3].id: f"{other} is not what was written",
    }


def test_objects_of_two_blocks_exchanged_are_found(store):
    keys = [next(key for key in store.objects_of(block) if "classes" in key) for block in store.blocks[:2]]
    first, second = (store.path / key for key in keys)
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)
    assert set(store.audit().damaged) == {block.id for block in store.blocks[:2]}


def test_blocks_not_finished_are_named_and_their_objects_are_strays(store):
    """A worker that died between its objects and its record leaves just this."""
    block = store.blocks[2]
    objects = store.objects_of(block)
    store.ledger.forget(block.id)
    found = store.audit()
    assert not found.is_complete
    assert found.missing == [block.id]
    assert found.strays == sorted(objects)
    assert f"block {block.id} is not finished" in set(found.lines())
    store.write(block)
    assert store.audit().is_complete


def test_blocks_given_up_are_told_from_those_not_begun(store):
    given_up, not_begun = store.blocks[1], store.blocks[4]
    for block in (given_up, not_begun):
        for key in store.objects_of(block):
            (store.path / key).unlink()
        store.ledger.forget(block.id)
    store.ledger.record_failed(given_up.id, {"reason": "bad sector"})
    found = store.audit()
    assert found.failed == [given_up.id]
    assert found.missing == [given_up.id, not_begun.id]
    assert list(found.lines()) == [
        f"block {given_up.id} was given up",
        f"block {not_begun.id} is not finished",
    ]


def test_a_block_that_failed_once_and_is_finished_is_no_fault(store):
    store.ledger.record_failed(store.blocks[1].id, {"reason": "passing"})
    assert store.audit().is_complete


def test_objects_that_no_block_wrote_are_named(store):
    """Where an empty block should be, somebody put something."""
    stray = store.path / "classes" / "c" / "1" / "2"
    stray.write_bytes(b"\x00")
    found = store.audit()
    assert found.strays == ["classes/c/1/2"]
    assert list(found.lines()) == ["classes/c/1/2 was written by no block"]
    assert not found.is_complete


def test_metadata_coordinates_and_overviews_are_no_strays(store):
    extra = store.path / "overviews" / "2" / "classes" / "c" / "0" / "0"
    extra.parent.mkdir(parents=True)
    extra.write_bytes(b"\x00")
    assert store.audit().is_complete


def test_an_empty_store_misses_every_block(tmp_path):
    store = Store(tmp_path)
    store.output.delete_all()
    store.ledger.folder.delete_all()
    found = store.audit()
    assert found.missing == [block.id for block in store.blocks]
    assert found.objects == 0
