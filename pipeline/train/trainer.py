"""Training on Ray: the loop of every other setting, in workers that Ray Train V2 starts, joins and replaces.

The only file of this wing that knows Ray.

There is one place of truth for training states, ``<output>.run/states``, and Ray's own checkpoints are not
used. A state there is complete or does not count, and the next process that asks finds it, whichever Ray,
cluster or plain process that is. Ray's controller learns of a checkpoint seconds after it was reported and
restores what it had learned: a crash in between loses it, a run continued without Ray would not know it, and
two records of one thing can contradict each other. So workers ask the store and nobody else.

Whoever cannot go on says so by an error: Ray Train takes a function that returns for training that is done.
"""

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

# Before Ray: this module chooses how a Ray of our own authenticates, which Ray reads when it is imported.
from pipeline.segment.ray_executor import ray_session  # isort: skip

import ray
import ray.train
import ray.train.torch
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.metrics import Gauge

from pipeline.errors import Interrupted, StorageError, TerrazzoError
from pipeline.segment.machine import this_machine
from pipeline.segment.resolve import Machine
from pipeline.segment.run import stop_on_signals
from pipeline.storage import credentials
from pipeline.train.config import TrainConfig
from pipeline.train.context import TrainContext
from pipeline.train.desk import Desk
from pipeline.train.job import TrainJob
from pipeline.train.loop import train_loop
from pipeline.train.ray_storage import ray_storage
from pipeline.train.state import StateStore

logger = logging.getLogger(__name__)

Loop = Callable[[TrainJob, TrainContext], None]

MAX_FAILURES = 3
"""Workers lost for no known reason, or not even started; those lost by preemption do not count."""

START_TIMEOUT_S = 1800
"""How long workers are waited for: an autoscaler brings machines within minutes, not Ray's 60 s."""

COLLECTIVE_TIMEOUT_S = 1800
POLL_S = 1.0
HOLD_S = 600.0
"""A preempted worker that has saved its state waits to be taken away, no longer than this."""

RAY_FOLDER, RAY_RUN = "ray", "train"

METRICS = {
    "step": "Optimiser steps done",
    "loss": "Training loss",
    "lr": "Learning rate of the head",
    "samples_per_s": "Images a second, of all workers",
    "miou": "Mean IoU of the latest validation",
}
"""Figures of a report that Prometheus is shown."""


def train_on_ray(job: TrainJob, config: TrainConfig, *, loop: Loop = train_loop) -> None:
    """Train on the cluster that a submitted job runs on, or on a Ray of this machine's own.

    Returns when training is at its end; states and log lie in the run's folder.

    Args:
        job: What to train.
        config: The settings that it was made from; what they leave open is decided by the cluster.
        loop: What each worker runs.

    Raises:
        Interrupted: It was asked to stop, and has saved its state.
        TerrazzoError: It was refused, or workers were lost too often.
    """
    fewest, most = _worker_range(job)
    machine = this_machine()
    with ray_session(machine, cores=most * job.threads) as cluster, stop_on_signals() as stop:
        job = _fitted(job, config, cluster, most)
        _warn_if_waiting(job, fewest)
        desk: Any = ray.remote(num_cpus=0)(Desk).remote()
        order = _Order(job, loop, credentials(), desk)
        fit = _Fit(_trainer(order, fewest, most))
        try:
            while fit.is_running(POLL_S):
                if stop.is_set():
                    desk.ask_to_stop.remote()
                _log(ray.get(desk.take.remote()))
            _log(ray.get(desk.take.remote()))
            fit.result()
        finally:
            with suppress(StorageError):  # a few bytes that nobody reads
                job.run_folder.child(RAY_FOLDER).delete_all()


def _worker_range(job: TrainJob) -> tuple[int, int]:
    workers = job.train.workers
    return (workers, workers) if isinstance(workers, int) else workers


