"""A real HTTP server that answers like the Kubernetes API, as far as jobs/nightly.py asks."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

Document = dict[str, Any]
Fault = int | Literal["drop", "lose"]
"""A status to answer with; "drop": hang up instead of an answer; "lose": do it, then hang up."""

TOKEN = "token-of-the-pod"
NAMESPACE = "terrazzo"


def status(phase: str, job: str = "", *, failed: int = 0, **more: Any) -> Document:
    """A RayJob's status as KubeRay 1.7 writes it."""
    document: Document = {
        "jobDeploymentStatus": phase,
        "jobStatus": job,
        "failed": failed,
        "succeeded": int(job == "SUCCEEDED"),
        "observedGeneration": 1,
        "rayClusterName": "terrazzo-nightly-20261121-x7k2p",
        "rayClusterStatus": {
            "desiredCPU": "0",
            "desiredGPU": "0",
            "desiredMemory": "0",
            "desiredTPU": "0",
            "head": {},
        },
        "rayJobInfo": {"startTime": "2026-11-21T02:03:11Z"},
        "startTime": "2026-11-21T02:00:05Z",
    }
    return document | more


INITIALIZING = status("Initializing")
RUNNING = status("Running", "RUNNING", jobId="terrazzo-nightly-20261121-9hqxz")
SUCCEEDED = status(
    "Complete", "SUCCEEDED", message="Job finished successfully.", endTime="2026-11-21T04:10:00Z"
)


def failed_with(code: int) -> Document:
    """The driver ended with a code; Ray says so in words, and appends the end of the log."""
    return status(
        "Failed",
        "FAILED",
        failed=3,
        reason="AppFailed",
        message=(
            f"Job entrypoint command failed with exit code {code}, last available logs "
            "(truncated to 20,000 chars):\nrefused: a child failed with exit code 70 once\n"
        ),
    )


@dataclass
class KubernetesServer:
    """What the cluster holds, and how it misbehaves.

    Attributes:
        statuses: What RayJobs without a status of their own go through, one step a look; the last one stays.
        faults: For ``"GET /path"`` by prefix, what happens to the next requests, in order.
        calls: Every request that was let in: verb as RBAC names it, resource, name.
    """

    template: Document
    statuses: list[Document] = field(default_factory=list)
    rayjobs: dict[str, Document] = field(default_factory=dict)
    pods: list[Document] = field(default_factory=list)
    logs: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    token: str = TOKEN
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_fault(self, method: str, path: str) -> Fault | None:
        for prefix, faults in self.faults.items():
            if f"{method} {path}".startswith(prefix) and faults:
                return faults.pop(0)
        return None

    def created(self) -> list[str]:
        return [name for verb, resource, name in self.calls if (verb, resource) == ("create", "rayjobs")]

    def add_rayjob(self, name: str, labels: dict[str, str], state: Document | None) -> None:
        self.rayjobs[name] = {
            "apiVersion": "ray.io/v1",
            "kind": "RayJob",
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
            "spec": {},
        }
        if state is not None:
            self.rayjobs[name]["status"] = state

    def add_submitter(self, rayjob: str, pod: str, lines: list[tuple[str, str]]) -> None:
        self.pods.append(
            {
                "metadata": {
                    "name": pod,
                    "creationTimestamp": f"2026-11-21T02:0{len(self.pods)}:00Z",
                    "labels": {"ray.io/originated-from-cr-name": rayjob},
                },
                "spec": {"containers": [{"name": "ray-job-submitter"}]},
            }
        )
        self.logs[pod] = lines

    def answer(self, method: str, path: str, query: dict[str, str], body: Document | None) -> tuple[int, Any]:
        parts = path.strip("/").split("/")
        namespace, resource, *names = parts[parts.index("namespaces") + 1 :]
        if namespace != NAMESPACE:
            return 403, problem(403, "Forbidden", f"cannot {method} in namespace {namespace}")
        name = names[0] if names else ""
        verb = "create" if method == "POST" else "get" if name else "list"
        if names[1:] == ["log"]:
            self.calls.append(("get", "pods/log", name))
            return self.log(name, query)
        if verb == "create":
            assert body is not None
            name = body["metadata"]["name"]
        self.calls.append((verb, resource, name))
        if resource == "raycronjobs":
            known = name == self.template["metadata"]["name"]
            return (200, self.template) if known else (404, problem(404, "NotFound", f'"{name}" not found'))
        if resource == "pods":
            return 200, {"kind": "PodList", "items": [pod for pod in self.pods if selected(pod, query)]}
        assert resource == "rayjobs", path
        if verb == "list":
            return 200, {
                "kind": "RayJobList",
                "items": [job for job in self.rayjobs.values() if selected(job, query)],
            }
        return self.create(name, body) if body is not None else self.look(name)

    def create(self, name: str, body: Document) -> tuple[int, Any]:
        if name in self.rayjobs:
            return 409, problem(409, "AlreadyExists", f'rayjobs.ray.io "{name}" already exists')
        self.rayjobs[name] = body
        return 201, body

    def look(self, name: str) -> tuple[int, Any]:
        if name not in self.rayjobs:
            return 404, problem(404, "NotFound", f'rayjobs.ray.io "{name}" not found')
        document = dict(self.rayjobs[name])
        if "status" not in document and self.statuses:
            document["status"] = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        return 200, document

    def log(self, pod: str, query: dict[str, str]) -> tuple[int, Any]:
        assert query["container"] == "ray-job-submitter"
        assert query["timestamps"] == "true"
        if pod not in self.logs:
            return 400, problem(
                400, "BadRequest", f'container in pod "{pod}" is waiting to start: PodInitializing'
            )
        since = query.get("sinceTime", "").removesuffix("Z")
        lines = [f"{stamp} {line}\n" for stamp, line in self.logs[pod] if stamp[:19] >= since]
        return 200, "".join(lines)


def problem(code: int, reason: str, message: str) -> Document:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }


def selected(document: Document, query: dict[str, str]) -> bool:
    key, _, value = query["labelSelector"].partition("=")
    labels: dict[str, str] = document["metadata"].get("labels", {})
    return labels.get(key) == value


@contextmanager
def serving(server: KubernetesServer, port: int = 0) -> Iterator[KubernetesServer]:
    """The server, listening on a port of its own, or on the one it had before it went away."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.handle_call("GET", None)

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            self.handle_call("POST", json.loads(data))

        def handle_call(self, method: str, body: Document | None) -> None:
            parts = urlsplit(self.path)
            with server.lock:
                fault = server.next_fault(method, parts.path)
                if fault == "drop":
                    self.close_connection = True
                    return
                if isinstance(fault, int):
                    self.reply(fault, problem(fault, "Injected", "etcdserver: request timed out"))
                    return
                if self.headers.get("Authorization") != f"Bearer {server.token}":
                    self.reply(401, problem(401, "Unauthorized", "Unauthorized"))
                    return
                code, content = server.answer(method, parts.path, dict(parse_qsl(parts.query)), body)
            if fault == "lose":
                self.close_connection = True
                return
            self.reply(code, content)

        def reply(self, code: int, content: Any) -> None:
            data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_args: Any) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{listener.server_address[1]}"
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


def mount_account(folder: Path) -> Path:
    """A service account's folder as Kubernetes mounts it."""
    folder.mkdir(exist_ok=True)
    (folder / "token").write_text(TOKEN)
    (folder / "namespace").write_text(NAMESPACE)
    return folder
