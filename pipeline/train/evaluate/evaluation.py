"""The records of an evaluation's blocks, added up, and the figures that follow."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeplab_core.metrics import BoundaryIoU, ConfusionMatrix
from pipeline.raster.mosaic import CHUNK_PX, Mosaic
from pipeline.raster.window import Window
from pipeline.report.ground import Ground
from pipeline.segment.executor import Record
from pipeline.train.evaluate.area import estimate_areas
from pipeline.train.evaluate.reliability import Reliability
from pipeline.train.evaluate.worker import EvaluateSpec, Sparse

Cells = Counter[int]
"""A confusion matrix by the flat places of the cells that are not 0."""


class Evaluation:
    """Sums over blocks. All of them are integers but areas, so their order does not matter."""

    def __init__(self, mosaic: Mosaic, spec: EvaluateSpec, region_names: tuple[str, ...]) -> None:
        layout = mosaic.layout
        self._names = layout.class_names
        self._unlabelled = layout.class_nodata
        self._whole = layout.grid.window
        self._source_names = tuple(source.name for source in spec.labels)
        self._region_names = region_names
        self._ground = Ground.under(layout.grid, layout.attributes)
        self._boundary = BoundaryIoU(len(self._names), self._unlabelled, width_px=spec.boundary_px)
        self._reliability = Reliability(len(self._names), spec.bins)
        self._clusters: dict[str, Cells] = {}
        self._sources: dict[int, Cells] = {}
        self._regions: dict[int, Cells] = {}
        self._class_pixels = np.zeros(len(self._names), np.int64)
        self._class_m2 = np.zeros(len(self._names))
        self.blocks = 0

    def add(self, record: Record) -> None:
        """Add one block."""
        self.blocks += 1
        self._add_map(record["class_pixels"])
        if record["state"] == "empty":
            return
        for key, counts in record["clusters"].items():
            _add(self._clusters.setdefault(key, Counter()), counts)
        for found, kept in ((record["sources"], self._sources), (record["regions"], self._regions)):
            for key, counts in found.items():
                _add(kept.setdefault(int(key), Counter()), counts)
        self._boundary.merge(BoundaryIoU.from_dict(record["boundary"]))
        self._reliability.merge(Reliability.from_dict(record["reliability"]))

    def confusion(self, cells: Iterable[Cells]) -> ConfusionMatrix:
        """The sum of some cells as a matrix."""
        matrix = ConfusionMatrix(len(self._names), self._unlabelled)
        flat = matrix.counts.reshape(-1)
        for one in cells:
            flat[list(one)] += np.array(list(one.values()), np.int64)
        return matrix

    def to_json(self) -> dict[str, Any]:
        """Every figure, by the names that reports keep."""
        total = self.confusion(self._clusters.values())
        boundary_iou = self._boundary.iou
        return {
            "classes": list(self._names),
            **figures(total, self._names),
            "boundary_iou": by_class(self._names, boundary_iou),
            "boundary_miou": defined(self._boundary.miou),
            "confusion": total.counts.tolist(),
            "pixels": {
                "mapped": int(self._class_pixels.sum()),
                "labelled": int(total.counts.sum()),
                "without_prediction": int(total.counts[:, -1].sum()),
            },
            "class_pixels": self._class_pixels.tolist(),
            "area": self._areas(total),
            "reliability": self._reliability.summary(self._names),
            "sources": self._breakdown(self._sources, self._source_names),
            "regions": self._breakdown(self._regions, self._region_names),
        }

    def _add_map(self, class_pixels: Mapping[str, list[int]]) -> None:
        for key, counts in class_pixels.items():
            row, col = (int(part) * CHUNK_PX for part in key.split("/"))
            pixels = np.array(counts, np.int64)
            self._class_pixels += pixels
            if self._ground.is_known:
                window = Window(row, col, CHUNK_PX, CHUNK_PX).intersect(self._whole)
                self._class_m2 += pixels * self._ground.pixel_area_m2(window)

    def _areas(self, total: ConfusionMatrix) -> dict[str, Any]:
        """True areas by class; strata are the map's classes, so rows and columns change places."""
        known = self._ground.is_known
        sizes: NDArray[np.float64] = self._class_m2 if known else self._class_pixels.astype(np.float64)
        columns = len(self._names) + 1
        clusters = (
            {
                (place % columns, place // columns): pixels
                for place, pixels in sorted(cells.items())
                if place % columns < len(self._names)
            }
            for _, cells in sorted(self._clusters.items())  # sums of floats must not depend on blocks
        )
        sample = total.counts[:, : len(self._names)].T
        estimates = estimate_areas(sizes, sample, [cluster for cluster in clusters if cluster])
        unit = "m²" if known else "px"
        return estimates.to_json(self._names, float(sizes.sum()), unit) | {"measured": self._ground.note}

    def _breakdown(self, parts: Mapping[int, Cells], names: tuple[str, ...]) -> list[dict[str, Any]]:
        """The figures of each part that has a labelled pixel."""
        found = []
        for index, cells in sorted(parts.items()):
            matrix = self.confusion([cells])
            if matrix.counts.any():
                labelled = int(matrix.counts.sum())
                found.append({"name": names[index], "pixels": labelled, **figures(matrix, self._names)})
        return found


def figures(matrix: ConfusionMatrix, names: tuple[str, ...]) -> dict[str, Any]:
    """Every figure of a confusion matrix; None for one that nothing was counted for."""
    counts = matrix.counts
    predicted = counts[:, : len(names)].sum(axis=0)
    hits = np.diagonal(counts)
    precision = np.divide(hits, predicted, out=np.full(len(names), np.nan), where=predicted > 0)
    return {
        "miou": defined(matrix.miou),
        "iou": by_class(names, matrix.iou),
        "dice": by_class(names, matrix.dice),
        "mean_dice": defined(matrix.mean_dice),
        "pixel_accuracy": defined(matrix.pixel_accuracy),
        "mean_accuracy": defined(matrix.mean_accuracy),
        "frequency_weighted_iou": defined(matrix.frequency_weighted_iou),
        "precision": by_class(names, precision),
        "recall": by_class(names, matrix.class_accuracy),
    }


def by_class(names: tuple[str, ...], values: NDArray[np.float64]) -> dict[str, float | None]:
    """One figure a class, by its name."""
    return {name: defined(float(value)) for name, value in zip(names, values, strict=True)}


def defined(value: float) -> float | None:
    """A figure, or None for NaN, which JSON does not know."""
    return None if math.isnan(value) else value


def _add(cells: Cells, counts: Sparse) -> None:
    cells.update(dict(zip(counts["at"], counts["n"], strict=True)))
