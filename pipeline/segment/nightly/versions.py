"""Nightly runs: each a version of its own below the product, of which only what changed is computed.

A version is named by its run's fingerprint, which holds everything that its bytes depend on, so two attempts
at one night write the same bytes to the same place, and a night on which nothing changed has nothing to do.
Readers follow ``latest.json``, which is switched when a version is whole and audited, never before.

    <output>/latest.json
    <output>/versions/v-<fingerprint>        a mosaic
    <output>/versions/v-<fingerprint>.run    what any run keeps beside its mosaic, and identities.json
"""

import json
import logging
import threading
import uuid
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pyproj import CRS

from pipeline.config import RunConfig
from pipeline.errors import MismatchError
from pipeline.latest import Published, is_pointer, read_pointer
from pipeline.raster.source import FoundMany, Identity
from pipeline.segment.inspect import Inspection
from pipeline.segment.ledger import PLAN_KEY, to_bytes
from pipeline.segment.nightly.block_identity import BlockIdentities, Comparison, Reason, compare
from pipeline.segment.nightly.copy_blocks import copy_blocks
from pipeline.segment.nightly.previous import IDENTITIES_KEY, Previous
from pipeline.segment.nightly.prune import VERSIONS, versions_of
from pipeline.segment.nightly.rules import check_nightly
from pipeline.segment.planned import PlannedRun, plan_document
from pipeline.storage import Folder, normalise_url, redact

logger = logging.getLogger(__name__)


@dataclass
class Night:
    """One nightly run: what it goes on from, and what it finds to do.

    Attributes:
        product: The prefix of all versions.
        published: ``latest.json`` as it was when the run began; None where nothing is published yet.
        previous: The mosaic that unchanged blocks are copied from; None for the first night.
        begun: ``plan.json`` whose choices are taken again: the previous one's, or that of a first night
            which was cut short.
        comparison: Which blocks must be computed, and why.
        identities: What every block depends on.
    """

    product: Folder
    published: Published | None
    previous: Previous | None
    begun: Mapping[str, Any] | None
    comparison: Comparison = field(default_factory=lambda: Comparison({}))
    identities: BlockIdentities = field(default_factory=lambda: BlockIdentities({}, [], {}, {}))

    @classmethod
    def open(cls, config: RunConfig, inspection: Inspection) -> "Night":
        """Look at what is published; refuses what could not be told apart from night to night."""
        product = Folder.at(config.output.url)
        published = read_pointer(product)
        previous = _open_previous(str(config.incremental.previous), product, published)
        check_nightly(config, inspection, previous)
        return cls(product, published, previous, previous.plan if previous else _unfinished(product))

    def is_published(self, planned: PlannedRun) -> bool:
        """Whether nothing changed: the version to write is the one that readers have."""
        return self.published is not None and self.published.pointer.version == version_name(planned)

    def place(self, planned: PlannedRun) -> PlannedRun:
        """The run with its version's place as output."""
        url = self.product.child(f"{VERSIONS}/{version_name(planned)}").url
        output = planned.config.output.model_copy(update={"url": url})
        config = planned.config.model_copy(update={"output": output})
        return replace(planned, config=config, run_id=uuid.uuid4().hex)

    def claim(self, planned: PlannedRun) -> tuple[PlannedRun, dict[str, Any]]:
        """Begin the version or, where another attempt began it, go on with that attempt's run."""
        document = plan_document(planned)
        if not planned.ledger.folder.create(PLAN_KEY, to_bytes(document)):
            document = planned.ledger.read_plan() or document
        return replace(planned, run_id=str(document["run_id"])), document

    def compare(self, planned: PlannedRun) -> None:
        """Find out which blocks differ from the previous mosaic's."""
        self.identities = identities_of(planned)
        if self.previous is None:
            self.comparison = Comparison.with_nothing(self.identities)
        elif not self.is_published(planned):
            before = self.previous.identities
            self.comparison = compare(_spelt_like(self.identities, before), before)

    def take_over(self, planned: PlannedRun, stop: threading.Event) -> None:
        """Copy what did not change; what is left is computed like in any run."""
        if self.is_published(planned):
            logger.info("nothing changed since %s", version_name(planned))
            return
        planned.ledger.folder.write(IDENTITIES_KEY, json.dumps(self.identities.to_json()).encode())
        if self.previous is None:
            return
        blocks = {block.id for block in planned.plan.tasks()}
        if not self.previous.has_layout_of(planned.output):
            self.comparison = replace(self.comparison, stale=dict.fromkeys(blocks, Reason("layout")))
        same = blocks - self.comparison.stale.keys() - planned.ledger.finished()
        copied = copy_blocks(self.previous, planned.output, planned.ledger, same, stop)
        logger.info(
            "%d blocks are copied from %s; computed are %s",
            copied, self.previous.name, _told(self.comparison.stale) or "none",
        )  # fmt: skip

    def to_json(self, planned: PlannedRun) -> dict[str, Any]:
        """What the plan says of it, before anything is copied."""
        blocks = {block.id for block in planned.plan.blocks()}
        unchanged = self.is_published(planned)
        stale = [reason for name, reason in self.comparison.stale.items() if name in blocks]
        return {
            "version": version_name(planned),
            "previous": self.previous.name if self.previous else None,
            "unchanged": unchanged,
            "copied": 0 if unchanged else len(blocks) - len(stale),
            "recomputed": len(stale),
            "reasons": dict(sorted(Counter(reason.kind for reason in stale).items())),
            "fields": list(self.comparison.fields),
            "scenes": _scenes(stale),
        }

    def outcome(self, planned: PlannedRun, computed: Collection[str]) -> dict[str, Any]:
        """What the report says: of the version, not of one attempt at it.

        Args:
            planned: The run.
            computed: Blocks that this attempt computed; those that need not have been had damaged copies.
        """
        told = self.to_json(planned)
        if told["unchanged"] or self.previous is None:
            return told
        blocks = {block.id for block in planned.plan.blocks()}
        records = {name: record for name, record in planned.ledger.records() if name in blocks}
        copied = {name for name, record in records.items() if "copied_from" in record}
        others = records.keys() - copied - self.comparison.stale.keys()
        more = {"damaged": len(others.intersection(computed)), "earlier": len(others.difference(computed))}
        reasons = told["reasons"] | {kind: count for kind, count in more.items() if count}
        return told | {"copied": len(copied), "recomputed": len(records) - len(copied), "reasons": reasons}


