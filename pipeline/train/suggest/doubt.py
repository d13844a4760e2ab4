"""Where a mosaic is least sure, tile by tile: one task looks at a square of it and tells its best tiles.

Every mosaic is unsure along the borders of classes, and a label there teaches little; so border pixels count
a quarter. What is left is doubt over areas: things that the model has not seen.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StorageError
from pipeline.raster.mosaic import CONFIDENCE_STEPS, Mosaic
from pipeline.raster.window import Window
from pipeline.segment.executor import Record

TASK_PX = 2048
"""Tiles that begin in a square of this side belong to one task."""

INNER_WEIGHT, BORDER_WEIGHT = 4, 1

MOST_A_TASK = 32
"""Tiles that a task tells, so that what is gathered stays small whatever the mosaic's size."""

LOGIT_ROWS = 64
"""Lattice rows of logits read at once."""


@dataclass(frozen=True)
class DoubtSpec:
    """Everything a worker needs.

    Attributes:
        mosaic_url: The mosaic.
        size_px: Side of a tile.
        apart_px: Of two tiles of a task whose centres are nearer, only the better is told.
        max_nodata: Share of a tile that may be without data.
        by_margin: Whether doubt is measured by the two likeliest classes.
    """

    mosaic_url: str
    size_px: int
    apart_px: int
    max_nodata: float
    by_margin: bool


@dataclass(frozen=True)
class Candidate:
    """A tile that might be labelled.

    Attributes:
        window: Its pixels in the mosaic.
        score: Mean doubt, 0 to 1, borders counting less.
        mean_confidence: Over its pixels with data.
        border_share: Of these pixels, those on a border of classes.
        nodata_share: Share of the tile without data.
        mix: Share of each class among its pixels with data.
    """

    window: Window
    score: float
    mean_confidence: float
    border_share: float
    nodata_share: float
    mix: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values that ``from_json`` takes back."""
        window = self.window
        return {
            "window": [window.row, window.col, window.height, window.width],
            "score": self.score,
            "mean_confidence": self.mean_confidence,
            "border_share": self.border_share,
            "nodata_share": self.nodata_share,
            "mix": list(self.mix),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Candidate":
        """The candidate that ``to_json`` described."""
        return cls(**(value | {"window": Window(*value["window"]), "mix": tuple(value["mix"])}))


def tasks(height: int, width: int) -> list[str]:
    """The squares of a mosaic, as names."""
    rows, cols = (math.ceil(size / TASK_PX) for size in (height, width))
    return [f"{row}/{col}" for row in range(rows) for col in range(cols)]


def anchors(length_px: int, size_px: int) -> list[int]:
    """Where tiles begin along an axis: half a tile apart, the last one flush with the edge."""
    last = max(0, length_px - size_px)
    return sorted({*range(0, last + 1, max(1, size_px // 2)), last})


class DoubtWorker:
    """Tells the least sure tiles of a square."""

    def __init__(self, spec: DoubtSpec) -> None:
        self._spec = spec
        self._mosaic = Mosaic.open(spec.mosaic_url)
        self._layout = self._mosaic.layout

    def __call__(self, task: str) -> Record:
        """Look at one square."""
        row, col = (int(part) * TASK_PX for part in task.split("/"))
        tiles = list(self._tiles(Window(row, col, TASK_PX, TASK_PX)))
        if not tiles:
            return {"state": "empty", "pixels": 0, "candidates": []}
        frame = Window.from_bounds(tiles[0].row, tiles[0].col, tiles[-1].row_stop, tiles[-1].col_stop)
        halo = frame.grow(1).intersect(self._mosaic.grid.window)
        around_HW = self._mosaic.classes(halo)
        inner = frame.relative_to(halo).slices
        classes_HW = around_HW[inner]
        known_HW = classes_HW != self._layout.class_nodata
        if not known_HW.any():
            return {"state": "empty", "pixels": 0, "candidates": []}
        borders_HW = class_borders(around_HW, self._layout.class_nodata)[inner]
        confidence_HW = np.where(known_HW, self._mosaic.confidence(frame), 0)
        doubt_HW = self._margin_doubt(frame) if self._spec.by_margin else CONFIDENCE_STEPS - confidence_HW
        weights_HW = np.where(borders_HW, BORDER_WEIGHT, INNER_WEIGHT) * known_HW
        sums = {
            "known": _sums(known_HW, frame, tiles),
            "borders": _sums(borders_HW & known_HW, frame, tiles),
            "confidence": _sums(confidence_HW, frame, tiles),
            "weights": _sums(weights_HW, frame, tiles),
            "doubt": _sums(doubt_HW * weights_HW.astype(np.int32), frame, tiles),
        }
        found = [
            self._candidate(tiles[index], sums, index, frame, classes_HW) for index in self._best(tiles, sums)
        ]
        return {
            "state": "done",
            "pixels": int(known_HW.sum()),
            "candidates": [candidate.to_json() for candidate in found],
        }

    def _tiles(self, square: Window) -> Iterator[Window]:
        """Tiles that begin in a square, in reading order."""
        whole, size = self._mosaic.grid.window, self._spec.size_px
        rows = [row for row in anchors(whole.height, size) if square.row <= row < square.row_stop]
        cols = [col for col in anchors(whole.width, size) if square.col <= col < square.col_stop]
        for row in rows:
            for col in cols:
                yield Window(row, col, size, size).intersect(whole)

    def _best(self, tiles: list[Window], sums: dict[str, NDArray[np.int64]]) -> list[int]:
        """The tiles with the highest scores that have enough data and lie apart."""
        areas = np.array([tile.num_pixels for tile in tiles])
        enough = (sums["weights"] > 0) & (sums["known"] >= (1 - self._spec.max_nodata) * areas)
        scores = sums["doubt"] / np.maximum(sums["weights"], 1)
        chosen: list[int] = []
        for index in np.argsort(-scores, kind="stable").tolist():
            if len(chosen) == MOST_A_TASK:
                break
            if enough[index] and all(
                distance_px(tiles[index], tiles[other]) >= self._spec.apart_px for other in chosen
            ):
                chosen.append(index)
        return chosen

    def _candidate(
        self,
        tile: Window,
        sums: dict[str, NDArray[np.int64]],
        index: int,
        frame: Window,
        classes_HW: NDArray[Any],
    ) -> Candidate:
        values = classes_HW[tile.relative_to(frame).slices]
        counts = np.bincount(values[values < self._layout.num_classes], minlength=self._layout.num_classes)
        known = int(sums["known"][index])
        return Candidate(
            window=tile,
            score=float(sums["doubt"][index] / (CONFIDENCE_STEPS * sums["weights"][index])),
            mean_confidence=float(sums["confidence"][index] / (CONFIDENCE_STEPS * known)),
            border_share=float(sums["borders"][index] / known),
            nodata_share=1 - known / tile.num_pixels,
            mix=tuple((counts / max(1, counts.sum())).tolist()),
        )

    def _margin_doubt(self, frame: Window) -> NDArray[np.int64]:
        """1 − the distance of the two likeliest classes in 254ths; a node stands for the pixels after it."""
        step = self._layout.node_px if self._layout.logits == "lattice" else 1
        first_row, first_col = frame.row // step, frame.col // step
        row_stop, col_stop = -(-frame.row_stop // step), -(-frame.col_stop // step)
        logits = self._mosaic.array("logits")
        strips = []
        for row in range(first_row, row_stop, LOGIT_ROWS):
            part = np.asarray(
                logits[:, row : min(row + LOGIT_ROWS, row_stop), first_col:col_stop], np.float32
            )
            two = np.partition(np.exp(np.nan_to_num(part, nan=-np.inf)), -2, axis=0)[-2:]
            strips.append(np.rint(CONFIDENCE_STEPS * (1 - (two[1] - two[0]))).astype(np.int64))
        nodes_HW = np.concatenate(strips)
        pixels_HW = nodes_HW.repeat(step, axis=0).repeat(step, axis=1)
        row, col = frame.row - first_row * step, frame.col - first_col * step
        return pixels_HW[row : row + frame.height, col : col + frame.width]


def class_borders(classes_HW: NDArray[Any], nodata: int) -> NDArray[np.bool_]:
    """Pixels beside a pixel of another class; the edge of what is known is no border."""
    borders = np.zeros(classes_HW.shape, np.bool_)
    for one, other in (
        ((slice(1, None), slice(None)), (slice(None, -1), slice(None))),
        ((slice(None), slice(1, None)), (slice(None), slice(None, -1))),
    ):
        differs = classes_HW[one] != classes_HW[other]
        differs &= (classes_HW[one] != nodata) & (classes_HW[other] != nodata)
        borders[one] |= differs
        borders[other] |= differs
    return borders


def distance_px(one: Window, other: Window) -> float:
    """Between the centres of two tiles."""
    return math.dist(centre_px(one), centre_px(other))


def centre_px(tile: Window) -> tuple[float, float]:
    """Row and column of a tile's centre."""
    return tile.row + tile.height / 2, tile.col + tile.width / 2


