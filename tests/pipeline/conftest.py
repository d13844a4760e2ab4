"""A quick S3 over real HTTP, for every wing of the pipeline."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import boto3
import pytest
import requests

from pipeline import storage

ACCESS_KEY = "AKIAEXAMPLEOFAKEYID1"
SECRET_KEY = "not-a-real-secret-but-long-enough"


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

    def check_credentials(self) -> None:
        """From now on the server knows no key at all, so that every signed request is turned down."""
        requests.post(f"{self.endpoint}/moto-api/reset-auth", data=b"0", timeout=10).raise_for_status()


SERVE = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(*server.get_host_and_port(), flush=True)
sys.stdin.read()  # until the tests are over, however they end
server.stop()
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
