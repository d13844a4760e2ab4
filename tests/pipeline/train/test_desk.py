"""How workers hear of the driver and the driver of them, without Ray."""

import logging
import threading
import time
from types import SimpleNamespace

import pytest

from pipeline.train.workers.desk import Desk, heard
from pipeline.train.workers.watch import Watch


def handle_on(desk):
    """Calls as one makes them on an actor of Ray's."""
    return SimpleNamespace(tell=SimpleNamespace(remote=desk.tell))


def test_workers_make_way_for_the_next_who_are_welcome():
    desk = Desk()
    desk.begin()
    assert (desk.word(), desk.have_left()) == ("go on", False)
    desk.ask_to_make_way()
    assert (desk.word(), desk.have_left()) == ("make way", False)
    desk.leave()
    assert desk.have_left()
    desk.welcome()
    desk.begin()
    assert (desk.word(), desk.have_left()) == ("go on", False)


def test_nothing_takes_back_the_wish_to_stop():
    desk = Desk()
    assert desk.ask_to_stop(), "nobody has come yet"
    desk.ask_to_make_way()
    desk.welcome()
    desk.begin()
    assert desk.word() == "stop"
    assert not desk.ask_to_stop()


def test_what_is_said_within_reaches_the_driver_once_and_in_order():
    desk, ours = Desk(), logging.getLogger("pipeline.train.loop")
    with heard(handle_on(desk), logging.WARNING):
        ours.info("step 3")
        ours.warning("a tile is gone")
        ours.error("no more")
    ours.warning("after the end")
    assert desk.take() == [(logging.WARNING, "a tile is gone"), (logging.ERROR, "no more")]
    assert desk.take() == []


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("reason", ["stop", "make way", "the node"])
def test_a_watch_sees_every_reason_to_leave(reason):
    told = {"word": "go on", "leaving": False}
    watch = Watch(lambda: told["word"], lambda: told["leaving"], every_s=0.001, unreachable=OSError)
    time.sleep(0.02)
    assert not watch.shall_leave
    told.update({"leaving": True} if reason == "the node" else {"word": reason})
    wait_for(lambda: watch.shall_leave)
    watch.close()


def test_a_watch_that_gets_no_answer_says_so_and_lets_the_worker_work(caplog):
    asked = threading.Event()

    def ask():
        asked.set()
        raise OSError("gone")

    watch = Watch(ask, lambda: False, every_s=0.001, unreachable=OSError)
    assert asked.wait(20)
    wait_for(lambda: "the driver cannot be asked whether to go on: gone" in caplog.text)
    assert not watch.shall_leave
