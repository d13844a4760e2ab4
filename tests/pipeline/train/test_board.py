"""What TensorBoard is told: the log's own figures, also after a kill, also in a bucket."""

import importlib.util
import logging

import pytest

from pipeline.storage import Folder
from pipeline.train.board import Board, open_board, scalars
from tests.pipeline.train.fabricated_training import log


def told(place):
    """Scalars that TensorBoard would draw: values by name and step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(place), size_guidance={"scalars": 0})
    events.Reload()
    return {
        name: {event.step: event.value for event in events.Scalars(name)} for name in events.Tags()["scalars"]
    }


def write(run, records, step=0):
    board = Board(run, step)
    for record in records:
        board.add(record)
    board.close()


def test_it_is_told_what_the_log_says(tmp_path):
    records = log(60)
    write(Folder.at(tmp_path), records)
    found = told(tmp_path / "tensorboard")
    steps = {record["step"]: record["loss"] for record in records if record["kind"] == "step"}
    assert found["training/loss"] == pytest.approx(steps)
    assert found["validation/iou/forest"][50] == pytest.approx(records[50]["iou"]["forest"])
    assert found["pace/time_shares/backward"][60] == pytest.approx(0.55)
    assert "training/step" not in found
    assert not [name for name in found if "confusion" in name]


def test_what_a_killed_run_told_beyond_its_state_is_hidden(tmp_path):
    run = Folder.at(tmp_path)
    lost = [{"kind": "step", "step": step, "loss": 9.0} for step in range(1, 21)]
    again = [{"kind": "step", "step": step, "loss": 1.0} for step in range(11, 16)]
    write(run, lost)
    write(run, again, step=10)
    losses = told(tmp_path / "tensorboard")["training/loss"]
    assert losses == {step: 9.0 if step <= 10 else 1.0 for step in range(1, 16)}


def test_in_a_bucket_it_is_there_in_the_end(s3_bucket, tmp_path):
    run = Folder.at(f"{s3_bucket.url}/land.run")
    write(run, log(3))
    names = [found.key for found in run.child("tensorboard").listing()]
    assert len(names) == 1
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / names[0]).write_bytes(run.child("tensorboard").read(names[0]))
    assert len(told(tmp_path / "copy")["training/loss"]) == 3


def test_figures_that_are_none_are_left_out():
    record = {
        "kind": "validation",
        "step": 3,
        "miou": None,
        "iou": {"a": 0.5, "b": None},
        "classes": ["a", "b"],
    }
    assert dict(scalars(record)) == {"validation/iou/a": 0.5}
    assert not list(scalars({"kind": "note", "step": 1, "x": 2.0}))


def test_where_it_is_not_installed_that_is_said(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with caplog.at_level(logging.INFO):
        assert open_board(Folder.at(tmp_path), 0) is None
    assert "TensorBoard is not installed" in caplog.text
    assert not list(tmp_path.iterdir())
