"""The mosaic that unchanged blocks are taken from: the last version, or any other with its run folder."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import StorageError
from pipeline.raster.mosaic import Mosaic, array_names
from pipeline.segment.ledger import OVERVIEWS_KEY, Ledger
from pipeline.segment.nightly.block_identity import FILES, SOURCE, BlockIdentities, Reason
from pipeline.segment.overviews import factors
from pipeline.segment.plan import Plan
from pipeline.storage import Folder, redact, split_url

IDENTITIES_KEY = "identities.json"


@dataclass(frozen=True)
class Previous:
    """An earlier mosaic, looked at.

    Attributes:
        folder: Where it lies.
        mosaic: What it holds.
        ledger: What is kept beside it.
        plan: ``plan.json``: its choices are taken again.
        identities: What its blocks depend on.
    """

    folder: Folder
    mosaic: Mosaic
    ledger: Ledger
    plan: Mapping[str, Any]
    identities: BlockIdentities

    @classmethod
    def at(cls, url: str) -> "Previous":
        """The mosaic at a URL; refuses one that nothing is known of."""
        mosaic, ledger = Mosaic.open(url), Ledger.beside(url)
        plan = ledger.read_segmentation()
        if plan is None:
            raise StorageError(
                f"incremental.previous must be a mosaic with its run folder, but there is no plan in "
                f"{redact(ledger.folder.url)}; give another one, or leave incremental.previous out"
            )
        return cls(Folder.at(url), mosaic, ledger, plan, _identities(ledger, plan))

    @property
    def name(self) -> str:
        """What reports call it: the version's name."""
        return split_url(self.folder.url)[1]

    def has_layout_of(self, output: Folder) -> bool:
        """Whether its objects fit into another mosaic's arrays: shapes, chunks, types and codecs."""
        mosaic = Mosaic.open(output.url)
        return all(
            _array_metadata(self.folder, name) == _array_metadata(output, name)
            for name in array_names(mosaic.layout)
        )

    def has_overviews(self) -> bool:
        """Whether overviews were written, and of the blocks that it holds now."""
        if not self.ledger.folder.exists(OVERVIEWS_KEY):
            return False
        document = json.loads(self.ledger.folder.read(OVERVIEWS_KEY))
        is_current = document["blocks"] == sorted(self.ledger.finished())
        return is_current and self.mosaic.overview_factors() == factors(*self.mosaic.grid.window.shape)


def _identities(ledger: Ledger, plan: Mapping[str, Any]) -> BlockIdentities:
    """As they were written; of a mosaic from an ordinary run, all files for every block."""
    try:
        return BlockIdentities.from_json(json.loads(ledger.folder.read(IDENTITIES_KEY)))
    except FileNotFoundError:
        fields = plan["fingerprint_fields"]
        url = plan["source"]["url"]
        scenes = [{"url": url, **identity} for identity in fields[SOURCE][FILES]]
        blocks = (block.id for block in Plan.from_json(plan["geometry"]).tasks())
        return BlockIdentities.of(fields, scenes, dict.fromkeys(blocks, range(len(scenes))), {})
    except (ValueError, KeyError) as error:
        raise StorageError(
            f"{IDENTITIES_KEY} in {redact(ledger.folder.url)} must be what a night wrote, got {error!r}; "
            "delete it, and what it knew of single blocks is taken from the plan"
        ) from error


def _array_metadata(folder: Folder, name: str) -> dict[str, Any] | None:
    try:
        document: dict[str, Any] = json.loads(folder.read(f"{name}/zarr.json"))
    except FileNotFoundError:
        return None
    return {key: value for key, value in document.items() if key != "attributes"}


def touched_blocks(ledger: Ledger, stale: Mapping[str, Reason]) -> Iterator[str]:
    """Finished blocks that may differ from the previous mosaic's: stale, or computed here for any reason."""
    for block, record in ledger.records():
        if block in stale or "copied_from" not in record:
            yield block
