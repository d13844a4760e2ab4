"""Ray nodes on one machine, started as KubeRay starts them: its command lines, environment, signals."""

import json
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tests.k8s.rendered import Document

DRAIN_S = 6


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def sessions() -> Iterator[tuple[int, int]]:
    """Every living process of this machine with the session it belongs to."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if after_name[0] != "Z":
            yield int(stat.parent.name), int(after_name[3])


def holders_of(token: str) -> list[int]:
    """Living processes that were given the token of a cluster."""
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if token.encode() in environment.read_bytes():
                found.append(int(environment.parent.name))
    return found


@dataclass
class Pod:
    """One node: the process that a container would have as its first, in a session of its own."""

    process: subprocess.Popen[bytes]

    def holds(self, pid: int) -> bool:
        return (pid, self.process.pid) in set(sessions())

    def is_asked_to_stop(self) -> None:
        """What Kubernetes does to a pod: SIGTERM, to its first process alone."""
        os.kill(self.process.pid, signal.SIGTERM)

    def vanishes(self) -> None:
        """A machine that is gone without a word."""
        for pid, session in list(sessions()):
            if session == self.process.pid:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait(timeout=30)


@dataclass
class Nodes:
    """A cluster with token authentication, as its manifest describes it.

    Attributes:
        cluster: Spec of the RayCluster.
        folder: Ray's own folder; short, since sockets lie below.
    """

    cluster: Document
    folder: Path
    pods: list[Pod] = field(default_factory=list)
    gcs_port: int = field(default_factory=free_port)
    dashboard_port: int = field(default_factory=free_port)
    metrics_port: int = field(default_factory=free_port)
    token: str = field(default_factory=lambda: secrets.token_hex(32))

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"

    def start_head(self) -> Pod:
        group = self.cluster["headGroupSpec"]
        ours = {
            "port": self.gcs_port,
            "dashboard-port": self.dashboard_port,
            "metrics-export-port": self.metrics_port,
            "ray-client-server-port": free_port(),
            "temp-dir": self.folder,
        }
        return self._start("ray start --head", group, ours)

    def start_worker(self) -> Pod:
        [group] = self.cluster["workerGroupSpecs"]
        ours = {"address": f"127.0.0.1:{self.gcs_port}", "num-cpus": 1}
        return self._start("ray start", group, ours)

    def _start(self, command: str, group: Document, ours: Document) -> Pod:
        """KubeRay's wrapper around ``ray start``; ports keep nodes of one machine apart."""
        apart = {"dashboard-agent-listen-port": free_port(), "min-worker-port": 0, "max-worker-port": 0}
        parameters = group["rayStartParams"] | apart | ours
        words = " ".join(f"--{name}={shlex.quote(str(value))}" for name, value in parameters.items())
        container = group["template"]["spec"]["containers"][0]
        environment = {entry["name"]: entry["value"] for entry in container["env"]}
        environment |= {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(DRAIN_S)}
        line = f"ulimit -n ${{RAY_START_ULIMIT_OPEN_FILES:-65536}}; {command} {words} --block"
        log = (self.folder / f"pod-{len(self.pods)}.log").open("wb")
        with log:
            process = subprocess.Popen(
                ["/bin/bash", "-c", "--", line],
                env=self.environment() | environment | {"RAY_START_ULIMIT_OPEN_FILES": "4096"},
                start_new_session=True,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.pods.append(Pod(process))
        return self.pods[-1]

    def environment(self) -> dict[str, str]:
        """What every pod has: the image's PATH, and the token from the operator's Secret."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        return kept | {"PATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}

    def submit(self, entrypoint: str, runtime_env: Document, job_id: str) -> subprocess.Popen[str]:
        """The submitter's script, as KubeRay writes it for K8sJobMode."""
        there = f"--address {self.dashboard}"
        submit = (
            f"ray job submit {there} --no-wait --runtime-env-json {shlex.quote(json.dumps(runtime_env))} "
            f"--submission-id {job_id} -- {entrypoint}"
        )
        script = (
            f"if ! ray job status {there} {job_id} >/dev/null 2>&1 ; then {submit} ; fi ; "
            f"ray job logs {there} --follow {job_id}"
        )
        return subprocess.Popen(
            ["/bin/bash", "-ce", "--", script],
            cwd=self.folder, env=self.environment(), text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def answer(self, path: str, *, with_token: bool = True) -> tuple[int, str]:
        """Status and text of the dashboard's answer; 0 where it gives none."""
        request = Request(self.dashboard + path)  # noqa: S310 - our own server
        if with_token:
            request.add_header("Authorization", f"Bearer {self.token}")
        try:
            with urlopen(request, timeout=10) as answer:  # noqa: S310
                return int(answer.status), answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except (URLError, OSError):
            return 0, ""

    def metrics(self) -> str:
        """What Prometheus would scrape from the head."""
        try:
            with urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:
                return str(answer.read().decode())
        except (URLError, OSError):
            return ""


@contextmanager
def started(cluster: Document, folder: Path) -> Iterator[Nodes]:
    """A head that answers; nothing of it, nor of nodes added to it, is left behind."""
    nodes = Nodes(cluster, folder)
    try:
        head = nodes.start_head()
        wait_for(lambda: nodes.answer("/api/gcs_healthz")[0] == 200 or head.process.poll() is not None)
        assert head.process.poll() is None, (folder / "pod-0.log").read_text()
        yield nodes
    finally:
        for pod in nodes.pods:
            pod.vanishes()
        for pid in holders_of(nodes.token):  # drivers, which have sessions of their own
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def wait_for(condition: Callable[[], object], seconds: float = 180.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.2)
