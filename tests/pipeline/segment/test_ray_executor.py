"""Workers that die: what killed them is found out, and nobody else pays for it."""

import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from pipeline.errors import Interrupted, Refused
from pipeline.segment import executor as policy
from pipeline.segment import ray_executor
from pipeline.segment.executor import MAX_ATTEMPTS, Finished, GivenUp, Retried
from pipeline.segment.machine import this_machine
from pipeline.segment.ray_executor import RayExecutor, ray_session
from pipeline.segment.resolve import Workers
from pipeline.segment.seat import MAX_FAILED_STARTS

pytestmark = pytest.mark.slow

MIB = 1 << 20


@pytest.fixture(scope="module", autouse=True)
def session():
    patch = pytest.MonkeyPatch()
    patch.delenv("RAY_ADDRESS", raising=False)
    with ray_session(this_machine(), cores=2):
        yield
    patch.undo()


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch):
    monkeypatch.setattr(policy, "RETRY_DELAY_S", 0.05)
    monkeypatch.setattr(ray_executor, "POLL_S", 0.1)


def run(make_worker, tasks, *, workers=1, grow=False):
    events = []
    shared = Workers(count=workers, grow=grow, threads=1, gpus=0.0, memory_bytes=100 * MIB)
    RayExecutor(shared, 100 * MIB).run(make_worker, tasks, events.append, threading.Event())
    return events


def test_a_task_that_kills_its_worker_is_given_up_and_its_neighbours_are_not():
    def make():
        def work(task):
            if task == "poison":
                os.kill(os.getpid(), signal.SIGKILL)
            return {"task": task}

        return work

    tasks = ["a", "poison", "b", "c", "d"]
    events = run(make, tasks)
    assert {event.task for event in events if isinstance(event, Finished)} == set(tasks) - {"poison"}
    assert [event.task for event in events if isinstance(event, GivenUp)] == ["poison"]
    counted = Counter(event.task for event in events if isinstance(event, Retried) and event.counted)
    assert counted == {"poison": MAX_ATTEMPTS - 1}
    free = Counter(event.task for event in events if isinstance(event, Retried) and not event.counted)
    assert free["poison"] <= 1, "alone on its worker, there is nobody else to blame"


def test_a_worker_that_cannot_be_made_again_ends_the_run_where_it_was_the_last(tmp_path):
    flag = tmp_path / "made once"

    def make():
        if flag.exists():
            raise OSError("the disk is gone")
        flag.touch()

        def work(task):
            if task == "last":
                os.kill(os.getpid(), signal.SIGKILL)
            return {}

        return work

    with pytest.raises(Interrupted, match=r"3 times in a row: OSError: the disk is gone; it was the last"):
        run(make, ["first", "last"])


def test_one_of_two_workers_may_be_lost_for_good(tmp_path):
    """What one cannot do again, the other does."""

    def make():
        mine = tmp_path / str(os.getpid())
        others = [path for path in tmp_path.iterdir() if path != mine]
        if len(others) >= 2:
            raise OSError("no third one")
        mine.touch()

        def work(task):
            if task == "once" and not (tmp_path.parent / "killed").exists():
                (tmp_path.parent / "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return {}

        return work

    tasks = ["once", *[f"task {index}" for index in range(9)]]
    events = run(make, tasks, workers=2)
    assert {event.task for event in events if isinstance(event, Finished)} == set(tasks)
    assert len(list(Path(tmp_path).iterdir())) == 2


def test_a_worker_that_dies_whenever_it_is_made_is_refused_with_its_last_words(tmp_path):
    """A segfault while loading, say. Waiting for it would never end."""

    def make():
        (tmp_path / str(os.getpid())).touch()
        os.abort()

    with pytest.raises(Refused, match=r"3 times in a row.* ended with 'Fatal Python error: Aborted'.*memory"):
        run(make, ["a", "b"])
    assert len(list(tmp_path.iterdir())) == MAX_FAILED_STARTS


def test_what_cannot_be_made_anywhere_is_told_as_it_was_raised(tmp_path):
    def make():
        (tmp_path / str(len(list(tmp_path.iterdir())))).touch()
        raise ZeroDivisionError("a fault of ours")

    with pytest.raises(ZeroDivisionError, match="a fault of ours"):
        run(make, ["a"])
    assert len(list(tmp_path.iterdir())) == MAX_FAILED_STARTS, "one broken node must not end a run at once"


def test_others_go_on_without_one_that_never_comes_up(tmp_path, monkeypatch, caplog):
    """Nor is its place taken again and again, while the cluster stays as it is."""
    monkeypatch.setattr(ray_executor, "GROW_EVERY_S", 0.2)

    def make():
        try:
            (tmp_path / "lives").mkdir()
        except FileExistsError:
            (tmp_path / f"died {os.getpid()}").touch()
            os._exit(1)

        def work(_):
            deadline = time.monotonic() + 60
            while len(list(tmp_path.glob("died *"))) < MAX_FAILED_STARTS:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            time.sleep(1)
            return {}

        return work

    events = run(make, ["a", "b", "c", "d"], workers=2, grow=True)
    assert {event.task for event in events if isinstance(event, Finished)} == {"a", "b", "c", "d"}
    assert "the run goes on without it" in caplog.text
    assert len(list(tmp_path.glob("died *"))) == MAX_FAILED_STARTS


def test_what_no_node_has_is_told_while_it_is_waited_for(monkeypatch, caplog):
    monkeypatch.setattr(ray_executor, "WAIT_TOLD_EVERY_S", 0.3)
    stop = threading.Event()
    threading.Timer(1.5, stop.set).start()
    greedy = Workers(count=1, grow=False, threads=4000, gpus=0.0, memory_bytes=100 * MIB)
    RayExecutor(greedy, 100 * MIB).run(lambda: lambda _: {}, ["a"], lambda _: None, stop)
    assert "each asks for 4000 CPUs, 0 GPUs and 0.1 GiB on one node" in caplog.text
