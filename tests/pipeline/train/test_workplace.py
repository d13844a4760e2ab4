"""Where a run computes, and with what."""

import os
from dataclasses import replace

import pytest

from pipeline.segment.machine import this_machine
from pipeline.train.resolve import fit_to_cluster, worker_range
from pipeline.train.workers.ray_patience import VARIABLE, patience
from pipeline.train.workers.workplace import compute_at_work, uses_ray
from tests.pipeline.train.ray_job import job_of, settings


def with_compute(config, **compute):
    return config.model_copy(update={"compute": config.compute.model_copy(update=compute)})


@pytest.mark.parametrize(
    ("executor", "workers", "address", "expected"),
    [
        ("auto", 1, None, False),
        ("auto", 2, None, True),
        ("auto", (1, 4), None, True),
        ("auto", 1, "10.0.0.1:6379", True),
        ("local", 2, "10.0.0.1:6379", False),
        ("ray", 1, None, True),
    ],
)
def test_ray_is_for_several_workers_and_for_submitted_jobs(monkeypatch, executor, workers, address, expected):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    assert uses_ray(with_compute(settings("/nowhere", workers), executor=executor)) is expected


@pytest.mark.parametrize("executor", ["ray", "local"])
def test_without_a_cluster_what_follows_training_is_computed_here(monkeypatch, few_tiles, executor):
    """A Ray of this machine's own has nothing that this process has not."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = with_compute(settings("/nowhere"), executor=executor)
    job = job_of(config, few_tiles)
    assert compute_at_work(job, config, lambda given: (given, os.getpid())) == (job, os.getpid())


def test_a_range_of_workers_is_a_range():
    assert worker_range(settings("/nowhere", 3).train) == (3, 3)
    assert worker_range(settings("/nowhere", (1, 4)).train) == (1, 4)


def test_threads_and_gpus_are_those_of_the_cluster_unless_said_otherwise(few_tiles):
    """Four workers at most on three nodes of eight cores: two of them share one."""
    cluster = replace(this_machine(), nodes=3, cores=8, gpus=3.0)
    config = settings("/nowhere", (2, 4))
    job = job_of(config, few_tiles)
    said = fit_to_cluster(job, config, cluster)
    assert (said.threads, said.gpus_per_worker, said.resources) == (1, 0.0, {"CPU": 1.0})
    free = with_compute(config, threads_per_worker="auto", gpus_per_worker="auto")
    fitted = fit_to_cluster(job, free, cluster)
    assert fitted.resources == {"CPU": 4.0, "GPU": 1.0}
    without = fit_to_cluster(replace(job, gpus_per_worker=1.0), free, replace(cluster, gpus=0.0))
    assert without.resources == {"CPU": 4.0}, "the driver's GPU is none of the workers'"


def test_workers_are_waited_for_longer_where_fewer_would_not_do(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    waited = []
    for fewest, most in ((2, 2), (1, 2), (4, 4)):
        with patience(fewest, most):
            waited.append(float(os.environ[VARIABLE]))
    assert waited[0] == waited[2] >= 600
    assert waited[1] <= 60
    assert VARIABLE not in os.environ
    monkeypatch.setenv(VARIABLE, "7")
    with patience(1, 2):
        assert os.environ[VARIABLE] == "7"
    assert os.environ[VARIABLE] == "7"