def version_name(planned: PlannedRun) -> str:
    """The same for every attempt that would write the same bytes."""
    return f"v-{planned.fingerprint}"


def identities_of(planned: PlannedRun) -> BlockIdentities:
    """What every block of a run depends on."""
    found, plan = planned.inspection.found, planned.plan
    places: dict[Identity, int] = {}
    for identity in found.info.identities:
        places.setdefault(identity, len(places))
    blocks, described = {}, {}
    for block in plan.tasks():
        halo = plan.halo(block)
        files = found.identities_in(halo)
        blocks[block.id] = [places.setdefault(identity, len(places)) for identity in files]
        if isinstance(found, FoundMany):
            described[block.id] = found.described_in(halo)
    scenes = [asdict(identity) for identity in places]
    return BlockIdentities.of(planned.fingerprint_fields, scenes, blocks, described)


def _open_previous(url: str, product: Folder, published: Published | None) -> Previous | None:
    """The mosaic that the setting means; None only before the product's own first night."""
    if not is_pointer(url):
        return Previous.at(url)
    pointer = normalise_url(url)
    folder = Folder(pointer.rpartition("/")[0])
    named = published if folder == product else read_pointer(folder)
    if named is not None:
        return Previous.at(named.pointer.url)
    if folder == product:
        logger.info("nothing is published at %s yet: every block is computed", redact(pointer))
        return None
    raise MismatchError(
        f"incremental.previous must name something that is published, but there is no {redact(pointer)}; "
        f"for a first night give the product's own, {redact(product.url)}/latest.json"
    )


def _unfinished(product: Folder) -> dict[str, Any] | None:
    """The plan of the newest version that was begun and never finished: a first night that was cut short."""
    for version in versions_of(product):
        if not version.is_complete and version.begun:
            run = product.child(f"{VERSIONS}/{version.name}.run")
            document: dict[str, Any] = json.loads(run.read(PLAN_KEY))
            return document
    return None


def _spelt_like(now: BlockIdentities, before: BlockIdentities) -> BlockIdentities:
    """A CRS is spelt as the scenes spell it; where it is the same one, a new spelling changes nothing."""
    source, grid = now.shared["source"], now.shared["source"]["grid"]
    new, old = grid["crs_wkt"], before.shared["source"]["grid"]["crs_wkt"]
    if new is None or old is None or new == old or CRS.from_wkt(new) != CRS.from_wkt(old):
        return now
    shared = {**now.shared, "source": {**source, "grid": {**grid, "crs_wkt": old}}}
    return replace(now, shared=shared)


def _scenes(reasons: Sequence[Reason]) -> list[dict[str, Any]]:
    """What became of which scene, and how many blocks that made stale."""
    counts = Counter(scene for reason in reasons for scene in reason.scenes)
    return [
        {"change": change, "url": url, "blocks": blocks} for (change, url), blocks in counts.most_common()
    ]


def _told(stale: Mapping[str, Reason]) -> str:
    counts = Counter(reason.kind for reason in stale.values())
    return ", ".join(f"{count} ({kind})" for kind, count in counts.most_common())
