"""The loop: it learns, the same for any number of workers, and goes on as if it had never stopped."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import Interrupted, TerrazzoError
from pipeline.train import loop as loop_module
from pipeline.train.context import LocalContext
from pipeline.train.initial import initial_model
from pipeline.train.job import TrainJob
from pipeline.train.local_workers import train_here, train_in_processes
from pipeline.train.loop import train_loop
from pipeline.train.run_log import read_log
from pipeline.train.state import Position, StateStore, read_position, read_tensors
from tests.pipeline.train.small_tiles import job_of, settings, write_tiles

CPU = torch.device("cpu")
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module", autouse=True)
def _measure_loading_briefly():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop_module, "LOADING_ALONE_S", 0.05)
        yield


@pytest.fixture(scope="module")
def tiles(tmp_path_factory) -> Path:
    return write_tiles(tmp_path_factory.mktemp("tiles") / "set")


def make_job(tiles: Path, output: Path, **groups: dict[str, Any]) -> TrainJob:
    return job_of(settings(tiles, output, **groups))


def run(job: TrainJob, workers: int = 1) -> None:
    if workers == 1:
        train_here(job, threading.Event())
    else:
        train_in_processes(job, workers, threading.Event())


def end_of(job: TrainJob) -> tuple[dict[str, State], Position]:
    state = StateStore(job.run_folder, keep=1).newest()
    assert state is not None
    return read_tensors(state, CPU), read_position(state)


def differences(one: State, two: State) -> float:
    assert one.keys() == two.keys()
    return max(float((one[name].double() - two[name].double()).abs().max()) for name in one)


def steps_of(job: TrainJob) -> list[dict[str, Any]]:
    return [record for record in read_log(job.run_folder) if record["kind"] == "step"]


def losses_of(job: TrainJob) -> list[float]:
    return [record["loss"] for record in steps_of(job)]


class Undisturbed(LocalContext):
    """Counts the questions whether to stop, one a step, and says yes after so many."""

    def __init__(self, job: TrainJob, stop_after: int | None = None) -> None:
        super().__init__(StateStore(job.run_folder, job.train.keep), CPU, threading.Event())
        self.asked, self._stop_after = 0, stop_after

    def stop_soon(self) -> bool:
        self.asked += 1
        return self._stop_after is not None and self.asked > self._stop_after


@pytest.mark.slow
def test_it_learns(tiles, tmp_path):
    train = {"optimizer": "adamw", "lr": 0.005, "max_steps": 60, "ema": 0.9, "batch": 8}
    job = make_job(tiles, tmp_path / "model", train=train, augment={"scale": [1.0, 1.0]})
    run(job)
    losses = losses_of(job)
    assert len(losses) == 60
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:5])
    rates = [record["lr"] for record in steps_of(job)]
    assert rates[0] < rates[5] > rates[30] > rates[-1]
    assert rates[-1] < 0.05 * 0.005


# A network at its random start amplifies the last bit, in which sums over workers differ, some tenfold a step
# at usual rates. At this one the parameters move by 5e-4 in ten steps and differ by 5e-6.
TEN_STEPS = {"max_steps": 10, "batch": 8, "lr": 0.0001, "warmup_steps": 0, "seed": 5}
CALM = {"image_pooling": "none"}


@pytest.fixture(scope="module")
def ten_steps_alone(tiles, tmp_path_factory):
    job = make_job(tiles, tmp_path_factory.mktemp("alone") / "model", train=TEN_STEPS, model=CALM)
    run(job)
    return end_of(job)[0]["model"], losses_of(job)


def test_two_workers_equal_one(tiles, tmp_path, ten_steps_alone):
    job = make_job(tiles, tmp_path / "model", train=TEN_STEPS, model=CALM)
    run(job, workers=2)
    alone, alone_losses = ten_steps_alone
    together, losses = end_of(job)[0]["model"], losses_of(job)
    assert differences(alone, together) <= 1e-4
    np.testing.assert_allclose(losses, alone_losses, rtol=1e-4)
    start = initial_model(job).state_dict()
    for name, value in alone.items():
        if name.endswith(("logits.weight", "conv1.0.weight")):
            moved = float((value - start[name]).abs().max())
            assert moved > 2e-5, "the steps must be large enough to tell a wrong gradient"
            assert float((together[name] - value).abs().max()) < 0.02 * moved


@pytest.mark.slow
def test_without_synchronised_norms_two_workers_are_not_one(tiles, tmp_path, ten_steps_alone):
    """What the test above can tell: each worker's own statistics give another run."""
    job = make_job(tiles, tmp_path / "model", train=TEN_STEPS | {"sync_bn": False}, model=CALM)
    run(job, workers=2)
    alone, together = ten_steps_alone[0], end_of(job)[0]["model"]
    assert differences(alone, together) > 1e-2
    weights = {name: value for name, value in alone.items() if name.endswith("logits.weight")}
    assert differences(weights, {name: together[name] for name in weights}) > 1e-5


