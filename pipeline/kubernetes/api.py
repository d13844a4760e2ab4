"""A program in a pod talks to the Kubernetes API: HTTP, a service account and patience.

Only the standard library: three calls on a handful of resources do not earn a client library in every image.
"""

import json
import logging
import os
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import HTTPSHandler, OpenerDirector, ProxyHandler, Request, build_opener

from pipeline.errors import Refused, TerrazzoError

log = logging.getLogger(__name__)

ACCOUNT_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes mounts a pod's token, its namespace and the authority behind the API's certificate."""

REQUEST_SECONDS = 30.0
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
"""Answers that a healthy control plane gives now and then; asking again helps."""

HTTP_UNAUTHORIZED = 401
HTTP_NOT_FOUND = 404
HTTP_CONFLICT = 409
HTTP_BAD_REQUEST = 400

Document = dict[str, Any]


class KubernetesRefusal(Refused):
    """The API answered, and the answer is no.

    Attributes:
        status: The HTTP status, 404 or 409 for instance.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class KubernetesUnreachable(TerrazzoError):
    """The API gave no usable answer for as long as the caller was ready to wait."""


@dataclass(frozen=True)
class KubernetesApi:
    """The API as one service account sees it, in one namespace.

    Attributes:
        url: Scheme, host and port.
        namespace: Where everything happens.
        token_path: Read anew for every request, since Kubernetes replaces tokens while pods run.
        patience_s: How long a call goes on asking while the API does not answer.
    """

    url: str
    namespace: str
    token_path: Path
    patience_s: float
    opener: OpenerDirector = field(repr=False)

    @classmethod
    def from_pod(
        cls, *, url: str | None, namespace: str | None, account_folder: str | None, patience_s: float
    ) -> "KubernetesApi":
        """The API of the cluster that this process runs in; what is given wins over what the pod says."""
        folder = Path(account_folder) if account_folder else ACCOUNT_FOLDER
        url = (url or _url_from_environment()).rstrip("/")
        if not url.startswith(("https://", "http://")):
            raise Refused(f"api.url must begin with https:// (http:// behind kubectl proxy), got {url!r}")
        if not (folder / "token").is_file():
            raise Refused(
                f"there must be a service account's token at {folder / 'token'}; there is none: run this in "
                "a pod with automountServiceAccountToken, or name the folder with api.account_folder"
            )
        if namespace is None and not (folder / "namespace").is_file():
            raise Refused(f"api.namespace must be given where there is no {folder / 'namespace'} to say it")
        authority = folder / "ca.crt"
        context = ssl.create_default_context(cafile=str(authority) if authority.is_file() else None)
        return cls(
            url=url,
            namespace=namespace or (folder / "namespace").read_text().strip(),
            token_path=folder / "token",
            patience_s=patience_s,
            # No proxy: the API is inside the cluster, whatever HTTPS_PROXY is set for.
            opener=build_opener(ProxyHandler({}), HTTPSHandler(context=context)),
        )

    def get(self, path: str, **query: str) -> Document:
        """One object, or a list by label."""
        return _parsed(path, self._ask("GET", path, query, None))

    def get_text(self, path: str, **query: str) -> str:
        """What is not JSON: logs."""
        return self._ask("GET", path, query, None).decode(errors="replace")

    def create(self, path: str, document: Mapping[str, Any]) -> Document:
        """Create an object; ``KubernetesRefusal`` if the name is taken, even by a lost try of this call."""
        return _parsed(path, self._ask("POST", path, {}, document))

    def rayjobs_path(self, name: str = "") -> str:
        """The path of RayJobs of this namespace, or of one."""
        return self._path("apis/ray.io/v1", "rayjobs", name)

    def raycronjobs_path(self, name: str) -> str:
        """The path of a RayCronJob."""
        return self._path("apis/ray.io/v1", "raycronjobs", name)

    def pods_path(self, name: str = "") -> str:
        """The path of pods of this namespace, or of one."""
        return self._path("api/v1", "pods", name)

    def _path(self, group: str, plural: str, name: str) -> str:
        return f"/{group}/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else "")

    def _ask(self, method: str, path: str, query: Mapping[str, str], body: Mapping[str, Any] | None) -> bytes:
        """One call, repeated while the API is only briefly away."""
        give_up_at = time.monotonic() + self.patience_s
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return self._ask_once(method, path, query, body)
            except KubernetesUnreachable as error:
                if time.monotonic() + pause_s > give_up_at:
                    raise KubernetesUnreachable(
                        f"the Kubernetes API must answer within {self.patience_s:g} s (api.patience_s): "
                        f"{error}"
                    ) from error
                log.warning("%s; asking again in %g s", error, pause_s)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _ask_once(
        self, method: str, path: str, query: Mapping[str, str], body: Mapping[str, Any] | None
    ) -> bytes:
        address = f"{self.url}{path}" + (f"?{urlencode(query)}" if query else "")
        request = Request(  # noqa: S310 - from_pod has checked the scheme
            address,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Accept": "application/json", "Content-Type": "application/json"},
            method=method,
        )
        # Unredirected: should anything answer with a redirect, the token does not follow it.
        request.add_unredirected_header("Authorization", f"Bearer {self.token_path.read_text().strip()}")
        try:
            with self.opener.open(request, timeout=REQUEST_SECONDS) as answer:
                data: bytes = answer.read()
                return data
        except HTTPError as error:
            with error:
                message = _message(error)
            sentence = f"{method} {path} was answered {error.code}: {message}"
            if error.code in TRANSIENT:
                raise KubernetesUnreachable(sentence) from error
            raise KubernetesRefusal(error.code, f"{sentence}{_hint(error.code)}") from error
        except (URLError, HTTPException, OSError) as error:
            if isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError):
                raise Refused(
                    f"{self.url} must show a certificate that the cluster's authority signed: {error}"
                ) from error
            raise KubernetesUnreachable(f"{method} {path} was not answered: {error}") from error


def _url_from_environment() -> str:
    """Where every pod is told that the API is."""
    host = os.environ.get("KUBERNETES_SERVICE_HOST")
    if not host:
        raise Refused("KUBERNETES_SERVICE_HOST must be set, as it is in every pod; or give api.url")
    port = os.environ.get("KUBERNETES_SERVICE_PORT_HTTPS", "443")
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def _parsed(path: str, data: bytes) -> Document:
    try:
        document: Document = json.loads(data)
    except ValueError as error:
        raise KubernetesUnreachable(f"{path} must be answered with JSON, got {data[:80]!r}") from error
    return document


def _message(error: HTTPError) -> str:
    """What Kubernetes says is wrong; its errors are documents of kind Status."""
    try:
        text = error.read().decode(errors="replace")
    except (HTTPException, OSError):
        return str(error.reason)
    try:
        said = json.loads(text).get("message")
    except (ValueError, AttributeError):
        said = None
    return str(said or text.strip()[:200] or error.reason)


def _hint(status: int) -> str:
    if status in (HTTP_UNAUTHORIZED, 403):
        return "; check the Role and RoleBinding of the pod's service account"
    return ""
