"""Workers as Ray actors: one a GPU, or a share of the CPUs. The only file of this wing that knows Ray.

Actors load the model once and read, compute and write blocks themselves: no pixel passes through Ray's
object store. Ray restarts actors that die; what they were computing is decided here. An attempt that ended
with its node is free, and nodes about to leave get nothing new.
"""

import logging
import os
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

# Ray reads how it authenticates when it is imported. A cluster of our own gets a token of its own, handed
# down by environment: nobody else on this machine can use it, and nothing is written to the home folder.
if "RAY_ADDRESS" not in os.environ and "RAY_AUTH_MODE" not in os.environ:
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError
from ray.util.metrics import Counter, Gauge, Histogram

from pipeline.errors import SettingsError, TerrazzoError
from pipeline.segment.executor import (
    TASKS_IN_FLIGHT,
    Backlog,
    Event,
    Finished,
    GivenUp,
    OnEvent,
    Record,
    Worker,
    WorkerFactory,
    close_worker,
    describe,
)
from pipeline.segment.resolve import GIB, Machine, Workers, workers_on_gpus
from pipeline.segment.signals import sigterm_kept
from pipeline.storage import credentials

logger = logging.getLogger(__name__)

Reference = Any
"""Ray's handle on a result to come; its types do not say more."""

POLL_S = 1.0
GROW_EVERY_S = 10.0
NODE_LOOK_EVERY_S = 2.0
CLOSE_S = 10.0
MAX_FAILED_STARTS = 3

WAIT_TOLD_EVERY_S = 60.0
"""How long nobody may be at work before it is said what is waited for."""


@contextmanager
def ray_session(machine: Machine, *, cores: int) -> Iterator[Machine]:
    """Attach to the cluster that a submitted job runs on, or start one on this machine and end it.

    Args:
        machine: This machine.
        cores: CPUs that the workers will ask for; a local cluster offers at least these.

    Yields:
        The whole cluster as one machine.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    with sigterm_kept():
        if os.environ.get("RAY_ADDRESS"):
            _attach(quiet)
        else:
            ray.init(
                address="local",
                num_cpus=max(machine.cores, cores),
                include_dashboard=False,
                _memory=machine.memory_bytes,
                **quiet,
            )
    try:
        yield _whole_cluster(machine)
    finally:
        ray.shutdown()


def _attach(options: dict[str, Any]) -> None:
    try:
        ray.init(**options)
    except ConnectionError as error:
        first = str(error).strip().split("\n", 1)[0]
        raise SettingsError(
            f"RAY_ADDRESS must name a cluster that runs, got {os.environ['RAY_ADDRESS']!r}: {first}; "
            "unset it to start a Ray on this machine"
        ) from error


def _whole_cluster(driver: Machine) -> Machine:
    """Nodes that compute, described by the smallest; a head without CPUs is none of them."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0)]
    if not nodes:
        return driver  # none has joined yet: workers wait for those that the autoscaler brings
    gpus = float(sum(node.get("GPU", 0.0) for node in nodes))
    return replace(
        driver,
        nodes=len(nodes),
        cores=int(min(node["CPU"] for node in nodes)),
        gpus=gpus,
        memory_bytes=int(min(node.get("memory", driver.memory_bytes) for node in nodes)),
        gpu_bf16=gpus > 0,
    )


class _WorkerActor:
    """A worker in a process of its own."""

    def __init__(self, make_worker: WorkerFactory, environment: dict[str, str]) -> None:
        os.environ.update(environment)
        self._make_worker = make_worker
        self._worker: Worker | None = None
        self._making = threading.Lock()

    def ready(self) -> str:
        """Make the worker; gives the node it runs on. Not in ``__init__``: here a failure keeps its type."""
        self._made()
        return ray.get_runtime_context().get_node_id()

    def run(self, task: str) -> Record:
        return self._made()(task)

    def close(self) -> None:
        if self._worker is not None:
            close_worker(self._worker)

    def _made(self) -> Worker:
        with self._making:
            if self._worker is None:
                self._worker = self._make_worker()
            return self._worker


@dataclass
class _Seat:
    """One actor, and what it is busy with.

    Attributes:
        actor: Its handle.
        is_first: Whether the run began with it; false for one that joined later, or was ready before.
        becoming_ready: Its answer to ``ready``, while that is awaited.
        is_ready: Whether it has answered, and has not died since.
        ask_again_at: When to ask once more an actor that Ray is restarting.
        failed_starts: How often in a row it could not be made ready.
        node_id: The node it runs on.
        tasks: What it was given.
        died_with: How many tasks it had when it died.
    """

    actor: Any
    is_first: bool
    becoming_ready: Reference | None = None
    is_ready: bool = False
    ask_again_at: float = 0.0
    failed_starts: int = 0
    node_id: str | None = None
    tasks: dict[Reference, str] = field(default_factory=dict)
    died_with: int = 0


