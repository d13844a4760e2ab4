"""How this process is asked to end: by SIGTERM, as clusters do, by Ctrl+C, or by a terminal that closes.

Only the main thread can listen; in any other these leave things as they are.
"""

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from pipeline.errors import Interrupted

logger = logging.getLogger(__name__)

Handler = signal.Handlers | Callable[[int, FrameType | None], object]

STOPPING = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def handled(numbers: Sequence[signal.Signals], handler: Handler) -> Iterator[None]:
    """Some signals are handled so within; afterwards as before.

    Args:
        numbers: The signals.
        handler: What is called with a signal's number, or one of the signal module's own ways.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set; a second one ends at once."""
    stop = threading.Event()
    previous = {number: signal.getsignal(number) for number in STOPPING}

    def handle(number: int, _frame: FrameType | None) -> None:
        logger.warning("stopping: what is under way is finished first")
        stop.set()
        again = previous[signal.Signals(number)]
        # Who has asked twice will not wait for blocks to end, as an exception would have to.
        signal.signal(number, signal.SIG_DFL if again is _interrupt else again)

    with handled(STOPPING, handle):
        yield stop


@contextmanager
def interrupted_by(*numbers: signal.Signals) -> Iterator[None]:
    """Raise ``Interrupted`` where nothing finer listens: before the first block, after the last one.

    Without it the process would die there of the signal, and its exit code would not say that it can go on.

    Args:
        numbers: The signals.
    """
    with handled(numbers, _interrupt):
        yield


def _interrupt(number: int, _frame: FrameType | None) -> None:
    name = signal.Signals(number).name
    raise Interrupted(f"{name} was received; what is finished stays finished: start again to go on")


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
