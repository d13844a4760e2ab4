"""What a RayJob's status means, and what a certificate must be."""

import datetime as dt
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import Refused
from pipeline.kubernetes.api import KubernetesApi
from pipeline.kubernetes.rayjob import RayJobState
from tests.k8s.kubernetes_server import RUNNING, SUCCEEDED, failed_with, mount_account, status


def state(document: dict[str, Any] | None) -> RayJobState:
    return RayJobState.of({"metadata": {"name": "a"}, **({"status": document} if document else {})})


@pytest.mark.parametrize(
    ("document", "code"),
    [
        (SUCCEEDED, 0),
        *((failed_with(code), code) for code in (1, 2, 3, 70)),
        (failed_with(-9), 1),  # killed by a signal
        (failed_with(139), 1),  # not one of our jobs' codes
        (failed_with(0), 1),  # failed is never a success, whatever the words
        (status("Complete", "STOPPED", message="Job was intentionally stopped."), 1),
        (status("Failed", "", reason="SubmissionFailed", message="submission failed with exit code 3"), 1),
        (status("ValidationFailed", reason="ValidationFailed", message="The RayJob spec is invalid"), 2),
    ],
)
def test_exit_codes(document: dict[str, Any], code: int) -> None:
    assert state(document).is_finished
    assert state(document).exit_code == code


@pytest.mark.parametrize(
    "document", [None, RUNNING, status("Retrying", "FAILED"), status("Suspended"), status("Waiting")]
)
def test_everything_else_goes_on(document: dict[str, Any] | None) -> None:
    assert not state(document).is_finished


def test_the_clusters_authority_is_trusted_and_no_other(tmp_path: Path) -> None:
    x509 = pytest.importorskip("cryptography.x509", reason="NOT CHECKED: TLS, for want of cryptography")
    ours, theirs = (make_certificate(x509, tmp_path / name) for name in ("ours", "theirs"))
    account = mount_account(tmp_path / "account")
    with listening_with(ours) as url:
        (account / "ca.crt").write_bytes((ours / "cert.pem").read_bytes())
        assert reach(url, account).get("/version") == {"major": "1"}
        (account / "ca.crt").write_bytes((theirs / "cert.pem").read_bytes())
        with pytest.raises(Refused, match="must show a certificate that the cluster's authority signed"):
            reach(url, account).get("/version")


def test_the_address_comes_from_the_environment_of_a_pod(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = mount_account(tmp_path / "account")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT_HTTPS", "6443")
    assert reach(None, account).url == "https://[fd00::1]:6443"
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
    with pytest.raises(Refused, match="KUBERNETES_SERVICE_HOST must be set"):
        reach(None, account)


def reach(url: str | None, account: Path) -> KubernetesApi:
    return KubernetesApi.from_pod(url=url, namespace=None, account_folder=str(account), patience_s=0.1)


def make_certificate(x509: Any, folder: Path) -> Path:
    """A certificate for this machine that signs itself, and its key."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, folder.name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return folder


@contextmanager
def listening_with(certificate: Path) -> Iterator[str]:
    """An HTTPS server that answers everything with a version."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"major": "1"}')

        def log_message(self, *_args: Any) -> None:
            pass

    class Quiet(HTTPServer):
        def handle_error(self, *_args: Any) -> None:
            """A client that turns away is the point of the test."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    listener = Quiet(("127.0.0.1", 0), Handler)
    listener.socket = context.wrap_socket(listener.socket, server_side=True)
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{listener.server_address[1]}"
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()
