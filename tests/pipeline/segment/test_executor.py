"""Trying again, giving up, keeping workers busy and stopping."""

import threading
from collections import Counter

import pytest

from pipeline.segment import executor as subject
from pipeline.segment.executor import (
    MAX_ATTEMPTS,
    TASKS_IN_FLIGHT,
    Backlog,
    Finished,
    GivenUp,
    LocalExecutor,
    Retried,
    describe,
)

PATIENCE_S = 20
"""How long a test waits for what must happen; nothing waits that long when all is well."""


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


# The backlog


def test_tasks_are_taken_in_order_and_once():
    backlog = Backlog(["a", "b", "c"])
    assert len(backlog) == 3
    assert [backlog.take() for _ in range(4)] == ["a", "b", "c", None]
    assert len(backlog) == 0


def test_a_failed_task_waits_longer_each_time_and_is_then_given_up():
    clock = Clock()
    backlog = Backlog(["a"], clock)
    for delay in (subject.RETRY_DELAY_S, 4 * subject.RETRY_DELAY_S):
        assert backlog.take() == "a"
        assert backlog.failed("a", "why", "in full") == Retried("a", "why", counted=True)
        assert len(backlog) == 1
        clock.now += 0.99 * delay
        assert backlog.take() is None
        clock.now += 0.02 * delay
    assert backlog.take() == "a"
    assert backlog.failed("a", "why", "in full") == GivenUp("a", "why", "in full", attempts=MAX_ATTEMPTS)
    clock.now += 1e6
    assert backlog.take() is None
    assert len(backlog) == 0


def test_what_waits_does_not_hold_up_the_rest():
    clock = Clock()
    backlog = Backlog(["a", "b"], clock)
    backlog.failed(backlog.take(), "why", "")
    assert backlog.take() == "b"


def test_what_is_due_first_goes_first_whoever_failed_first():
    clock, unit = Clock(), subject.RETRY_DELAY_S
    backlog = Backlog(["slow", "quick", "free"], clock)
    slow, quick, free = (backlog.take() for _ in range(3))
    backlog.failed(slow, "1", "")
    clock.now += 1.01 * unit
    assert backlog.take() == slow
    backlog.failed(slow, "2", "")  # due after four units
    backlog.failed(quick, "1", "")  # due after one
    backlog.failed(free, "gone", "", counted=False)  # due at once
    assert backlog.take() == free
    assert backlog.take() is None
    clock.now += 1.01 * unit
    assert backlog.take() == quick
    assert backlog.take() is None
    clock.now += 3 * unit
    assert backlog.take() == slow


def test_preemptions_cost_no_attempt():
    clock = Clock()
    backlog = Backlog(["a"], clock)
    for _ in range(50):
        assert backlog.take() == "a"
        assert backlog.failed("a", "preempted", "", counted=False) == Retried("a", "preempted", counted=False)
    for _ in range(MAX_ATTEMPTS - 1):
        assert backlog.take() == "a"
        assert isinstance(backlog.failed("a", "broken", ""), Retried)
        clock.now += 100
    backlog.take()
    assert isinstance(backlog.failed("a", "broken", ""), GivenUp)


def test_tasks_fail_each_on_their_own_account():
    clock = Clock()
    backlog = Backlog(["a", "b"], clock)
    for _ in range(MAX_ATTEMPTS - 1):
        backlog.failed("a", "why", "")
    assert isinstance(backlog.failed("b", "why", ""), Retried)
    assert isinstance(backlog.failed("a", "why", ""), GivenUp)


def test_of_tasks_whose_worker_died_each_is_tried_alone_before_it_counts():
    clock = Clock()
    backlog = Backlog(["poison", "neighbour", "other"], clock)
    for task in (backlog.take(), backlog.take()):
        assert backlog.worker_died(task, "died", "", alone=False) == Retried(task, "died", counted=False)
    assert backlog.take(for_idle=False) == "other", "a suspect shares a worker with nobody"
    assert backlog.take(for_idle=False) is None
    assert len(backlog) == 2
    assert {backlog.take(), backlog.take()} == {"poison", "neighbour"}
    assert backlog.is_suspect("poison")
    assert backlog.is_suspect("neighbour")
    assert not backlog.is_suspect("other")
    for _ in range(MAX_ATTEMPTS - 1):
        assert backlog.worker_died("poison", "died", "", alone=True) == Retried(
            "poison", "died", counted=True
        )
    assert isinstance(backlog.worker_died("poison", "died", "", alone=True), GivenUp)
    assert isinstance(backlog.failed("neighbour", "a slip", ""), Retried), "it has all its attempts yet"


