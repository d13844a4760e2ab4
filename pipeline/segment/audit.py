"""Read the store again: is every block there, and is each object what its writer wrote?"""

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from pipeline.errors import StorageError
from pipeline.raster.mosaic import Mosaic, MosaicLayout, array_names, checksum, checksum_of
from pipeline.segment.ahead import map_ahead
from pipeline.segment.ledger import Ledger, Record
from pipeline.segment.plan import Plan
from pipeline.storage import Folder, redact

READERS = 16
READ_AHEAD = 4 * READERS

PART_BYTES = 8 << 20
"""Larger objects are read part by part: logits of 150 classes at full size are 300 MB each."""


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


def audit(
    output: Folder, ledger: Ledger, plan: Plan, layout: MosaicLayout, stop: threading.Event | None = None
) -> Audit:
    """Compare plan, ledger and store.

    Args:
        output: The mosaic.
        ledger: What is kept beside it.
        plan: Which blocks there should be.
        layout: Which arrays they are written to.
        stop: Set when the run should end: blocks are still counted, but no more objects are read.
    """
    finished = ledger.finished()
    found = Audit(missing=[block.id for block in plan.tasks() if block.id not in finished])
    found.failed = sorted(ledger.failed() - finished)
    if stop is None or not stop.is_set():
        _read_objects(found, output, ledger, layout, stop or threading.Event())
    return found


def _read_objects(
    found: Audit, output: Folder, ledger: Ledger, layout: MosaicLayout, stop: threading.Event
) -> None:
    """Add damaged blocks and strays; records come and go one by one, so that a million take little memory."""
    sizes_bytes = {
        stored.key: stored.size_bytes
        for name in array_names(layout)
        for stored in output.listing(f"{name}/c/")
    }  # fmt: skip
    not_named = set(sizes_bytes)

    def first_fault(item: tuple[str, Record]) -> str | None:
        return None if stop.is_set() else _first_fault(output, item[1], sizes_bytes)

    with ThreadPoolExecutor(READERS) as readers:
        for (block, record), fault in map_ahead(readers, first_fault, ledger.records(), ahead=READ_AHEAD):
            if stop.is_set():
                return
            not_named.difference_update(record.get("objects", {}))
            found.objects += len(record.get("objects", {}))
            if fault:
                found.damaged[block] = fault
    found.strays = sorted(not_named)


def audit_stored(output_url: str) -> Audit:
    """Audit a mosaic by what was stored with it."""
    mosaic, ledger = Mosaic.open(output_url), Ledger.beside(output_url)
    stored = ledger.read_segmentation()
    if stored is None:
        raise StorageError(
            f"a mosaic must have a run folder with a plan, but there is none at {redact(ledger.folder.url)}"
        )
    return audit(Folder.at(output_url), ledger, Plan.from_json(stored["geometry"]), mosaic.layout)


def _first_fault(output: Folder, record: Record, sizes_bytes: Mapping[str, int]) -> str | None:
    for key, expected in record.get("objects", {}).items():
        try:
            found = _checksum(output, key, sizes_bytes.get(key, 0))
        except FileNotFoundError:
            return f"{key} is missing"
        if found != expected:
            return f"{key} is not what was written"
    return None


def _checksum(output: Folder, key: str, size_bytes: int) -> str:
    if size_bytes <= PART_BYTES:
        return checksum(output.read(key))
    starts = range(0, size_bytes, PART_BYTES)
    return checksum_of(output.read_range(key, start, min(PART_BYTES, size_bytes - start)) for start in starts)
