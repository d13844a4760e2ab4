"""What a validation finds: exact counts that merge, and the figures that follow from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from deeplab_core.metrics import BoundaryIoU, ConfusionMatrix
from pipeline.raster.window import Window


@dataclass(frozen=True)
class TileScore:
    """How a tile went, in pixels of each class.

    Attributes:
        id: The tile.
        hits: Predicted as what they are.
        true: Truly of the class.
        predicted: Predicted as the class.
        worst: The block with the most errors.
        worst_errors: How many.
    """

    id: str
    hits: tuple[int, ...]
    true: tuple[int, ...]
    predicted: tuple[int, ...]
    worst: Window
    worst_errors: int

    @classmethod
    def of(cls, tile_id: str, window: Window, confusion: ConfusionMatrix) -> "TileScore":
        """The score of one block."""
        counts, num_classes = confusion.counts, confusion.num_classes
        hits = np.diagonal(counts)
        true, predicted = counts.sum(axis=1), counts[:, :num_classes].sum(axis=0)
        hits_K, true_K, predicted_K = (tuple(each.tolist()) for each in (hits, true, predicted))
        return cls(tile_id, hits_K, true_K, predicted_K, window, int(counts.sum() - hits.sum()))

    def __add__(self, other: "TileScore") -> "TileScore":
        """Two parts of one tile."""
        # Of blocks with as many errors the first counts, in whatever order they are added.
        worst, errors = min(
            (self.worst, self.worst_errors), (other.worst, other.worst_errors), key=_by_errors
        )
        return TileScore(
            self.id,
            _sums(self.hits, other.hits),
            _sums(self.true, other.true),
            _sums(self.predicted, other.predicted),
            worst,
            errors,
        )

    @property
    def pixels(self) -> int:
        """Pixels that counted."""
        return sum(self.true)

    @property
    def iou(self) -> NDArray[np.float64]:
        """IoU of every class; NaN for a class neither true nor predicted here."""
        hits, union = np.array(self.hits), np.array(self.true) + np.array(self.predicted)
        union = union - hits
        return np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)

    @property
    def miou(self) -> float:
        """Mean of IoU over the classes that are true or predicted here."""
        return float(np.nanmean(self.iou)) if self.pixels else float("nan")

    @property
    def pixel_accuracy(self) -> float:
        """Share of the pixels that is right."""
        return sum(self.hits) / self.pixels if self.pixels else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Plain values that ``from_dict`` takes back."""
        worst = self.worst
        return {
            "id": self.id,
            "hits": list(self.hits),
            "true": list(self.true),
            "predicted": list(self.predicted),
            "worst": [worst.row, worst.col, worst.height, worst.width],
            "worst_errors": self.worst_errors,
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "TileScore":
        """The score that ``to_dict`` described."""
        hits, true, predicted = (tuple(stored[name]) for name in ("hits", "true", "predicted"))
        return cls(stored["id"], hits, true, predicted, Window(*stored["worst"]), stored["worst_errors"])


@dataclass(frozen=True)
class Validation:
    """What a validation found.

    Attributes:
        classes: Names.
        confusion: Pixels by true and predicted class.
        boundary: Agreement along the contours, in bands of one width for all tiles.
        per_tile: Every tile that was looked at, in the order of the ids.
        seconds: How long it took; of several ranks, the longest.
    """

    classes: tuple[str, ...]
    confusion: ConfusionMatrix
    boundary: BoundaryIoU
    per_tile: tuple[TileScore, ...]
    seconds: float

    def __add__(self, other: "Validation") -> "Validation":
        """Two ranks' shares as one."""
        scores: dict[str, TileScore] = {}
        for score in (*self.per_tile, *other.per_tile):
            scores[score.id] = scores[score.id] + score if score.id in scores else score
        return Validation(
            self.classes,
            self.confusion + other.confusion,
            self.boundary + other.boundary,
            tuple(scores[name] for name in sorted(scores)),
            max(self.seconds, other.seconds),
        )

    def ranked(self) -> list[TileScore]:
        """Tiles with something that counts, the worst first."""
        return sorted((one for one in self.per_tile if one.pixels), key=lambda one: (one.miou, one.id))

    def to_dict(self) -> dict[str, Any]:
        """Exact counts, for merging; ``from_dict`` takes them back."""
        return {
            "classes": list(self.classes),
            "confusion": self.confusion.to_dict(),
            "boundary": self.boundary.to_dict(),
            "per_tile": [score.to_dict() for score in self.per_tile],
            "seconds": self.seconds,
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """The validation that ``to_dict`` described."""
        return cls(
            tuple(stored["classes"]),
            ConfusionMatrix.from_dict(stored["confusion"]),
            BoundaryIoU.from_dict(stored["boundary"]),
            tuple(TileScore.from_dict(score) for score in stored["per_tile"]),
            stored["seconds"],
        )

    def to_json(self) -> dict[str, Any]:
        """Figures for reports; null where nothing was counted."""
        confusion, boundary = self.confusion, self.boundary
        return {
            "miou": _plain(confusion.miou),
            "iou": self._by_class(confusion.iou),
            "mean_dice": _plain(confusion.mean_dice),
            "dice": self._by_class(confusion.dice),
            "pixel_accuracy": _plain(confusion.pixel_accuracy),
            "class_accuracy": self._by_class(confusion.class_accuracy),
            "boundary_miou": _plain(boundary.miou),
            "boundary_iou": self._by_class(boundary.iou),
            "boundary_width_px": boundary.width_px,
            "confusion": confusion.counts.tolist(),
            "classes": list(self.classes),
            "pixels": int(confusion.counts.sum()),
            "tiles": [
                {
                    "id": score.id,
                    "miou": _plain(score.miou),
                    "pixel_accuracy": _plain(score.pixel_accuracy),
                    "pixels": score.pixels,
                }
                for score in self.per_tile
            ],
            "seconds": self.seconds,
        }

    def _by_class(self, figures: NDArray[np.float64]) -> dict[str, float | None]:
        return {name: _plain(float(value)) for name, value in zip(self.classes, figures, strict=True)}


def _sums(one: tuple[int, ...], two: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(one, two, strict=True))


def _by_errors(place: tuple[Window, int]) -> tuple[int, Window]:
    window, errors = place
    return -errors, window


def _plain(figure: float) -> float | None:
    return None if np.isnan(figure) else float(figure)
