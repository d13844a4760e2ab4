"""What happened in a run, and the report made of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.segment.audit import Audit
from pipeline.segment.executor import Event, Finished, GivenUp, Retried
from pipeline.segment.ledger import Ledger, Record
from pipeline.segment.measure import seam_ratio
from pipeline.segment.planned import PlannedRun, plan_document
from pipeline.segment.worker import peak_rss_bytes
from pipeline.storage import redact


@dataclass
class Tally:
    """What happened in this run, added up from events.

    Attributes:
        records: Of the blocks computed, without their objects: those fill the ledger, not this memory.
        given_up: Blocks that failed for good, with the reason.
        overviews_given_up: Squares of overviews likewise.
        retries: What was tried again.
    """

    records: list[Record] = field(default_factory=list)
    given_up: dict[str, str] = field(default_factory=dict)
    overviews_given_up: dict[str, str] = field(default_factory=dict)
    retries: list[dict[str, Any]] = field(default_factory=list)

    def count(self, event: Event, ledger: Ledger) -> None:
        """Add an event; a block that is given up is written down with its traceback."""
        if isinstance(event, Finished):
            self.records.append(_in_short(event.record))
        elif isinstance(event, Retried):
            self.retries.append({"block": event.task, "reason": event.reason, "counted": event.counted})
        elif isinstance(event, GivenUp):
            self.given_up[event.task] = event.reason
            record = {"block": event.task, "reason": event.reason, "traceback": event.details}
            ledger.record_failed(event.task, record | {"attempts": event.attempts})

    def count_overview(self, event: Event) -> None:
        """Add an event of an overview's square; only those that are given up are worth a word."""
        if isinstance(event, GivenUp):
            self.overviews_given_up[event.task] = event.reason

    def faults(self, found: Audit) -> Iterator[str]:
        """A sentence for everything that keeps the mosaic from being whole."""
        yield from found.lines()
        for square, reason in self.overviews_given_up.items():
            yield f"overviews of square {square} could not be written: {reason}"


def make_report(
    planned: PlannedRun, tally: Tally, found: Audit, *, status: str, seconds: float
) -> dict[str, Any]:
    """What ``report.json`` and ``--json`` say. Counts are of this run."""
    # Tasks just beyond the region write nodes for its last pixels; they are no blocks of it.
    blocks = {block.id for block in planned.plan.blocks()}
    done = sum(record["state"] == "done" for record in tally.records if record["block"] in blocks)
    empty = sum(record["state"] == "empty" for record in tally.records if record["block"] in blocks)
    pixels = sum(record.get("pixels", 0) for record in tally.records)
    unfinished = len(blocks.intersection(found.missing))
    everything = [_in_short(record) for _, record in planned.ledger.records()]
    peaks = [record.get("peak_rss_bytes", 0) for record in tally.records]
    return {
        "status": status,
        "blocks": {
            "total": len(blocks),
            "done": done,
            "empty": empty,
            "failed": len(tally.given_up),
            "skipped": max(0, len(blocks) - unfinished - done - empty),
        },
        "crops": {
            "unique": planned.plan.counts.crops_unique,
            "computed": sum(record.get("crops", 0) for record in tally.records),
        },
        "pixels": pixels,
        "seconds": round(seconds, 3),
        "mpx_per_s": round(pixels / 1e6 / seconds, 4),
        "peak_rss_bytes": max([peak_rss_bytes(), *peaks]),
        "fingerprint": planned.fingerprint,
        "output": redact(planned.output.url),
        "stages": _stages(tally.records),
        "class_pixels": _class_pixels(everything, planned.layout.num_classes),
        "seam": seam_ratio([record["seam"] for record in everything if "seam" in record]),
        "failures": [{"block": block, "reason": reason} for block, reason in tally.given_up.items()],
        "retries": tally.retries,
        "audit": {"objects": found.objects, "faults": list(tally.faults(found))},
        "plan": plan_document(planned, seconds_per_crop(everything)),
    }


def _in_short(record: Record) -> Record:
    return {name: value for name, value in record.items() if name != "objects"}


def seconds_per_crop(records: Sequence[Record]) -> float | None:
    """The pace of finished blocks."""
    crops = sum(record.get("crops", 0) for record in records)
    seconds = sum(record.get("seconds", {}).get("compute", 0.0) for record in records)
    return seconds / crops if crops else None


def _stages(records: Sequence[Record]) -> dict[str, float]:
    stages: dict[str, float] = {}
    for record in records:
        for stage, seconds in record.get("seconds", {}).items():
            stages[stage] = round(stages.get(stage, 0.0) + seconds, 3)
    return stages


def _class_pixels(records: Sequence[Record], num_classes: int) -> list[int]:
    totals = [0] * num_classes
    for record in records:
        for index, count in enumerate(record.get("class_pixels", [])):
            totals[index] += count
    return totals