def _sums(values_HW: NDArray[Any], frame: Window, tiles: list[Window]) -> NDArray[np.int64]:
    """The sum over each tile, from sums over the coarse grid of all their edges."""
    rows = sorted({edge - frame.row for tile in tiles for edge in (tile.row, tile.row_stop)})
    cols = sorted({edge - frame.col for tile in tiles for edge in (tile.col, tile.col_stop)})
    coarse = np.add.reduceat(values_HW, rows[:-1], axis=0, dtype=np.int64)
    coarse = np.add.reduceat(coarse, cols[:-1], axis=1, dtype=np.int64)
    table = np.zeros((len(rows), len(cols)), np.int64)
    table[1:, 1:] = coarse.cumsum(axis=0).cumsum(axis=1)
    row_of = {edge + frame.row: index for index, edge in enumerate(rows)}
    col_of = {edge + frame.col: index for index, edge in enumerate(cols)}
    top, bottom = (
        np.array([row_of[edge] for edge in edges])
        for edges in ([tile.row for tile in tiles], [tile.row_stop for tile in tiles])
    )
    left, right = (
        np.array([col_of[edge] for edge in edges])
        for edges in ([tile.col for tile in tiles], [tile.col_stop for tile in tiles])
    )
    return table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]


def check_doubt(mosaic: Mosaic, doubt: str) -> bool:
    """Whether doubt is measured by margin; refuses margins that the mosaic cannot tell."""
    has_margin = mosaic.layout.logits != "none" and mosaic.layout.num_classes > 1
    if doubt == "margin" and not has_margin:
        raise StorageError(
            "doubt: margin needs a mosaic of two classes or more that keeps logits, got "
            f"{mosaic.layout.num_classes} and output.logits: {mosaic.layout.logits}; use doubt: confidence"
        )
    return has_margin and doubt != "confidence"
