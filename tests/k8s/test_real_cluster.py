"""The nightly run on real Ray, submitted as KubeRay does it, while nodes drain, vanish and come back."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import RunConfig
from pipeline.segment.run import segment
from tests.k8s.ray_nodes import DRAIN_S, Nodes, Pod, started, wait_for
from tests.k8s.rendered import ROOT, Document, one
from tests.k8s.test_monitoring import FROM_RAY, alerts, dashboard_queries, metrics_in
from tests.pipeline.segment.scene import (
    array_objects,
    ledger_records,
    settings,
    write_config,
    write_model,
    write_scene,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="needs Linux: asks /proc for sessions"),
]

JOB = "terrazzo-nightly-20261121-9hqxz"


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    """A head without CPUs, by the manifest of the laptop's cluster."""
    cluster = one("overlays/cpu-small", "RayCluster", "terrazzo")["spec"]
    folder = Path(tempfile.mkdtemp(prefix="ray"))
    try:
        with started(cluster, folder) as nodes:
            yield nodes
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def nightly_job() -> Document:
    template = one("overlays/cpu-small", "RayCronJob", "terrazzo-nightly-template")
    job: Document = template["spec"]["jobTemplate"]
    return job


def submit(nodes: Nodes, job: Document, config: Path) -> subprocess.Popen[str]:
    """The template's own entrypoint, with the image's paths replaced by this machine's."""
    entrypoint = job["entrypoint"].replace("/opt/terrazzo", str(ROOT))
    entrypoint = entrypoint.replace("/etc/terrazzo/runs/nightly.yaml", str(config))
    assert str(ROOT) in entrypoint
    assert str(config) in entrypoint
    return nodes.submit(entrypoint + " --json", yaml.safe_load(job["runtimeEnvYAML"]), JOB)


def records(output: Path) -> dict[str, dict[str, Any]]:
    """What is finished so far, but for an object that is being written."""
    try:
        return dict(ledger_records(output))
    except json.JSONDecodeError:
        return {}


def at_work(pods: list[Pod], output: Path) -> Pod | None:
    """A living node that has finished a block."""
    for record in records(output).values():
        for pod in pods:
            if pod.process.poll() is None and pod.holds(int(record["worker"].split(":")[1])):
                return pod
    return None


def test_nodes_that_drain_and_vanish_cost_no_byte(nodes: Nodes, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", 4100, 1060)
    model = write_model(tmp_path / "model")
    output = tmp_path / "out.zarr"
    on_two = {"executor": "ray", "workers": 2, "threads_per_worker": 1}
    config = write_config(tmp_path / "night.yaml", settings(scene, model, output, compute=on_two))
    assert nodes.answer("/api/jobs/", with_token=False)[0] == 401, "anybody could submit"
    assert nodes.answer("/api/jobs/")[0] == 200

    pods = [nodes.start_worker(), nodes.start_worker()]
    submitter = submit(nodes, nightly_job(), config)
    try:
        wait_for(lambda: at_work(pods, output) or submitter.poll() is not None)
        leaving = at_work(pods, output)
        assert leaving is not None, submitter.communicate()[0]
        leaving.is_asked_to_stop()
        pods.append(nodes.start_worker())  # the autoscaler's answer
        assert leaving.process.wait(timeout=DRAIN_S + 30) == 1, "ray start ends with 1 after SIGTERM"

        seen = len(records(output))
        wait_for(lambda: len(records(output)) > seen or submitter.poll() is not None)
        missing = at_work(pods, output)
        assert missing is not None, submitter.communicate()[0]
        missing.vanishes()
        pods.append(nodes.start_worker())
        out, _ = submitter.communicate(timeout=400)
    finally:
        submitter.kill()
    assert submitter.returncode == 0, out
    assert json.loads(nodes.answer(f"/api/jobs/{JOB}")[1])["status"] == "SUCCEEDED", out
    report = json.loads(next(line for line in reversed(out.splitlines()) if line.startswith('{"')))
    assert report["status"] == "complete"
    assert report["blocks"]["done"] == report["blocks"]["total"] == 10
    assert report["retries"], "two nodes went with blocks in flight, and nothing was requeued"
    segment(RunConfig.model_validate(settings(scene, model, tmp_path / "quiet.zarr")))
    assert array_objects(output) == array_objects(tmp_path / "quiet.zarr")


def test_a_submitter_that_comes_back_submits_nothing_twice_and_prometheus_sees_the_run(
    nodes: Nodes, tmp_path: Path
) -> None:
    scene = write_scene(tmp_path / "scene.tif", 3100, 1060)
    model = write_model(tmp_path / "model")
    output = tmp_path / "out.zarr"
    on_one = {"executor": "ray", "workers": 1, "threads_per_worker": 1}
    config = write_config(tmp_path / "night.yaml", settings(scene, model, output, compute=on_one))
    nodes.start_worker()
    first = submit(nodes, nightly_job(), config)
    second = None
    try:
        wait_for(lambda: records(output) or first.poll() is not None)
        first.kill()  # its pod is moved; the driver goes on
        first.communicate()
        second = submit(nodes, nightly_job(), config)
        queries = [*dashboard_queries(), *alerts().values()]
        asked = {name for query in queries for name in metrics_in(query) if name.startswith("ray_")}
        asked -= {"ray_node_gpus_utilization"}  # there is none here
        assert {name for name in asked if name.startswith("ray_terrazzo_")}
        assert FROM_RAY & asked
        wait_for(lambda: not missing_in(nodes.metrics(), asked) or second.poll() is not None)
        assert not missing_in(nodes.metrics(), asked), missing_in(nodes.metrics(), asked)
        out, _ = second.communicate(timeout=400)
    finally:
        first.kill()
        if second is not None:
            second.kill()
    assert second.returncode == 0, out
    jobs = json.loads(nodes.answer("/api/jobs/")[1])
    assert [job["submission_id"] for job in jobs if job["type"] == "SUBMISSION"] == [JOB]
    assert '"status": "complete"' in out, "the whole log is followed, also what was said before"


def missing_in(scraped: str, names: set[str]) -> set[str]:
    return {name for name in names if f"\n{name}{{" not in scraped}
