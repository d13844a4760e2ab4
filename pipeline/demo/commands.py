"""Commands of this repository, run as a user would type them: shown, heard, and kept in a log."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pipeline.demo import processes
from pipeline.errors import TerrazzoError
from pipeline.report.wording import UNKNOWN, duration, number

REPOSITORY = Path(__file__).resolve().parents[2]

LAST_LINES = 15
"""Of a command that failed, so many lines are shown."""

JOB_BEGINS = "Tailing logs until the job exits"
"""After these words of ``ray job submit`` the job itself has its say, until a line of dashes."""

ABOUT_RAY = re.compile(
    r"^(\x1b\[\d+m)?(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+\s|\(\S+ pid=\d+|Running entrypoint)"
)
"""Lines that tell how Ray fares: they are in the log."""


def run_command(
    command: Sequence[str],
    *,
    shown: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    tell: Callable[[str], None],
    is_submission: bool = False,
) -> None:
    """Run a command to its end.

    Args:
        command: Program and arguments.
        shown: The same as a user would type it.
        environment: All of its variables.
        log: All that it prints is added here.
        tell: Where its lines go that say something to the user.
        is_submission: Whether it is ``ray job submit``, whose own words are only kept.

    Raises:
        TerrazzoError: It failed.
    """
    tell(f"      $ {shlex.join(shown)}")
    lines: list[str] = []
    process = processes.start(command, environment=environment, output=subprocess.PIPE, folder=REPOSITORY)
    stream = process.stdout
    assert stream is not None  # noqa: S101 - a pipe was asked for
    speaks = not is_submission
    with stream, log.open("a") as kept:
        kept.write(f"$ {shlex.join(shown)}\n")
        for line in stream:
            kept.write(line)
            kept.flush()
            lines.append(line.rstrip())
            if is_submission and set(line.strip()) == {"-"}:
                speaks = False
            if speaks and line.strip() and not ABOUT_RAY.match(line):
                tell(f"      │ {_in_words(line.rstrip())}")
            speaks |= JOB_BEGINS in line
    if process.wait():
        tail = "\n".join(lines[-LAST_LINES:])
        raise TerrazzoError(
            f"{shlex.join(shown)} must end well, but ended with code {process.returncode}; start the demo "
            f"again to go on. All it said is in {log}, the last of it:\n{tail}"
        )


def _in_words(line: str) -> str:
    """A line as it is, or, where it is a program's word that a block is finished, for people."""
    if not line.startswith('{"event": "block"'):
        return line
    event = json.loads(line)
    left = duration(event["seconds_left"]) if event.get("seconds_left") is not None else UNKNOWN
    return (
        f"block {event['ended']} of {event['total']} {event['state']}; "
        f"{number(event['mpx_per_s'])} Mpx/s, {left} left"
    )


def python(arguments: Sequence[str]) -> list[str]:
    """The command that runs a script with the Python that runs this."""
    return [sys.executable, *arguments]
