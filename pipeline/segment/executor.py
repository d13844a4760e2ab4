"""Who computes tasks: the protocol, the policy of trying again, and the executor in this process.

A task is a name; a worker is any function from a task's name to a plain record. An executor keeps every
worker busy with two tasks at once, so that one is read or written while the other computes, tries a failed
task again, and gives it up after three failures without stopping the run.
"""

import heapq
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Protocol

Record = dict[str, Any]
Worker = Callable[[str], Record]
WorkerFactory = Callable[[], Worker]
"""Makes a worker; it is sent to other processes, so it holds plain values only."""

MAX_ATTEMPTS = 3
TASKS_IN_FLIGHT = 2
RETRY_DELAY_S = 1.0
POLL_S = 0.2


@dataclass(frozen=True)
class Finished:
    """A task is done."""

    task: str
    record: Record


@dataclass(frozen=True)
class Retried:
    """A task failed and will be tried again; an attempt that a preemption ended does not count."""

    task: str
    reason: str
    counted: bool


@dataclass(frozen=True)
class GivenUp:
    """A task failed for the last time."""

    task: str
    reason: str
    details: str
    attempts: int


Event = Finished | Retried | GivenUp
OnEvent = Callable[[Event], None]


class Executor(Protocol):
    """Runs tasks; events come one at a time, on the caller's thread."""

    def run(
        self, make_worker: WorkerFactory, tasks: Sequence[str], on_event: OnEvent, stop: threading.Event
    ) -> None:
        """Run all tasks; once ``stop`` is set begin no more, and return when those under way have ended."""


class Backlog:
    """Tasks to do, and what became of those that failed. Pure policy: it starts nothing."""

    def __init__(self, tasks: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._fresh = deque(tasks)
        self._again: list[tuple[float, str]] = []
        """A heap: when each may be tried again. Waits differ, so the first to fail is not the first due."""
        self._failures: dict[str, int] = {}
        self._suspects: set[str] = set()
        self._clock = clock

    def __len__(self) -> int:
        """Tasks not begun, or to be begun again."""
        return len(self._fresh) + len(self._again)

    def take(self, *, for_idle: bool = True) -> str | None:
        """The next task, or None while all that is left must wait.

        Args:
            for_idle: Whether its worker has nothing else to do; a suspect is given to no other.
        """
        passed_over, chosen = [], None
        while chosen is None and self._again and self._again[0][0] <= self._clock():
            due = heapq.heappop(self._again)
            if for_idle or not self.is_suspect(due[1]):
                chosen = due[1]
            else:
                passed_over.append(due)
        for due in passed_over:
            heapq.heappush(self._again, due)
        return self._fresh.popleft() if chosen is None and self._fresh else chosen

    def is_suspect(self, task: str) -> bool:
        """Whether a worker died under it: it shares a worker with no other task from then on."""
        return task in self._suspects

    def worker_died(self, task: str, reason: str, details: str, *, alone: bool) -> "Retried | GivenUp":
        """Decide what becomes of a task whose worker died.

        Of several tasks one may have killed it, and the others must not pay: each is tried alone, and only
        then does a death count.
        """
        self._suspects.add(task)
        return self.failed(task, reason, details, counted=alone)

    def failed(self, task: str, reason: str, details: str, *, counted: bool = True) -> Retried | GivenUp:
        """Decide what becomes of a task that failed; what is tried again waits longer each time."""
        if not counted:
            heapq.heappush(self._again, (self._clock(), task))
            return Retried(task, reason, counted=False)
        attempts = self._failures[task] = self._failures.get(task, 0) + 1
        if attempts >= MAX_ATTEMPTS:
            return GivenUp(task, reason, details, attempts)
        heapq.heappush(self._again, (self._clock() + RETRY_DELAY_S * 4 ** (attempts - 1), task))
        return Retried(task, reason, counted=True)


class LocalExecutor:
    """Workers in this process, for laptops, tests and machines without Ray."""

    def __init__(self, workers: int = 1) -> None:
        self._workers = workers

    def run(
        self, make_worker: WorkerFactory, tasks: Sequence[str], on_event: OnEvent, stop: threading.Event
    ) -> None:
        """Run all tasks on threads of this process."""
        if not tasks:
            return
        workers: list[Worker] = []
        backlog = Backlog(tasks)
        running: dict[Future[Record], tuple[str, int]] = {}
        try:
            for _ in range(min(self._workers, len(tasks))):
                workers.append(make_worker())  # noqa: PERF401 - those made are closed if a later one fails
            with ThreadPoolExecutor(len(workers) * TASKS_IN_FLIGHT, thread_name_prefix="block") as threads:
                while (backlog and not stop.is_set()) or running:
                    for index in _free(running, len(workers)) if not stop.is_set() else []:
                        task = backlog.take()
                        if task is None:
                            break
                        running[threads.submit(workers[index], task)] = task, index
                    if not running:
                        time.sleep(POLL_S)  # all that is left waits to be tried again
                        continue
                    ended, _ = wait(running, timeout=POLL_S, return_when=FIRST_COMPLETED)
                    for future in ended:
                        task, _ = running.pop(future)
                        on_event(_outcome(future, task, backlog))
        finally:
            for worker in workers:
                close_worker(worker)


def close_worker(worker: Worker) -> None:
    """Let a worker that holds something let go of it."""
    close = getattr(worker, "close", None)
    if close is not None:
        close()


def describe(error: BaseException) -> tuple[str, str]:
    """A failure in one line, and in full."""
    line = f"{type(error).__name__}: {error}".split("\n", 1)[0]
    return line, "".join(traceback.format_exception(error))


def _free(running: dict[Future[Record], tuple[str, int]], num_workers: int) -> list[int]:
    """Workers' indices, one for each task they could take on, the idlest first."""
    loads = [0] * num_workers
    for _, index in running.values():
        loads[index] += 1
    places = [(load, index) for index in range(num_workers) for load in range(loads[index], TASKS_IN_FLIGHT)]
    return [index for _, index in sorted(places)]


def _outcome(future: Future[Record], task: str, backlog: Backlog) -> Event:
    error = future.exception()
    if error is None:
        return Finished(task, future.result())
    if not isinstance(error, Exception):
        raise error
    return backlog.failed(task, *describe(error))
