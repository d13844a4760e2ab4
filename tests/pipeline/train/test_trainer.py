"""Training on real Ray: the same result as in one process, whoever is killed and whatever is taken away."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
import ray
import torch
from ray.exceptions import ActorDiedError
from ray.train import WorkerGroupError

from pipeline.errors import Interrupted, SettingsError, StorageError, TerrazzoError
from pipeline.storage import Folder
from pipeline.train import trainer
from pipeline.train.trainer import train_on_ray
from pipeline.train.workers.ray_storage import ray_storage
from tests.pipeline.train.ray_job import STEPS, job_of, settings, train_in_process, weights
from tests.pipeline.train.ray_runs import (
    assert_equal,
    assert_near,
    finish,
    processes_below,
    said_by,
    start,
    start_cluster,
    stored_step,
    wait_for_a_state,
)

pytestmark = [
    # Ray Train makes settings of Ray Data, which warn of themselves.
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\..*"),
    # Ray leaves a socket that was never bound to whoever collects garbage.
    pytest.mark.filterwarnings(r"ignore:unclosed <socket\.socket.*laddr=\('0.0.0.0', 0\):ResourceWarning"),
    # A cluster of a dozen processes starts three times, on a machine that may be busy.
    pytest.mark.timeout(1800),
]


@pytest.mark.slow
def test_two_workers_of_ray_end_where_one_process_does(undisturbed_on_ray, few_tiles, tmp_path):
    alone = train_in_process(tmp_path / "model", few_tiles)
    assert_near(undisturbed_on_ray, alone)
    assert any(not torch.equal(alone[name], value) for name, value in undisturbed_on_ray.items()), (
        "was it one worker?"
    )


@pytest.mark.slow
@pytest.mark.chaos
def test_a_killed_worker_leaves_no_trace_in_the_result(undisturbed_on_ray, few_tiles, tmp_path):
    output = tmp_path / "model"
    job = start(few_tiles, output)
    wait_for_a_state(job, output)
    victims = processes_below(job.pid, "RayTrainWorker")
    assert len(victims) == 2
    os.kill(victims[1], signal.SIGKILL)
    finish(job, output)
    assert_equal(weights(output), undisturbed_on_ray)


@pytest.mark.slow
@pytest.mark.chaos
def test_a_killed_driver_leaves_no_trace_in_the_result(undisturbed_on_ray, few_tiles, tmp_path):
    output = tmp_path / "model"
    job = start(few_tiles, output)
    wait_for_a_state(job, output)
    job.kill()
    job.wait()
    before = stored_step(output)
    assert before < STEPS
    finish(start(few_tiles, output), output)
    assert_equal(weights(output), undisturbed_on_ray)


@pytest.mark.slow
@pytest.mark.chaos
def test_a_killed_cluster_leaves_no_trace_in_the_result(undisturbed_on_ray, few_tiles, tmp_path, monkeypatch):
    output = tmp_path / "model"
    first = start_cluster()
    monkeypatch.setenv("RAY_ADDRESS", first.address)
    job = start(few_tiles, output)
    wait_for_a_state(job, output)
    # The driver lives on the head, as it does under `ray job submit`.
    for pid in [job.pid, *processes_below(os.getpid(), "ray::", "/ray/")]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    job.wait()
    first.shutdown()
    assert stored_step(output) < STEPS
    second = start_cluster()
    try:
        monkeypatch.setenv("RAY_ADDRESS", second.address)
        finish(start(few_tiles, output), output)
    finally:
        second.shutdown()
    assert_equal(weights(output), undisturbed_on_ray)


@pytest.mark.slow
def test_asked_to_stop_it_stores_its_state_and_another_number_of_workers_goes_on(
    undisturbed_on_ray, few_tiles, tmp_path
):
    output = tmp_path / "model"
    job = start(few_tiles, output)
    wait_for_a_state(job, output)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=300) == 3, said_by(output).read_text()
    assert "its state is stored" in said_by(output).read_text()
    step = stored_step(output)
    assert 3 <= step < STEPS
    finish(start(few_tiles, output, workers=1), output)
    assert_near(weights(output), undisturbed_on_ray)


def refuse(job, context):
    """A loop in which one worker is refused while the other waits for it."""
    with Path(f"{job.output}.attempts").open("a") as file:
        file.write(f"{context.rank}\n")
    if context.rank == 1:
        raise SettingsError("train.lr must be lower")
    time.sleep(300)


@pytest.mark.slow
def test_what_a_worker_refuses_is_refused_once_and_with_its_sentence(few_tiles, tmp_path):
    config = settings(str(tmp_path / "model"), 2)
    began = time.monotonic()
    with pytest.raises(SettingsError, match=r"^train\.lr must be lower$"):
        train_on_ray(job_of(config, few_tiles), config, loop=refuse)
    assert time.monotonic() - began < 250
    assert sorted((tmp_path / "model.attempts").read_text().split()) == ["0", "1"]
    assert not ray.is_initialized()


def test_ray_sees_the_run_folder_that_the_store_sees(s3_bucket):
    folder = Folder.at(f"{s3_bucket.url}/models/land.run/ray")
    path, filesystem = ray_storage(folder)
    assert path == f"{s3_bucket.name}/models/land.run/ray"
    with filesystem.open_output_stream(f"{path}/token") as stream:
        stream.write(b"seen")
    assert folder.read("token") == b"seen"


def test_a_path_is_a_path_and_what_ray_cannot_write_to_is_refused(tmp_path):
    assert ray_storage(Folder.at(tmp_path)) == (str(tmp_path), None)
    with pytest.raises(SettingsError, match="az://container/model; choose another --output"):
        ray_storage(Folder.at("az://container/model"))


def test_only_what_may_be_better_next_time_is_tried_again():
    callback = trainer._GiveUpWhereTryingAgainIsVain()
    callback.after_exception(None, {0: StorageError("503"), 1: RuntimeError("Connection closed by peer")})
    with pytest.raises(SettingsError, match="no"):
        callback.after_exception(None, {0: RuntimeError("Connection closed by peer"), 1: SettingsError("no")})
    with pytest.raises(Interrupted):
        callback.after_exception(None, {0: Interrupted("asked to stop")})


def test_the_cause_is_told_rather_than_what_followed_from_it():
    broken = RuntimeError("Connection closed by peer")
    fault = ZeroDivisionError("ours")
    assert trainer._cause(WorkerGroupError("", {0: StorageError("gone"), 1: broken})).args == ("gone",)
    assert trainer._cause(WorkerGroupError("", {0: fault})) is fault
    told = trainer._cause(WorkerGroupError("", {0: broken, 1: ActorDiedError()}))
    assert type(told) is TerrazzoError
    assert "start again to go on" in str(told)
    assert trainer._cause(fault) is fault
