"""Which blocks there are, which crops each takes, and what all of it comes to. Arithmetic, no reading.

A block is whole chunks of the mosaic and one task: it reads a halo, computes every crop with a say in its
pixels and writes its objects once. Crops over a block's edge are computed by both neighbours;
``crops_computed`` over ``crops_unique`` is the price.
"""

import functools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.raster.grid import Grid
from pipeline.raster.plane import Plane, planes
from pipeline.raster.quadtree import Spans
from pipeline.raster.region import Region
from pipeline.raster.window import Window
from pipeline.segment.lattice import Axis, Lattice

STRIP_ROWS = 256
"""Rows of crops added up at once: their running totals then take little memory."""

BLOCK_NAME = re.compile(r"(?:t(?P<t>\d{3,})z(?P<z>\d{3,}))?r(?P<row>\d{5})c(?P<col>\d{5})")


@dataclass(frozen=True, slots=True, order=True)
class Block:
    """One task: its place in the grid of blocks."""

    row: int
    col: int
    plane: Plane | None = None
    """The plane of a stack; None where there is one."""

    @property
    def id(self) -> str:
        """A name that sorts."""
        return f"{self.plane.id if self.plane else ''}r{self.row:05d}c{self.col:05d}"

    @classmethod
    def from_id(cls, name: str) -> "Block":
        """The block of that name."""
        found = BLOCK_NAME.fullmatch(name)
        if found is None:
            raise ValueError(
                f"a block's name must be like r00001c00002 or t003z012r00001c00002, got {name!r}"
            )
        plane = Plane(int(found["t"]), int(found["z"])) if found["t"] else None
        return cls(int(found["row"]), int(found["col"]), plane)


