"""One URL, one set of credentials, two readers: obstore for objects, GDAL for rasters.

``s3://``, ``gs://``, ``az://`` (container first), ``https://`` and local paths. Credentials come from the
environment alone (``AWS_*``, ``GOOGLE_*``, ``AZURE_*``) and never enter a setting, a log or a mosaic.
"""

import functools
import math
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, ObjectStore, from_url
from zarr.storage import ObjectStore as ZarrObjectStore

from pipeline.errors import StorageError
from pipeline.remedies import about_keys, where_to_look

GDAL_PREFIXES = {
    "s3": "/vsis3/",
    "gs": "/vsigs/",
    "az": "/vsiaz/",
    "http": "/vsicurl/http://",
    "https": "/vsicurl/https://",
}
"""How GDAL names what stands behind ``scheme://``."""

CREDENTIAL_PREFIXES = ("AWS_", "GOOGLE_", "GS_", "AZURE_")
"""Environment variables that workers need as the driver has them."""

SHORTEST_SECRET = 8
"""Shorter values ("test", "minio") are words of their own: blotting them out would spoil messages."""

MIN_PART_BYTES = 8 << 20
MAX_PARTS = 9000  # S3 takes 10 000
PARTS_AT_ONCE = 4

RETRIES = 8
RETRY_SECONDS = 120
REQUEST_SECONDS = 60


def normalise_url(url: str | Path) -> str:
    """A URL with a scheme, or an absolute local path; no trailing slash."""
    text = str(url)
    if not text:
        raise StorageError(
            "a URL must be a local path or begin with a scheme such as s3://; got an empty one"
        )
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if "://" not in text:
        return str(Path(text).expanduser().absolute())
    scheme = text.split("://", 1)[0]
    if scheme not in GDAL_PREFIXES:
        known = ", ".join(f"{s}://" for s in GDAL_PREFIXES)
        raise StorageError(f"a URL must be a local path or begin with {known}; got {redact(text)!r}")
    return text.rstrip("/")


def is_signed(url: str) -> bool:
    """Whether a web address carries a query, as pre-signed ones do: it then serves one request only."""
    return url.startswith(("http://", "https://")) and "?" in url


def is_local(url: str) -> bool:
    """Whether a normalised URL is a path on this machine."""
    return "://" not in url


