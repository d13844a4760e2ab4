"""A part of a tile with what is true there and what somebody says, and counts of many such parts."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeplab_core.metrics import ConfusionMatrix
from pipeline.raster.window import Window
from pipeline.train.tiles.tile_reader import IGNORE
from pipeline.train.validation.figures import TileScore


@dataclass(frozen=True)
class Judged:
    """A part of a tile.

    Attributes:
        tile: Its id.
        window: The part, in the tile's pixels.
        classes_HW: What is predicted.
        labels_HW: What is true; 255 where nothing counts.
    """

    tile: str
    window: Window
    classes_HW: NDArray[np.uint8]
    labels_HW: NDArray[np.uint8]


def count(parts: Iterable[Judged], num_classes: int) -> tuple[ConfusionMatrix, list[TileScore]]:
    """Add up parts: all of them, and tile by tile.

    Args:
        parts: Disjoint parts of tiles.
        num_classes: Number of classes.
    """
    confusion = ConfusionMatrix(num_classes, IGNORE)
    scores: dict[str, TileScore] = {}
    for part in parts:
        own = ConfusionMatrix(num_classes, IGNORE)
        own.update(part.classes_HW, part.labels_HW)
        confusion.merge(own)
        score = TileScore.of(part.tile, part.window, own)
        scores[score.id] = scores[score.id] + score if score.id in scores else score
    return confusion, list(scores.values())


def figures(
    classes: tuple[str, ...], confusion: ConfusionMatrix, scores: Iterable[TileScore]
) -> dict[str, Any]:
    """Figures of all tiles together and, tile by tile, the counts that any choice of them adds up from.

    Args:
        classes: Their names.
        confusion: Of all tiles.
        scores: Of each.
    """
    by_class = {"iou": confusion.iou, "dice": confusion.dice}
    return {
        "miou": _plain(confusion.miou),
        "mean_dice": _plain(confusion.mean_dice),
        "pixel_accuracy": _plain(confusion.pixel_accuracy),
        **{
            figure: {name: _plain(value) for name, value in zip(classes, values, strict=True)}
            for figure, values in by_class.items()
        },
        "confusion": confusion.counts.tolist(),
        "per_tile": {
            score.id: {"hits": score.hits, "true": score.true, "predicted": score.predicted}
            for score in scores
        },
    }


def _plain(figure: float) -> float | None:
    return None if np.isnan(figure) else float(figure)
