"""Where a run computes: in this process, in several of this machine, or in workers of a Ray cluster.

Ray is imported only where it is used: everything else works where it is not installed.
"""

import os
from collections.abc import Callable
from typing import TypeVar

from pipeline.signals import stop_on_signals
from pipeline.train.config import TrainConfig
from pipeline.train.job import TrainJob
from pipeline.train.resolve import worker_range
from pipeline.train.workers.local_workers import train_here, train_in_processes

Answer = TypeVar("Answer")


def train_at_work(job: TrainJob, config: TrainConfig) -> None:
    """Train to the end; states and log lie in the run's folder.

    Args:
        job: What to train.
        config: The settings that it was made from.

    Raises:
        Interrupted: It was asked to stop, and has saved its state.
        TerrazzoError: It was refused, or workers were lost too often.
    """
    if uses_ray(config):
        from pipeline.train.trainer import train_on_ray  # noqa: PLC0415

        train_on_ray(job, config)
        return
    _, workers = worker_range(config.train)
    with stop_on_signals() as stop:
        if workers == 1:
            train_here(job, stop)
        else:
            train_in_processes(job, workers, stop)


def compute_at_work(job: TrainJob, config: TrainConfig, function: Callable[[TrainJob], Answer]) -> Answer:
    """What a function makes of a job, on a machine like those that train.

    The driver of a cluster's job sits on the head, which need have neither a GPU nor a processor to spare. A
    Ray of this machine's own is not started again for it.

    Args:
        job: What was trained.
        config: The settings that it was made from.
        function: Importable by name, and so is what it gives: both travel.
    """
    if not (uses_ray(config) and _on_a_cluster()):
        return function(job)
    from pipeline.train.trainer import compute_on_ray  # noqa: PLC0415

    return compute_on_ray(job, config, function)


def uses_ray(config: TrainConfig) -> bool:
    """Whether workers are Ray's.

    Args:
        config: Settings of the run.
    """
    if config.compute.executor == "auto":
        return worker_range(config.train)[1] > 1 or _on_a_cluster()
    return config.compute.executor == "ray"


def _on_a_cluster() -> bool:
    """Whether this is a submitted job's driver: Ray tells it so."""
    return bool(os.environ.get("RAY_ADDRESS"))
