"""Several workers: the same training as by one, whatever their parts of a batch, and whoever dies."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import Interrupted
from pipeline.train.initial import initial_model
from pipeline.train.run_log import read_log
from pipeline.train.workers.local_workers import train_in_processes
from tests.pipeline.train.loop_runs import (
    CALM,
    TEN_STEPS,
    differences,
    end_of,
    losses_of,
    make_job,
    run,
    steps_of,
)
from tests.pipeline.train.small_tiles import job_of, settings

pytestmark = pytest.mark.usefixtures("brief_loading")


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


@pytest.mark.slow
def test_the_log_tells_the_batch_of_all_workers_and_the_rate_that_follows_it(tiles, tmp_path):
    """Each worker's batch: twice the crops, twice the rate, which is what is logged."""
    train = {"max_steps": 2, "batch": 2, "batch_of": "worker", "lr": 0.001, "warmup_steps": 0}
    job = make_job(tiles, tmp_path / "model", train=train)
    run(job, workers=2)
    assert [record["batch"] for record in steps_of(job)] == [4, 4]
    assert steps_of(job)[0]["lr"] == pytest.approx(0.002)
    tensors, position = end_of(job)
    assert position.sample == 8
    assert {group["base_lr"] for group in tensors["optimizer"]["param_groups"]} == {0.002}


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


DYING_IN_VALIDATION = """
import os, signal, sys, json, threading, time
from multiprocessing import connection
from tests.pipeline.train.small_tiles import job_of
from pipeline.train.run_log import read_log
from pipeline.train.workers.local_workers import train_in_processes
from pipeline.train import loop

def dying(*arguments, **how):
    if how["rank"] == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return validate(*arguments, **how)

def late(*arguments, **how):
    time.sleep(6)
    return wait(*arguments, **how)

validate, loop.validate = loop.validate, dying
if __name__ == "__main__":
    wait, connection.wait = connection.wait, late
    train_in_processes(job_of(json.loads(sys.argv[1])), 2, threading.Event())
"""


@pytest.mark.slow
def test_a_worker_that_dies_in_validation_ends_the_run_and_is_made_up_for(tiles, tmp_path):
    """The other waits for its counts: it must not wait for ever, nor count its own half as all.

    Whoever watches looks late, when both have ended: who died must still be told from who lost a connection.
    """
    train = {"max_steps": 4, "validate_steps": 2, "checkpoint_steps": 1, "checkpoint_minutes": None}
    document = settings(tiles, tmp_path / "model", train=train, model=CALM)
    script = tmp_path / "dying.py"
    script.write_text(DYING_IN_VALIDATION)
    root = str(Path(__file__).parents[3])
    died = subprocess.run(
        [sys.executable, str(script), json.dumps(document)], timeout=300,
        cwd=root, env=os.environ | {"PYTHONPATH": root}, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert "worker 1 of 2 died (SIGKILL); start again to go on from the last state" in died.stderr
    job = job_of(document)
    assert end_of(job)[1].step == 1
    run(job)
    undisturbed = make_job(tiles, tmp_path / "undisturbed", train=train, model=CALM)
    run(undisturbed)
    scores = [
        [record["miou"] for record in read_log(each.run_folder) if record["kind"] == "validation"]
        for each in (job, undisturbed)
    ]
    assert len(scores[0]) == 2
    np.testing.assert_allclose(*scores, atol=1e-3)
