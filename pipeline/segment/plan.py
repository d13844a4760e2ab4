"""Which blocks there are, which crops each takes, and what all of it comes to. Arithmetic, no reading.

A block is whole chunks of the mosaic and one task: it reads a halo, computes every crop with a say in its
pixels and writes its objects once. Crops over a block's edge are computed by both neighbours;
``crops_computed`` over ``crops_unique`` is the price.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.raster.grid import Grid
from pipeline.raster.plane import Plane, planes
from pipeline.raster.region import Region
from pipeline.raster.window import Window
from pipeline.segment.lattice import Axis, Lattice

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
        yield from self._touched_blocks(self.source_window)

    def tasks(self) -> Iterator[Block]:
        """The blocks with something to write: those with something wanted, or just before them."""
        yield from self._touched_blocks(self._reached)

    def _touched_blocks(self, window_of: Callable[[Block], Window]) -> Iterator[Block]:
        if self.region.stack is None:
            yield from self._touched_in_plane(window_of)
            return
        touched = list(self._touched_in_plane(window_of))
        for plane in planes(self.region.stack):
            yield from (replace(block, plane=plane) for block in touched)

    def _touched_in_plane(self, window_of: Callable[[Block], Window]) -> Iterator[Block]:
        for row in range(self.block_rows):
            line = [Block(row, col) for col in range(self.block_cols)]
            touched = self.region.touches([window_of(block) for block in line])
            yield from (block for block, is_touched in zip(line, touched, strict=True) if is_touched)

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

    def _count_box(self) -> "Counts":
        """Rows and columns are independent of each other: sums over the axes multiply."""
        box, mosaic = self.region.box, self.mosaic_window
        rows = self._crops_per_block(self.lattice.rows, mosaic.row, self.block_rows, box.row, box.row_stop)
        cols = self._crops_per_block(self.lattice.cols, mosaic.col, self.block_cols, box.col, box.col_stop)
        block_rows = _count_meeting(mosaic.row, self.block_px, self.block_rows, box.row, box.row_stop)
        block_cols = _count_meeting(mosaic.col, self.block_px, self.block_cols, box.col, box.col_stop)
        crop_rows, crop_cols = self.lattice.crops(box)
        return Counts(
            blocks=block_rows * block_cols,
            crops_unique=len(crop_rows) * len(crop_cols),
            crops_computed=sum(rows) * sum(cols),
            crops_largest_block=max(rows) * max(cols),
        )

    def _crops_per_block(
        self, axis: Axis, origin_px: int, num_blocks: int, wanted_start: int, wanted_stop: int
    ) -> list[int]:
        starts = range(origin_px, origin_px + num_blocks * self.block_px, self.block_px)
        spans = (
            axis.crops(max(start - self._reach_px, wanted_start), min(start + self.block_px, wanted_stop))
            for start in starts
        )
        return [len(span) for span in spans if span]

    def _count_polygons(self) -> "Counts":
        """Each crop is asked whether it serves a polygon; sums over blocks come from running totals."""
        box = self.region.box
        crop_rows, crop_cols = self.lattice.crops(box)
        touched = np.array([self._touched(row, crop_cols) for row in crop_rows], np.bool_)
        totals = np.pad(touched.astype(np.int64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
        per_block = []
        for block in self._touched_in_plane(self._reached):
            rows, cols = self.lattice.crops(self.served_window(block))
            top, left = rows.start - crop_rows.start, cols.start - crop_cols.start
            bottom, right = top + len(rows), left + len(cols)
            per_block.append(
                int(totals[bottom, right] - totals[top, right] - totals[bottom, left] + totals[top, left])
            )
        blocks = sum(1 for _ in self._touched_in_plane(self.source_window))
        return Counts(blocks, int(touched.sum()), sum(per_block), max(per_block, default=0))

    def _touched(self, crop_row: int, crop_cols: range) -> NDArray[np.bool_]:
        side, stride = self.lattice.crop_px, self.lattice.stride_px
        reach = self.lattice.node_px - 1
        crops = [Window(crop_row * stride, col * stride, side, side).grow(reach) for col in crop_cols]
        return self.region.touches(crops)


def _count_meeting(origin_px: int, block_px: int, num_blocks: int, start: int, stop: int) -> int:
    """Blocks of an axis that hold some of the pixels ``[start, stop)``."""
    first, last = (start - origin_px) // block_px, (stop - 1 - origin_px) // block_px
    return max(0, min(last, num_blocks - 1) - max(first, 0) + 1)


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
