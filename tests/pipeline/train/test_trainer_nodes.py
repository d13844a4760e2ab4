"""Nodes that come and go under a training, and a driver whose own machine is not fit to compute."""

import json
import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray
import yaml

from pipeline.settings import load_settings
from pipeline.storage import Folder
from pipeline.train import conclusion
from pipeline.train.retrain import run as retrain_run
from pipeline.train.retrain.config import RetrainConfig
from pipeline.train.run_log import read_log
from pipeline.train.state import StateStore
from pipeline.train.steps.optimizer import rate_factor, warmup_of
from pipeline.train.trainer import compute_on_ray
from tests.pipeline.train.ray_job import STEPS, job_of, settings, weights
from tests.pipeline.train.ray_runs import (
    assert_near,
    finish,
    said_by,
    start,
    start_cluster,
    steps_begun,
    stored_step,
    wait_until,
)
from tests.pipeline.train.small_tiles import settings as small_settings
from tests.pipeline.train.small_tiles import write_tiles

pytestmark = [
    pytest.mark.slow,
    # Ray Train makes settings of Ray Data, which warn of themselves.
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\..*"),
    # Ray leaves a socket that was never bound to whoever collects garbage.
    pytest.mark.filterwarnings(r"ignore:unclosed <socket\.socket.*laddr=\('0.0.0.0', 0\):ResourceWarning"),
    pytest.mark.timeout(1800),
]

NOTICE_S = 20


@contextmanager
def running(monkeypatch, nodes, **of_each):
    cluster = start_cluster(nodes, **of_each)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def announce_the_end_of(cluster, node):
    """What KubeRay and the autoscaler tell Ray when a machine is about to be taken away."""
    from ray._raylet import GcsClient
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason

    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline_ms = int(1000 * (time.time() + NOTICE_S))
    accepted, why = GcsClient(address=cluster.address).drain_node(node.node_id, reason, "spot", deadline_ms)
    assert accepted, why


@pytest.mark.chaos
def test_a_preempted_worker_saves_in_time_and_those_left_go_on(
    undisturbed_on_ray, few_tiles, tmp_path, monkeypatch
):
    """States are stored at no other time here: were that of this moment not, all would begin anew."""
    output = tmp_path / "model"
    with running(monkeypatch, nodes=2) as cluster:
        job = start(few_tiles, output, workers=[1, 2], checkpoint_steps=None)
        wait_until(job, output, lambda: len(steps_begun(output)) >= 3)
        node = cluster.worker_nodes.copy().pop()
        announce_the_end_of(cluster, node)
        store = StateStore(Folder.at(f"{output}.run"), keep=2)
        wait_until(job, output, lambda: store.position() is not None)
        told = stored_step(output)
        assert 0 < told < STEPS
        cluster.remove_node(node, allow_graceful=False)
        finish(job, output)
    begun = steps_begun(output)
    assert 2 in begun
    assert begun[-1] == 1
    assert begun.count(1) - 1 == STEPS - told, "no step was taken twice: one question more than steps"
    assert_near(weights(output), undisturbed_on_ray)


def test_workers_come_and_go_and_the_rate_follows_their_batch(few_tiles, tmp_path, monkeypatch):
    """One worker; a node joins and there are two; it is taken away and there is one."""
    output = tmp_path / "model"
    train = {"workers": [1, 2], "batch_of": "worker", "max_steps": 1000, "checkpoint_steps": None}
    with running(monkeypatch, nodes=1) as cluster:
        job = start(few_tiles, output, **train)
        wait_until(job, output, lambda: len(steps_begun(output)) >= 3)
        joined = cluster.add_node(num_cpus=1)
        wait_until(job, output, lambda: steps_begun(output).count(2) >= 3)
        announce_the_end_of(cluster, joined)
        time.sleep(NOTICE_S / 2)
        cluster.remove_node(joined, allow_graceful=False)
        before = len(steps_begun(output))
        wait_until(job, output, lambda: steps_begun(output)[before:].count(1) >= 3)
        job.send_signal(signal.SIGTERM)
        assert job.wait(timeout=300) == 3, said_by(output).read_text()
    config = settings(str(output), **train)
    records = [record for record in read_log(Folder.at(f"{output}.run")) if record["kind"] == "step"]
    assert [record["step"] for record in records] == list(range(1, stored_step(output) + 1))
    batches = [record["batch"] for record in records]
    changes = [batch for index, batch in enumerate(batches) if batch != batches[index - 1] or not index]
    assert changes == [4, 8, 4]
    for record in records:
        factor = rate_factor(
            record["progress"], record["step"] - 1, power=0.9, warmup_steps=warmup_of(config.train)
        )
        assert record["lr"] == pytest.approx(2e-4 * factor * record["batch"] / 4)
    told = len(steps_begun(output)) - len(records)
    assert 3 <= told <= 4, "each of three groups asks once more than it steps: no step is taken twice"


def seat(job):
    """Where this runs, and with what."""
    return ray.get_runtime_context().get_node_id(), ray.get_gpu_ids(), job.gpus_per_worker, os.getpid()


def test_what_a_worker_computes_is_computed_on_a_node_with_what_a_worker_takes(
    few_tiles, tmp_path, monkeypatch
):
    """The head has neither CPUs nor GPUs, the nodes have both, at least by Ray's books."""
    config = settings(str(tmp_path / "model"))
    compute = config.compute.model_copy(update={"gpus_per_worker": "auto"})
    config = config.model_copy(update={"compute": compute})
    with running(monkeypatch, nodes=1, num_gpus=1) as cluster:
        node, gpus, gpus_per_worker, pid = compute_on_ray(job_of(config, few_tiles), config, seat)
        (worker,) = cluster.worker_nodes
        assert node == worker.node_id
    assert [int(gpu) for gpu in gpus] == [0]
    assert gpus_per_worker == 1
    assert pid != os.getpid()


def test_the_driver_of_a_cluster_validates_nothing_itself(tmp_path, monkeypatch):
    """Neither at the end of a training nor when champion and challenger are compared."""

    def validate(*_, **__):
        raise AssertionError("the driver's machine need not have a GPU")

    monkeypatch.setattr(conclusion, "validate", validate)
    monkeypatch.setattr(retrain_run, "validate", validate)
    tiles = write_tiles(tmp_path / "tiles", count=4)
    document = small_settings(tiles, "unused", train={"max_steps": 2, "workers": 1})
    del document["output"]
    document["registry"] = {"url": str(tmp_path / "registry")}
    document["compute"] |= {"executor": "auto"}
    path = tmp_path / "retrain.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(document))))
    config = load_settings(RetrainConfig, config_url=str(path), assignments=[], flags={})
    with running(monkeypatch, nodes=1):
        report = retrain_run.retrain(config)
    assert report["promoted"], report
    assert 0 <= report["figures"]["challenger"]["miou"] <= 1
    assert Path(f"{tmp_path}/registry/versions/{report['challenger']}/model.run/validation").is_dir()