def _fitted(job: TrainJob, config: TrainConfig, cluster: Machine, most: int) -> TrainJob:
    """The job with threads and GPUs that fit the nodes: those of the driver need not be like them."""
    gpus, threads = job.gpus_per_worker, job.threads
    if config.compute.gpus_per_worker == "auto":
        gpus = 1.0 if cluster.gpus else 0.0
    if config.compute.threads_per_worker == "auto":
        threads = max(1, cluster.cores // math.ceil(most / cluster.nodes))
    return replace(job, gpus_per_worker=gpus, threads=threads)


def _warn_if_waiting(job: TrainJob, fewest: int) -> None:
    there = ray.cluster_resources()
    for name, each in _needs(job).items():
        if there.get(name, 0.0) < fewest * each:
            logger.warning(
                "%d workers need %g %s together, and the cluster has %g: they are waited for, up to %d min",
                fewest, fewest * each, name, there.get(name, 0.0), START_TIMEOUT_S // 60,
            )  # fmt: skip


def _needs(job: TrainJob) -> dict[str, float]:
    needs = {"CPU": float(job.threads)}
    return needs | {"GPU": job.gpus_per_worker} if job.gpus_per_worker else needs


def _trainer(order: "_Order", fewest: int, most: int) -> TorchTrainer:
    # Read by the controller, which gets the driver's variables of this name.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(START_TIMEOUT_S))
    job = order.job
    path, filesystem = ray_storage(job.run_folder.child(RAY_FOLDER))
    uses_gpu = job.gpus_per_worker > 0
    # Types of the first Ray Train stand where those of the second are at work, which knows more.
    num_workers: Any = fewest if fewest == most else (fewest, most)
    callbacks: list[Any] = [_GiveUpWhereTryingAgainIsVain()]
    failures: dict[str, Any] = {"max_failures": MAX_FAILURES, "controller_failure_limit": MAX_FAILURES}
    return TorchTrainer(
        order.work,
        torch_config=TorchConfig(backend="nccl" if uses_gpu else "gloo", timeout_s=COLLECTIVE_TIMEOUT_S),
        scaling_config=ScalingConfig(
            num_workers=num_workers,
            use_gpu=uses_gpu,
            resources_per_worker=_needs(job),
        ),
        run_config=RunConfig(
            name=RAY_RUN,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(**failures),
            callbacks=callbacks,
        ),
    )


def _log(messages: Sequence[tuple[int, str]]) -> None:
    for level, text in messages:
        logger.log(level, "%s", text)


class _ToTheDesk(logging.Handler):
    """Passes a worker's log on to the driver's: workers run where nobody looks."""

    def __init__(self, desk: Any, level: int) -> None:  # noqa: ANN401 - a handle of Ray's
        super().__init__(level)
        self._desk = desk

    def emit(self, record: logging.LogRecord) -> None:
        self._desk.tell.remote(record.levelno, self.format(record))


@contextmanager
def _heard(desk: Any) -> Iterator[None]:  # noqa: ANN401 - a handle of Ray's
    """The driver hears all of what rank 0 has to say, and warnings of the others."""
    handler = _ToTheDesk(
        desk, logging.INFO if ray.train.get_context().get_world_rank() == 0 else logging.WARNING
    )
    ours = logging.getLogger("pipeline")
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    try:
        yield
    finally:
        ours.removeHandler(handler)


@dataclass(frozen=True)
class _Order:
    """What a worker is given: pickled, since a runtime environment and any key in it show on dashboards."""

    job: TrainJob
    loop: Loop
    environment: dict[str, str]
    desk: Any

    def work(self) -> None:
        """Train, as one of the workers."""
        os.environ.update(self.environment)
        store = StateStore(self.job.run_folder, self.job.train.keep)
        with _heard(self.desk), _watched(self.desk) as watch:
            try:
                self.loop(self.job, RayContext(store, watch))
            except Interrupted:
                if watch.is_asked:
                    raise
                _wait_to_be_taken_away()


def _wait_to_be_taken_away() -> None:
    """A function that returns has finished training, so whoever is preempted stays until the end.

    Ray starts all workers anew once the node is gone or its time is up, and does not count that as a failure.
    """
    time.sleep(HOLD_S)
    raise RuntimeError(f"a node announced its end, but still stands after {HOLD_S:g} s; workers start anew")


class _Watch:
    """What may end a worker early, looked at in a thread of its own: a step waits for no answer."""

    def __init__(self, desk: Any) -> None:  # noqa: ANN401 - a handle of Ray's
        self.is_asked = self.is_preempted = False
        self._desk = desk
        self._node = ray.get_runtime_context().get_node_id()
        self._over = threading.Event()

    @property
    def shall_leave(self) -> bool:
        return self.is_asked or self.is_preempted

    def look(self) -> None:
        while not self._over.wait(POLL_S) and not self.shall_leave:
            try:
                self.is_asked = ray.get(self._desk.shall_stop.remote())
            except RayError as error:
                logger.warning("the driver cannot be asked whether to stop: %s", error)
                return  # it is gone, and Ray ends its workers
            self.is_preempted = self._node in draining_nodes()

    def end(self) -> None:
        self._over.set()


@contextmanager
def _watched(desk: Any) -> Iterator[_Watch]:  # noqa: ANN401 - a handle of Ray's
    watch = _Watch(desk)
    threading.Thread(target=watch.look, name="terrazzo-watch", daemon=True).start()
    try:
        yield watch
    finally:
        watch.end()


def draining_nodes() -> set[str]:
    """Nodes that have been told to leave. Ray has no public call that does not wait for all workers."""
    state = getattr(getattr(ray, "_private", None), "state", None)
    look = getattr(getattr(state, "state", None), "get_draining_nodes", None)
    return set(look()) if look is not None else set()


class RayContext:
    """A worker of Ray Train: one of the processes of ``TrainContext``."""

    def __init__(self, store: StateStore, watch: _Watch) -> None:
        self._about = ray.train.get_context()
        self._store, self._watch = store, watch
        told = METRICS if self.rank == 0 else {}
        self._gauges = {name: Gauge(f"terrazzo_train_{name}", meaning) for name, meaning in told.items()}

    @property
    def rank(self) -> int:
        """Which of the workers."""
        return int(self._about.get_world_rank())

    @property
    def world_size(self) -> int:
        """How many workers there are, this time."""
        return int(self._about.get_world_size())

    @property
    def device(self) -> torch.device:
        """The GPU that Ray gave this worker, or the CPU."""
        device: torch.device = ray.train.torch.get_device()
        return device

    def report(self, record: Mapping[str, Any], state: Path | None) -> None:
        """Persist a state, if given, and show rank 0's figures to Prometheus; nobody waits for anybody."""
        if state is not None:
            self._store.put(state)
        for name, gauge in self._gauges.items():
            if record.get(name) is not None:
                gauge.set(record[name])

    def resume_from(self) -> Path | None:
        """A local copy of the newest complete state."""
        return self._store.newest()

    def stop_soon(self) -> bool:
        """Whether the driver was asked to stop, or this worker's node is about to leave."""
        return self._watch.shall_leave


class _GiveUpWhereTryingAgainIsVain(UserCallback):
    """Ends the run at errors that would only come again; Ray Train tries everything again."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ANN401, ARG002
        for error in worker_exceptions.values():
            # Storage may be better in a minute.
            if isinstance(error, TerrazzoError) and not isinstance(error, StorageError):
                raise error


class _Fit:
    """Ray Train at work, in a thread: the main thread listens to signals."""

    def __init__(self, trainer: TorchTrainer) -> None:
        self._trainer = trainer
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="ray-train", daemon=True)
        self._thread.start()

    def is_running(self, seconds: float) -> bool:
        """Whether it still is after so many seconds, or as soon as it is not."""
        self._thread.join(seconds)
        return self._thread.is_alive()

    def result(self) -> None:
        """Raise what ended it, if anything did."""
        if self._error is not None:
            raise _cause(self._error) from self._error

    def _run(self) -> None:
        try:
            self._trainer.fit()
        except BaseException as error:  # noqa: BLE001 - handed over to the thread that asks
            self._error = error


def _cause(error: BaseException) -> BaseException:
    """What went wrong, rather than that something did."""
    failure = getattr(error, "controller_failure", None)
    if isinstance(failure, Exception):
        return failure
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    of_the_loop = [one for one in failures.values() if not _is_death(one)]
    if not failures:
        return error
    # Of a lost worker the others only know that a connection broke.
    if len(of_the_loop) < len(failures):
        lost = next(one for one in failures.values() if _is_death(one))
        first = str(lost).strip().split("\n", 1)[0]
        return TerrazzoError(
            f"workers may be lost {MAX_FAILURES} times, and were once more: {first}; start again to go on "
            "from the last state, and raise train.accumulate or lower compute.cache_mib if memory ran out"
        )
    return next((one for one in of_the_loop if isinstance(one, TerrazzoError)), of_the_loop[0])


def _is_death(error: Exception) -> bool:
    """Whether a worker's process ended, as opposed to its function."""
    return isinstance(error, RayError) or hasattr(error, "health_check_failure")