@pytest.mark.slow
def test_workers_with_fewer_samples_or_none_neither_hang_nor_bias(tiles, tmp_path):
    """Four samples in two parts on three workers: somebody has nothing in every part."""
    train = TEN_STEPS | {"batch": 4, "accumulate": 2, "max_steps": 3, "loss": {"focal": 0.5}}
    ends = []
    for workers in (1, 3):
        job = make_job(tiles, tmp_path / f"model-{workers}", train=train, model=CALM)
        run(job, workers=workers)
        ends.append(end_of(job)[0]["model"])
    assert differences(*ends) <= 1e-4


def test_accumulation_is_the_same_gradient(tiles, tmp_path):
    """With frozen norms the parts of a batch do not see each other, so that cutting it changes nothing."""
    ends = []
    for accumulate in (1, 3):
        train = TEN_STEPS | {"max_steps": 3, "freeze_bn": True, "accumulate": accumulate}
        job = make_job(tiles, tmp_path / f"model-{accumulate}", train=train)
        run(job)
        ends.append(end_of(job)[0]["model"])
    assert differences(*ends) <= 1e-5


RESUMED = {
    "max_steps": 8, "batch": 3, "optimizer": "adamw", "lr": 0.002, "ema": 0.9, "clip_norm": 1.0,
    "checkpoint_steps": 3, "checkpoint_minutes": None, "accumulate": 1, "warmup_steps": 3,
}  # fmt: skip
EVERYTHING_RANDOM = {"aspp_dropout": 0.5}
KILLED = """
import os, signal, sys, json, threading
from tests.pipeline.train.small_tiles import job_of
from pipeline.train.local_workers import train_here
from pipeline.train import step

job = job_of(json.loads(sys.argv[1]))
run = step.TrainingStep.run
def dying(self, parts, done):
    if done == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return run(self, parts, done)
step.TrainingStep.run = dying
train_here(job, threading.Event())
"""


@pytest.fixture(scope="module")
def undisturbed(tiles, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed") / "model"
    job = make_job(tiles, output, train=RESUMED, model=EVERYTHING_RANDOM)
    run(job)
    return job


def assert_same_run(job: TrainJob, undisturbed: TrainJob) -> None:
    """Not close: the same bits, of everything that a state holds."""
    (ours, position), (theirs, expected) = end_of(job), end_of(undisturbed)
    assert (position.step, position.sample, position.finished) == (expected.step, expected.sample, True)
    for part in ("model", "average"):
        assert differences(ours[part], theirs[part]) == 0, part
    ours_state, theirs_state = ours["optimizer"]["state"], theirs["optimizer"]["state"]
    assert ours_state.keys() == theirs_state.keys()
    for index, moments in ours_state.items():
        assert differences(moments, theirs_state[index]) == 0
    assert losses_of(job) == losses_of(undisturbed)
    assert [record["lr"] for record in steps_of(job)] == [record["lr"] for record in steps_of(undisturbed)]


def test_a_killed_run_goes_on_to_the_same_bits(tiles, tmp_path, undisturbed):
    """Killed two steps after a state: they are done again, with the same samples, dropout and rate."""
    document = settings(tiles, tmp_path / "model", train=RESUMED, model=EVERYTHING_RANDOM)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, json.dumps(document), "5"],
        cwd=Path(__file__).parents[3], check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    job = job_of(document)
    assert end_of(job)[1].step == 3
    run(job)
    assert_same_run(job, undisturbed)


def test_a_run_asked_to_stop_saves_at_once_and_goes_on_to_the_same_bits(tiles, tmp_path, undisturbed):
    job = make_job(tiles, tmp_path / "model", train=RESUMED, model=EVERYTHING_RANDOM)
    with pytest.raises(Interrupted, match="asked to stop after step 5; its state is stored, start again"):
        train_loop(job, Undisturbed(job, stop_after=5))
    assert end_of(job)[1].step == 5
    with pytest.raises(Interrupted, match="after step 5"):  # asked again before the first step
        train_loop(job, Undisturbed(job, stop_after=0))
    run(job)
    assert_same_run(job, undisturbed)


