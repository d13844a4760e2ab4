"""Nodes that are told to leave, as spot machines are: warned with a reason, and gone soon after."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from pipeline.config import RunConfig
from pipeline.segment.run import segment
from tests.pipeline.segment.scene import array_objects, ledger_records, settings, write_config, write_scene

REPOSITORY = Path(__file__).resolve().parents[3]

NOTICED_S = 8.0
"""After so long nothing new begins on a node that was told to leave: the driver looks every two seconds."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="needs Linux: asks /proc for parents"),
]


@pytest.fixture
def cluster(monkeypatch):
    """A head without CPUs and three nodes with one each, as processes of this machine."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster, nodes
    ray.shutdown()
    cluster.shutdown()


def raylet_pid(node) -> int:
    return node.all_processes["raylet"][0].process.pid


def worker_pid(record) -> int:
    return int(record["worker"].split(":")[1])


def parent_of(pid: int) -> int:
    """As Linux tells it; the name before it, in brackets, may hold anything."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def records_of(folder):
    """What is finished so far, but for an object that is being written."""
    try:
        return ledger_records(folder / "out.zarr")
    except json.JSONDecodeError:
        return {}


def node_at_work(nodes, folder):
    """The node of the first worker that finished a block."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        for record in records_of(folder).values():
            parent = parent_of(worker_pid(record))
            return next(node for node in nodes if raylet_pid(node) == parent)
        time.sleep(0.1)
    raise AssertionError("no block was finished")


def tell_to_leave(cluster, node, seconds: int) -> None:
    """What KubeRay and the autoscaler tell Ray when a machine is about to be taken away."""
    subprocess.run(
        [
            str(Path(sys.executable).parent / "ray"), "drain-node", f"--address={cluster.address}",
            f"--node-id={node.node_id}", "--reason=DRAIN_NODE_REASON_PREEMPTION",
            "--reason-message=the spot machine is taken away", f"--deadline-remaining-seconds={seconds}",
        ],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("is_killed", [True, False], ids=["taken_away", "left_standing"])
def test_a_node_told_to_leave_costs_no_attempt_and_no_byte(is_killed, cluster, model, tmp_path):
    cluster, nodes = cluster
    scene = write_scene(tmp_path / "scene.tif", 3100, 1060)
    document = settings(scene, model, tmp_path / "out.zarr", compute={"executor": "ray", "workers": 2})
    config = write_config(tmp_path / "run.yaml", document)
    command = [sys.executable, "jobs/segment_region.py", "--config", str(config), "--json"]
    job = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    leaving = node_at_work(nodes, tmp_path)
    tell_to_leave(cluster, leaving, 5 if is_killed else 600)
    told = time.time()
    raylet = raylet_pid(leaving)
    pids = {int(pid) for pid in Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split()}
    if is_killed:
        cluster.remove_node(leaving, allow_graceful=False)
    out, _ = job.communicate(timeout=500)
    assert job.returncode == 0
    report = json.loads(out.splitlines()[-1])
    assert report["status"] == "complete"
    assert report["blocks"]["done"] == 8
    assert report["blocks"]["failed"] == 0
    late = [
        record
        for record in records_of(tmp_path).values()
        if worker_pid(record) in pids and record["started"] > told + NOTICED_S
    ]
    assert late == [], "the node was told to leave, and was given more to do"
    if is_killed:
        assert report["retries"], "a node was taken away with blocks in flight, and nothing was requeued"
    assert not [retry for retry in report["retries"] if retry["counted"]], "a preemption is a free attempt"
    segment(RunConfig.model_validate(settings(scene, model, tmp_path / "quiet.zarr")))
    assert array_objects(tmp_path / "out.zarr") == array_objects(tmp_path / "quiet.zarr")
