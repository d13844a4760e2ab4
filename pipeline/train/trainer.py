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
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

# Before Ray: this module chooses how a Ray of our own authenticates, which Ray reads when it is imported.
from pipeline.segment.ray_executor import ray_session  # isort: skip

import ray
import ray.train
import ray.train.torch
from ray.exceptions import RayError, RayTaskError
from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.util.metrics import Gauge

from pipeline.errors import Interrupted, StorageError, TerrazzoError
from pipeline.segment.machine import this_machine
from pipeline.signals import stop_on_signals
from pipeline.storage import credentials
from pipeline.train.config import TrainConfig
from pipeline.train.job import TrainJob
from pipeline.train.loop import train_loop
from pipeline.train.resolve import fit_to_cluster, worker_range
from pipeline.train.state import StateStore
from pipeline.train.workers.background import InBackground
from pipeline.train.workers.context import TrainContext
from pipeline.train.workers.desk import Desk, Word, heard
from pipeline.train.workers.ray_patience import patience
from pipeline.train.workers.ray_storage import ray_storage
from pipeline.train.workers.watch import Watch

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")
Loop = Callable[[TrainJob, TrainContext], None]

MAX_FAILURES = 3
"""Workers lost for no known reason, or not even started; those lost by preemption do not count."""

RANGE_MAX_STARTS = 100
"""Starts in vain where fewer workers would do: every node that leaves may cost one."""

RESIZE_EVERY_S = 60.0
"""How often more nodes are looked for, to go on with more workers."""

MAKE_WAY_S = 300.0
"""How long workers are waited for that shall store their state before another number of them goes on."""

COLLECTIVE_TIMEOUT_S = 1800
POLL_S = 1.0
STOP_S = 10.0
"""Where no worker is at work, nobody is waited for when training is asked to stop, or only so long."""

HOLD_S = 600.0
"""A worker that has saved its state waits to be taken away, no longer than this."""

RAY_FOLDER, RAY_RUN = "ray", "train"
NODE_LABEL = "ray.io/node-id"

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
    fewest, most = worker_range(config.train)
    with _cluster(job, config, cores=most * job.threads) as (fitted, desk, stop), patience(fewest, most):
        _warn_if_waiting(fitted, fewest)
        trainer = _trainer(_Order(fitted, loop, credentials(), desk), fewest, most)
        fit = InBackground(trainer.fit, "ray-train")
        idle_s = 0.0
        try:
            while fit.is_running(POLL_S):
                if stop.is_set():
                    idle_s = idle_s + POLL_S if ray.get(desk.ask_to_stop.remote()) else 0.0
                if idle_s > STOP_S:
                    raise Interrupted("it was asked to stop while no worker was there; start again to go on")
                _log(desk)
            _log(desk)
            if fit.error is not None:
                raise _cause(fit.error) from fit.error
        finally:
            with suppress(StorageError):  # a few bytes that nobody reads
                job.run_folder.child(RAY_FOLDER).delete_all()


def compute_on_ray(job: TrainJob, config: TrainConfig, function: Callable[[TrainJob], Answer]) -> Answer:
    """What a function makes of a job, on a node with what a worker of training takes.

    Args:
        job: What was trained.
        config: The settings that it was made from; what they leave open is decided by the cluster.
        function: Importable by name, and so is what it gives: both travel.

    Raises:
        Interrupted: It was asked to stop.
        TerrazzoError: It was refused, or its process was lost too often.
    """
    with _cluster(job, config, cores=job.threads) as (fitted, desk, stop):
        _warn_if_waiting(fitted, 1)
        errand: Any = ray.remote(
            num_cpus=fitted.threads, num_gpus=fitted.gpus_per_worker, max_retries=MAX_FAILURES
        )(_compute)
        answer = errand.remote(function, fitted, credentials(), desk)
        while not ray.wait([answer], timeout=POLL_S)[0]:
            _log(desk)
            if stop.is_set():
                raise Interrupted("it was asked to stop after training; start again to go on from there")
        _log(desk)
        try:
            computed: Answer = ray.get(answer)
        except RayTaskError as error:
            raise error.cause from error
        except RayError as error:
            raise TerrazzoError(
                f"the process that validates may be lost {MAX_FAILURES} times, and was once more: {error}; "
                "start again to go on from there"
            ) from error
        return computed


@contextmanager
def _cluster(
    job: TrainJob, config: TrainConfig, *, cores: int
) -> Iterator[tuple[TrainJob, Any, threading.Event]]:
    """The job as it fits the cluster, a desk on it, and an event that signals set."""
    with ray_session(this_machine(), cores=cores) as cluster, stop_on_signals() as stop:
        # Beside the driver: what it needs must not leave with a worker's node.
        here = {NODE_LABEL: ray.get_runtime_context().get_node_id()}
        desk = ray.remote(num_cpus=0, label_selector=here)(Desk).remote()
        yield fit_to_cluster(job, config, cluster), desk, stop


