"""Old versions go: beyond a stated number, and those that were never finished once nobody works on them.

Never the one that ``latest.json`` names, nor the one before it. Every version is asked again right before it
goes whether it was published meanwhile. A version goes from its root's metadata to its plan, so that readers
find none rather than half of one, and a deletion that is cut short is gone on with.
"""

import json
import logging
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pipeline.exchange import children
from pipeline.latest import read_pointer
from pipeline.segment.ledger import PLAN_KEY
from pipeline.storage import Folder

logger = logging.getLogger(__name__)

VERSIONS = "versions"
VERSION_NAME = re.compile(r"v-[0-9a-f]{16}")
REPORT_KEY = "report.json"


@dataclass(frozen=True)
class Version:
    """One version as it is stored.

    Attributes:
        name: Its name.
        begun: When its run began, ISO 8601; empty where that is not known.
        is_complete: Whether its run came to its end.
        touched: When anything was last written beside it, ISO 8601.
    """

    name: str
    begun: str
    is_complete: bool
    touched: str


def versions_of(product: Folder) -> list[Version]:
    """Every version below a product, the newest first."""
    names = {name.removesuffix(".run") for name in children(product.child(VERSIONS))}
    found = [_look_at(product.child(VERSIONS), name) for name in names if VERSION_NAME.fullmatch(name)]
    return sorted(found, key=lambda version: (version.begun, version.name), reverse=True)


def prune(product: Folder, *, keep: int, abandoned_after: timedelta) -> list[str]:
    """Delete what is beyond ``keep`` complete versions, and unfinished ones that nobody touched for so long.

    Returns:
        Names of the versions deleted.
    """
    deleted = []
    complete = 0
    for version in versions_of(product):
        complete += version.is_complete
        is_old = version.is_complete and complete > keep
        is_abandoned = not version.is_complete and _age(version.touched) > abandoned_after
        if (is_old or is_abandoned) and version.name not in _protected(product):
            logger.info("version %s is deleted: %s", version.name, "old" if is_old else "never finished")
            delete_version(product, version.name)
            deleted.append(version.name)
    return deleted


def delete_version(product: Folder, name: str) -> None:
    """Delete a version and its run folder."""
    mosaic, run = product.child(f"{VERSIONS}/{name}"), product.child(f"{VERSIONS}/{name}.run")
    mosaic.delete(["zarr.json"])
    mosaic.delete_all()
    run.delete([found.key for found in run.listing() if found.key != PLAN_KEY])
    run.delete_all()


def _protected(product: Folder) -> set[str]:
    published = read_pointer(product)
    names = (published.pointer.version, published.pointer.previous) if published else ()
    return {name for name in names if name is not None}


def _look_at(folder: Folder, name: str) -> Version:
    run = folder.child(f"{name}.run")
    plan = run.head(PLAN_KEY)
    touched = max((found.modified for found in run.listing()), default="")
    return Version(name, plan.modified if plan else "", _is_complete(run), touched)


def _is_complete(run: Folder) -> bool:
    try:
        return bool(json.loads(run.read(REPORT_KEY))["status"] == "complete")
    except FileNotFoundError:
        return False


def _age(moment: str) -> timedelta:
    """How long ago; what has no time at all is as old as can be."""
    return datetime.now(UTC) - datetime.fromisoformat(moment) if moment else timedelta.max
