"""One block of an evaluation: the mosaic beside its labels, counted; the error map, written."""

import resource
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeplab_core.metrics import BoundaryIoU, ConfusionMatrix
from pipeline.errors import StorageError
from pipeline.raster.mosaic import (
    CHUNK_PX,
    CONFIDENCE_NODATA,
    BlockArrays,
    Mosaic,
    MosaicLayout,
    MosaicWriter,
)
from pipeline.raster.window import Window
from pipeline.segment.executor import Record
from pipeline.segment.ledger import Ledger
from pipeline.segment.plan import Block
from pipeline.storage import Folder, redact
from pipeline.train.evaluate.raster_labels import RasterLabels
from pipeline.train.evaluate.reliability import Reliability
from pipeline.train.tiles.drawn_labels import Drawn, DrawnLabels
from pipeline.train.tiles.label_values import LabelsRead

LabelSource = RasterLabels | DrawnLabels
Sparse = dict[str, list[int]]

RIGHT, WRONG, NOT_SHOWN = np.uint8(0), np.uint8(1), np.uint8(255)
"""What the error map says; the last where there is no label."""

NOBODY = -1
"""Owner of pixels that no source labels."""


@dataclass(frozen=True)
class EvaluateSpec:
    """Everything a worker needs; it travels to other processes and holds no secret.

    Attributes:
        mosaic_url: The mosaic.
        labels: What it is compared with; of several that label a pixel, the first counts.
        regions: Places reported by themselves, by their number.
        block_px: Side of a block.
        boundary_px: Width of the band along contours.
        bins: Bins of confidence.
        cluster_px: Side of clusters.
        errors: Where the error map is written.
        errors_layout: Its arrays.
        ledger: Where records of blocks go.
        fingerprint: Of the evaluation; a worker that does not find it in the ledger is in the wrong place.
    """

    mosaic_url: str
    labels: tuple[LabelSource, ...]
    regions: Drawn | None
    block_px: int
    boundary_px: int
    bins: int
    cluster_px: int
    errors: Folder
    errors_layout: MosaicLayout
    ledger: Ledger
    fingerprint: str


@dataclass(frozen=True)
class Merged:
    """The labels of a window: class indices, and which source each is from."""

    labels_HW: NDArray[np.uint16]
    owner_HW: NDArray[np.int32]
    unknown: dict[int, Counter[str]]


