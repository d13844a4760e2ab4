"""What a run left beside its mosaic, as stored: the only thing that reports know of runs."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StorageError
from pipeline.storage import Folder, redact

RECORD_NAME = re.compile(r"((?:t\d{3,}z\d{3,})?r\d{5}c\d{5})\.json")
"""What a block's record is called; anything else in the folder is somebody else's."""

READERS = 16
BATCH = 1024
"""Records fetched before the first of them is used: enough for the readers, little enough to hold."""


@dataclass(frozen=True, slots=True)
class FinishedBlock:
    """What a report needs of a finished block; checksums of its objects stay in the store.

    Attributes:
        name: For example ``r00001c00002``.
        worker: Who computed it.
        started: When, in seconds since 1970.
        stages: Seconds of read, wait, compute and write.
        crops: Crops computed.
        pixels: Pixels that got a class.
        class_pixels: How many of each class.
        peak_rss_bytes: The most memory its worker had held by then.
        is_copied: Whether it was taken over from an earlier mosaic; then nobody computed it here.
    """

    name: str
    worker: str
    started: float
    stages: Mapping[str, float]
    crops: int
    pixels: int
    class_pixels: NDArray[np.int64]
    peak_rss_bytes: int
    is_copied: bool = False

    @property
    def place(self) -> tuple[int, int]:
        """Row and column in the grid of blocks, whatever the plane."""
        row, _, col = self.name.rpartition("r")[2].partition("c")
        return int(row), int(col)

    @property
    def ended(self) -> float:
        """When its last byte was written."""
        return self.started + sum(self.stages.values())


@dataclass(frozen=True)
class StoredRun:
    """A run as its folder tells it.

    Attributes:
        output_url: Where the mosaic lies.
        report: ``report.json``.
        plan: ``plan.json``, made before the first block.
        blocks: What is finished, also by earlier sittings.
        failed: Records of blocks that were given up.
        has_overviews: Whether overviews were written, and of these very blocks.
    """

    output_url: str
    report: Mapping[str, Any]
    plan: Mapping[str, Any]
    blocks: Sequence[FinishedBlock]
    failed: Sequence[Mapping[str, Any]]
    has_overviews: bool

    @property
    def computed_blocks(self) -> list[FinishedBlock]:
        """Finished blocks that were not copied from an earlier mosaic."""
        return [block for block in self.blocks if not block.is_copied]

    @property
    def num_finished(self) -> int:
        """Blocks of the plan that are finished; records may be more, since edges take helping blocks."""
        counts: Mapping[str, int] = self.report["blocks"]
        return counts["done"] + counts["empty"] + counts["skipped"]

    @property
    def class_pixels(self) -> list[int]:
        """Pixels of each class over all finished blocks."""
        if not self.blocks:
            return []
        totals = np.zeros(max(len(block.class_pixels) for block in self.blocks), np.int64)
        for block in self.blocks:
            totals[: len(block.class_pixels)] += block.class_pixels
        return [int(total) for total in totals]


def run_folder(output_url: str) -> Folder:
    """The folder beside a mosaic."""
    return Folder.at(f"{Folder.at(output_url).url}.run")


def read_run(output_url: str) -> StoredRun:
    """Everything that a run's folder holds."""
    folder = run_folder(output_url)
    report, plan = _required(folder, "report.json"), _required(folder, "plan.json")
    names = sorted(_names(folder, "blocks/"))
    blocks = [_finished(name, json.loads(data)) for name, data in _read_all(folder, "blocks/", names)]
    failures = _read_all(folder, "failed/", sorted(_names(folder, "failed/")))
    failed = [json.loads(data) for _, data in failures]
    return StoredRun(Folder.at(output_url).url, report, plan, blocks, failed, _overviews_of(folder) == names)


def _required(folder: Folder, key: str) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(folder.read(key))
    except FileNotFoundError as error:
        raise StorageError(
            f"a report is made of a run that came to its end, but there is no {key} in {redact(folder.url)}; "
            "run it again: it goes on where it stood"
        ) from error
    return document


def _names(folder: Folder, prefix: str) -> Iterator[str]:
    for found in folder.listing(prefix):
        name = RECORD_NAME.fullmatch(found.key.removeprefix(prefix))
        if name:
            yield name[1]


def _read_all(folder: Folder, prefix: str, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    with ThreadPoolExecutor(READERS) as readers:
        for start in range(0, len(names), BATCH):
            batch = names[start : start + BATCH]
            keys = [f"{prefix}{name}.json" for name in batch]
            yield from zip(batch, readers.map(folder.read, keys), strict=True)


def _finished(name: str, record: Mapping[str, Any]) -> FinishedBlock:
    seconds = record.get("seconds", {})
    compute = seconds.get("compute", 0.0)
    stages = {
        "read": seconds.get("read", 0.0),
        # A block that was read waits for the device while another is computed.
        "wait": max(0.0, seconds.get("wait_and_compute", 0.0) - compute),
        "compute": compute,
        "write": seconds.get("write", 0.0),
    }
    return FinishedBlock(
        name=name,
        worker=record.get("worker", ""),
        started=record.get("started", 0.0),
        stages=stages,
        crops=record.get("crops", 0),
        pixels=record.get("pixels", 0),
        class_pixels=np.asarray(record.get("class_pixels", []), np.int64),
        peak_rss_bytes=record.get("peak_rss_bytes", 0),
        is_copied="copied_from" in record,
    )


def _overviews_of(folder: Folder) -> list[str] | None:
    """The blocks that the overviews were made of; None where there are none."""
    try:
        document: dict[str, Any] = json.loads(folder.read("overviews.json"))
    except FileNotFoundError:
        return None
    return sorted(document["blocks"])
