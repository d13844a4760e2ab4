"""Model versions and the champion: which model the registry would use now.

``<registry>/versions/<version>/`` holds a checkpoint, ``model/``, what its training left, ``model.run/``, and
``version.json``; ``champion.json`` names the one to use. Versions are never changed; the champion is switched
at once, and only by who knows the one before.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline.errors import MismatchError, StorageError
from pipeline.exchange import Revision, children, read_revision, replace
from pipeline.storage import Folder, redact

CHAMPION_KEY = "champion.json"
VERSIONS_PREFIX = "versions"
RECORD_KEY = "version.json"
MODEL_NAME = "model"


@dataclass(frozen=True)
class Champion:
    """What ``champion.json`` says.

    Attributes:
        version: Name of the version to use.
        sha256: Of its weights.
        promoted: When it became the champion, ISO 8601 in UTC.
        previous: The champion before; None for the first.
    """

    version: str
    sha256: str
    promoted: str
    previous: str | None


@dataclass(frozen=True)
class Holder:
    """The champion, and the state of the object that names it: what a switch is compared with."""

    champion: Champion
    revision: Revision


@dataclass(frozen=True)
class Registry:
    """A prefix that holds versions and a champion."""

    folder: Folder

    @classmethod
    def at(cls, url: str) -> "Registry":
        """The registry at a URL or path, which may be empty yet."""
        return cls(Folder.at(url))

    def holder(self) -> Holder | None:
        """Who is the champion; None before the first."""
        revision = read_revision(self.folder, CHAMPION_KEY)
        if revision is None:
            return None
        return Holder(_parse(revision.data, redact(self.folder.child(CHAMPION_KEY).url)), revision)

    def versions(self) -> list[str]:
        """Names of all versions, also of those still in training."""
        return children(self.folder.child(VERSIONS_PREFIX))

    def version_folder(self, version: str) -> Folder:
        """Where a version lies."""
        return self.folder.child(VERSIONS_PREFIX).child(version)

    def model_url(self, version: str) -> str:
        """Where a version's checkpoint lies."""
        return self.version_folder(version).child(MODEL_NAME).url

    def record(self, version: str) -> dict[str, Any] | None:
        """What is known of a version; None while it is not finished."""
        try:
            found: dict[str, Any] = json.loads(self.version_folder(version).read(RECORD_KEY))
        except FileNotFoundError:
            return None
        return found

    def records(self) -> dict[str, dict[str, Any]]:
        """Every finished version with what is known of it."""
        found = {version: self.record(version) for version in self.versions()}
        return {version: record for version, record in found.items() if record is not None}

    def write_record(self, version: str, record: Mapping[str, Any]) -> None:
        """A version is finished."""
        data = json.dumps(record, indent=1, ensure_ascii=False).encode() + b"\n"
        self.version_folder(version).write(RECORD_KEY, data)

    def promote(self, version: str, sha256: str, before: Holder | None) -> Champion:
        """Make a version the champion, if the champion is still who it was.

        Args:
            version: The new champion.
            sha256: Of its weights.
            before: Who was the champion when the version was compared; None if there was none.
        """
        previous = before.champion.version if before else None
        champion = Champion(version, sha256, datetime.now(UTC).isoformat(timespec="seconds"), previous)
        data = json.dumps(asdict(champion), indent=1).encode() + b"\n"
        if not replace(self.folder, CHAMPION_KEY, data, before.revision if before else None):
            now = self.holder()
            raise MismatchError(
                f"{version} was compared with {previous or 'nothing'}, but the champion of "
                f"{redact(self.folder.url)} is {now.champion.version if now else 'gone'} by now; "
                "retrain again to compare with that one"
            )
        return champion


def find_model(url: str) -> tuple[str, Champion | None]:
    """Where the checkpoint lies that a URL means; and which champion it is, where the URL is a registry's."""
    registry = Registry.at(url)
    holder = registry.holder()
    if holder is None:
        return url, None
    return registry.model_url(holder.champion.version), holder.champion


def _parse(data: bytes, where: str) -> Champion:
    try:
        fields: Any = json.loads(data)
    except ValueError as error:
        raise StorageError(f"{where} must be JSON, got {error}; put back what it said") from error
    try:
        champion = Champion(**fields)
    except TypeError as error:
        raise StorageError(
            f"{where} must hold version, sha256, promoted and previous, got "
            f"{sorted(fields) if isinstance(fields, dict) else type(fields).__name__}"
        ) from error
    if not all(isinstance(value, str) for value in (champion.version, champion.sha256)):
        raise StorageError(f"{where}: version and sha256 must be words; put back what it said")
    return champion
