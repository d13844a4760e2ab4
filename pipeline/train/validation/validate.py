"""Validation by sliding crops: the network runs over whole tiles as ``segment_region`` runs over scenes.

Tiles of any size, large scenes too, are cut into blocks and the blocks shared out among the ranks: counts are
integers that merge exactly, so neither blocks nor ranks change a figure. While one block is computed the next
is read; no more than two are held.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from deeplab_core.metrics import BoundaryIoU, ConfusionMatrix
from deeplab_core.segmenter import Segmenter
from pipeline.errors import ModelError, SettingsError
from pipeline.raster.window import Window
from pipeline.segment.lattice import Lattice
from pipeline.train.tiles.tile_reader import IGNORE, LabelledPixels, TileReader
from pipeline.train.tiles.tile_set import Tile, TileSet
from pipeline.train.validation.figures import TileScore, Validation
from pipeline.train.validation.tile_segmenter import Inference, Judged, TileSegmenter, on_lattice

__all__ = ["Validation", "choose_tiles", "gathered", "validate"]

BLOCK_PX = 2048
"""Side of what is computed at once: with a crop's overlap it takes some hundred MB, whatever the scene."""

BOUNDARY_SHARE = 0.02
"""Width of the contour band, of a crop's diagonal: the authors' two percent, for images of a crop's size."""


def validate(  # noqa: PLR0913 - what is validated, how, and which share of it, by name
    model: Segmenter,
    tiles: TileSet,
    split: str,
    how: Inference,
    *,
    threads: int,
    rank: int = 0,
    world_size: int = 1,
    max_tiles: int | None = None,
    block_px: int = BLOCK_PX,
) -> Validation:
    """Validate a network on a split of a tile set.

    Ranks share the blocks; ``gathered`` makes their shares one. Pixels without imagery do not count, whatever
    their label: the network was not shown them.

    Args:
        model: The network, unwrapped and on any device; it is copied and stays as it is.
        tiles: The tile set.
        split: ``val``, or any other.
        how: How the network is run, as it will be over scenes.
        threads: CPU threads for the network and for decoding.
        rank: Which of the shares.
        world_size: How many there are.
        max_tiles: Tiles at most; always the same ones, scattered over the split.
        block_px: Side of what is computed at once, a multiple of 16; figures do not depend on it.
    """
    began = time.perf_counter()
    _check_classes(model, tiles)
    chosen = choose_tiles(tiles, split, max_tiles)
    boundary_px = max(1, round(BOUNDARY_SHARE * 2**0.5 * how.crop_px))
    counts = _Counts(tiles.classes, boundary_px)
    own = share([piece for tile in chosen for piece in _pieces(tile, block_px)], rank, world_size)
    most_crops = max((_num_crops(piece, model, how) for piece in own), default=1)
    with _threads(threads), closing(TileReader(tiles, num_threads=threads)) as reader:
        segmenter = TileSegmenter(model, how, most_crops=most_crops)
        for piece, read in _read_ahead(reader, segmenter, own, boundary_px):
            judged = segmenter.judge(piece.tile, piece.with_margin(boundary_px), read)
            counts.add(piece, judged)
    return counts.result(time.perf_counter() - began)


