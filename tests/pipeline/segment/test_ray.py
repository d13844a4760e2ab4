"""Runs on real Ray: the same bytes, nodes that leave, workers that die."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from pipeline.config import RunConfig
from pipeline.demo.head import ray_head
from pipeline.errors import ModelError, StorageError
from pipeline.segment.ledger import Ledger
from pipeline.segment.machine import this_machine
from pipeline.segment.planned import make_planned_run, plan_document
from pipeline.segment.run import segment
from tests.pipeline.segment.scene import array_objects, ledger_records, settings, write_config, write_scene

REPOSITORY = Path(__file__).resolve().parents[3]


def on_ray(scene, model, output, **compute):
    compute = {"executor": "ray", "threads_per_worker": 1} | compute
    return segment(RunConfig.model_validate(settings(scene, model, output, compute=compute)))


@pytest.fixture
def cluster(monkeypatch):
    """A head without CPUs and two nodes with one each, as processes of this machine."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster, nodes
    ray.shutdown()
    cluster.shutdown()


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def start_beside_an_undisturbed_run(model, folder) -> subprocess.Popen[str]:
    """A job on the cluster with nine blocks to ``out.zarr``; ``quiet.zarr`` is the same, undisturbed."""
    scene = write_scene(folder / "scene.tif", 2100, 2100)
    segment(RunConfig.model_validate(settings(scene, model, folder / "quiet.zarr")))
    on_two_workers = {"executor": "ray", "workers": 2}
    config = write_config(
        folder / "run.yaml", settings(scene, model, folder / "out.zarr", compute=on_two_workers)
    )
    command = [sys.executable, "jobs/segment_region.py", "--config", str(config), "--json"]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


def test_two_workers_write_the_same_bytes(scene, model, undisturbed, tmp_path):
    report = on_ray(scene, model, tmp_path / "out.zarr", workers=2)
    assert report["status"] == "complete"
    assert report["blocks"]["done"] == 4
    assert array_objects(tmp_path / "out.zarr") == array_objects(undisturbed)
    assert not ray.is_initialized()


def test_what_a_worker_refuses_is_refused_with_its_sentence(scene, model, tmp_path):
    """A run that goes on: of one that begins, the driver has looked at the model itself."""
    config = RunConfig.model_validate(
        settings(scene, model, tmp_path / "out.zarr", compute={"executor": "ray", "workers": 1})
    )
    planned = make_planned_run(config, this_machine())
    planned.ledger.begin(plan_document(planned))
    weights = Path(model) / "model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-1] + b"!")
    try:
        with pytest.raises(ModelError, match="sha256"):
            segment(config)
    finally:
        weights.write_bytes(kept)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 4])
def test_any_number_of_workers_writes_the_same_bytes(workers, scene, model, undisturbed, tmp_path):
    on_ray(scene, model, tmp_path / "out.zarr", workers=workers)
    assert array_objects(tmp_path / "out.zarr") == array_objects(undisturbed)


@pytest.mark.slow
def test_a_node_that_dies_takes_no_block_with_it(cluster, model, tmp_path):
    job = start_beside_an_undisturbed_run(model, tmp_path)
    wait_for(lambda: len(ledger_records(tmp_path / "out.zarr")) >= 2)
    cluster[0].remove_node(cluster[1][0], allow_graceful=False)
    out, _ = job.communicate(timeout=400)
    assert job.returncode == 0
    report = json.loads(out.splitlines()[-1])
    assert report["status"] == "complete"
    assert report["blocks"]["done"] == 9
    assert array_objects(tmp_path / "out.zarr") == array_objects(tmp_path / "quiet.zarr")


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_killed_worker_is_replaced(model, tmp_path):
    job = start_beside_an_undisturbed_run(model, tmp_path)
    wait_for(lambda: len(ledger_records(tmp_path / "out.zarr")) >= 1)
    worker = next(iter(ledger_records(tmp_path / "out.zarr").values()))["worker"]
    os.kill(int(worker.split(":")[1]), signal.SIGKILL)
    out, _ = job.communicate(timeout=400)
    report = json.loads(out.splitlines()[-1])
    assert report["status"] == "complete", report
    assert job.returncode == 0
    assert report["retries"], "a worker died with blocks in flight, and nothing was requeued"
    assert array_objects(tmp_path / "out.zarr") == array_objects(tmp_path / "quiet.zarr")


@pytest.mark.slow
def test_submitted_to_a_real_head(scene, model, undisturbed, tmp_path):
    """``ray job submit`` as the README types it, to a head with a dashboard."""
    config = write_config(
        tmp_path / "run.yaml",
        settings(scene, model, tmp_path / "out.zarr", compute={"executor": "ray", "workers": 2}),
    )
    (tmp_path / "logs").mkdir()
    with ray_head(2, tmp_path / "logs", os.environ) as head:
        submitted = subprocess.run(
            head.submission(["jobs/segment_region.py", "--config", str(config), "--json"], REPOSITORY),
            env=dict(head.environment),
            cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    assert '"status": "complete"' in submitted.stdout
    assert array_objects(tmp_path / "out.zarr") == array_objects(undisturbed)


@pytest.mark.chaos
def test_killed_at_ten_random_moments_the_result_is_the_same_to_the_byte(model, tmp_path):
    """The driver and all its workers die ten times; no finished block is computed twice."""
    import random

    scene = write_scene(tmp_path / "scene.tif", 3000, 2100)
    segment(RunConfig.model_validate(settings(scene, model, tmp_path / "quiet.zarr")))
    output = tmp_path / "out.zarr"
    config = write_config(tmp_path / "run.yaml", settings(scene, model, output))
    command = [sys.executable, "jobs/segment_region.py", "--config", str(config), "--json"]
    generator = random.Random(20261121)
    first_finished: dict[str, float] = {}
    kills = 0
    while kills < 10:
        job = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(generator.uniform(0.5, 9))
        if job.poll() is not None:
            break
        job.kill()
        job.wait()
        kills += 1
        for block, record in ledger_records(output).items():
            assert first_finished.setdefault(block, record["started"]) == record["started"]
    last = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    report = json.loads(last.stdout.splitlines()[-1])
    blocks = report["blocks"]
    assert blocks["done"] + blocks["skipped"] + blocks["empty"] == blocks["total"]
    for block, record in ledger_records(output).items():
        assert first_finished.setdefault(block, record["started"]) == record["started"]
    assert array_objects(output) == array_objects(tmp_path / "quiet.zarr")
    assert kills >= 3, "it was over before it could be killed often enough to mean anything"


def test_the_ledger_is_where_workers_look_for_it(scene, model, tmp_path):
    """A worker that cannot see the driver's plan refuses: it would write into nowhere."""
    from pipeline.segment.machine import this_machine
    from pipeline.segment.worker import BlockWorker

    planned = make_planned_run(
        RunConfig.model_validate(settings(scene, model, tmp_path / "out.zarr")), this_machine()
    )
    assert Ledger.beside(str(tmp_path / "out.zarr")).read_plan() is None
    with pytest.raises(StorageError, match=r"every node must see the output, but .* finds no plan in"):
        BlockWorker(planned.spec)
    planned.ledger.write_plan(plan_document(planned) | {"run_id": "an earlier one"})
    with pytest.raises(StorageError, match="finds the plan of another run in"):
        BlockWorker(planned.spec)
