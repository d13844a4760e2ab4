"""What SIGTERM does before, during and after a run, in processes of their own."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pipeline.errors import Interrupted
from pipeline.segment.signals import interrupted_by_sigterm, sigterm_kept, stop_on_signals

REPOSITORY = Path(__file__).resolve().parents[3]


def exit_code_of(body: str) -> int:
    """Of a process that runs these lines; it must end by itself, whatever it sends to itself."""
    script = "import os, signal, time\nfrom pipeline.segment.signals import *\n" + textwrap.dedent(body)
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
        with interrupted_by_sigterm(), stop_on_signals() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.wait(5)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)
    """
    assert exit_code_of(body) == -signal.SIGTERM


def test_where_nothing_finer_listens_sigterm_interrupts():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="start again to go on"), interrupted_by_sigterm():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_library_may_not_take_sigterm_away():
    with interrupted_by_sigterm():
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