def gathered(validation: Validation) -> Validation:
    """All ranks' shares as one, the same on every rank; alone, the share itself. All ranks must call it."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return validation
    shares: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(shares, validation.to_dict())
    total = Validation.from_dict(shares[0])
    for stored in shares[1:]:
        total = total + Validation.from_dict(stored)
    return total


def _check_classes(model: Segmenter, tiles: TileSet) -> None:
    if model.config.classes != tiles.classes:
        raise ModelError(
            f"a model must tell the tiles' classes apart to be validated on them, {list(tiles.classes)}, "
            f"got {list(model.config.classes)}"
        )


def choose_tiles(tiles: TileSet, split: str, max_tiles: int | None) -> list[Tile]:
    """The tiles of a split or, of many, always the same few, scattered as a hash scatters."""
    members = sorted(tiles.of(split), key=lambda tile: tile.id)
    if not members:
        raise SettingsError(
            f"a validation needs tiles, but none of {len(tiles.tiles)} is in the split {split!r}; raise "
            f"tiles.{'test' if split == 'test' else 'val'}_share, or label more tiles"
        )
    if max_tiles is None or len(members) <= max_tiles:
        return members
    scattered = sorted(members, key=lambda tile: hashlib.sha256(tile.id.encode()).digest())
    return sorted(scattered[:max_tiles], key=lambda tile: tile.id)


@dataclass(frozen=True)
class Piece:
    """A block of a tile."""

    tile: Tile
    window: Window

    def with_margin(self, margin_px: int) -> Window:
        """The block with what its contours may lie in, as far as the tile goes."""
        return on_lattice(self.window.grow(margin_px), self.tile.grid)


def share(pieces: Sequence[Piece], rank: int, world_size: int) -> list[Piece]:
    """A rank's run of neighbouring blocks, such that all ranks have about as many pixels."""
    total, before, own = sum(piece.window.num_pixels for piece in pieces), 0, []
    for piece in pieces:
        middle = before + piece.window.num_pixels / 2
        if int(middle * world_size / total) == rank:
            own.append(piece)
        before += piece.window.num_pixels
    return own


def _pieces(tile: Tile, block_px: int) -> Iterator[Piece]:
    grid = tile.grid
    for row in range(0, grid.height, block_px):
        for col in range(0, grid.width, block_px):
            yield Piece(tile, Window(row, col, block_px, block_px).intersect(grid.window))


def _num_crops(piece: Piece, model: Segmenter, how: Inference) -> int:
    size = {"crop_px": how.crop_px, "stride_px": how.stride_px, "node_px": model.lattice_stride}
    rows, cols = Lattice.over(*piece.tile.grid.window.shape, **size).crops(piece.window)
    return len(rows) * len(cols)


def _read_ahead(
    reader: TileReader, segmenter: TileSegmenter, pieces: Sequence[Piece], margin_px: int
) -> Iterator[tuple[Piece, LabelledPixels]]:
    """Pieces with their pixels; the next is being read while the caller works on one."""
    with ThreadPoolExecutor(1, thread_name_prefix="validation-reader") as thread:

        def start(piece: Piece) -> Any:  # noqa: ANN401 - a future
            return thread.submit(segmenter.read, reader, piece.tile, piece.with_margin(margin_px))

        coming = start(pieces[0]) if pieces else None
        for index, piece in enumerate(pieces):
            assert coming is not None  # noqa: S101 - there is a piece
            read = coming.result()
            coming = start(pieces[index + 1]) if index + 1 < len(pieces) else None
            yield piece, read


class _Counts:
    """Counts as they grow."""

    def __init__(self, classes: tuple[str, ...], boundary_px: int) -> None:
        self._classes = classes
        self._confusion = ConfusionMatrix(len(classes), IGNORE)
        self._boundary = BoundaryIoU(len(classes), IGNORE, width_px=boundary_px)
        self._scores: dict[str, TileScore] = {}

    def add(self, piece: Piece, judged: Judged) -> None:
        own = piece.window.relative_to(judged.window).slices
        part = ConfusionMatrix(len(self._classes), IGNORE)
        part.update(judged.classes_HW[own], judged.labels_HW[own])
        self._confusion.merge(part)
        counted_HW: NDArray[np.bool_] = np.zeros(judged.window.shape, np.bool_)
        counted_HW[own] = True
        self._boundary.update(judged.classes_HW, judged.labels_HW, counted_HW)
        score = TileScore.of(piece.tile.id, piece.window, part)
        known = self._scores.get(score.id)
        self._scores[score.id] = score if known is None else known + score

    def result(self, seconds: float) -> Validation:
        scores = tuple(self._scores[name] for name in sorted(self._scores))
        return Validation(self._classes, self._confusion, self._boundary, scores, seconds)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Torch's threads for a while: training goes on with its own."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
