"""The demo's processes, and theirs: none outlives it, however it ends.

Ray's daemons and workers leave their parents and groups behind. On Linux this process adopts what loses its
parent, so that whatever was begun here, by whomever, is still found below it and ended by its number; a head
whose demo is killed outright is told by the kernel. Elsewhere Ray's own reaper does that work.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from pipeline.errors import TerrazzoError
from pipeline.signals import handled, interrupted_by

PATIENCE_S = 10.0
"""How long processes may take to end by themselves."""

KILLED_S = 20.0
POLL_S = 0.05

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
IS_LINUX = sys.platform.startswith("linux")

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def interrupted_by_signals() -> AbstractContextManager[None]:
    """Raise ``Interrupted`` where Ctrl+C, a SIGTERM or a closed terminal asks to end."""
    return interrupted_by(*ENDING_SIGNALS)


@contextmanager
def no_process_left() -> Iterator[None]:
    """Whatever is started within, also by those that were started, is over afterwards."""
    before = set(descendants(os.getpid()))
    _control(PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        with handled(ENDING_SIGNALS, signal.SIG_IGN):  # nobody is served by a cleaning up that is cut short
            _end_descendants(before)
        _control(PR_SET_CHILD_SUBREAPER, 0)


def start(
    command: Sequence[str], *, environment: Mapping[str, str], output: int, folder: Path
) -> subprocess.Popen[str]:
    """Start a process in a session of its own, so that Ctrl+C reaches the demo alone, which ends it in order.

    Args:
        command: Program and arguments.
        environment: All of its variables.
        output: Where both its streams go: a file's number or ``subprocess.PIPE``.
        folder: Where it runs.
    """
    return subprocess.Popen(  # noqa: S603 - commands are the demo's own
        command,
        env=dict(environment),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        preexec_fn=_end_with_parent if IS_LINUX else None,  # noqa: PLW1509 - one system call
    )


def end(process: subprocess.Popen[str]) -> None:
    """Ask a process to end, and make it."""
    process.terminate()
    try:
        process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def descendants(pid: int) -> list[int]:
    """Processes that a process has started, those that they have started, and so on; parents first."""
    children: dict[int, list[int]] = {}
    for child, parent in _all_processes():
        children.setdefault(parent, []).append(child)
    found: list[int] = []
    todo = list(children.get(pid, []))
    while todo:
        found.append(todo.pop(0))
        todo += children.get(found[-1], [])
    return found


def _all_processes() -> Iterator[tuple[int, int]]:
    """Number of every process and of its parent."""
    if IS_LINUX:
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with suppress(OSError):  # it may have ended meanwhile
                    after_name = (folder / "stat").read_text(errors="replace").rpartition(")")[2]
                    yield int(folder.name), int(after_name.split()[1])
        return
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)  # noqa: S607
    for line in listed.stdout.splitlines():
        child, parent = line.split()
        yield int(child), int(parent)


def _end_descendants(spared: set[int]) -> None:
    """Ask, wait, and then kill until nothing is left."""
    own = os.getpid()

    def left() -> list[int]:
        _reap(spared)
        return [pid for pid in descendants(own) if pid not in spared]

    _signal(left(), signal.SIGTERM)
    if _wait_until(lambda: not left(), PATIENCE_S):
        return

    def none_left() -> bool:
        _signal(left(), signal.SIGKILL)  # again and again: they may have had time to start others
        return not left()

    if not _wait_until(none_left, KILLED_S):
        raise TerrazzoError(f"all processes of the demo must end, but {left()} withstood SIGKILL")


def _reap(spared: set[int]) -> None:
    """Read the exit codes of own and adopted children that are over, so that they vanish from the list."""
    for child, parent in list(_all_processes()):
        if parent == os.getpid() and child not in spared:
            with suppress(ChildProcessError):
                os.waitpid(child, os.WNOHANG)


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _wait_until(is_so: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not (so := is_so()) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return so


def _end_with_parent() -> None:
    _control(PR_SET_PDEATHSIG, signal.SIGTERM)


def _control(option: int, value: int) -> None:
    """Ask Linux for something about this process; where that cannot be had, the demo works without."""
    if IS_LINUX:
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
