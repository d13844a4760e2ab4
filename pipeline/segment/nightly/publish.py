"""The end of a night: the overviews, what changed, and the switch that readers see."""

import functools
import json
import logging
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pipeline.config import IncrementalSettings
from pipeline.errors import MismatchError, StorageError
from pipeline.latest import POINTER_KEY, Pointer, read_pointer, switch_pointer
from pipeline.raster.consolidate import consolidate
from pipeline.segment.executor import Event, Executor, Finished, GivenUp, LocalExecutor
from pipeline.segment.ledger import to_bytes
from pipeline.segment.nightly import change
from pipeline.segment.nightly.copy_blocks import copy_overviews
from pipeline.segment.nightly.previous import Previous, touched_blocks
from pipeline.segment.nightly.prune import prune
from pipeline.segment.nightly.versions import Night, version_name
from pipeline.segment.planned import PlannedRun
from pipeline.storage import redact

logger = logging.getLogger(__name__)

CHANGES_KEY = "changes.json"
LOCAL_TASKS = 64
"""So few blocks are compared in this process sooner than workers start."""


def overviews_to_do(
    night: Night, planned: PlannedRun, stop: threading.Event
) -> Mapping[int, list[str]] | None:
    """Take over what overviews did not change; gives the squares left, or None: all of them."""
    previous = night.previous
    if previous is None or night.is_published(planned) or not _is_comparable(previous, planned):
        return None
    if not previous.has_overviews():
        return None
    touched = list(touched_blocks(planned.ledger, night.comparison.stale))
    return copy_overviews(previous, planned.output, planned.plan, touched, stop)


def find_changes(
    night: Night, planned: PlannedRun, make_executor: Callable[[], Executor], stop: threading.Event
) -> None:
    """Compare computed blocks with the previous mosaic's, and keep what changed beside the version."""
    previous = night.previous
    if previous is None or night.is_published(planned) or read_changes(night, planned) is not None:
        return
    if not _is_comparable(previous, planned):
        logger.warning("changes are not told: %s lies on another grid", previous.name)
        return
    wants_layer = planned.config.incremental.change_layer
    before, after = previous.mosaic.layout, planned.layout
    if wants_layer:
        change.create_layer(planned.output, previous.name, before, after)
        consolidate(planned.output)
    changes = change.Changes(change.union_of_names(before, after))

    def on_event(event: Event) -> None:
        if isinstance(event, Finished):
            changes.add(event.record)
        elif isinstance(event, GivenUp):  # readers wait for the version, not for this
            logger.warning("block %s is not compared: %s", event.task, event.reason)
            changes.not_compared[event.task] = event.reason

    spec = change.ChangeSpec(previous.folder, planned.output, planned.plan, wants_layer)
    tasks = sorted(night.comparison.stale.keys() & previous.identities.blocks.keys())
    executor = make_executor() if len(tasks) > LOCAL_TASKS else LocalExecutor(planned.workers.threads)
    executor.run(functools.partial(change.ChangeWorker, spec), tasks, on_event, stop)
    if not stop.is_set():
        totals = (
            change.class_pixels(layout, [record for _, record in ledger.records()])
            for layout, ledger in ((before, previous.ledger), (after, planned.ledger))
        )
        document = {"previous": previous.name, **changes.to_json(*totals)}
        planned.ledger.folder.write(CHANGES_KEY, to_bytes(document))


def read_changes(night: Night, planned: PlannedRun) -> dict[str, Any] | None:
    """What was found to have changed since the previous mosaic; None where nothing was compared with it."""
    try:
        document: dict[str, Any] = json.loads(planned.ledger.folder.read(CHANGES_KEY))
    except FileNotFoundError:
        return None
    name = night.previous.name if night.previous else None
    return document if document["previous"] == name else None


def publish(night: Night, planned: PlannedRun) -> bool:
    """Switch ``latest.json`` to a version that is whole; whether this attempt did.

    Another attempt at the same night may have been quicker, which is as good. Where another version was
    published meanwhile, readers keep that one.
    """
    name, published = version_name(planned), night.published
    if published is not None and published.pointer.version == name:
        return False
    pointer = Pointer(
        version=name,
        url=planned.output.url,
        run=planned.run_id,
        published=datetime.now(UTC).isoformat(timespec="microseconds"),  # tells two attempts apart
        previous=published.pointer.version if published else None,
    )
    if switch_pointer(night.product, pointer, published):
        logger.info("readers now have %s", redact(pointer.url))
        return True
    current = read_pointer(night.product)
    if current is not None and current.pointer.version == name:
        return current.pointer == pointer  # the store may have answered a repeated request
    raise MismatchError(
        f"{redact(night.product.url)}/{POINTER_KEY} was switched to "
        f"{current.pointer.version if current else 'nothing'} while {name} was written, and stays so; "
        "run again to go on from there"
    )


def tidy(night: Night, settings: IncrementalSettings) -> list[str]:
    """Delete old versions; the night is a success without that, so a failure only warns."""
    try:
        return prune(
            night.product, keep=settings.keep, abandoned_after=timedelta(hours=settings.abandoned_after_h)
        )
    except StorageError as error:
        logger.warning("old versions could not be deleted, the next night tries again: %s", error)
        return []


def _is_comparable(previous: Previous, planned: PlannedRun) -> bool:
    before, after = previous.mosaic.layout.grid, planned.layout.grid
    return before.window == after.window and before.transform == after.transform
