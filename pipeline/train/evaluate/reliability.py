"""Is a mosaic as often right as it says? Reliability of ``confidence``, from integer counts. Pure numpy.

Confidence is stored in 254ths. Bins are (0, 1/B], (1/B, 2/B], … as in Guo et al. (2017); a confidence of 0
belongs to the first. Counts merge in any order to the same figures.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.raster.mosaic import CONFIDENCE_NODATA, CONFIDENCE_STEPS

PIECE_PX = 1 << 16
"""Pixels counted at a time: counting makes several 64-bit copies of them."""

_COUNTS = ("pixels", "hits", "steps")


class Reliability:
    """Predicted pixels by class and confidence, and how many of them are right.

    Attributes:
        num_classes: Number of classes K.
        bins: Number of bins B.
        pixels: Pixels, K × B.
        hits: Those that are right.
        steps: Sum of their confidences, in 254ths.
    """

    def __init__(self, num_classes: int, bins: int) -> None:
        self.num_classes = num_classes
        self.bins = bins
        self.pixels = np.zeros((num_classes, bins), np.int64)
        self.hits = np.zeros((num_classes, bins), np.int64)
        self.steps = np.zeros((num_classes, bins), np.int64)

    def update(
        self,
        classes: NDArray[Any],
        labels: NDArray[Any],
        confidence: NDArray[np.uint8],
        *,
        unlabelled: int,
    ) -> None:
        """Count pixels that have a label, a class and a confidence."""
        pieces = zip(*(_pieces(values) for values in (classes, labels, confidence)), strict=True)
        for classes_P, labels_P, confidence_P in pieces:
            self._count(classes_P, labels_P, confidence_P, unlabelled)

    def _count(
        self, classes: NDArray[Any], labels: NDArray[Any], confidence: NDArray[np.uint8], unlabelled: int
    ) -> None:
        counted = (labels != unlabelled) & (classes < self.num_classes) & (confidence != CONFIDENCE_NODATA)
        predicted = classes[counted].astype(np.int64)
        steps = confidence[counted].astype(np.int64)
        cells = predicted * self.bins + np.maximum(0, (steps * self.bins - 1) // CONFIDENCE_STEPS)
        right = predicted == labels[counted]
        size, shape = self.pixels.size, self.pixels.shape
        self.pixels += np.bincount(cells, minlength=size).reshape(shape)
        self.hits += np.bincount(cells[right], minlength=size).reshape(shape)
        # Sums of integers far below 2⁵³ are exact in the float64 that bincount adds in.
        self.steps += np.bincount(cells, weights=steps, minlength=size).astype(np.int64).reshape(shape)

    def merge(self, other: Self) -> None:
        """Add the counts of another window."""
        if (self.num_classes, self.bins) != (other.num_classes, other.bins):
            raise ValueError(
                f"reliabilities to merge must have equal classes and bins, got {self.num_classes} × "
                f"{self.bins} and {other.num_classes} × {other.bins}"
            )
        for name in _COUNTS:
            getattr(self, name).__iadd__(getattr(other, name))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, fit for JSON."""
        return {name: getattr(self, name).tolist() for name in _COUNTS}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """What ``to_dict`` gave."""
        counts = {name: np.array(stored[name], np.int64) for name in _COUNTS}
        found = cls(*counts["pixels"].shape)
        for name, values in counts.items():
            getattr(found, name).__iadd__(values)
        return found

    def summary(self, class_names: tuple[str, ...]) -> dict[str, Any]:
        """ECE, MCE and the diagram, over all and by class; None where nothing was counted."""
        diagram = _diagram(self.pixels.sum(axis=0), self.hits.sum(axis=0), self.steps.sum(axis=0))
        return diagram | {
            "bins": self.bins,
            "classes": {
                name: _diagram(self.pixels[index], self.hits[index], self.steps[index])
                for index, name in enumerate(class_names)
            },
        }


def _pieces(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    flat = values.reshape(-1)
    for start in range(0, len(flat), PIECE_PX):
        yield flat[start : start + PIECE_PX]


def _diagram(pixels: NDArray[np.int64], hits: NDArray[np.int64], steps: NDArray[np.int64]) -> dict[str, Any]:
    """One diagram: by bin the pixels, the mean confidence and the share that is right."""
    total = int(pixels.sum())
    filled = np.maximum(pixels, 1)
    accuracy, confidence = hits / filled, steps / (CONFIDENCE_STEPS * filled)
    gaps = np.abs(accuracy - confidence)
    known = pixels > 0
    return {
        "pixels": total,
        "ece": float((pixels * gaps).sum() / total) if total else None,
        "mce": float(gaps[known].max()) if total else None,
        "mean_confidence": float(steps.sum() / (CONFIDENCE_STEPS * total)) if total else None,
        "accuracy": float(hits.sum() / total) if total else None,
        "bin_pixels": pixels.tolist(),
        "bin_confidence": [
            float(value) if has else None for value, has in zip(confidence, known, strict=True)
        ],
        "bin_accuracy": [float(value) if has else None for value, has in zip(accuracy, known, strict=True)],
    }
