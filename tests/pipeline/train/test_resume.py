"""A run that was killed or stopped goes on as if it had never stopped: the same bits."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import Interrupted, MismatchError
from pipeline.train.holding import Holding
from pipeline.train.job import TrainJob
from pipeline.train.loop import train_loop
from pipeline.train.run_log import read_log
from pipeline.train.state import read_position
from tests.pipeline.train.loop_runs import (
    Undisturbed,
    differences,
    end_of,
    losses_of,
    make_job,
    run,
    steps_of,
)
from tests.pipeline.train.small_tiles import job_of, settings

pytestmark = pytest.mark.usefixtures("brief_loading")


RESUMED = {
    "max_steps": 8, "batch": 3, "optimizer": "adamw", "lr": 0.002, "ema": 0.9, "clip_norm": 1.0,
    "checkpoint_steps": 3, "checkpoint_minutes": None, "accumulate": 1, "warmup_steps": 3,
}  # fmt: skip
EVERYTHING_RANDOM = {"aspp_dropout": 0.5}
KILLED = """
import os, signal, sys, json, threading
from tests.pipeline.train.small_tiles import job_of
from pipeline.train.workers.local_workers import train_here
from pipeline.train.steps import step

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


def test_a_validation_that_a_stop_left_out_is_made_up_for(tiles, tmp_path):
    """Stopped where one was due: there was no time for it, but the state might be the best."""
    train = {"max_steps": 4, "validate_steps": 2, "checkpoint_minutes": None, "keep": 9}
    ends = []
    for name, stop_after in (("undisturbed", None), ("stopped", 2)):
        job = make_job(tiles, tmp_path / name, train=train, validation={"max_tiles": 1})
        if stop_after is not None:
            with pytest.raises(Interrupted, match="after step 2"):
                train_loop(job, Undisturbed(job, stop_after=stop_after))
            assert end_of(job)[1].score is None
        run(job)
        found = [record for record in read_log(job.run_folder) if record["kind"] == "validation"]
        states = sorted(Path(job.run_folder.url, "states").iterdir())
        scores = [(read_position(state).step, read_position(state).score) for state in states]
        ends.append(([(record["step"], record["miou"]) for record in found], scores))
    assert ends[0] == ends[1]
    assert [step for step, _ in ends[0][0]] == [2, 4]


class Overtaken(Undisturbed):
    """After so many steps another training takes over."""

    def stop_soon(self) -> bool:
        if super().stop_soon():
            Holding.take(self.run_folder)
            self._stop_after = None
        return False

    def __init__(self, job: TrainJob, stop_after: int) -> None:
        super().__init__(job, stop_after)
        self.run_folder = job.run_folder


def test_of_two_trainings_to_one_output_the_later_goes_on(tiles, tmp_path, undisturbed):
    job = make_job(tiles, tmp_path / "model", train=RESUMED, model=EVERYTHING_RANDOM)
    first = replace(job, holding=Holding.take(job.run_folder))
    with pytest.raises(MismatchError, match="another was started there while this one ran"):
        train_loop(first, Overtaken(first, stop_after=5))
    assert end_of(first)[1].step == 3, "nothing is stored after the other has begun"
    assert [record["step"] for record in steps_of(first)] == [1, 2, 3]
    with pytest.raises(MismatchError, match="another was started"):  # nor by a worker that is started again
        train_loop(first, Undisturbed(first))
    second = replace(job, holding=Holding.take(job.run_folder))
    run(second)
    assert_same_run(second, undisturbed)
