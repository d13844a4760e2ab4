"""What SIGTERM does before, during and after a run, in processes of their own."""

import os
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.errors import Interrupted
from pipeline.signals import interrupted_by, sigterm_kept, stop_on_signals

REPOSITORY = Path(__file__).resolve().parents[2]


def exit_code_of(body: str) -> int:
    """Of a process that runs these lines; it must end by itself, whatever it sends to itself."""
    script = "import os, signal, time\nfrom pipeline.signals import *\n" + textwrap.dedent(body)
    return subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, timeout=60, check=False).returncode


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_the_event_and_handlers_come_back(number):
    before = signal.getsignal(number)
    with stop_on_signals() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        assert stop.wait(5)
        assert signal.getsignal(number) is before, "a second one must find what was there before"
    assert signal.getsignal(number) is before


def test_a_second_sigterm_ends_the_process_at_once():
    """Even where the first ones would raise: an exception would wait for blocks under way to end."""
    body = """
        with interrupted_by(signal.SIGTERM), stop_on_signals() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.wait(5)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)
    """
    assert exit_code_of(body) == -signal.SIGTERM


def test_where_nothing_finer_listens_sigterm_interrupts():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="start again to go on"), interrupted_by(signal.SIGTERM):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_of_several_signals_the_one_that_came_is_named_and_all_handlers_come_back(number):
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(one) for one in numbers]
    with pytest.raises(Interrupted, match=f"^{number.name} was received"), interrupted_by(*numbers):
        signal.raise_signal(number)
    assert [signal.getsignal(one) for one in numbers] == before


def test_threads_leave_signals_to_the_main_one():
    """There Python allows no handlers: what runs in a thread must work none the less."""
    before = signal.getsignal(signal.SIGTERM)

    def listen():
        with interrupted_by(signal.SIGTERM), sigterm_kept(), stop_on_signals() as stop:
            return signal.getsignal(signal.SIGTERM), stop.is_set()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(listen).result() == (before, False)


def test_a_library_may_not_take_sigterm_away():
    with interrupted_by(signal.SIGTERM):
        ours = signal.getsignal(signal.SIGTERM)
        with sigterm_kept():
            signal.signal(signal.SIGTERM, lambda *_: None)
        assert signal.getsignal(signal.SIGTERM) is ours


def test_a_library_keeps_sigterm_where_it_would_only_kill():
    """Ray's own handler ends Ray's processes; the default would leave them."""
    theirs = lambda *_: None  # noqa: E731 - any handler
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # an earlier test may have started Ray here
    try:
        with sigterm_kept():
            signal.signal(signal.SIGTERM, theirs)
        assert signal.getsignal(signal.SIGTERM) is theirs
    finally:
        signal.signal(signal.SIGTERM, before)
