"""Going back: which versions of a nightly product there are, and readers given another one at once.

Nothing is computed and nothing is copied: versions never change, so that going back is a switch of
``latest.json``, made as carefully as a night's own: of a whole version only, and only if nobody else
switched meanwhile. The next night publishes again what its settings say.
"""

from datetime import UTC, datetime
from typing import Any

from pipeline.errors import MismatchError, StorageError
from pipeline.latest import POINTER_KEY, Pointer, Published, is_pointer, read_pointer, switch_pointer
from pipeline.raster.mosaic import Mosaic, array_names
from pipeline.segment.ledger import Ledger
from pipeline.segment.nightly.prune import VERSIONS, versions_of
from pipeline.storage import Folder, normalise_url, redact, split_url

MOST_NAMED = 10


def find_product(url: str) -> tuple[Folder, Published]:
    """A product by its prefix or its ``latest.json``, and what is published of it."""
    product = Folder(split_url(normalise_url(url))[0]) if is_pointer(url) else Folder.at(url)
    published = read_pointer(product)
    if published is None:
        raise StorageError(
            f"there must be a nightly product at {redact(product.url)}, but it has no {POINTER_KEY}; give "
            "the prefix that holds it: output.url of the nightly run"
        )
    return product, published


def list_versions(product: Folder, published: Published) -> list[dict[str, Any]]:
    """Every version, the newest first: its name, when it was begun, what it is to readers."""
    roles = {published.pointer.previous: "before", published.pointer.version: "latest"}
    return [
        {
            "version": version.name,
            "begun": version.begun,
            "state": roles.get(version.name, "kept") if version.is_complete else "unfinished",
        }
        for version in versions_of(product)
    ]


def restore(product: Folder, published: Published, name: str) -> Pointer:
    """Give readers another version.

    Args:
        product: The prefix of all versions.
        published: What they have now, as it was looked at.
        name: The version.

    Raises:
        StorageError: There is no such version, or it is not whole.
        MismatchError: Somebody else published another one meanwhile.
    """
    now = published.pointer
    if now.version == name:
        return now
    _check_known(product, name)
    mosaic = _whole_mosaic(product, name)
    pointer = Pointer(
        version=name,
        url=product.child(f"{VERSIONS}/{name}").url,
        run=str(mosaic.attributes["run_id"]),
        published=datetime.now(UTC).isoformat(timespec="microseconds"),
        previous=now.version,
    )
    if not switch_pointer(product, pointer, published):
        current = read_pointer(product)
        if current is None or current.pointer != pointer:  # else the store answered a repeated request
            raise MismatchError(
                f"{redact(product.url)}/{POINTER_KEY} named {now.version} a moment ago and now names "
                f"{current.pointer.version if current else 'nothing'}: a night was published meanwhile; "
                "look again, then decide"
            )
    return pointer


def _check_known(product: Folder, name: str) -> None:
    versions = versions_of(product)
    complete = [version.name for version in versions if version.is_complete]
    if name in complete:
        return
    if any(version.name == name for version in versions):
        raise StorageError(
            f"readers can be given whole versions only, and {name} was never finished; start the nightly "
            "run again to finish it"
        )
    raise StorageError(
        f"there must be a version {name!r} below {redact(product.url)}, but there are "
        f"{', '.join(complete[:MOST_NAMED]) or 'none'}{' and more' if len(complete) > MOST_NAMED else ''}"
    )


def _whole_mosaic(product: Folder, name: str) -> Mosaic:
    """The mosaic of a version, after a look whether all its objects are still there.

    They are listed, not read: they were read when the version was published, and it is urgent now.
    """
    folder = product.child(f"{VERSIONS}/{name}")
    mosaic, ledger = Mosaic.open(folder.url), Ledger.beside(folder.url)
    written = {key for _, record in ledger.records() for key in record.get("objects", {})}
    present = {
        stored.key for array in array_names(mosaic.layout) for stored in folder.listing(f"{array}/c/")
    }  # fmt: skip
    missing = sorted(written - present)
    if missing:
        raise StorageError(
            f"{len(missing)} of {len(written)} objects of {name} are gone, {missing[0]} first; give readers "
            "another version, or let a night compute it again"
        )
    return mosaic
