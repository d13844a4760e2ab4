"""What is done, by whom and with which fingerprint. Resuming is a set difference.

``<output>.run/`` holds ``plan.json``, one small object a finished block under ``blocks/`` and one a failed
block under ``failed/``. A block's object is written after its arrays, so what is listed is stored.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pipeline.errors import MismatchError, StorageError
from pipeline.segment.ahead import map_ahead
from pipeline.storage import Folder, redact

PLAN_KEY = "plan.json"
PLAN_FORMAT = "terrazzo-run/1"
"""What ``plan.json`` and the blocks' objects are like; another number is another program's."""

SEGMENTATION_FIELDS = {"choices", "geometry", "fingerprint_fields", "run_id"}
"""What the plan of a segmentation has, and that of an evaluation has not."""

DONE_PREFIX = "blocks/"
FAILED_PREFIX = "failed/"
READERS = 16
READ_AHEAD = 256
OVERVIEWS_KEY = "overviews.json"
"""Of which blocks overviews were written."""

RECORD_NAME = re.compile(r"((?:t\d{3,}z\d{3,})?r\d{5}c\d{5})\.json")
"""What a block's object is called; anything else in the folders is somebody else's."""

Record = dict[str, Any]
"""What is kept of a block: plain JSON."""

PlanMark = tuple[str | None, str] | None
"""What a store tells of a plan, without its being read."""


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
            data = self.folder.read(PLAN_KEY)
        except FileNotFoundError:
            return None
        plan = self._parse(PLAN_KEY, data, "start over with --overwrite")
        found = plan.get("format", PLAN_FORMAT)
        if found != PLAN_FORMAT:
            raise MismatchError(
                f"a run that is gone on with must be of format {PLAN_FORMAT}, got {found} in "
                f"{redact(self.folder.url)}/{PLAN_KEY}: another version of this program began it; go on with "
                "that version, or start over with --overwrite"
            )
        return plan

    def read_segmentation(self) -> dict[str, Any] | None:
        """The plan of a segmentation; refuses that of another kind of run, which may keep a ledger too."""
        plan = self.read_plan()
        if plan is not None and not plan.keys() >= SEGMENTATION_FIELDS:
            raise MismatchError(
                f"{redact(self.folder.url)} must be the run folder of a segmentation, but belongs to another "
                "kind of run; give another --output"
            )
        return plan

    def has_plan(self) -> bool:
        """Whether a run began here."""
        return self.folder.exists(PLAN_KEY)

    def plan_mark(self) -> PlanMark:
        """What tells the plan that lies here from one that took its place; None without any."""
        found = self.folder.head(PLAN_KEY)
        return None if found is None else (found.etag, found.modified)

    def write_plan(self, document: Mapping[str, Any]) -> None:
        """Begin a run."""
        self.folder.write(PLAN_KEY, to_bytes(document))

    def begin(self, document: Mapping[str, Any]) -> Mapping[str, Any]:
        """Begin a run where there is none; gives its plan, or that of an attempt that was quicker."""
        if self.read_plan() is None:
            self._forget_blocks()  # those that lie here without a plan belong to no run
        if self.folder.create(PLAN_KEY, to_bytes(document)):
            return document
        return self.read_plan() or document

    def delete_all(self) -> None:
        """Forget the run. Its plan goes last: cut short, it is still known whose the rest is."""
        self._forget_blocks()
        self.folder.delete_all()

    def finished(self) -> set[str]:
        """Blocks that are stored."""
        return self._blocks_below(DONE_PREFIX)

    def failed(self) -> set[str]:
        """Blocks that were given up."""
        return self._blocks_below(FAILED_PREFIX)

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
        advice = "delete it, and the block is computed again"
        with ThreadPoolExecutor(READERS) as readers:
            for block, data in map_ahead(readers, self._read_record, blocks, ahead=READ_AHEAD):
                yield block, self._parse(f"{DONE_PREFIX}{block}.json", data, advice)

    def _forget_blocks(self) -> None:
        done, failed = self.finished(), self.failed()
        keys = [f"{DONE_PREFIX}{block}.json" for block in done]
        keys += [f"{FAILED_PREFIX}{block}.json" for block in failed]
        self.folder.delete([*keys, OVERVIEWS_KEY])

    def _read_record(self, block: str) -> bytes:
        return self.folder.read(f"{DONE_PREFIX}{block}.json")

    def _blocks_below(self, prefix: str) -> set[str]:
        names = (
            RECORD_NAME.fullmatch(found.key.removeprefix(prefix)) for found in self.folder.listing(prefix)
        )
        return {name[1] for name in names if name}

    def _parse(self, key: str, data: bytes, advice: str) -> dict[str, Any]:
        try:
            document = json.loads(data)
        except ValueError as error:
            raise StorageError(
                f"{key} in {redact(self.folder.url)} must be JSON, got {error}; {advice}"
            ) from error
        if not isinstance(document, dict):
            raise StorageError(
                f"{key} in {redact(self.folder.url)} must be a JSON object, got {type(document).__name__}; "
                f"{advice}"
            )
        return document


def started_over(output_url: str) -> MismatchError:
    """What to say to a run whose output belongs to another one by now."""
    return MismatchError(
        f"{redact(output_url)} was started over by another run, which has it now; this one writes nothing "
        "more: give another --output, or let one run at a time work at a mosaic"
    )


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
    elif stored != current and json.dumps(stored) != json.dumps(current):  # NaN equals itself only as text
        yield f"{name} = {json.dumps(stored)}, now {json.dumps(current)}"


def to_bytes(document: Mapping[str, Any]) -> bytes:
    """JSON as people like to read it."""
    return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"