def test_a_finished_run_is_not_trained_further(undisturbed):
    before = end_of(undisturbed)
    context = Undisturbed(undisturbed)
    train_loop(undisturbed, context)
    assert context.asked == 1
    assert differences(before[0]["model"], end_of(undisturbed)[0]["model"]) == 0


def test_the_callers_random_numbers_and_threads_are_left_alone(tiles, tmp_path):
    torch.manual_seed(3)
    expected, threads = torch.rand(4), torch.get_num_threads()
    torch.manual_seed(3)
    run(make_job(tiles, tmp_path / "model", train={"max_steps": 1}))
    assert torch.equal(torch.rand(4), expected)
    assert torch.get_num_threads() == threads


class Hurrying:
    """A clock that goes ten seconds further at every look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 10.0
        return self.now


def test_time_ends_a_run_with_the_rate_at_its_end_and_counts_on_over_resumes(tiles, tmp_path, monkeypatch):
    """Two minutes at ten seconds a look: eleven steps or so, however often it is taken up."""
    train = {
        "max_steps": None,
        "max_minutes": 2.0,
        "warmup_steps": 0,
        "checkpoint_minutes": None,
        "power": 1.0,
    }
    job = make_job(tiles, tmp_path / "model", train=train)
    monkeypatch.setattr(loop_module, "time", SimpleNamespace(monotonic=Hurrying()))
    with pytest.raises(Interrupted):
        train_loop(job, Undisturbed(job, stop_after=4))
    stopped = end_of(job)[1]
    assert 30 <= stopped.elapsed_s <= 90
    train_loop(job, Undisturbed(job))
    records = steps_of(job)
    assert [record["step"] for record in records] == list(range(1, len(records) + 1))
    assert 4 < len(records) < 14
    elapsed = [record["elapsed_s"] for record in records]
    assert elapsed == sorted(elapsed)
    for record in records:
        assert record["progress"] == pytest.approx(record["elapsed_s"] / 120)
        assert record["lr"] == pytest.approx(job.optimizer.lr * (1 - record["progress"]))
    assert records[-1]["progress"] > 0.8


def test_the_nearer_of_two_limits_ends_the_run(tiles, tmp_path):
    job = make_job(tiles, tmp_path / "model", train={"max_steps": 3, "max_minutes": 60.0})
    run(job)
    assert [record["progress"] for record in steps_of(job)] == pytest.approx([0, 1 / 3, 2 / 3], abs=1e-6)


def test_states_are_stored_in_time(tiles, tmp_path, monkeypatch):
    train = {"max_steps": 7, "checkpoint_minutes": 0.6, "keep": 9}
    job = make_job(tiles, tmp_path / "model", train=train)
    monkeypatch.setattr(loop_module, "time", SimpleNamespace(monotonic=Hurrying()))
    train_loop(job, Undisturbed(job))
    stored = sorted(Path(job.run_folder.url, "states").iterdir())
    assert [int(path.name[5:]) for path in stored] == [3, 7], "36 s after the start, at 10 s a look"


def test_the_best_validation_is_kept_and_is_that_of_the_average(tiles, tmp_path, monkeypatch):
    """The scores are made up here, what is validated is not."""
    scores = iter([0.5, 0.9, 0.2, 0.3])
    seen = []
    real = loop_module.validate

    def validate(model, *arguments, **options):
        found = real(model, *arguments, **options)
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        score = next(scores)
        monkeypatch.setattr(type(found.confusion), "miou", property(lambda _: score))
        return found

    monkeypatch.setattr(loop_module, "validate", validate)
    train = {"max_steps": 8, "validate_steps": 2, "keep": 1, "ema": 0.5, "checkpoint_minutes": None}
    job = make_job(tiles, tmp_path / "model", train=train, validation={"max_tiles": 1})
    run(job)
    store = StateStore(job.run_folder, keep=1)
    best = store.best()
    assert best is not None
    assert read_position(best).step == 4
    assert differences(read_tensors(best, CPU)["average"], seen[1]) == 0
    assert sorted(path.name for path in Path(job.run_folder.url, "states").iterdir()) == [
        "step-00000004",
        "step-00000008",
    ]
    validations = [record for record in read_log(job.run_folder) if record["kind"] == "validation"]
    assert [record["step"] for record in validations] == [2, 4, 6, 8]


def test_where_the_time_went_is_told(tiles, tmp_path, caplog):
    caplog.set_level("INFO")
    job = make_job(tiles, tmp_path / "model", train={"max_steps": 3})
    run(job)
    pace = read_log(job.run_folder)[-1]
    assert pace["kind"] == "pace"
    assert set(pace["time_shares"]) == {"loading", "forward", "backward", "all_reduce", "optimizer"}
    assert sum(pace["time_shares"].values()) == pytest.approx(1)
    assert pace["time_shares"]["backward"] > 0.1
    assert pace["loading_images_per_s"] > pace["images_per_s"] > 0
    assert "loading alone" in caplog.text


def test_a_loss_that_is_no_number_ends_the_run_before_it_is_stored(tiles, tmp_path):
    train = {"max_steps": 9, "lr": 1e18, "warmup_steps": 0, "checkpoint_steps": 8}
    job = make_job(tiles, tmp_path / "model", train=train)
    with pytest.raises(TerrazzoError, match="the loss must stay finite, but became nan at step"):
        run(job)
    assert StateStore(job.run_folder, keep=1).newest() is None


def test_it_learns_in_few_bits(tiles, tmp_path):
    train = {"max_steps": 20, "precision": "bf16", "optimizer": "adamw", "lr": 0.005, "clip_norm": 5.0}
    job = make_job(tiles, tmp_path / "model", train=train, augment={"scale": [1.0, 1.0]})
    run(job)
    losses = losses_of(job)
    assert np.mean(losses[-5:]) < 0.85 * np.mean(losses[:3])
    assert {value.dtype for value in end_of(job)[0]["model"].values()} == {torch.float32, torch.int64}


@pytest.mark.slow
def test_float16_is_scaled_and_the_scale_is_stored(tiles, tmp_path):
    ends = {}
    for precision in ("fp32", "fp16"):
        train = {"max_steps": 2, "batch": 2, "lr": 0.01, "warmup_steps": 0, "precision": precision}
        job = make_job(tiles, tmp_path / precision, train=train)
        run(job)
        ends[precision] = end_of(job)[0]
    assert ends["fp16"]["scaler"]["scale"] >= 1024
    assert ends["fp32"]["scaler"] == {}
    assert 0 < differences(ends["fp16"]["model"], ends["fp32"]["model"]) < 0.1


@pytest.mark.slow
def test_an_auxiliary_head_is_trained_or_left_out(tiles, tmp_path):
    moved = {}
    for weight in (0.4, 0.0):
        train = {"max_steps": 2, "loss": {"auxiliary": weight}, "lr": 0.1, "warmup_steps": 0}
        job = make_job(tiles, tmp_path / f"model-{weight}", train=train, model={"aux_head": True})
        run(job)
        model = end_of(job)[0]["model"]
        torch.manual_seed(job.train.seed)
        start = initial_model(job).state_dict()
        moved[weight] = any(
            not torch.equal(model[name], start[name]) for name in start if name.startswith("aux_head")
        )
    assert moved == {0.4: True, 0.0: False}


def test_frozen_norms_keep_their_statistics(tiles, tmp_path):
    job = make_job(tiles, tmp_path / "model", train={"max_steps": 2, "freeze_bn": True, "batch": 1})
    run(job)
    end, start = end_of(job)[0]["model"], initial_model(job).state_dict()
    for name, value in end.items():
        if "running" in name:
            assert torch.equal(value, start[name]), name
    assert differences(end, start) > 0


@pytest.mark.slow
def test_a_worker_that_dies_leaves_a_run_that_can_go_on(tiles, tmp_path):
    """Killed from outside, in a process of its own, with the other left waiting for it."""
    train = {"max_steps": 100_000, "checkpoint_steps": 2, "checkpoint_minutes": None}
    job = make_job(tiles, tmp_path / "model", train=train)
    states = Path(job.run_folder.url, "states")
    failure: list[BaseException] = []

    def train_until_killed() -> None:
        try:
            train_in_processes(job, 2, threading.Event())
        except BaseException as error:  # noqa: BLE001
            failure.append(error)

    thread = threading.Thread(target=train_until_killed)
    thread.start()
    deadline = time.monotonic() + 90
    while not list(states.glob("*/state.json")):
        assert time.monotonic() < deadline
        assert thread.is_alive(), failure
        time.sleep(0.2)
    children = subprocess.run(
        ["ps", "-ww", "--ppid", str(os.getpid()), "-o", "pid=,args="],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    workers = [int(line.split()[0]) for line in children.splitlines() if "spawn_main" in line]
    assert len(workers) == 2
    subprocess.run(["kill", "-9", str(workers[-1])], check=True)
    thread.join(60)
    assert not thread.is_alive()
    assert isinstance(failure[0], Interrupted)
    assert "start again to go on from the last state" in str(failure[0])
