"""Read the store again: is every block there, and is each object what its writer wrote?"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from pipeline.errors import StorageError
from pipeline.raster.mosaic import Mosaic, MosaicLayout, array_names, checksum
from pipeline.segment.ledger import Ledger, Record
from pipeline.segment.plan import Plan
from pipeline.storage import Folder, redact

READERS = 16


@dataclass
class Audit:
    """What was found.

    Attributes:
        missing: Blocks that are not finished.
        failed: Blocks that were given up, a part of the missing.
        damaged: Finished blocks whose objects are not what was written, each with the first fault.
        strays: Objects that no block wrote.
        objects: How many objects were read.
    """

    missing: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)
    strays: list[str] = field(default_factory=list)
    objects: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether the mosaic is whole."""
        return not (self.missing or self.damaged or self.strays)

    def lines(self) -> Iterator[str]:
        """A sentence for every fault."""
        for block in self.missing:
            yield f"block {block} {'was given up' if block in self.failed else 'is not finished'}"
        for block, fault in self.damaged.items():
            yield f"block {block}: {fault}"
        for key in self.strays:
            yield f"{key} was written by no block"


def audit(output: Folder, ledger: Ledger, plan: Plan, layout: MosaicLayout) -> Audit:
    """Compare plan, ledger and store."""
    found = Audit()
    records = dict(ledger.records())
    found.missing = [block.id for block in plan.tasks() if block.id not in records]
    found.failed = sorted(ledger.failed() - records.keys())
    written = {key for record in records.values() for key in record.get("objects", {})}
    present = {
        stored.key
        for name in array_names(layout)
        for stored in output.listing(f"{name}/c/")
    }  # fmt: skip
    found.strays = sorted(present - written)
    with ThreadPoolExecutor(READERS) as readers:
        checks = readers.map(lambda record: _first_fault(output, record), records.values())
        for block, fault in zip(records, checks, strict=True):
            if fault:
                found.damaged[block] = fault
    found.objects = len(written)
    return found


def audit_stored(output_url: str) -> Audit:
    """Audit a mosaic by what was stored with it."""
    mosaic, ledger = Mosaic.open(output_url), Ledger.beside(output_url)
    stored = ledger.read_plan()
    if stored is None:
        raise StorageError(
            f"a mosaic must have a run folder with a plan, but there is none at {redact(ledger.folder.url)}"
        )
    return audit(Folder.at(output_url), ledger, Plan.from_json(stored["geometry"]), mosaic.layout)


def _first_fault(output: Folder, record: Record) -> str | None:
    for key, expected in record.get("objects", {}).items():
        try:
            data = output.read(key)
        except FileNotFoundError:
            return f"{key} is missing"
        if checksum(data) != expected:
            return f"{key} is not what was written"
    return None