class RayExecutor:
    """Runs tasks on actors of the attached cluster; to be used within ``ray_session``."""

    def __init__(self, workers: Workers, memory_bytes: int) -> None:
        self._workers = workers
        self._memory_bytes = memory_bytes
        self._seats: list[_Seat] = []
        self._metrics = _Metrics()
        self._draining: set[str] = set()
        self._looked_at_nodes = self._looked_at_cluster = self._idle_since = 0.0
        self._trouble = ""

    def run(
        self, make_worker: WorkerFactory, tasks: Sequence[str], on_event: OnEvent, stop: threading.Event
    ) -> None:
        """Run all tasks; nodes may join and leave meanwhile."""
        if not tasks:
            return
        backlog = Backlog(tasks)
        for _ in range(min(self._workers.count, len(tasks))):
            self._open_seat(make_worker, is_first=True)
        self._idle_since = time.monotonic()
        try:
            while (backlog and not stop.is_set()) or self._running():
                self._ask_who_is_ready()
                self._tell_if_nobody_is()
                if not stop.is_set():
                    self._grow(make_worker, len(backlog))
                    self._dispatch(backlog)
                for event in self._collect(backlog):
                    self._metrics.count(event)
                    on_event(event)
                self._metrics.show_queue(len(backlog), self._running())
        finally:
            self._close_seats()

    def _open_seat(self, make_worker: WorkerFactory, *, is_first: bool = False) -> None:
        needs = self._workers
        actor: Any = (
            ray.remote(_WorkerActor)
            .options(
                num_cpus=needs.threads,
                num_gpus=needs.gpus,
                memory=self._memory_bytes,
                max_restarts=-1,
                max_task_retries=0,
                max_concurrency=TASKS_IN_FLIGHT + 1,
            )
            .remote(make_worker, credentials())
        )
        self._seats.append(_Seat(actor, is_first))

    def _grow(self, make_worker: WorkerFactory, waiting: int) -> None:
        """With workers on auto, take up what has joined the cluster."""
        if not self._workers.grow or time.monotonic() - self._looked_at_cluster < GROW_EVERY_S:
            return
        self._looked_at_cluster = time.monotonic()
        total = ray.cluster_resources()
        needs = self._workers
        room = (
            workers_on_gpus(total.get("GPU", 0.0), needs.gpus)
            if needs.gpus
            else int(total.get("CPU", 0.0) / needs.threads)
        )
        while len(self._seats) < min(room, waiting + self._running()):
            self._open_seat(make_worker)

    def _ask_who_is_ready(self) -> None:
        for seat in self._seats:
            waits = seat.is_ready or seat.becoming_ready is not None
            if not waits and time.monotonic() >= seat.ask_again_at:
                seat.becoming_ready = seat.actor.ready.remote()

    def _tell_if_nobody_is(self) -> None:
        """An autoscaler is rightly waited for, but what no node has would be waited for in vain."""
        now = time.monotonic()
        if any(seat.is_ready for seat in self._seats):
            self._idle_since = now
        if now - self._idle_since < WAIT_TOLD_EVERY_S:
            return
        self._idle_since = now
        needs, there = self._workers, ray.cluster_resources()
        logger.warning(
            "no worker is ready: each asks for %d CPUs, %g GPUs and %.1f GiB on one node, and all nodes "
            "together have %g CPUs, %g GPUs and %.1f GiB; they are waited for%s",
            needs.threads, needs.gpus, self._memory_bytes / GIB,
            there.get("CPU", 0.0), there.get("GPU", 0.0), there.get("memory", 0.0) / GIB, self._trouble,
        )  # fmt: skip

    def _dispatch(self, backlog: Backlog) -> None:
        self._look_for_draining_nodes()
        starting = sum(not seat.is_ready for seat in self._seats)
        for load in range(TASKS_IN_FLIGHT):
            for seat in self._seats:
                if load and len(backlog) <= starting:
                    return  # the last tasks are left to workers that are still starting
                if not seat.is_ready or len(seat.tasks) != load or seat.node_id in self._draining:
                    continue
                if any(backlog.is_suspect(task) for task in seat.tasks.values()):
                    continue
                task = backlog.take(for_idle=not load)
                if task is None:
                    return
                seat.tasks[seat.actor.run.remote(task)] = task

    def _collect(self, backlog: Backlog) -> list[Event]:
        """What has ended since the last look."""
        waiting: dict[Reference, _Seat] = {}
        for seat in self._seats:
            waiting.update(dict.fromkeys(seat.tasks, seat))
            if seat.becoming_ready is not None:
                waiting[seat.becoming_ready] = seat
        if not waiting:
            time.sleep(POLL_S)  # every worker is being restarted
            return []
        ended, _ = ray.wait(list(waiting), num_returns=1, timeout=POLL_S, fetch_local=False)
        more, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0, fetch_local=False)
        events = []
        for reference in dict.fromkeys([*ended, *more]):
            seat = waiting[reference]
            if reference == seat.becoming_ready:
                self._seat_has_answered(seat, reference)
            else:
                events.append(self._task_ended(seat, reference, backlog))
        return events

    def _seat_has_answered(self, seat: _Seat, reference: Reference) -> None:
        seat.becoming_ready = None
        try:
            seat.node_id = str(ray.get(reference))
            seat.is_ready, seat.is_first, seat.failed_starts, seat.died_with = True, False, 0, 0
        except RayTaskError as error:
            if seat.is_first:
                raise error.cause from error  # what the run begins with must work, or the run is refused
            self._could_not_start(seat, error.cause)
        except ActorUnavailableError as error:
            seat.ask_again_at = time.monotonic() + POLL_S  # Ray is restarting it
            self._trouble = f"; the last one ended with {describe(error)[0]}"
        except RayActorError as error:
            seat.ask_again_at = time.monotonic() + POLL_S
            if not getattr(error, "preempted", False):
                self._could_not_start(seat, error)

    def _could_not_start(self, seat: _Seat, error: BaseException) -> None:
        """Try again; after a few times the run goes on without it, as long as anybody is left."""
        seat.failed_starts += 1
        seat.ask_again_at = time.monotonic() + POLL_S * 2**seat.failed_starts
        if seat.failed_starts < MAX_FAILED_STARTS or seat.tasks:
            return
        told = f"a worker could not be made ready {seat.failed_starts} times in a row: {describe(error)[0]}"
        ray.kill(seat.actor)
        self._seats.remove(seat)
        if not self._seats:
            raise TerrazzoError(f"{told}; it was the last one") from error
        logger.warning("%s; the run goes on without it", told)

    def _task_ended(self, seat: _Seat, reference: Reference, backlog: Backlog) -> Event:
        task = seat.tasks.pop(reference)
        try:
            record: Any = ray.get(reference)
            return Finished(task, record)
        except RayTaskError as error:
            line, _ = describe(error.cause)
            return backlog.failed(task, line, str(error))  # in full: with the worker's traceback
        except RayError as error:
            if seat.is_ready:
                seat.is_ready, seat.died_with = False, len(seat.tasks) + 1
            # Ray tells a process that died and one that cannot be reached by the same errors: a block that
            # kills its worker must be found out. One whose node left is not at fault.
            if getattr(error, "preempted", False) or self._has_left(seat.node_id):
                return backlog.failed(task, *describe(error), counted=False)
            return backlog.worker_died(task, *describe(error), alone=seat.died_with == 1)

    def _has_left(self, node_id: str | None) -> bool:
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        return node_id is not None and (node_id not in alive or node_id in self._draining)

    def _running(self) -> int:
        return sum(len(seat.tasks) for seat in self._seats)

    def _look_for_draining_nodes(self) -> None:
        """Nodes that have been told to leave. Ray has no public call for it, so none is no error."""
        if time.monotonic() - self._looked_at_nodes < NODE_LOOK_EVERY_S:
            return
        self._looked_at_nodes = time.monotonic()
        state = getattr(getattr(ray, "_private", None), "state", None)
        look = getattr(getattr(state, "state", None), "get_draining_nodes", None)
        self._draining = set(look()) if look is not None else set()

    def _close_seats(self) -> None:
        closing: list[Reference] = [seat.actor.close.remote() for seat in self._seats if seat.is_ready]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=CLOSE_S)
        for seat in self._seats:
            ray.kill(seat.actor)
        self._seats.clear()


