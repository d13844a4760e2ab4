"""What is done, by whom and with which fingerprint. Resuming is a set difference.

``<output>.run/`` holds ``plan.json``, one small object a finished block under ``blocks/`` and one a failed
block under ``failed/``. A block's object is written after its arrays, so what is listed is stored.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pipeline.errors import MismatchError
from pipeline.storage import Folder, redact

PLAN_KEY = "plan.json"
DONE_PREFIX = "blocks/"
FAILED_PREFIX = "failed/"
READERS = 16

Record = dict[str, Any]
"""What is kept of a block: plain JSON."""


@dataclass(frozen=True)
class Ledger:
    """The run folder beside a mosaic."""

    folder: Folder

    @classmethod
    def beside(cls, output_url: str) -> "Ledger":
        """The ledger of the mosaic at a URL."""
        return cls(Folder.at(f"{Folder.at(output_url).url}.run"))

    def read_plan(self) -> dict[str, Any] | None:
        """The plan of the run that began here, if one did."""
        try:
            document: dict[str, Any] = json.loads(self.folder.read(PLAN_KEY))
        except FileNotFoundError:
            return None
        return document

    def write_plan(self, document: Mapping[str, Any]) -> None:
        """Begin a run."""
        self.folder.write(PLAN_KEY, to_bytes(document))

    def finished(self) -> set[str]:
        """Blocks that are stored."""
        return {_name(found.key) for found in self.folder.listing(DONE_PREFIX) if _is_record(found.key)}

    def failed(self) -> set[str]:
        """Blocks that were given up."""
        return {_name(found.key) for found in self.folder.listing(FAILED_PREFIX) if _is_record(found.key)}

    def record_finished(self, block: str, record: Record) -> None:
        """A block is stored."""
        self.folder.write(f"{DONE_PREFIX}{block}.json", to_bytes(record))

    def record_failed(self, block: str, record: Record) -> None:
        """A block is given up, with its reason and traceback."""
        self.folder.write(f"{FAILED_PREFIX}{block}.json", to_bytes(record))

    def forget_failures(self) -> None:
        """A new attempt tries failed blocks again."""
        self.folder.delete([f"{FAILED_PREFIX}{block}.json" for block in self.failed()])

    def forget(self, block: str) -> None:
        """A block's objects were found damaged: it counts as not done."""
        self.folder.delete([f"{DONE_PREFIX}{block}.json"])

    def records(self) -> Iterator[tuple[str, Record]]:
        """Every finished block with its record."""
        blocks = sorted(self.finished())
        with ThreadPoolExecutor(READERS) as readers:
            for block, data in zip(blocks, readers.map(self._read_record, blocks), strict=True):
                yield block, json.loads(data)

    def _read_record(self, block: str) -> bytes:
        return self.folder.read(f"{DONE_PREFIX}{block}.json")


def fingerprint(fields: Mapping[str, Any]) -> str:
    """One short name for everything that a result depends on."""
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def check_fingerprint(stored: Mapping[str, Any], current: Mapping[str, Any], output_url: str) -> None:
    """Refuse to go on with a run that would give another result, and say what differs."""
    differences = list(_differences(stored, current))
    if differences:
        raise MismatchError(
            f"{redact(output_url)} was begun with {'; '.join(differences)}; "
            "give another --output, or start over with --overwrite"
        )


def _differences(stored: object, current: object, name: str = "") -> Iterator[str]:
    if isinstance(stored, Mapping) and isinstance(current, Mapping):
        for key in sorted({*stored, *current}):
            yield from _differences(stored.get(key), current.get(key), f"{name}.{key}" if name else str(key))
    elif stored != current:
        yield f"{name} = {json.dumps(stored)}, now {json.dumps(current)}"


def to_bytes(document: Mapping[str, Any]) -> bytes:
    """JSON as people like to read it."""
    return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"


def _is_record(key: str) -> bool:
    return key.endswith(".json")


def _name(key: str) -> str:
    return key.rsplit("/", 1)[-1].removesuffix(".json")
