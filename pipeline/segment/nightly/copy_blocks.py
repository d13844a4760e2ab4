"""Blocks and overviews taken over from an earlier mosaic, object by object, by the store itself.

What is copied is recorded like what is computed, with the checksums that its first writer noted: the audit
reads it again and compares. A copy that is missing or damaged is computed instead.
"""

import itertools
import logging
import threading
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from pipeline.exchange import take_over
from pipeline.raster.mosaic import CHUNK_PX
from pipeline.raster.window import Window
from pipeline.segment import overviews
from pipeline.segment.ledger import Ledger, Record
from pipeline.segment.nightly.previous import Previous
from pipeline.segment.plan import Block, Plan
from pipeline.storage import Folder

logger = logging.getLogger(__name__)

COPIES_AT_ONCE = 32

KEPT_FIELDS = ("block", "state", "objects", "pixels", "class_pixels", "seam")
"""What of a record is true of a copy too; who computed it when, and how fast, is not."""


def copy_blocks(
    previous: Previous, output: Folder, ledger: Ledger, blocks: Collection[str], stop: threading.Event
) -> int:
    """Take over finished blocks; gives how many. Those that cannot be are left to be computed."""
    wanted = set(blocks)

    def copy(item: tuple[str, Record]) -> bool:
        block, record = item
        if stop.is_set():
            return False
        try:
            for key in record.get("objects", {}):
                take_over(previous.folder, output, key)
        except FileNotFoundError:
            logger.warning("block %s is computed: %s lacks some of its objects", block, previous.name)
            return False
        ledger.record_finished(block, copied_record(record, previous.name))
        return True

    records = (item for item in previous.ledger.records() if item[0] in wanted)
    with ThreadPoolExecutor(COPIES_AT_ONCE, thread_name_prefix="copy") as threads:
        return sum(threads.map(copy, records))


def copied_record(record: Record, version: str) -> Record:
    """A block's record in its new place."""
    kept = {name: record[name] for name in KEPT_FIELDS if name in record}
    return kept | {"copied_from": version, "computed_in": record.get("computed_in", version)}


def copy_overviews(
    previous: Previous, output: Folder, plan: Plan, touched: Collection[str], stop: threading.Event
) -> dict[int, list[str]]:
    """Take over the overviews of squares without a touched block; gives the squares left to do, by level."""
    height, width = plan.mosaic_window.shape
    todo: dict[int, list[str]] = {}
    with ThreadPoolExecutor(COPIES_AT_ONCE, thread_name_prefix="copy") as threads:
        for base in overviews.rounds(height, width):
            changed = touched_squares(plan, touched, base)
            every = overviews.tasks(height, width, base)
            todo[base] = [task for task in every if task in changed]
            keys = [key for task in every if task not in changed for key in _objects_of(task, height, width)]
            if not stop.is_set():
                list(threads.map(lambda key: _copy_if_there(previous.folder, output, key), keys))
    return todo


def touched_squares(plan: Plan, touched: Collection[str], base: int) -> set[str]:
    """Squares of a level that show some pixel of a block."""
    side = overviews.SQUARE_PX * base
    squares = set()
    for name in touched:
        window = plan.window(Block.from_id(name))
        for row in range(window.row // side, -(-window.row_stop // side)):
            for col in range(window.col // side, -(-window.col_stop // side)):
                squares.add(f"{base}/{row}/{col}")
    return squares


def _objects_of(task: str, height: int, width: int) -> Iterator[str]:
    """Keys of the objects that the overviews of a square may have; all nodata, an object is not written."""
    base, row, col = (int(part) for part in task.split("/"))
    known = overviews.factors(height, width)
    for level in range(1, overviews.LEVELS_PER_ROUND + 1):
        factor = base << level
        if factor not in known:
            continue
        side = 1 << (overviews.LEVELS_PER_ROUND - level)
        square = Window(row * side, col * side, side, side)
        rows, cols = (-(-size // (factor * CHUNK_PX)) for size in (height, width))
        inside = square.intersect(Window(0, 0, rows, cols))
        for place in itertools.product(
            range(inside.row, inside.row_stop), range(inside.col, inside.col_stop)
        ):
            for array in ("classes", "confidence"):
                yield f"overviews/{factor}/{array}/c/{place[0]}/{place[1]}"


def _copy_if_there(source: Folder, target: Folder, key: str) -> None:
    with suppress(FileNotFoundError):
        take_over(source, target, key)
