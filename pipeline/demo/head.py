"""A Ray cluster of the demo's own: a head on this machine that takes submitted jobs.

It is started and ended as a process; ``ray stop`` would end every Ray of this machine.
"""

import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

from pipeline.demo import processes
from pipeline.errors import Interrupted, TerrazzoError

START_TIMEOUT_S = 180.0
POLL_S = 0.25
ATTEMPTS = 3
HAS_BEGUN = "will now block forever"
"""``ray start`` says so when all parts of the head have been started."""

OBJECT_STORE_BYTES = 200_000_000
"""No pixel passes through Ray's object store; its own default may not fit a container's /dev/shm."""

SHORT_FOLDER = "/tmp"  # noqa: S108 - a private folder below it: sockets need paths of less than 107 bytes
LOOPBACK = "127.0.0.1"


class RayHead:
    """A head that has been started.

    Args:
        process: Its process.
        port: Where it takes jobs.
        environment: Variables with which processes reach it: its token among them.
        log: What it has printed.
    """

    def __init__(
        self, process: subprocess.Popen[str], port: int, environment: Mapping[str, str], log: Path
    ) -> None:
        self._process, self._environment, self._log = process, environment, log
        self._address = f"http://{LOOPBACK}:{port}"

    def wait_until_ready(self) -> None:
        """Return as soon as it takes jobs."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not (HAS_BEGUN in self._log.read_text(errors="replace") and self._answers()):
            if self._process.poll() is not None:
                raise TerrazzoError(f"Ray must start on this machine, but ended; {self._told()}")
            if time.monotonic() > deadline:
                raise TerrazzoError(
                    f"Ray must take jobs within {START_TIMEOUT_S:g} s of its start, but does not; "
                    f"{self._told()}"
                )
            time.sleep(POLL_S)

    def submission(self, arguments: Sequence[str], repository: Path) -> list[str]:
        """The command that submits a script of this repository as a job and waits for it.

        Args:
            arguments: The script and its arguments.
            repository: What travels to the cluster as the job's working directory.
        """
        return [
            *(_ray(), "job", "submit", "--address", self._address, "--working-dir", str(repository)),
            *("--", sys.executable, *arguments),
        ]

    def end(self) -> None:
        """End it; its workers end with it."""
        processes.end(self._process)

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables with which a submission is let in."""
        return self._environment

    def _answers(self) -> bool:
        token = self._environment["RAY_AUTH_TOKEN"]
        request = Request(f"{self._address}/api/version", headers={"Authorization": f"Bearer {token}"})  # noqa: S310
        try:
            with urlopen(request, timeout=5) as answer:  # noqa: S310 - a loopback address of ours
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False

    def _told(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return f"all of its words are in {self._log}, the last: {lines[-1] if lines else 'none'}"


@contextmanager
def ray_head(cores: int, logs: Path, environment: Mapping[str, str]) -> Iterator[RayHead]:
    """Start a head, and end it.

    Args:
        cores: CPUs that it offers.
        logs: Folder for what it prints, and for Ray's own logs if anything goes wrong.
        environment: Variables of this process; those that name another cluster are left out.
    """
    folder = Path(tempfile.mkdtemp(prefix="tz", dir=SHORT_FOLDER))
    try:
        try:
            head = _ready_head(cores, folder, logs / "ray.log", ray_environment(environment))
            try:
                yield head
            finally:
                head.end()
        except Interrupted:
            raise
        except Exception:
            _keep_logs(folder, logs / "ray")
            raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # workers that are still ending write here


def _ready_head(cores: int, folder: Path, log: Path, environment: Mapping[str, str]) -> RayHead:
    """A head that takes jobs.

    Parts of Ray give each other 30 seconds to start, which a busy machine may exceed: it is tried again.
    """
    for attempt in range(1, ATTEMPTS + 1):
        port = _free_port()
        with log.open("w") as output:
            command = _start_command(cores, port, folder)
            process = processes.start(command, environment=environment, output=output.fileno(), folder=folder)
        head = RayHead(process, port, environment, log)
        try:
            head.wait_until_ready()
        except BaseException as error:
            head.end()
            if isinstance(error, Interrupted) or not isinstance(error, TerrazzoError) or attempt == ATTEMPTS:
                raise
        else:
            return head
    raise AssertionError("the last attempt returns or raises")


def ray_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables for a cluster that only this demo can use: a token of its own, handed down by environment."""
    others = {name: value for name, value in environment.items() if not name.startswith("RAY_")}
    return others | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_worker_niceness": "0",  # Ray's workers stand back, by 15; but here somebody is waiting for them
        "PYTHONUNBUFFERED": "1",
    }


def _start_command(cores: int, port: int, folder: Path) -> list[str]:
    return [
        *(_ray(), "start", "--head", "--block", "--disable-usage-stats"),
        *(f"--num-cpus={cores}", f"--object-store-memory={OBJECT_STORE_BYTES}"),
        *(f"--node-ip-address={LOOPBACK}", "--port=0", f"--ray-client-server-port={_free_port()}"),
        *(f"--dashboard-host={LOOPBACK}", f"--dashboard-port={port}", "--dashboard-agent-listen-port=0"),
        f"--temp-dir={folder}",
    ]


def _ray() -> str:
    """Ray's command, beside the Python that runs this."""
    beside = Path(sys.executable).with_name("ray")
    if not beside.exists():
        raise TerrazzoError(
            f"Ray's command must lie beside {sys.executable}; install ray[default], or make demo"
        )
    return str(beside)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _keep_logs(folder: Path, into: Path) -> None:
    """Ray's own logs of a demo that failed: with its folder they would be gone."""
    for session in folder.glob("session_2*"):
        shutil.rmtree(into, ignore_errors=True)
        shutil.copytree(session / "logs", into, ignore_dangling_symlinks=True, ignore=_sockets)


def _sockets(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if (Path(folder) / name).is_socket()]