def redact(url: str) -> str:
    """The URL without user names, passwords and signatures, fit for logs and mosaics."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rsplit('@', 1)[-1]}{parts.path}"


def redact_text(text: str) -> str:
    """A message from another library without user names, passwords, signatures and credentials."""
    for name, value in credentials().items():
        is_secret = any(word in name for word in ("KEY", "SECRET", "TOKEN", "CONNECTION_STRING"))
        if is_secret and len(value) >= SHORTEST_SECRET:
            text = text.replace(value, "***")
    text = re.sub(r"://[^/\s'\"]*@", "://", text)
    return re.sub(r"(\?|%3F)[^\s'\"]+", "", text)


def gdal_path(url: str) -> str:
    """The same place as GDAL names it."""
    if is_local(url):
        return url
    scheme, rest = url.split("://", 1)
    return GDAL_PREFIXES[scheme] + rest


def from_gdal_path(path: str) -> str | None:
    """The reverse; None for what only GDAL can find, such as a member of an archive."""
    if not path.startswith("/vsi"):
        return path
    known = (
        f"{scheme}://{path.removeprefix(start)}"
        for scheme, start in GDAL_PREFIXES.items()
        if path.startswith(start)
    )
    return next(known, None)


def join_url(parent: str, name: str) -> str:
    """``name`` below ``parent``."""
    return f"{parent.rstrip('/')}/{name}"


def split_url(url: str) -> tuple[str, str]:
    """The folder and the last name of a normalised URL."""
    parent, _, name = url.rpartition("/")
    if parent.endswith(":/"):
        raise StorageError(f"a URL must name something in the bucket, got {redact(url)}")
    return parent or "/", name


@dataclass(frozen=True)
class StoredObject:
    """What a listing tells of one object; keys are relative to the folder."""

    key: str
    size_bytes: int
    etag: str | None
    modified: str


@dataclass(frozen=True)
class Folder:
    """A directory or a prefix in a bucket. Holds no connection, so it can be sent to other processes."""

    url: str

    @classmethod
    def at(cls, url: str | Path) -> "Folder":
        """The folder at a URL or path as a user writes it."""
        return cls(normalise_url(url))

    def child(self, name: str) -> "Folder":
        """A folder below this one."""
        return Folder(join_url(self.url, name))

    def read(self, key: str) -> bytes:
        """An object's bytes; ``FileNotFoundError`` where there is none."""
        with explained(f"read {key!r} from", self.url):
            return bytes(obstore.get(self._store(), key).bytes())

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Part of an object's bytes."""
        with explained(f"read {key!r} from", self.url):
            return bytes(obstore.get_range(self._store(), key, start=start, length=length))

    def write(self, key: str, data: bytes) -> None:
        """Write an object at once: readers see the old one or the new one, never a part."""
        with explained(f"write {key!r} to", self.url, missing_is_fault=True):
            obstore.put(self._store(create=True), key, data)

    def create(self, key: str, data: bytes) -> bool:
        """Write an object unless there is one; whether this call wrote it."""
        with explained(f"write {key!r} to", self.url, missing_is_fault=True):
            try:
                obstore.put(self._store(create=True), key, data, mode="create")
            except AlreadyExistsError:
                return False
        return True

    def upload(self, key: str, path: Path) -> None:
        """Write a file of any size in parts; readers see it only when the last has arrived."""
        part_bytes = max(MIN_PART_BYTES, math.ceil(path.stat().st_size / MAX_PARTS))
        with explained(f"write {key!r} to", self.url, missing_is_fault=True):
            obstore.put(
                self._store(create=True), key, path, chunk_size=part_bytes, max_concurrency=PARTS_AT_ONCE
            )

    def exists(self, key: str) -> bool:
        """Whether there is an object of this name."""
        return self.head(key) is not None

    def head(self, key: str) -> StoredObject | None:
        """What is known of an object without reading it; None where there is none."""
        try:
            with explained(f"look up {key!r} in", self.url):
                meta = obstore.head(self._store(), key)
        except FileNotFoundError:
            return None
        return StoredObject(key, meta["size"], meta["e_tag"], meta["last_modified"].isoformat())

    def listing(self, prefix: str = "") -> Iterator[StoredObject]:
        """Every object below a prefix that ends at a ``/``, in no promised order."""
        if is_local(self.url) and not Path(self.url).is_dir():
            return
        with explained("list", self.url):
            for batch in obstore.list(self._store(), prefix=prefix or None):
                for meta in batch:
                    yield StoredObject(
                        meta["path"], meta["size"], meta["e_tag"], meta["last_modified"].isoformat()
                    )

    def is_empty(self) -> bool:
        """Whether nothing is stored below."""
        return next(self.listing(), None) is None

    def delete(self, keys: list[str]) -> None:
        """Remove objects; those already gone do not matter."""
        with explained("delete from", self.url):
            try:
                obstore.delete(self._store(), keys)
            except FileNotFoundError:  # S3 does not mind; elsewhere one that is gone stops those after it
                for key in keys:
                    with suppress(FileNotFoundError):
                        obstore.delete(self._store(), key)

    def delete_all(self) -> None:
        """Remove everything below."""
        if is_local(self.url):
            if Path(self.url).is_dir():
                with explained("delete", self.url, missing_is_fault=True):
                    shutil.rmtree(self.url)
            return
        self.delete([found.key for found in self.listing()])

    def zarr_store(self, *, read_only: bool = False) -> ZarrObjectStore[ObjectStore]:
        """The folder as zarr sees it."""
        return ZarrObjectStore(self._store(create=not read_only), read_only=read_only)

    def object_store(self) -> ObjectStore:
        """The folder as obstore sees it; its directory is made where it is a local one."""
        return self._store(create=True)

    def _store(self, *, create: bool = False) -> ObjectStore:
        if is_local(self.url):
            path = Path(self.url)
            if create:
                path.mkdir(parents=True, exist_ok=True)
            elif not path.is_dir():
                raise FileNotFoundError(f"there is no directory {self.url}")
        return _open_store(self.url)


def read_url(url: str | Path) -> bytes:
    """The bytes of one object or file."""
    normal = normalise_url(url)
    try:
        if is_signed(normal):  # by its query, which must be sent as it is
            with explained("read", normal):
                return bytes(obstore.get(_open_store(normal), "").bytes())
        parent, name = split_url(normal)
        return Folder(parent).read(name)
    except FileNotFoundError as error:
        where = redact(str(url))
        raise StorageError(
            f"there must be a file at {where}; there is none; {where_to_look(where)}"
        ) from error


def write_url(url: str | Path, data: bytes) -> None:
    """Write one object or file at once."""
    parent, name = split_url(normalise_url(url))
    Folder(parent).write(name, data)


def credentials() -> dict[str, str]:
    """The driver's credential variables, to be set in workers; never logged, never stored."""
    return {name: value for name, value in os.environ.items() if name.startswith(CREDENTIAL_PREFIXES)}