def _warn_if_waiting(job: TrainJob, fewest: int) -> None:
    there = ray.cluster_resources()
    for name, each in job.resources.items():
        if there.get(name, 0.0) < fewest * each:
            logger.warning(
                "%d workers need %g %s together, and the cluster has %g: more are waited for",
                fewest, fewest * each, name, there.get(name, 0.0),
            )  # fmt: skip


def _trainer(order: "_Order", fewest: int, most: int) -> TorchTrainer:
    job = order.job
    path, filesystem = ray_storage(job.run_folder.child(RAY_FOLDER))
    uses_gpu = job.gpus_per_worker > 0
    # Types of the first Ray Train stand where those of the second are at work, which knows more.
    num_workers: Any = fewest if fewest == most else (fewest, most)
    callbacks: list[Any] = [_GiveUpWhereTryingAgainIsVain(), _StateFirst(order.desk)]
    starts = MAX_FAILURES if fewest == most else RANGE_MAX_STARTS
    failures: dict[str, Any] = {"max_failures": MAX_FAILURES, "controller_failure_limit": starts}
    scaling: dict[str, Any] = {"elastic_resize_monitor_interval_s": RESIZE_EVERY_S}
    return TorchTrainer(
        order.work,
        torch_config=TorchConfig(backend="nccl" if uses_gpu else "gloo", timeout_s=COLLECTIVE_TIMEOUT_S),
        scaling_config=ScalingConfig(
            num_workers=num_workers,
            use_gpu=uses_gpu,
            resources_per_worker=job.resources,
            **scaling,
        ),
        run_config=RunConfig(
            name=RAY_RUN,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(**failures),
            callbacks=callbacks,
        ),
    )


def _log(desk: Any) -> None:  # noqa: ANN401 - a handle of Ray's
    for level, text in ray.get(desk.take.remote()):
        logger.log(level, "%s", text)


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
        store = self.job.states
        is_first = ray.train.get_context().get_world_rank() == 0
        if is_first:
            ray.get(self.desk.begin.remote())
        # Of the others, warnings alone are heard.
        with (
            heard(self.desk, logging.INFO if is_first else logging.WARNING),
            closing(_watch(self.desk)) as watch,
        ):
            try:
                self.loop(self.job, RayContext(store, watch))
            except Interrupted:
                if not is_first:  # whoever ends, ends all: also rank 0, which may be storing the state still
                    _wait_to_be_taken_away(lambda: False)
                ray.get(self.desk.leave.remote())
                _wait_to_be_taken_away(lambda: ray.get(self.desk.word.remote()) == "stop")
                raise
        if is_first:
            ray.get(self.desk.leave.remote())


def _compute(
    function: Callable[[TrainJob], Answer],
    job: TrainJob,
    environment: dict[str, str],
    desk: Any,  # noqa: ANN401 - a handle of Ray's
) -> Answer:
    os.environ.update(environment)
    with heard(desk, logging.INFO):
        return function(job)


def _wait_to_be_taken_away(is_over: Callable[[], bool]) -> None:
    """A function that returns has finished training, so whoever must leave stays until the end.

    Ray starts workers anew once a node is gone or its time is up, and does not count that as a failure.
    """
    until = time.monotonic() + HOLD_S
    while not is_over():
        if time.monotonic() > until:
            raise RuntimeError(f"workers that left are still there after {HOLD_S:g} s; all start anew")
        time.sleep(POLL_S)


def _watch(desk: Any) -> Watch:  # noqa: ANN401 - a handle of Ray's
    node = ray.get_runtime_context().get_node_id()
    return Watch(
        lambda: cast("Word", ray.get(desk.word.remote())),
        lambda: node in draining_nodes(),
        every_s=POLL_S,
        unreachable=RayError,
    )


def draining_nodes() -> set[str]:
    """Nodes that have been told to leave. Ray has no public call that does not wait for all workers."""
    state = getattr(getattr(ray, "_private", None), "state", None)
    look = getattr(getattr(state, "state", None), "get_draining_nodes", None)
    return set(look()) if look is not None else set()


class RayContext:
    """A worker of Ray Train: one of the processes of ``TrainContext``."""

    def __init__(self, store: StateStore, watch: Watch) -> None:
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


class _StateFirst(ControllerCallback):
    """Has workers store their state before another number of them goes on: Ray would end them as they are.

    Lives in Ray's controller, which has no public word for this moment.
    """

    def __init__(self, desk: Any) -> None:  # noqa: ANN401 - a handle of Ray's
        self._desk = desk

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:  # noqa: ANN401, ARG002
        if type(current_state).__name__ != "ResizingState":
            return
        try:
            ray.get(self._desk.ask_to_make_way.remote())
            deadline = time.monotonic() + MAKE_WAY_S
            while not ray.get(self._desk.have_left.remote()) and time.monotonic() < deadline:
                time.sleep(POLL_S)
            ray.get(self._desk.welcome.remote())
        except RayError as error:
            logger.warning("workers cannot be asked for their state, and go on from the last: %s", error)


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
