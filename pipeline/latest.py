"""``latest.json``: the one small object that says which version of a product readers should use.

A product is a prefix with ``latest.json`` and ``versions/``. Versions never change once they are published;
the pointer is switched at once, and only if nobody else switched it meanwhile.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from pipeline.errors import StorageError
from pipeline.exchange import Revision, read_revision, replace
from pipeline.storage import Folder, normalise_url, redact, split_url

POINTER_KEY = "latest.json"


@dataclass(frozen=True)
class Pointer:
    """What ``latest.json`` says.

    Attributes:
        version: Name of the version that readers should use.
        url: Where its mosaic lies.
        run: The run that wrote it, as the mosaic's ``run_id``.
        published: When it became the latest, ISO 8601 in UTC.
        previous: Name of the version that was the latest before; None for the first.
    """

    version: str
    url: str
    run: str
    published: str
    previous: str | None

    def to_bytes(self) -> bytes:
        """As it is stored."""
        return json.dumps(asdict(self), indent=1).encode() + b"\n"


@dataclass(frozen=True)
class Published:
    """A pointer, and the state of its object: what a switch is compared with."""

    pointer: Pointer
    revision: Revision


def read_pointer(product: Folder) -> Published | None:
    """What is published below a prefix; None where nothing is yet."""
    revision = read_revision(product, POINTER_KEY)
    if revision is None:
        return None
    where = redact(product.child(POINTER_KEY).url)
    try:
        document = json.loads(revision.data)
    except ValueError as error:
        raise StorageError(f"{where} must be JSON, got {error}; put back what it said") from error
    return Published(_parse(document, where), revision)


def switch_pointer(product: Folder, pointer: Pointer, expected: Published | None) -> bool:
    """Publish a version, if what was published is still what it was; whether this call did it."""
    return replace(product, POINTER_KEY, pointer.to_bytes(), expected.revision if expected else None)


def is_pointer(url: str) -> bool:
    """Whether a URL names a pointer, not a mosaic."""
    return normalise_url(url).endswith(f"/{POINTER_KEY}")


def resolve_latest(url: str) -> str:
    """Where the mosaic lies that a URL means: of a ``latest.json`` the one it names, else the URL itself."""
    if not is_pointer(url):
        return url
    product = Folder(split_url(normalise_url(url))[0])
    published = read_pointer(product)
    if published is None:
        raise StorageError(f"nothing is published yet: there is no {redact(normalise_url(url))}")
    return published.pointer.url


def _parse(document: object, where: str) -> Pointer:
    fields: Mapping[str, object] = document if isinstance(document, dict) else {}
    words = {name: fields.get(name) for name in ("version", "url", "run", "published")}
    previous = fields.get("previous")
    wrong = [name for name, value in words.items() if not isinstance(value, str)]
    if wrong or not (previous is None or isinstance(previous, str)):
        raise StorageError(
            f"{where} must hold the words version, url, run, published and previous; "
            f"{', '.join(wrong) or 'previous'} is not one; put back what it said"
        )
    return Pointer(**{name: str(value) for name, value in words.items()}, previous=previous)
