"""Workers as Ray actors: one a GPU, or a share of the CPUs. The only file of this wing that knows Ray.

Actors load the model once and read, compute and write blocks themselves: no pixel passes through Ray's
object store. Where one dies, another is begun here, not by Ray: so every start is counted, and a worker that
never comes up is not waited for. An attempt that ended with its node is free, and nodes about to leave get
nothing new.
"""

import logging
import os
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

# Ray reads how it authenticates when it is imported. A cluster of our own gets a token of its own, handed
# down by environment: nobody else on this machine can use it, and nothing is written to the home folder.
if "RAY_ADDRESS" not in os.environ and "RAY_AUTH_MODE" not in os.environ:
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)

import ray
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError
from ray.util.metrics import Counter, Gauge, Histogram

from pipeline.errors import Interrupted, Refused, SettingsError
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
from pipeline.segment.last_words import last_words
from pipeline.segment.resolve import GIB, Machine, Workers, workers_on_gpus
from pipeline.segment.seat import Reference, Seat
from pipeline.signals import sigterm_kept
from pipeline.storage import credentials

logger = logging.getLogger(__name__)

POLL_S = 1.0
GROW_EVERY_S = 10.0
NODE_LOOK_EVERY_S = 2.0
CLOSE_S = 10.0

NODE_DIED = "its node has died"
"""What Ray says of an actor that ended with its node."""

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


class RayExecutor:
    """Runs tasks on actors of the attached cluster; to be used within ``ray_session``."""

    def __init__(self, workers: Workers, memory_bytes: int) -> None:
        self._workers = workers
        self._memory_bytes = memory_bytes
        self._seats: list[Seat] = []
        self._metrics = _Metrics()
        self._draining: set[str] = set()
        self._anybody_came = False
        self._lost, self._lost_of = 0, dict[str, float]()
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
            self._seats.append(Seat(self._begin_actor(make_worker), is_first=True))
        self._idle_since = time.monotonic()
        try:
            while (backlog and not stop.is_set()) or self._running():
                self._ask_who_is_ready()
                self._tell_if_nobody_is()
                if not stop.is_set():
                    self._grow(make_worker, len(backlog))
                    self._dispatch(backlog)
                for event in self._collect(backlog, make_worker):
                    self._metrics.count(event)
                    on_event(event)
                self._metrics.show_queue(len(backlog), self._running())
        finally:
            self._close_seats()

    def _begin_actor(self, make_worker: WorkerFactory) -> Any:  # noqa: ANN401 - Ray's handle has no type
        needs = self._workers
        options: Any = ray.remote(_WorkerActor).options(
            num_cpus=needs.threads,
            num_gpus=needs.gpus,
            memory=self._memory_bytes,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=TASKS_IN_FLIGHT + 1,
        )
        return options.remote(make_worker, credentials())

    def _grow(self, make_worker: WorkerFactory, waiting: int) -> None:
        """With workers on auto, take up what has joined the cluster."""
        if not self._workers.grow or time.monotonic() - self._looked_at_cluster < GROW_EVERY_S:
            return
        self._looked_at_cluster = time.monotonic()
        total = ray.cluster_resources()
        if total != self._lost_of:
            self._lost = 0  # nodes came or went: what could not be made on the old ones is tried again
        needs = self._workers
        room = (
            workers_on_gpus(total.get("GPU", 0.0), needs.gpus)
            if needs.gpus
            else int(total.get("CPU", 0.0) / needs.threads)
        )
        while len(self._seats) < min(room - self._lost, waiting + self._running()):
            self._seats.append(Seat(self._begin_actor(make_worker), is_first=False))

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

    def _collect(self, backlog: Backlog, make_worker: WorkerFactory) -> list[Event]:
        """What has ended since the last look."""
        waiting: dict[Reference, Seat] = {}
        for seat in self._seats:
            waiting.update(dict.fromkeys(seat.tasks, seat))
            if seat.becoming_ready is not None:
                waiting[seat.becoming_ready] = seat
        if not waiting:
            time.sleep(POLL_S)  # every worker is to be asked again later
            return []
        ended, _ = ray.wait(list(waiting), num_returns=1, timeout=POLL_S, fetch_local=False)
        more, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0, fetch_local=False)
        events = []
        for reference in dict.fromkeys([*ended, *more]):
            seat = waiting[reference]
            if reference == seat.becoming_ready:
                self._seat_has_answered(seat, reference, make_worker)
            else:
                events.append(self._task_ended(seat, reference, backlog))
        return events

    def _seat_has_answered(self, seat: Seat, reference: Reference, make_worker: WorkerFactory) -> None:
        seat.becoming_ready = None
        try:
            seat.take_up_work(str(ray.get(reference)))
            self._anybody_came = True
        except RayTaskError as error:
            if seat.is_first and isinstance(error.cause, Refused):
                raise error.cause from error  # what one is refused, all are
            self._could_not_start(seat, error.cause, describe(error.cause)[0])
        except ActorUnavailableError as error:
            seat.ask_again_at = time.monotonic() + POLL_S  # it may be reached again, or found dead
            self._trouble = f"; the last one ended with {describe(error)[0]}"
        except RayError as error:
            seat.ask_again_at = time.monotonic() + POLL_S
            if seat.tasks:
                return  # they ended, too: once that is seen, the seat is free for another
            is_free = seat.was_ready or self._ended_with_its_node(seat, error)
            seat.change_hands(self._begin_actor(make_worker))
            if not is_free:
                said = f"its process died while it was made ready: {last_words(str(error), _logs_here())}"
                self._trouble = f"; of the last one, {said}"
                self._could_not_start(seat, error, said)

    def _could_not_start(self, seat: Seat, error: BaseException, said: str) -> None:
        """Try again; after a few times the run goes on without it, as long as anybody is left."""
        if not seat.count_failed_start(time.monotonic(), POLL_S) or seat.tasks:
            return
        told = f"a worker could not be made ready {seat.failed_starts} times in a row: {said}"
        ray.kill(seat.actor)
        self._seats.remove(seat)
        self._lost, self._lost_of = self._lost + 1, ray.cluster_resources()
        if self._seats:
            logger.warning("%s; the run goes on without it", told)
        elif self._anybody_came:
            raise Interrupted(
                f"{told}; it was the last one; what is finished stays finished: start again to go on"
            ) from error
        elif isinstance(error, RayError):
            raise Refused(
                f"{told}; no worker ever was ready; if it is memory that ran out, run fewer compute.workers, "
                f"lower block.size_px, or take nodes with more than the {self._memory_bytes / GIB:.1f} GiB "
                "that are projected for each"
            ) from error
        else:
            raise error

    def _task_ended(self, seat: Seat, reference: Reference, backlog: Backlog) -> Event:
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
            if self._ended_with_its_node(seat, error):
                return backlog.failed(task, *describe(error), counted=False)
            return backlog.worker_died(task, *describe(error), alone=seat.died_with == 1)

    def _ended_with_its_node(self, seat: Seat, error: RayError) -> bool:
        """Whether a worker is not at fault: its node was taken away. Of one not yet ready, Ray has to say."""
        if getattr(error, "preempted", False) or NODE_DIED in str(error):
            return True
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        return seat.node_id is not None and (seat.node_id not in alive or seat.node_id in self._draining)

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


def _logs_here() -> Path | None:
    """Where Ray keeps logs on this machine. It has no public call for it, so none is no error."""
    worker = getattr(getattr(ray, "_private", None), "worker", None)
    look = getattr(getattr(worker, "_global_node", None), "get_logs_dir_path", None)
    return Path(look()) if look is not None else None


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
