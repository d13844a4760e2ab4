"""What a run says while it runs, on a terminal and elsewhere."""

import io
import json
import os
import pty
import select

import pytest

from pipeline.segment.executor import Finished, GivenUp, Retried
from pipeline.segment.progress import Progress

DONE = Finished("r00000c00000", {"state": "done", "pixels": 4_000_000, "seconds": {"read": 0.12345}})
EMPTY = Finished("r00000c00001", {"state": "empty", "seconds": {"read": 0.1}})
AGAIN = Retried("r00000c00002", "OSError: no route", counted=True)
GONE = GivenUp("r00000c00002", "OSError: no route", "Traceback ...", 3)


class Clock:
    """Time stands still until it is moved."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def lines_of(progress):
    return [json.loads(line) for line in progress.stream.getvalue().splitlines()]


def test_elsewhere_there_is_one_json_line_an_event(clock):
    progress = Progress(4, io.StringIO(), clock)
    for event in (DONE, EMPTY, AGAIN, GONE):
        clock.now += 2.0
        progress.on_event(event)
    progress.close()
    done, empty, again, gone = lines_of(progress)
    assert done == {
        "event": "block", "block": "r00000c00000", "state": "done", "pixels": 4_000_000,
        "seconds": {"read": 0.123}, "ended": 1, "total": 4, "mpx_per_s": 2.0, "seconds_left": 6.0,
    }  # fmt: skip
    assert (empty["state"], empty["pixels"], empty["ended"], empty["seconds_left"]) == ("empty", 0, 2, 4.0)
    assert (again["state"], again["reason"], again["ended"]) == ("requeued", "OSError: no route", 2)
    assert (gone["state"], gone["reason"], gone["ended"]) == ("failed", "OSError: no route", 3)
    assert gone["mpx_per_s"] == 0.5
    assert "\r" not in progress.stream.getvalue()


def test_before_the_first_block_ends_no_time_is_promised(clock):
    progress = Progress(4, io.StringIO(), clock)
    progress.on_event(AGAIN)
    assert lines_of(progress)[0]["seconds_left"] is None


def test_a_reason_of_several_lines_or_quotes_stays_one_line():
    progress = Progress(1, io.StringIO())
    progress.on_event(GivenUp("a", 'said "no"\nand left', "", 3))
    assert len(lines_of(progress)) == 1


def test_nothing_goes_to_stdout(capsys):
    progress = Progress(1)
    progress.on_event(DONE)
    progress.close()
    spoken = capsys.readouterr()
    assert spoken.out == ""
    assert json.loads(spoken.err)["state"] == "done"


class Terminal:
    """A real pseudo-terminal, and what was drawn on it."""

    def __init__(self):
        self._reader, writer = pty.openpty()
        self.stream = os.fdopen(writer, "w", encoding="utf-8")

    def drawn(self):
        """Everything so far; the kernel hands it over in pieces."""
        self.stream.flush()
        pieces = []
        while select.select([self._reader], [], [], 0.05)[0]:
            pieces.append(os.read(self._reader, 1 << 16))
        return b"".join(pieces).decode()

    def close(self):
        self.stream.close()
        os.close(self._reader)


@pytest.fixture
def terminal():
    opened = Terminal()
    yield opened
    opened.close()


def test_on_a_terminal_there_is_a_bar(terminal, clock):
    progress = Progress(4, terminal.stream, clock)
    clock.now += 2.0
    progress.on_event(DONE)
    drawn = terminal.drawn()
    assert drawn.startswith("\r\033[K[")
    assert drawn.count("█") == 30 // 4
    assert drawn.count("·") == 30 - 30 // 4
    assert "1/4 blocks, 2.00 Mpx/s, 0:06 left" in drawn
    assert "\n" not in drawn


def test_on_a_terminal_failures_stay_readable_above_the_bar(terminal, clock):
    progress = Progress(2, terminal.stream, clock)
    clock.now += 1.0
    progress.on_event(AGAIN)
    progress.on_event(GONE)
    drawn = terminal.drawn()
    assert "block r00000c00002 will be tried again: OSError: no route\r\n" in drawn
    assert "block r00000c00002 is given up: OSError: no route\r\n" in drawn
    assert drawn.endswith("1/2 blocks, 1 failed, 0.00 Mpx/s, 0:01 left")
    progress.close()
    assert terminal.drawn() == "\r\n"


def test_the_bar_is_full_when_all_is_done(terminal, clock):
    progress = Progress(1, terminal.stream, clock)
    clock.now += 1.0
    progress.on_event(DONE)
    drawn = terminal.drawn()
    assert drawn.count("█") == 30
    assert "1/1 blocks" in drawn
    assert "0:00 left" in drawn


@pytest.mark.parametrize(
    ("seconds", "shown"), [(59.6, "1:00"), (61, "1:01"), (3599.7, "1:00:00"), (90_061, "25:01:01")]
)
def test_time_left_is_shown_as_a_clock(terminal, clock, seconds, shown):
    progress = Progress(2, terminal.stream, clock)
    clock.now += seconds
    progress.on_event(DONE)
    assert terminal.drawn().endswith(f", {shown} left")


def test_a_run_with_nothing_to_do_says_nothing():
    progress = Progress(0, io.StringIO())
    progress.close()
    assert progress.stream.getvalue() == ""
    assert progress.seconds_left is None