class EvaluateWorker:
    """Evaluates blocks by name."""

    def __init__(self, spec: EvaluateSpec) -> None:
        self._spec = spec
        _check_that_the_evaluation_is_here(spec)
        self._mosaic = Mosaic.open(spec.mosaic_url)
        self._writer = MosaicWriter(spec.errors, spec.errors_layout)
        self._regions = spec.regions.open() if spec.regions else None
        self._drawn = {
            index: labels.open()
            for index, labels in enumerate(spec.labels)
            if isinstance(labels, DrawnLabels)
        }
        layout = self._mosaic.layout
        self._num_classes, self._unlabelled = layout.num_classes, layout.class_nodata

    def __call__(self, task: str) -> Record:
        """Compare one block, write its part of the error map and tell the counts."""
        began = time.perf_counter()
        side, whole = self._spec.block_px, self._mosaic.grid.window
        place = Block.from_id(task)
        window = Window(place.row * side, place.col * side, side, side).intersect(whole)
        classes_HW = self._mosaic.classes(window)
        record: Record = {
            "block": task,
            "state": "empty",
            "pixels": 0,
            "class_pixels": self._class_pixels(window, classes_HW),
        }
        wanted = self._labelled_part(window)
        if wanted.num_pixels:
            record |= self._compare(window, wanted, classes_HW)
        if not record.get("unknown"):
            record["seconds"] = {"compute": time.perf_counter() - began}
            record["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            self._spec.ledger.record_finished(task, record)
        return record

    def _labelled_part(self, window: Window) -> Window:
        """The smallest window that holds whatever may be labelled of a block."""
        parts = [labels.footprint.intersect(window) for labels in self._spec.labels]
        parts = [part for part in parts if part.num_pixels]
        if not parts:
            return Window(window.row, window.col, 0, 0)
        return Window.from_bounds(
            min(part.row for part in parts),
            min(part.col for part in parts),
            max(part.row_stop for part in parts),
            max(part.col_stop for part in parts),
        )

    def _compare(self, window: Window, wanted: Window, classes_HW: NDArray[Any]) -> Record:
        """Everything that is counted where there may be labels."""
        halo = wanted.grow(self._spec.boundary_px).intersect(self._mosaic.grid.window)
        merged = self._read_labels(halo)
        if merged.unknown:
            return {"unknown": {str(key): dict(values) for key, values in merged.unknown.items()}}
        labelled = _box_of(merged.labels_HW[wanted.relative_to(halo).slices] != self._unlabelled)
        if not labelled.num_pixels:
            return {}
        wanted = labelled.shift(wanted.row, wanted.col)
        own = wanted.relative_to(halo).slices
        labels_HW, owner_HW = merged.labels_HW[own], merged.owner_HW[own]
        part_HW = classes_HW[wanted.relative_to(window).slices]
        confidence_HW = self._mosaic.confidence(wanted)
        reliability = Reliability(self._num_classes, self._spec.bins)
        reliability.update(part_HW, labels_HW, confidence_HW, unlabelled=self._unlabelled)
        self._write_errors(window, wanted, part_HW, labels_HW, confidence_HW)
        return {
            "state": "done",
            "pixels": int(np.count_nonzero(labels_HW != self._unlabelled)),
            "clusters": self._clusters(wanted, part_HW, labels_HW),
            "sources": self._by_source(part_HW, labels_HW, owner_HW),
            "regions": self._by_region(wanted, part_HW, labels_HW),
            "boundary": self._boundary(halo, wanted, merged.labels_HW),
            "reliability": reliability.to_dict(),
        }

    def _read_labels(self, window: Window) -> Merged:
        """Labels of all sources on a window: each pixel has that of the first source which labels it."""
        labels_HW = np.full(window.shape, self._unlabelled, np.uint16)
        owner_HW = np.full(window.shape, NOBODY, np.int32)
        unknown: dict[int, Counter[str]] = {}
        for index, source in enumerate(self._spec.labels):
            part = source.footprint.intersect(window)
            if not part.num_pixels:
                continue
            read = self._read_source(index, part)
            if read.unknown:
                unknown[index] = read.unknown
            there = part.relative_to(window).slices
            free_HW = (owner_HW[there] == NOBODY) & (read.labels_HW != self._unlabelled)
            labels_HW[there][free_HW] = read.labels_HW[free_HW]
            owner_HW[there][free_HW] = index
        return Merged(labels_HW, owner_HW, unknown)

    def _read_source(self, index: int, window: Window) -> LabelsRead:
        """Labels of one source. Rasters are opened anew: a tile set has thousands, a block meets a few."""
        source = self._spec.labels[index]
        if isinstance(source, DrawnLabels):
            return self._drawn[index].read(window)
        with closing(source.open()) as raster:
            return raster.read(window)

    def _class_pixels(self, window: Window, classes_HW: NDArray[Any]) -> dict[str, list[int]]:
        """Pixels of each class by chunk, so that areas do not depend on how blocks are cut."""
        found = {}
        for chunk in _squares(window, CHUNK_PX):
            values = classes_HW[chunk.relative_to(window).slices]
            known = values[values < self._num_classes]
            if known.size:
                counts = np.bincount(known, minlength=self._num_classes)
                found[f"{chunk.row // CHUNK_PX}/{chunk.col // CHUNK_PX}"] = counts.tolist()
        return found

    def _confusion(self, classes_HW: NDArray[Any], labels_HW: NDArray[Any]) -> Sparse:
        matrix = ConfusionMatrix(self._num_classes, self._unlabelled)
        matrix.update(classes_HW, labels_HW)
        return to_sparse(matrix.counts)

    def _clusters(
        self, window: Window, classes_HW: NDArray[Any], labels_HW: NDArray[Any]
    ) -> dict[str, Sparse]:
        """Confusion by square of the mosaic; squares that reach into other blocks are joined later."""
        found = {}
        for square in _squares(window, self._spec.cluster_px):
            part = square.relative_to(window).slices
            counts = self._confusion(classes_HW[part], labels_HW[part])
            if counts["at"]:
                side = self._spec.cluster_px
                found[f"{square.row // side}/{square.col // side}"] = counts
        return found

    def _by_source(
        self, classes_HW: NDArray[Any], labels_HW: NDArray[Any], owner_HW: NDArray[np.int32]
    ) -> dict[str, Sparse]:
        owners = [owner for owner in np.unique(owner_HW).tolist() if owner != NOBODY]
        return {
            str(owner): self._confusion(
                classes_HW, np.where(owner_HW == owner, labels_HW, self._unlabelled).astype(np.uint16)
            )
            for owner in owners
        }

    def _by_region(
        self, window: Window, classes_HW: NDArray[Any], labels_HW: NDArray[Any]
    ) -> dict[str, Sparse]:
        if self._regions is None:
            return {}
        found = {}
        for key, covered_HW in self._regions.masks(window):
            inside_HW = np.where(covered_HW, labels_HW, self._unlabelled).astype(np.uint16)
            found[str(key)] = self._confusion(classes_HW, inside_HW)
        return found

    def _boundary(self, around: Window, wanted: Window, labels_HW: NDArray[np.uint16]) -> dict[str, Any]:
        """Contours of the block's own pixels, seen with the halo that they need."""
        boundary = BoundaryIoU(self._num_classes, self._unlabelled, width_px=self._spec.boundary_px)
        halo = wanted.grow(self._spec.boundary_px).intersect(around)
        counted_HW = np.zeros(halo.shape, np.bool_)
        counted_HW[wanted.relative_to(halo).slices] = True
        boundary.update(self._mosaic.classes(halo), labels_HW[halo.relative_to(around).slices], counted_HW)
        return boundary.to_dict()

    def _write_errors(
        self,
        window: Window,
        wanted: Window,
        classes_HW: NDArray[Any],
        labels_HW: NDArray[Any],
        confidence_HW: NDArray[np.uint8],
    ) -> None:
        labelled_HW = labels_HW != self._unlabelled
        errors_HW = np.full(window.shape, NOT_SHOWN, np.uint8)
        sure_HW = np.full(window.shape, CONFIDENCE_NODATA, np.uint8)
        part = wanted.relative_to(window).slices
        errors_HW[part][labelled_HW] = np.where((classes_HW == labels_HW)[labelled_HW], RIGHT, WRONG)
        sure_HW[part][labelled_HW] = confidence_HW[labelled_HW]
        self._writer.write(window, BlockArrays(errors_HW, sure_HW, None))


def _box_of(flags_HW: NDArray[np.bool_]) -> Window:
    """The smallest window that holds every flag."""
    rows, cols = np.flatnonzero(flags_HW.any(axis=1)), np.flatnonzero(flags_HW.any(axis=0))
    if not len(rows):
        return Window(0, 0, 0, 0)
    return Window.from_bounds(int(rows[0]), int(cols[0]), int(rows[-1]) + 1, int(cols[-1]) + 1)


def to_sparse(counts: NDArray[np.int64]) -> Sparse:
    """The cells of a matrix that are not 0: their flat places and their values."""
    at = np.flatnonzero(counts)
    return {"at": at.tolist(), "n": counts.reshape(-1)[at].tolist()}


def _squares(window: Window, side_px: int) -> Iterator[Window]:
    """The window's part of every square on multiples of a side."""
    around = window.snap_outward(side_px)
    for row in range(around.row, around.row_stop, side_px):
        for col in range(around.col, around.col_stop, side_px):
            yield Window(row, col, side_px, side_px).intersect(window)


def _check_that_the_evaluation_is_here(spec: EvaluateSpec) -> None:
    """The driver wrote the plan before any worker began: who cannot see it would write into nowhere."""
    plan = spec.ledger.read_plan()
    if plan is None or plan.get("fingerprint") != spec.fingerprint:
        raise StorageError(
            f"every node must see the output, but {socket.gethostname()} finds no plan of this evaluation in "
            f"{redact(spec.ledger.folder.url)}; give --output a URL or a path that all nodes share"
        )