def gdal_options(*, cache_bytes: int, num_threads: int) -> dict[str, str | int]:
    """GDAL's settings for cloud reads, with the credentials that obstore uses."""
    options: dict[str, str | int] = {
        "GDAL_CACHEMAX": cache_bytes,
        "GDAL_NUM_THREADS": num_threads,
        # Sidecar masks and overviews are found by asking for them, not by listing a whole bucket.
        "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE",
        "GDAL_INGESTED_BYTES_AT_OPEN": 65536,
        "GDAL_HTTP_MULTIPLEX": "YES",
        "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
        # Which answers are worth a retry is left to GDAL (429, 5xx, broken connections). "ALL" would hold 404
        # for one, and every open asks for sidecar files that are not there: a minute and more, each time.
        "GDAL_HTTP_MAX_RETRY": RETRIES,
        "GDAL_HTTP_RETRY_DELAY": 1,
        "GDAL_HTTP_CONNECTTIMEOUT": 20,
        "GDAL_HTTP_TIMEOUT": REQUEST_SECONDS,
        "CPL_VSIL_CURL_CHUNK_SIZE": 1 << 18,
        "CPL_VSIL_CURL_CACHE_SIZE": 32 << 20,
        # Kept only while a file is open: one that is replaced later must not be read as it was before.
        "CPL_VSIL_CURL_NON_CACHED": ":".join(f"/{path.split('/')[1]}/" for path in GDAL_PREFIXES.values()),
    }
    endpoint = _s3_endpoint()
    if endpoint:
        parts = urlsplit(endpoint)
        options["AWS_S3_ENDPOINT"] = parts.netloc + parts.path.rstrip("/")
        options["AWS_HTTPS"] = "NO" if parts.scheme == "http" else "YES"
        options["AWS_VIRTUAL_HOSTING"] = "YES" if _is_set("AWS_VIRTUAL_HOSTED_STYLE_REQUEST") else "NO"
    # Said either way: an option that an earlier environment set may outlive it in another thread.
    options["AWS_NO_SIGN_REQUEST"] = "YES" if _is_anonymous() else "NO"
    return options


@functools.lru_cache(maxsize=64)
def _open_store(url: str) -> ObjectStore:
    if is_local(url):
        return LocalStore(url)
    retry = {"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_SECONDS)}
    client = {"timeout": f"{REQUEST_SECONDS}s", "allow_http": url.startswith("http://")}
    try:
        if not url.startswith("s3://"):
            return from_url(url, client_options=client, retry_config=retry)  # type: ignore[call-overload]
        virtual_hosted = _is_set("AWS_VIRTUAL_HOSTED_STYLE_REQUEST")
        config: dict[str, object] = {"virtual_hosted_style_request": virtual_hosted}
        if _is_anonymous():
            config["skip_signature"] = True
        if not (os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")):
            config["region"] = "us-east-1"
        endpoint = _s3_endpoint()
        if endpoint:
            config["endpoint"] = endpoint
            client["allow_http"] = endpoint.startswith("http://")
        return from_url(url, config=config, client_options=client, retry_config=retry)  # type: ignore[call-overload]
    except BaseError as error:
        raise StorageError(f"cannot open {redact(url)}: {_in_short(error)}") from error


def _s3_endpoint() -> str | None:
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint and not re.fullmatch(r"https?://[^\s/]+(/\S*)?", endpoint):  # obstore would die of it
        raise StorageError(
            f"AWS_ENDPOINT_URL must be an address like https://host:port, got {redact_text(endpoint)!r}"
        )
    return endpoint


def _is_anonymous() -> bool:
    return _is_set("AWS_SKIP_SIGNATURE") or _is_set("AWS_NO_SIGN_REQUEST")


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true", "yes", "on")


@contextmanager
def explained(action: str, url: str, *, missing_is_fault: bool = False) -> Iterator[None]:
    """Turn a store's failure into a sentence that names the place and the likely cause.

    Args:
        action: What was tried, as it reads after "cannot".
        url: The place it was tried at.
        missing_is_fault: Whether ``FileNotFoundError``, which readers handle, is a failure too: what is
            written is never missing, but its bucket may be.
    """
    try:
        yield
    except (BaseError, PermissionError, OSError) as error:
        if isinstance(error, FileNotFoundError) and not missing_is_fault:
            raise
        general = "" if is_local(url) else "; check the URL, the network and the credentials (AWS_*, ...)"
        keys = about_keys(url, str(error))
        hint = f"; {keys}" if keys else general
        # Not "from error": its text holds whole requests, and tracebacks are stored.
        sentence = f"cannot {redact_text(action)} {redact(url)}: {_in_short(error)}{hint}"
        raise StorageError(sentence) from None


def _in_short(error: BaseException) -> str:
    """The first line of an error, and what the server answered, without secrets."""
    first = str(error).strip().split("\n", 1)[0].removesuffix('<?xml version="1.0" encoding="utf-8"?>')
    said = re.search(r"<Code>(.*?)</Code>\s*<Message>(.*?)</Message>", str(error), re.DOTALL)
    answer = f" {said[1]}: {said[2]}" if said else ""
    return redact_text(f"{first.strip(' :')}{':' if answer else ''}{answer}")
