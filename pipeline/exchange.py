"""More than reading and writing an object: replacing it only if it is as it was, and taking it over."""

import fcntl
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import obstore
from obstore.exceptions import PreconditionError

from pipeline.errors import StorageError
from pipeline.storage import Folder, explained, is_local, join_url, redact


@dataclass(frozen=True)
class Revision:
    """An object as it was read once."""

    data: bytes
    etag: str | None
    version: str | None


def read_revision(folder: Folder, key: str) -> Revision | None:
    """An object with what its store calls this state of it; None where there is none."""
    if is_local(folder.url) and not folder.exists(key):
        return None
    try:
        with explained(f"read {key!r} from", folder.url):
            found = obstore.get(folder.object_store(), key)
            return Revision(bytes(found.bytes()), found.meta["e_tag"], found.meta["version"])
    except FileNotFoundError:
        return None


def replace(folder: Folder, key: str, data: bytes, expected: Revision | None) -> bool:
    """Write an object only if it is still as it was read (None: absent); whether this call wrote it."""
    if expected is None:
        return folder.create(key, data)
    if is_local(folder.url):
        with _locked_directory(folder.url):
            current = read_revision(folder, key)
            if current is None or current.data != expected.data:
                return False
            folder.write(key, data)
            return True
    for etag in _spellings(expected.etag):
        if _put_if(folder, key, data, etag, expected.version):
            return True
        current = read_revision(folder, key)
        if current is None or (current.etag, current.version) != (expected.etag, expected.version):
            return False
    raise StorageError(
        f"{key!r} in {redact(folder.url)} must be replaced only if nobody else did, but its store turns that "
        "down although nobody did; it must know conditional writes (If-Match)"
    )


def _put_if(folder: Folder, key: str, data: bytes, etag: str | None, version: str | None) -> bool:
    known = {"e_tag": etag, "version": version}
    condition = {name: value for name, value in known.items() if value is not None}
    with explained(f"replace {key!r} in", folder.url, missing_is_fault=True):
        try:
            obstore.put(folder.object_store(), key, data, mode=condition)  # type: ignore[arg-type]
        except PreconditionError:
            return False
    return True


def _spellings(etag: str | None) -> list[str | None]:
    """An ETag as it was given, and without its quotes: Ceph tells them with quotes and compares without."""
    return [etag] if etag is None or etag == etag.strip('"') else [etag, etag.strip('"')]


def children(folder: Folder) -> list[str]:
    """Names of the folders right below, without listing what is in them."""
    if is_local(folder.url):
        path = Path(folder.url)
        return sorted(child.name for child in path.iterdir() if child.is_dir()) if path.is_dir() else []
    with explained("list", folder.url):
        found = obstore.list_with_delimiter(folder.object_store())
    return sorted(prefix.rstrip("/").rsplit("/", 1)[-1] for prefix in found["common_prefixes"])


def take_over(source: Folder, target: Folder, key: str) -> None:
    """Copy an object to another folder under the same name; ``FileNotFoundError`` where there is none.

    Within one bucket the store copies by itself. Among local files a second link is made: objects are
    replaced as a whole, never changed, so links do not disturb each other. Else bytes pass through here.
    """
    root = _common_root(source.url, target.url)
    if root is not None:
        below = len(root.rstrip("/")) + 1
        try:
            with explained(f"copy {key!r} to", target.url):
                store = Folder(root).object_store()
                obstore.copy(store, join_url(source.url, key)[below:], join_url(target.url, key)[below:])
                return
        except StorageError:
            if not is_local(target.url):
                raise  # some file systems know no links, and two never share them: there, bytes are copied
    target.write(key, source.read(key))


def _common_root(first: str, second: str) -> str | None:
    """The deepest folder that holds both; None where they share no store."""
    pairs = zip(first.split("/"), second.split("/"), strict=False)
    same = [one for one, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)]
    if is_local(first) and is_local(second):
        return "/".join(same) or "/"
    return "/".join(same) if len(same) > 2 else None  # the scheme, nothing, the bucket


@contextmanager
def _locked_directory(path: str) -> Iterator[None]:
    """One process at a time; one that dies lets go."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