class _Metrics:
    """What Prometheus scrapes."""

    def __init__(self) -> None:
        self._blocks = Counter("terrazzo_blocks", "Blocks by what became of them", ("state",))
        self._pixels = Counter("terrazzo_pixels", "Valid pixels segmented", ())
        self._stages = Histogram(
            "terrazzo_stage_seconds",
            "Seconds of a block by stage",
            boundaries=[0.1, 0.5, 1, 5, 10, 30, 60, 300],
            tag_keys=("stage",),
        )
        self._waiting = Gauge("terrazzo_queue_depth", "Blocks not begun", ())
        self._running = Gauge("terrazzo_blocks_running", "Blocks under way", ())

    def count(self, event: Event) -> None:
        if isinstance(event, Finished):
            self._blocks.inc(1, {"state": str(event.record.get("state", "done"))})
            pixels = event.record.get("pixels", 0)
            if pixels:
                self._pixels.inc(pixels)
            for stage, seconds in event.record.get("seconds", {}).items():
                self._stages.observe(seconds, {"stage": stage})
        else:
            self._blocks.inc(1, {"state": "failed" if isinstance(event, GivenUp) else "requeued"})

    def show_queue(self, waiting: int, running: int) -> None:
        self._waiting.set(waiting)
        self._running.set(running)
