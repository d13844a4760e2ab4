"""What lies beside the files of many scenes: masks, metadata, world files, overviews.

GDAL asks for these whenever it opens a file, one after the other, and no other thread of Python can do
anything meanwhile: of a thousand scenes that is most of the first look. A listing of their folder answers for
all of them at once, and whoever opens a file later need not ask again.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.errors import StorageError
from pipeline.raster.scenes.patterns import Listings
from pipeline.storage import Folder, StoredObject, is_local, is_signed, join_url, split_url

ASKED_AT_ONCE = 32
BUCKETS = ("s3://", "gs://", "az://")
TIFF = (".tif", ".tiff")

FEW_OBJECTS = 5_000
OBJECTS_PER_FILE = 64
"""A folder is listed as long as it holds no more than these: in a larger one, asking for names is quicker."""


@dataclass(frozen=True)
class Beside:
    """What is known to lie beside files.

    Attributes:
        lone: Remote TIFFs beside which nothing lies that tells more of them. Other formats may be made of
            several files, which GDAL has to find itself. A file of which the store does not say what lies
            beside it is none of these either: then GDAL looks.
        masked: TIFFs that have a mask in a file of its own.
    """

    lone: frozenset[str] = frozenset()
    masked: frozenset[str] = frozenset()


def look_beside(urls: Collection[str], listings: Listings) -> Beside:
    """Find out what lies beside files, with few requests.

    Args:
        urls: Files, normalised.
        listings: What was listed before is not listed again.
    """
    tiffs = [url for url in urls if url.lower().endswith(TIFF) and not is_signed(url)]
    asked = [url for url in tiffs if not is_local(url)]
    here = frozenset(url for url in tiffs if is_local(url) and Path(mask_of(url)).exists())
    with ThreadPoolExecutor(ASKED_AT_ONCE, thread_name_prefix="beside") as threads:
        listed = [url for url in asked if listings.cover(url)]
        found = [_by_listing(listed, listings.everything())]
        folders: dict[str, list[str]] = defaultdict(list)
        for url in set(asked).difference(listed):
            folders[split_url(url)[0]].append(url)
        unlisted: list[str] = []
        below = threads.map(_list, folders, map(len, folders.values()))
        for files, names in zip(folders.values(), below, strict=True):
            if names is None:
                unlisted += files
            else:
                found.append(_by_listing(files, names))
        found.append(_by_name(unlisted, threads))
    lone = frozenset(url for one in found for url in one.lone)
    return Beside(lone, here.union(*(one.masked for one in found)))


def mask_of(url: str) -> str:
    """Where a file's mask lies, if it has one in a file of its own."""
    return f"{url}.msk"


def stored(url: str) -> StoredObject | None:
    """What a store tells of a file; None where there is none."""
    if not url.startswith(BUCKETS):
        parent, name = split_url(url)
        return Folder(parent).head(name)
    # By bucket, not by folder as usual: one connection serves ten thousand scenes.
    scheme, _, rest = url.partition("://")
    bucket, _, key = rest.partition("/")
    return Folder(f"{scheme}://{bucket}").head(key)


def _names_beside(url: str) -> Iterator[str]:
    """Every file that tells GDAL more of a TIFF."""
    yield mask_of(url)
    yield from (f"{url}{end}" for end in (".aux.xml", ".ovr"))
    path = PurePosixPath(url)
    stem = url.removesuffix(path.suffix)
    yield from (f"{stem}{end}" for end in {".tfw", f"{path.suffix}w", ".wld"})


def _by_listing(files: Sequence[str], below: Collection[str]) -> Beside:
    """What a listing tells.

    Args:
        files: Files of folders that were listed.
        below: Every file in these, as it is and in lower case: GDAL tries both.
    """
    lone = (url for url in files if not any(name.lower() in below for name in _names_beside(url)))
    return Beside(frozenset(lone), frozenset(url for url in files if mask_of(url) in below))


def _by_name(files: Sequence[str], threads: ThreadPoolExecutor) -> Beside:
    names = [(url, name) for url in files for name in _names_beside(url)]
    there = list(zip(names, threads.map(_is_there, [name for _, name in names]), strict=True))
    in_company = {url for (url, _), is_there in there if is_there is not False}
    masked = {url for (url, name), is_there in there if is_there and name == mask_of(url)}
    return Beside(frozenset(files) - in_company, frozenset(masked))


def _list(folder: str, num_files: int) -> frozenset[str] | None:
    """Every file below a folder of a bucket, also in lower case; None where names are rather asked for."""
    if not folder.startswith(BUCKETS):
        return None  # a web server lists nothing
    most = FEW_OBJECTS + OBJECTS_PER_FILE * num_files
    names: set[str] = set()
    try:
        for number, found in enumerate(Folder(folder).listing()):
            if number == most:
                return None
            name = join_url(folder, found.key)
            names |= {name, name.lower()}
    except StorageError:  # who may read what is in a bucket may still not list it
        return None
    return frozenset(names)


def _is_there(url: str) -> bool | None:
    """Whether a store has a file; None where it does not say."""
    try:
        return stored(url) is not None
    except StorageError:  # who may not list a bucket is told 403 of what is not there
        return None
