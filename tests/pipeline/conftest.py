"""Real rasters where this checkout has them beside it, a quick S3 over real HTTP, and a real one."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
import requests

from pipeline import storage
from tests.pipeline.ceph import Ceph, running_ceph

SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
ACCESS_KEY = "AKIAEXAMPLEOFAKEYID1"
SECRET_KEY = "not-a-real-secret-but-long-enough"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real rasters; tests that need it skip loudly where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real rasters are looked for in {SHARED_DATA}, which does not exist")
    return SHARED_DATA


@dataclass(frozen=True)
class Bucket:
    """A bucket on a server of our own; ``AWS_*`` variables lead obstore and GDAL there."""

    url: str
    name: str
    endpoint: str

    def put_public(self, key: str, data: bytes) -> None:
        """Store an object that anybody may read; every other is private."""
        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
        )
        client.put_object(Bucket=self.name, Key=key, Body=data, ACL="public-read")

    def requests(self) -> list[tuple[str, str]]:
        """Every request since the bucket was made: its method, and its key; "" where it was the bucket."""
        log = requests.get(f"{self.endpoint}/requests", timeout=10).json()
        keys = [(method, path.lstrip("/").partition("/")) for method, path in log]
        return [(method, key) for method, (bucket, _, key) in keys if bucket == self.name]

    def check_credentials(self) -> None:
        """From now on the server knows no key at all, so that every signed request is turned down."""
        requests.post(f"{self.endpoint}/moto-api/reset-auth", data=b"0", timeout=10).raise_for_status()


SERVE = """
import json
import sys
import threading
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server
backend, log = DomainDispatcherApplication(create_backend_app), []
def logged(environ, start_response):
    if environ["PATH_INFO"] == "/requests":
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(log).encode()]
    if environ["PATH_INFO"] == "/moto-api/reset":
        log.clear()
    log.append([environ["REQUEST_METHOD"], environ["PATH_INFO"]])
    return backend(environ, start_response)
server = make_server("127.0.0.1", 0, logged, threaded=True, request_handler=MotoRequestHandler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(*server.server_address[:2], flush=True)
sys.stdin.read()  # until the tests are over, however they end
server.shutdown()
"""


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The endpoint of an S3 server.

    It has a process of its own: GDAL asks for sidecar files while rasterio holds the interpreter's lock, so a
    server in this process could never answer.
    """
    command = [sys.executable, "-W", "ignore", "-c", SERVE]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        host, port = server.stdout.readline().split()
        yield f"http://{host}:{port}"
        assert server.stdin is not None
        server.stdin.close()


@pytest.fixture
def s3_bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """An empty bucket, with the environment that a user of that server would set."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    # A failure must be seen at once: waiting for a better network is tested by nobody's patience.
    monkeypatch.setattr(storage, "RETRIES", 1)
    monkeypatch.setattr(storage, "RETRY_SECONDS", 2)
    monkeypatch.setattr(storage, "REQUEST_SECONDS", 5)
    requests.post(f"{s3_server}/moto-api/reset", timeout=10).raise_for_status()
    # Reset counts as one action; unlimited again, whatever an earlier test asked for.
    requests.post(f"{s3_server}/moto-api/reset-auth", data=b"1000000000", timeout=10).raise_for_status()
    requests.put(f"{s3_server}/terrazzo-tests", timeout=10).raise_for_status()
    storage._open_store.cache_clear()
    yield Bucket("s3://terrazzo-tests", "terrazzo-tests", s3_server)
    storage._open_store.cache_clear()


@pytest.fixture(scope="module")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    """A real S3 server, of one test file's own; ``AWS_*`` variables lead there."""
    with running_ceph(tmp_path_factory.mktemp("ceph")) as server:
        yield server
