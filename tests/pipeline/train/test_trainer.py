"""Training on real Ray: the same result as in one process, whoever is killed and whatever is taken away."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import ray
import torch
from ray.cluster_utils import Cluster
from ray.exceptions import ActorDiedError
from ray.train import WorkerGroupError

from pipeline.errors import Interrupted, SettingsError, StorageError, TerrazzoError
from pipeline.storage import Folder
from pipeline.train import trainer
from pipeline.train.ray_storage import ray_storage
from pipeline.train.state import StateStore, read_position
from pipeline.train.trainer import train_on_ray
from tests.pipeline.train.ray_job import STEPS, job_of, settings, train_in_process, weights

pytestmark = [
    # Ray Train makes settings of Ray Data, which warn of themselves.
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\..*"),
    # A cluster of a dozen processes starts three times, on a machine that may be busy.
    pytest.mark.timeout(1800),
]

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def tiles(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("tiles")


@pytest.fixture(scope="module")
def undisturbed(tiles, tmp_path_factory) -> dict[str, torch.Tensor]:
    """What two workers end with if nobody disturbs them."""
    output = tmp_path_factory.mktemp("undisturbed") / "model"
    config = settings(str(output), 2)
    train_on_ray(job_of(config, tiles), config)
    assert not ray.is_initialized()
    assert not Path(f"{output}.run/ray").exists(), "nothing of Ray's own is left"
    return weights(output)


@pytest.fixture
def cluster(monkeypatch):
    """A head without CPUs and two nodes with one each, as processes of this machine."""
    cluster = start_cluster()
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def start_cluster():
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    return cluster


def start(tiles, output, workers="2") -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.pipeline.train.ray_job", str(tiles), str(output), workers]
    with said_by(output).open("ab") as said:
        return subprocess.Popen(command, cwd=REPOSITORY, stderr=said)


def said_by(output) -> Path:
    return output.with_name(f"{output.name}.said")


def finish(job, output) -> None:
    assert job.wait(timeout=500) == 0, said_by(output).read_text()


def wait_for_a_state(output, job) -> None:
    """Until the first state is complete; training must not be at its end by then."""
    store = StateStore(Folder.at(f"{output}.run"), keep=2)
    deadline = time.monotonic() + 400
    while (state := store.newest()) is None:
        assert job.poll() is None, said_by(output).read_text()
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    assert read_position(state).step < STEPS, "it was over before it could be disturbed"


def stored_step(output) -> int:
    state = StateStore(Folder.at(f"{output}.run"), keep=2).newest()
    assert state is not None
    return read_position(state).step


def processes_below(ancestor: int, *words: str) -> list[int]:
    """Processes that one of ours began, or theirs, whose command holds one of the words."""
    parents, names = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat, command = (folder / "stat").read_text(), (folder / "cmdline").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents[int(folder.name)] = int(stat.rsplit(")", 1)[1].split()[1])
            names[int(folder.name)] = command
    below = {ancestor}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return sorted(pid for pid in below - {ancestor} if any(word in names.get(pid, "") for word in words))


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    different = [name for name, value in expected.items() if not torch.equal(found[name], value)]
    assert not different


def assert_near(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, atol=1e-4, rtol=0, msg=lambda told, name=name: f"{name}: {told}"
        )


@pytest.mark.slow
def test_two_workers_of_ray_end_where_one_process_does(undisturbed, tiles, tmp_path):
    alone = train_in_process(tmp_path / "model", tiles)
    assert_near(undisturbed, alone)
    assert any(not torch.equal(alone[name], value) for name, value in undisturbed.items()), (
        "was it one worker?"
    )


@pytest.mark.slow
@pytest.mark.chaos
def test_a_killed_worker_leaves_no_trace_in_the_result(undisturbed, tiles, tmp_path):
    output = tmp_path / "model"
    job = start(tiles, output)
    wait_for_a_state(output, job)
    victims = processes_below(job.pid, "RayTrainWorker")
    assert len(victims) == 2
    os.kill(victims[1], signal.SIGKILL)
    finish(job, output)
    assert_equal(weights(output), undisturbed)


@pytest.mark.slow
@pytest.mark.chaos
def test_a_killed_driver_leaves_no_trace_in_the_result(undisturbed, tiles, tmp_path):
    output = tmp_path / "model"
    job = start(tiles, output)
    wait_for_a_state(output, job)
    job.kill()
    job.wait()
    before = stored_step(output)
    assert before < STEPS
    finish(start(tiles, output), output)
    assert_equal(weights(output), undisturbed)


@pytest.mark.slow
@pytest.mark.chaos
def test_a_killed_cluster_leaves_no_trace_in_the_result(undisturbed, tiles, tmp_path, monkeypatch):
    output = tmp_path / "model"
    first = start_cluster()
    monkeypatch.setenv("RAY_ADDRESS", first.address)
    job = start(tiles, output)
    wait_for_a_state(output, job)
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
        finish(start(tiles, output), output)
    finally:
        second.shutdown()
    assert_equal(weights(output), undisturbed)


@pytest.mark.slow
def test_asked_to_stop_it_stores_its_state_and_another_number_of_workers_goes_on(
    undisturbed, tiles, tmp_path
):
    output = tmp_path / "model"
    job = start(tiles, output)
    wait_for_a_state(output, job)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=300) == 3, said_by(output).read_text()
    assert "its state is stored" in said_by(output).read_text()
    step = stored_step(output)
    assert 3 <= step < STEPS
    finish(start(tiles, output, "1"), output)
    assert_near(weights(output), undisturbed)


@pytest.mark.slow
@pytest.mark.chaos
def test_a_preempted_worker_saves_in_time_and_those_left_go_on(cluster, undisturbed, tiles, tmp_path):
    """A node announces its end, as a spot machine does: the state of that moment goes on, no older one."""
    from ray._raylet import GcsClient
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason

    output = tmp_path / "model"
    job = start(tiles, output, "[1, 2]")
    wait_for_a_state(output, job)
    node = cluster.worker_nodes.copy().pop()
    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline_ms = int(1000 * (time.time() + 25))
    accepted, why = GcsClient(address=cluster.address).drain_node(node.node_id, reason, "spot", deadline_ms)
    assert accepted, why
    time.sleep(15)
    step = stored_step(output)
    assert step < STEPS
    assert not any(output.with_name(f"{output.name}.run").joinpath("states").glob(f"step-{STEPS:08d}"))
    cluster.remove_node(node, allow_graceful=False)
    finish(job, output)
    assert_near(weights(output), undisturbed)


def refuse(job, context):
    """A loop in which one worker is refused while the other waits for it."""
    with Path(f"{job.output}.attempts").open("a") as file:
        file.write(f"{context.rank}\n")
    if context.rank == 1:
        raise SettingsError("train.lr must be lower")
    time.sleep(300)


@pytest.mark.slow
def test_what_a_worker_refuses_is_refused_once_and_with_its_sentence(tiles, tmp_path):
    config = settings(str(tmp_path / "model"), 2)
    began = time.monotonic()
    with pytest.raises(SettingsError, match=r"^train\.lr must be lower$"):
        train_on_ray(job_of(config, tiles), config, loop=refuse)
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


def test_a_range_of_workers_is_a_range(tmp_path, tiles):
    for workers, expected in ((3, (3, 3)), ((1, 4), (1, 4))):
        config = settings(str(tmp_path / "model"), workers)
        assert trainer._worker_range(job_of(config, tiles)) == expected