@dataclass(frozen=True)
class Plan:
    """Blocks over a region of a source.

    Attributes:
        lattice: Crops and nodes of the whole source.
        region: What is wanted of it.
        block_px: Side of a block.
        keeps_nodes: Whether the mosaic keeps values on the lattice: the last pixels before a block hang on
            its first nodes, so a block has work even where only those pixels are wanted.
    """

    lattice: Lattice
    region: Region
    block_px: int
    keeps_nodes: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values that ``from_json`` takes back."""
        box, polygons = self.region.box, self.region.polygons_wkb
        return {
            "source_px": [self.lattice.rows.length_px, self.lattice.cols.length_px],
            "crop_px": self.lattice.crop_px,
            "stride_px": self.lattice.stride_px,
            "node_px": self.lattice.node_px,
            "region_window": [box.row, box.col, box.height, box.width],
            "region_polygons": None if polygons is None else polygons.hex(),
            "stack": self.region.stack and list(self.region.stack),
            "block_px": self.block_px,
            "keeps_nodes": self.keeps_nodes,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Plan":
        """The plan that ``to_json`` described."""
        sizes = {name: value[name] for name in ("crop_px", "stride_px", "node_px")}
        polygons, stack = value["region_polygons"], value.get("stack")
        region = Region(
            Window(*value["region_window"]),
            None if polygons is None else bytes.fromhex(polygons),
            (stack[0], stack[1]) if stack else None,
        )
        lattice = Lattice.over(*value["source_px"], **sizes)
        return cls(lattice, region, value["block_px"], value["keeps_nodes"])

    @cached_property
    def mosaic_window(self) -> Window:
        """The mosaic in the source's pixels: the region's box, snapped outward to the crops' lattice.

        Snapped, a region's mosaic has its nodes where a full run has them, and equals it there.
        """
        source = Window(0, 0, self.lattice.rows.length_px, self.lattice.cols.length_px)
        return self.region.box.snap_outward(self.lattice.stride_px).intersect(source)

    def mosaic_grid(self, source: Grid) -> Grid:
        """Where the mosaic lies."""
        return source.crop(self.mosaic_window)

    @property
    def block_rows(self) -> int:
        """Rows of blocks."""
        return math.ceil(self.mosaic_window.height / self.block_px)

    @property
    def block_cols(self) -> int:
        """Columns of blocks."""
        return math.ceil(self.mosaic_window.width / self.block_px)

    def window(self, block: Block) -> Window:
        """A block's pixels in the mosaic."""
        whole = Window(0, 0, *self.mosaic_window.shape)
        origin = Window(block.row * self.block_px, block.col * self.block_px, self.block_px, self.block_px)
        return origin.intersect(whole)

    def source_window(self, block: Block) -> Window:
        """A block's pixels in the source."""
        return self.window(block).shift(self.mosaic_window.row, self.mosaic_window.col)

    def served_window(self, block: Block) -> Window:
        """The wanted pixels that hang on what a block writes, in the source's pixels."""
        return self._reached(block).intersect(self.region.box)

    def halo(self, block: Block) -> Window:
        """The source pixels that a block's crops look at; may pass the source's edges."""
        return self.lattice.halo(self.served_window(block))

    def blocks(self) -> Iterator[Block]:
        """The blocks with something wanted, plane by plane and row by row."""
        yield from self._in_every_plane(self._touched(reach_px=0))

    def tasks(self) -> Iterator[Block]:
        """The blocks with something to write: those with something wanted, or just before them."""
        yield from self._in_every_plane(self._touched(self._reach_px))

    def _in_every_plane(self, touched: NDArray[np.bool_]) -> Iterator[Block]:
        places = np.argwhere(touched).tolist()
        for plane in planes(self.region.stack) if self.region.stack else (None,):
            yield from (Block(row, col, plane) for row, col in places)

    def _touched(self, reach_px: int) -> NDArray[np.bool_]:
        """For every block, whether something wanted hangs on its pixels and so many above and left of it."""
        rows, cols = self._block_spans
        return self.region.touches_grid(
            Spans.of((start - reach_px, stop) for start, stop in rows),
            Spans.of((start - reach_px, stop) for start, stop in cols),
        )

    @property
    def _block_spans(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """First row and one past the last of every row of blocks in the source's pixels; columns likewise."""
        mosaic, side = self.mosaic_window, self.block_px
        return (
            [(at, min(at + side, mosaic.row_stop)) for at in range(mosaic.row, mosaic.row_stop, side)],
            [(at, min(at + side, mosaic.col_stop)) for at in range(mosaic.col, mosaic.col_stop, side)],
        )

    @property
    def _reach_px(self) -> int:
        return self.lattice.node_px - 1 if self.keeps_nodes else 0

    def _reached(self, block: Block) -> Window:
        """A block with the pixels above and left of it that hang on its nodes."""
        window, reach = self.source_window(block), self._reach_px
        return Window.from_bounds(window.row - reach, window.col - reach, window.row_stop, window.col_stop)

    @cached_property
    def counts(self) -> "Counts":
        """Blocks and crops of the whole plan: those of a plane, as often as there are planes."""
        one = self._count_box() if self.region.polygons_wkb is None else self._count_polygons()
        return one.times(math.prod(self.region.stack or ()))

    def crop_spans(self) -> tuple[list[range], list[range]]:
        """For each row and each column of blocks, the crops with a say in what it serves."""
        box, (rows, cols) = self.region.box, self._block_spans
        return (
            self._crops_of(self.lattice.rows, rows, box.row, box.row_stop),
            self._crops_of(self.lattice.cols, cols, box.col, box.col_stop),
        )

    def _crops_of(
        self, axis: Axis, spans: list[tuple[int, int]], wanted_start: int, wanted_stop: int
    ) -> list[range]:
        reach = self._reach_px
        return [axis.crops(max(start - reach, wanted_start), min(stop, wanted_stop)) for start, stop in spans]

    def _count_box(self) -> "Counts":
        """Rows and columns are independent of each other: sums over the axes multiply."""
        box, (block_rows, block_cols) = self.region.box, self._block_spans
        crop_rows, crop_cols = self.lattice.crops(box)
        rows, cols = ([len(span) for span in spans] for spans in self.crop_spans())
        return Counts(
            blocks=int(Spans.of(block_rows).meet(box.row, box.row_stop).sum())
            * int(Spans.of(block_cols).meet(box.col, box.col_stop).sum()),
            crops_unique=len(crop_rows) * len(crop_cols),
            crops_computed=sum(rows) * sum(cols),
            crops_largest_block=max(rows) * max(cols),
        )

    def _count_polygons(self) -> "Counts":
        """Each crop is asked whether it serves a polygon; blocks add up those that they compute."""
        crop_rows, crop_cols = self.lattice.crops(self.region.box)
        serves = _serving_crops(self.lattice, self.region)
        rows, cols = self.crop_spans()
        computed = _sums_over(serves, _from(crop_rows.start, rows), _from(crop_cols.start, cols))
        per_task = computed[self._touched(self._reach_px)]
        return Counts(
            blocks=int(self._touched(reach_px=0).sum()),
            crops_unique=int(serves.sum()),
            crops_computed=int(per_task.sum()),
            crops_largest_block=int(per_task.max(initial=0)),
        )


@functools.lru_cache(maxsize=1)
def _serving_crops(lattice: Lattice, region: Region) -> NDArray[np.bool_]:
    """Which of the crops over a region's box have a say in a wanted pixel: the same for every block size."""
    reach_px = lattice.node_px - 1

    def looked_at(crops: range) -> Spans:
        starts = (crop * lattice.stride_px - reach_px for crop in crops)
        return Spans.of((start, start + lattice.crop_px + 2 * reach_px) for start in starts)

    rows, cols = lattice.crops(region.box)
    serving = region.touches_grid(looked_at(rows), looked_at(cols))
    serving.flags.writeable = False
    return serving


def _from(first: int, spans: list[range]) -> list[range]:
    """Spans counted from a first place; empty ones stay empty."""
    return [range(span.start - first, span.stop - first) if span else range(0) for span in spans]


def _sums_over(values: NDArray[np.bool_], rows: list[range], cols: list[range]) -> NDArray[np.int64]:
    """How many values are set in every pair of a row span and a column span."""
    across = [_between(part, cols) for part in np.array_split(values, max(1, len(values) // STRIP_ROWS))]
    return _between(np.concatenate(across).T, rows).T


def _between(values: NDArray[Any], spans: list[range]) -> NDArray[np.int64]:
    """Sums over spans of the last axis, from running totals."""
    totals = np.zeros((values.shape[0], values.shape[1] + 1), np.int64)
    np.cumsum(values, axis=1, out=totals[:, 1:])
    starts, stops = ([getattr(span, edge) for span in spans] for edge in ("start", "stop"))
    return np.asarray(totals[:, stops] - totals[:, starts])


@dataclass(frozen=True, slots=True)
class Counts:
    """What a plan comes to. With polygons, crops are those that may serve one."""

    blocks: int
    crops_unique: int
    crops_computed: int
    crops_largest_block: int

    @property
    def overlap_ratio(self) -> float:
        """Crops computed for each crop there is."""
        return self.crops_computed / max(1, self.crops_unique)

    def times(self, planes: int) -> "Counts":
        """The counts of so many planes, each like this one."""
        return Counts(
            self.blocks * planes,
            self.crops_unique * planes,
            self.crops_computed * planes,
            self.crops_largest_block,
        )

    def to_json(self) -> dict[str, Any]:
        """As ``plan.json`` and ``--plan --json`` have it."""
        return {
            "blocks": self.blocks,
            "crops": {
                "unique": self.crops_unique,
                "computed": self.crops_computed,
                "ratio": round(self.overlap_ratio, 4),
                "largest_block": self.crops_largest_block,
            },
        }
