"""States survive kills: what is not whole does not count, and the best is never let go of."""

import json
from pathlib import Path

import pytest
import torch

from pipeline.storage import Folder
from pipeline.train.run_log import LOG_KEY, RunLog, read_log
from pipeline.train.state import Position, StateStore, read_position, read_tensors, write_state

CPU = torch.device("cpu")


@pytest.fixture(params=["disk", "bucket"])
def run_folder(request, tmp_path) -> Folder:
    if request.param == "disk":
        return Folder.at(tmp_path / "model.run")
    return Folder.at(request.getfixturevalue("s3_bucket").url).child("model.run")


def put(store: StateStore, tmp_path: Path, step: int, score: float | None = None) -> None:
    folder = tmp_path / f"made-{step}-{score}"
    folder.mkdir(exist_ok=True)
    write_state(folder, {"model": {"w": torch.full((3,), float(step))}}, Position(step=step, score=score))
    store.put(folder)


def steps_stored(run: Folder) -> set[int]:
    return {
        int(found.key[5:13]) for found in run.child("states").listing() if found.key.endswith("state.json")
    }


def test_a_state_comes_back_as_it_was(run_folder, tmp_path):
    position = Position(
        step=7, sample=112, elapsed_s=3.5, score=0.25, checkpoint_s=3.0, phase_s={"loading": 0.5}
    )
    tensors = {"model": {"w": torch.randn(4, 3)}, "optimizer": {"state": {0: {"step": torch.tensor(7.0)}}}}
    (tmp_path / "made").mkdir()
    write_state(tmp_path / "made", tensors, position)
    store = StateStore(run_folder, keep=2)
    assert store.position() is None
    store.put(tmp_path / "made")
    assert store.position() == position
    found = store.newest()
    assert found is not None
    assert read_position(found) == position
    back = read_tensors(found, CPU)
    assert torch.equal(back["model"]["w"], tensors["model"]["w"])
    assert torch.equal(back["optimizer"]["state"][0]["step"], torch.tensor(7.0))


def test_local_copies_go_with_the_store(s3_bucket, tmp_path):
    """A node that is joined a hundred times shall not be full of states in the end."""
    run = Folder.at(s3_bucket.url).child("model.run")
    store = StateStore(run, keep=2)
    put(store, tmp_path, 3)
    copies = [store.newest(), store.best()]
    assert all(copy is not None and copy.is_dir() for copy in copies)
    del store
    assert not any(copy.exists() for copy in copies)


def test_nothing_stored_is_nothing_found(run_folder):
    store = StateStore(run_folder, keep=2)
    assert store.newest() is None
    assert store.best() is None


def test_the_last_few_and_the_best_are_kept(run_folder, tmp_path):
    store = StateStore(run_folder, keep=2)
    for step, score in ((10, 0.5), (20, 0.9), (30, None), (40, 0.9), (50, 0.3), (60, None), (70, 0.4)):
        put(store, tmp_path, step, score)
    assert steps_stored(run_folder) == {40, 60, 70}  # of two with the same score the later one
    assert {found.key[5:13] for found in run_folder.child("states").listing()} == {
        "00000040",
        "00000060",
        "00000070",
    }
    newest, best = store.newest(), store.best()
    assert newest is not None
    assert best is not None
    assert read_position(newest).step == 70
    assert read_position(best).step == 40


def test_without_scores_the_newest_is_the_best(run_folder, tmp_path):
    store = StateStore(run_folder, keep=2)
    for step in (1, 2, 3):
        put(store, tmp_path, step)
    best = store.best()
    assert best is not None
    assert read_position(best).step == 3


@pytest.mark.parametrize("damage", ["no facts", "no tensors", "cut tensors"])
def test_what_a_kill_left_behind_is_passed_over(run_folder, tmp_path, damage):
    store = StateStore(run_folder, keep=3)
    put(store, tmp_path, 1)
    put(store, tmp_path, 2)
    damaged = run_folder.child("states").child("step-00000002")
    if damage == "no facts":
        damaged.delete(["state.json"])
    elif damage == "no tensors":
        damaged.delete(["state.pt"])
    else:
        damaged.write("state.pt", damaged.read("state.pt")[:-10])
    newest = store.newest()
    assert newest is not None
    assert read_position(newest).step == 1
    put(store, tmp_path, 2)  # the run goes on and gets there again
    newest = store.newest()
    assert newest is not None
    assert read_position(newest).step == 2
    assert torch.equal(read_tensors(newest, CPU)["model"]["w"], torch.full((3,), 2.0))


def test_leftovers_are_cleared_away(tmp_path):
    run = Folder.at(tmp_path / "model.run")
    store = StateStore(run, keep=1)
    run.child("states").child("step-00000001").write("state.pt", b"begun and never finished")
    put(store, tmp_path, 2)
    assert [path.name for path in (tmp_path / "model.run" / "states").iterdir()] == ["step-00000002"]


def test_a_state_may_hold_no_code(tmp_path):
    (tmp_path / "made").mkdir()
    write_state(tmp_path / "made", {"model": Path("anything that is no tensor")}, Position())
    with pytest.raises(Exception, match="Weights only load failed"):
        read_tensors(tmp_path / "made", CPU)


def test_the_log_drops_what_lies_beyond_the_state(run_folder):
    log = RunLog(run_folder, 0)
    for step in (1, 2, 3):
        log.write({"kind": "step", "step": step, "loss": 1.0 / step})
    log.flush()
    resumed = RunLog(run_folder, 2)
    resumed.write({"kind": "step", "step": 3, "loss": 0.25})
    resumed.flush()
    assert [(record["step"], record["loss"]) for record in read_log(run_folder)] == [
        (1, 1.0),
        (2, 0.5),
        (3, 0.25),
    ]


def test_a_line_that_a_kill_cut_short_does_not_count(tmp_path):
    run = Folder.at(tmp_path / "model.run")
    run.write(LOG_KEY, (json.dumps({"step": 1}) + "\n" + '{"step": 2, "lo').encode())
    assert read_log(run) == [{"step": 1}]


def test_a_bucket_is_not_written_to_for_every_line(s3_bucket):
    run = Folder.at(s3_bucket.url).child("model.run")
    log = RunLog(run, 0)
    log.write({"step": 1})
    log.flush(at_once=False)
    assert read_log(run) == []
    log.flush()
    assert read_log(run) == [{"step": 1}]