def test_a_suspect_passed_over_keeps_its_turn():
    clock = Clock()
    backlog = Backlog(["first", "second", "plain"], clock)
    first, second, plain = (backlog.take() for _ in range(3))
    backlog.worker_died(first, "died", "", alone=False)
    backlog.worker_died(second, "died", "", alone=False)
    backlog.failed(plain, "gone", "", counted=False)
    assert backlog.take(for_idle=False) == "plain"
    assert [backlog.take(), backlog.take(), backlog.take()] == ["first", "second", None]


def test_a_failure_is_told_in_one_line_and_in_full():
    def fail():
        raise ValueError("first line\nsecond line")

    with pytest.raises(ValueError, match="first") as caught:
        fail()
    line, details = describe(caught.value)
    assert line == "ValueError: first line"
    assert "second line" in details
    assert "in fail" in details


# The executor in this process


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch):
    monkeypatch.setattr(subject, "RETRY_DELAY_S", 0.002)
    monkeypatch.setattr(subject, "POLL_S", 0.01)


class Worker:
    """Records who is called when; ``act`` does the work."""

    def __init__(self, act=lambda task: {"task": task}):
        self.act = act
        self.calls = []
        self.at_once = self.most_at_once = 0
        self.closed = 0
        self._lock = threading.Lock()

    def __call__(self, task):
        with self._lock:
            assert not self.closed
            self.calls.append(task)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return self.act(task)
        finally:
            with self._lock:
                self.at_once -= 1

    def close(self):
        self.closed += 1


def run(tasks, *, workers=1, act=lambda task: {"task": task}, stop=None):
    made, events = [], []

    def make():
        made.append(Worker(act))
        return made[-1]

    LocalExecutor(workers).run(make, tasks, events.append, stop or threading.Event())
    return made, events


TASKS = [f"task {index}" for index in range(20)]


@pytest.mark.parametrize("workers", [1, 3])
def test_every_task_is_done_once_and_told_with_its_record(workers):
    made, events = run(TASKS, workers=workers)
    assert sorted(event.task for event in events) == sorted(TASKS)
    assert all(event == Finished(event.task, {"task": event.task}) for event in events)
    assert sorted(task for worker in made for task in worker.calls) == sorted(TASKS)
    assert [worker.closed for worker in made] == [1] * workers


def test_every_third_call_fails_and_all_is_done_all_the_same():
    calls, failures = iter(range(10**6)), Counter()
    lock = threading.Lock()

    def act(task):
        with lock:
            number = next(calls)
            fails = number % 3 == 2 and failures[task] < MAX_ATTEMPTS - 1
            failures[task] += fails
        if fails:
            raise OSError(f"call {number}")
        return {"task": task}

    _, events = run(TASKS, workers=2, act=act)
    done = Counter(event.task for event in events if isinstance(event, Finished))
    assert done == Counter(TASKS)
    retried = Counter(event.task for event in events if isinstance(event, Retried))
    assert retried == +failures
    assert retried.total() >= len(TASKS) // 3


def test_a_task_that_always_fails_is_given_up_and_the_others_go_on():
    def act(task):
        if task == TASKS[3]:
            raise OSError("bad sector")
        return {}

    made, events = run(TASKS, act=act)
    bad = [event for event in events if event.task == TASKS[3]]
    assert [type(event) for event in bad] == [Retried] * (MAX_ATTEMPTS - 1) + [GivenUp]
    assert bad[-1].reason == "OSError: bad sector"
    assert "in act" in bad[-1].details
    assert made[0].calls.count(TASKS[3]) == MAX_ATTEMPTS
    assert {event.task for event in events if isinstance(event, Finished)} == set(TASKS) - {TASKS[3]}


