"""How a run is asked to end: by SIGTERM, as clusters do, or by Ctrl+C."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pipeline.errors import Interrupted

logger = logging.getLogger(__name__)


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set; a second one ends at once. Only the main thread can listen."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        logger.warning("stopping: what is under way is finished first")
        stop.set()
        again = previous[signal.Signals(number)]
        # Who has asked twice will not wait for blocks to end, as an exception would have to.
        signal.signal(number, signal.SIG_DFL if again is _interrupt else again)

    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in previous:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """SIGTERM raises ``Interrupted`` where nothing finer listens: before the first block, after the last one.

    Without it the process would die there of the signal, and its exit code would not say that the run can go
    on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise Interrupted("SIGTERM was received; what is finished stays finished: start again to go on")


@contextmanager
def sigterm_kept() -> Iterator[None]:
    """Whoever is called within may not replace what this process does at SIGTERM."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(before):  # the default kills at once, and Ray's own handler ends its processes first
            signal.signal(signal.SIGTERM, before)
