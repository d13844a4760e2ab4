"""Zarr stores: whether a URL names one, what lies in it, and which version of it this is."""

import hashlib
from pathlib import Path
from typing import Any

import zarr
from zarr.errors import BaseZarrError

from pipeline.errors import SourceError
from pipeline.raster.source import Identity
from pipeline.storage import Folder, explained, is_local, is_signed, join_url, redact

METADATA_KEYS = ("zarr.json", ".zgroup", ".zarray", ".zattrs")
"""One of these lies in every group and array, of version 3 or 2."""

METADATA_ERRORS = (BaseZarrError, KeyError, ValueError, TypeError)
"""What zarr raises on metadata that are none."""


def is_zarr(url: str) -> bool:
    """Whether a normalised URL names a Zarr group or array: by its name, or by what lies there.

    Names with another suffix are not looked into: a bucket would have to answer four questions a raster.
    """
    path = redact(url)
    name = path.rsplit("/", 1)[-1]
    if is_signed(url) or (is_local(url) and not Path(url).is_dir()):
        return False
    if name.endswith(".zarr"):
        return True
    if "." in name and ".zarr/" not in path:
        return False
    return any(Folder(url).exists(key) for key in METADATA_KEYS)


def open_node(url: str) -> zarr.Group | zarr.Array[Any]:
    """The group or array at a normalised URL."""
    folder = Folder(url)
    try:
        with explained("open", url):
            return zarr.open(folder.zarr_store(read_only=True), mode="r")
    except FileNotFoundError as error:
        raise SourceError(f"there must be a Zarr group or array at {redact(url)}; there is none") from error
    except METADATA_ERRORS as error:
        raise SourceError(f"cannot open {redact(url)} as Zarr: {error}") from error


def member(group: zarr.Group, path: str, where: str) -> zarr.Group | zarr.Array[Any]:
    """What lies at a path below a group; an empty path is the group itself."""
    if not path:
        return group
    try:
        return group[path]
    except METADATA_ERRORS as error:
        raise SourceError(f"{where} must hold {path!r}, which its metadata name; it does not") from error


def array_at(group: zarr.Group, path: str, where: str) -> zarr.Array[Any]:
    """The array at a path below a group."""
    found = member(group, path, where)
    if not isinstance(found, zarr.Array):
        raise SourceError(f"{path!r} in {where} must be an array, got a group")
    return found


def identify_array(url: str, path: str) -> Identity:
    """What tells this version of an array from another: a digest of the names and versions of its objects.

    All of them are listed, since any chunk may be rewritten alone: a request for each thousand. Over plain
    HTTP nothing can be listed, and the metadata's object has to stand for the others.
    """
    folder = Folder(join_url(url, path) if path else url)
    if url.startswith(("http://", "https://")):
        found = [folder.head(key) for key in ("zarr.json", ".zarray")]
        objects = [one for one in found if one is not None]
    else:
        objects = sorted(folder.listing(), key=lambda one: one.key)
    digest = hashlib.sha256()
    for one in objects:
        # A local file's ETag holds its inode, which a copy changes; its size and time say enough.
        version = one.etag if one.etag and not is_local(url) else one.modified
        digest.update(f"{one.key}\0{one.size_bytes}\0{version}\n".encode())
    size = sum(one.size_bytes for one in objects)
    newest = max((one.modified for one in objects), default=None)
    return Identity(redact(folder.url), size, digest.hexdigest()[:32], newest)