def test_one_worker_has_two_tasks_at_once_so_that_reading_overlaps_computing():
    """Each task waits for another to be under way on the same worker: one at a time would never end."""
    together = threading.Barrier(2)

    def act(_task):
        together.wait(PATIENCE_S)
        return {}

    made, events = run(TASKS, act=act)
    assert all(isinstance(event, Finished) for event in events)
    assert len(events) == len(TASKS)
    assert made[0].most_at_once == TASKS_IN_FLIGHT == 2


def test_no_worker_ever_has_more_than_two_and_none_is_idle():
    full = threading.Barrier(3 * TASKS_IN_FLIGHT)

    def act(_task):
        full.wait(PATIENCE_S)
        return {}

    made, events = run(TASKS[:18], workers=3, act=act)
    assert all(isinstance(event, Finished) for event in events)
    assert [worker.most_at_once for worker in made] == [2, 2, 2]


def test_few_tasks_are_spread_over_the_workers():
    both = threading.Barrier(2)

    def act(_task):
        both.wait(PATIENCE_S)
        return {}

    made, _ = run(TASKS[:2], workers=2, act=act)
    assert [len(worker.calls) for worker in made] == [1, 1]


def test_no_more_workers_are_made_than_there_are_tasks():
    assert len(run(TASKS[:2], workers=8)[0]) == 2
    assert run([], workers=8) == ([], [])


def test_once_stopped_nothing_is_begun_and_what_is_under_way_ends():
    stop = threading.Event()
    begun = []

    def act(task):
        begun.append(task)
        if len(begun) == 4:
            stop.set()
        return {}

    made, events = run(TASKS, act=act, stop=stop)
    finished = {event.task for event in events}
    assert finished == set(begun)
    assert 4 <= len(begun) <= 4 + TASKS_IN_FLIGHT
    assert made[0].closed == 1


def test_stopped_before_it_began_it_does_nothing():
    stop = threading.Event()
    stop.set()
    made, events = run(TASKS, stop=stop)
    assert events == []
    assert all(worker.calls == [] and worker.closed == 1 for worker in made)


def test_a_stop_does_not_wait_for_what_is_to_be_tried_again(monkeypatch):
    monkeypatch.setattr(subject, "RETRY_DELAY_S", 3600.0)
    stop = threading.Event()

    def act(_task):
        threading.Timer(0.03, stop.set).start()
        raise OSError("no")

    _, events = run(["a"], act=act, stop=stop)
    assert [type(event) for event in events] == [Retried]


def test_a_worker_that_cannot_be_made_ends_the_run_and_frees_the_others():
    made = []

    def make():
        if len(made) == 2:
            raise MemoryError("no room for a third")
        made.append(Worker())
        return made[-1]

    with pytest.raises(MemoryError, match="third"):
        LocalExecutor(3).run(make, TASKS, lambda _: None, threading.Event())
    assert [worker.closed for worker in made] == [1, 1]
    assert made[0].calls == []


def test_workers_are_closed_when_a_listener_fails():
    made = []

    def make():
        made.append(Worker())
        return made[-1]

    def listen(_event):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        LocalExecutor(1).run(make, TASKS, listen, threading.Event())
    assert made[0].closed == 1
    assert made[0].at_once == 0
    assert len(made[0].calls) < len(TASKS)


def test_what_is_no_failure_of_a_task_is_not_tried_again():
    def act(_task):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(TASKS, act=act)


def test_events_come_on_the_callers_thread():
    threads = set()

    def listen(_event):
        threads.add(threading.get_ident())

    LocalExecutor(2).run(Worker, TASKS, listen, threading.Event())
    assert threads == {threading.get_ident()}


def test_a_plain_function_will_do_for_a_worker():
    events = []
    LocalExecutor(1).run(lambda: lambda task: {"n": task}, ["a"], events.append, threading.Event())
    assert events == [Finished("a", {"n": "a"})]
