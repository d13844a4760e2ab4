"""The borders inside a cell as arcs: lines between two sides, from node to node, each traced once. Pure.

A crack is the edge between two pixels of different values; a corner where three or four meet is a node.
A cell owns the cracks above and to the left of its pixels; its arcs end at nodes, and where the next crack
is another cell's. Nodes depend on values alone: which classes are wanted does not move them.

Directions are 0 east, 1 south, 2 west, 3 north, rows counted downward.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.raster.vectors.chains import END, Chains, walk
from pipeline.raster.vectors.lines import Lines, offsets_of

STEP = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)], np.int32)
"""Rows and columns that a crack of each direction spans."""


@dataclass(frozen=True)
class Arcs:
    """Borders, each in one direction.

    Attributes:
        lines: Where they run.
        left: The number of the polygon on the left, -1 for none.
        right: The same on the right.
        left_value: The value of the pixels on the left.
        right_value: The same on the right.
        first_direction: Direction of the first crack.
        last_direction: Direction of the last one.
    """

    lines: Lines
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    left_value: NDArray[np.int32]
    right_value: NDArray[np.int32]
    first_direction: NDArray[np.int8]
    last_direction: NDArray[np.int8]


def trace(values_HW: NDArray[np.int32], numbers_HW: NDArray[np.int64], corner: tuple[int, int]) -> Arcs:
    """The arcs of a cell.

    Args:
        values_HW: Values of the cell's pixels, with a row of its neighbours above and a column left.
        numbers_HW: The same for the polygons' numbers, -1 for none.
        corner: The row and column of the cell's first pixel.
    """
    cracks = _find_cracks(values_HW)
    chains = _one_way(cracks, walk(cracks.successor))
    order, begins, ends = chains.order, chains.offsets[:-1], chains.offsets[1:]
    direction = cracks.direction[order]
    turns = np.ones(len(order), np.bool_)
    turns[1:] = direction[1:] != direction[:-1]
    turns[begins] = True
    head = cracks.tail_N2[order[ends - 1]] + STEP[direction[ends - 1]]
    points = np.insert(cracks.tail_N2[order], ends, head, axis=0)
    whole = Lines(points, offsets_of(np.diff(chains.offsets) + 1))
    lines = whole.keep_points(np.insert(turns, ends, values=True))
    first = order[begins]
    left, right = cracks.left_N2[first].T, cracks.right_N2[first].T
    return Arcs(
        lines=Lines(lines.points_N2 + np.array(corner, np.int32), lines.offsets),
        left=numbers_HW[left[0], left[1]],
        right=numbers_HW[right[0], right[1]],
        left_value=values_HW[left[0], left[1]],
        right_value=values_HW[right[0], right[1]],
        first_direction=direction[begins],
        last_direction=direction[ends - 1],
    )


@dataclass(frozen=True)
class _Cracks:
    """Every crack twice, the second half in the other direction."""

    tail_N2: NDArray[np.int32]
    direction: NDArray[np.int8]
    successor: NDArray[np.int64]

    @property
    def left_N2(self) -> NDArray[np.int32]:
        """Place of the pixel on the left, in the padded cell."""
        offsets = np.array([(0, 1), (1, 1), (1, 0), (0, 0)], np.int32)
        return self.tail_N2 + offsets[self.direction]

    @property
    def right_N2(self) -> NDArray[np.int32]:
        """Place of the pixel on the right, in the padded cell."""
        offsets = np.array([(1, 1), (1, 0), (0, 0), (0, 1)], np.int32)
        return self.tail_N2 + offsets[self.direction]


def _find_cracks(values_HW: NDArray[np.int32]) -> _Cracks:
    across = values_HW[:-1, 1:] != values_HW[1:, 1:]  # crack from corner (row, col) to the east
    down = values_HW[1:, :-1] != values_HW[1:, 1:]  # and to the south
    east, south = np.argwhere(across).astype(np.int32), np.argwhere(down).astype(np.int32)
    count = len(east) + len(south)
    tail = np.concatenate([east, south, east + STEP[0], south + STEP[1]])
    direction = np.repeat(np.arange(4, dtype=np.int8), [len(east), len(south), len(east), len(south)])
    number_across = np.full(across.shape, END, np.int64)
    number_across[across] = np.arange(len(east))
    number_down = np.full(down.shape, END, np.int64)
    number_down[down] = np.arange(len(east), count)
    passes = _passes(values_HW, across, down)
    head = tail + STEP[direction]
    inside = (head[:, 0] < across.shape[0]) & (head[:, 1] < across.shape[1])
    row, col = np.where(inside[:, None], head, 0).T
    goes_on = inside & passes[row, col]
    successor = np.full(2 * count, END, np.int64)
    leaving = (
        number_across[row, col],
        number_down[row, col],
        _reverse(np.where(col > 0, number_across[row, col - 1], END), count),
        _reverse(np.where(row > 0, number_down[row - 1, col], END), count),
    )
    for outward, numbers in enumerate(leaving):
        chosen = goes_on & (numbers != END) & (direction != (outward + 2) % 4)
        successor[chosen] = numbers[chosen]
    return _Cracks(tail, direction, successor)


def _passes(
    values_HW: NDArray[np.int32], across: NDArray[np.bool_], down: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Corners where one crack of the cell follows another, and no third one meets them."""
    west = values_HW[:-1, :-1] != values_HW[1:, :-1]
    north = values_HW[:-1, :-1] != values_HW[:-1, 1:]
    degree = across.astype(np.int8) + down + west + north
    passes: NDArray[np.bool_] = degree == 2
    passes[:, 0] &= ~west[:, 0]  # the crack is the left neighbour's
    passes[0] &= ~north[0]
    return passes


def _reverse(numbers: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The same cracks in the other direction."""
    return np.where(numbers == END, END, (numbers + count) % (2 * count) if count else numbers)


def _one_way(cracks: _Cracks, chains: Chains) -> Chains:
    """Each chain was walked both ways; the way that is kept begins with the smaller number."""
    if not len(chains.order):
        return chains
    count = len(cracks.direction) // 2
    begins, ends = chains.offsets[:-1], chains.offsets[1:]
    back = _reverse(chains.order, count)
    is_ring = cracks.successor[chains.order[ends - 1]] != END
    other = np.where(is_ring, np.minimum.reduceat(back, begins), back[ends - 1])
    is_kept = chains.order[begins] < other
    elements = np.repeat(is_kept, ends - begins)
    return Chains(chains.order[elements], offsets_of((ends - begins)[is_kept]))
