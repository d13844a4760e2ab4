"""What a cell holds of polygons: its components, what they measure, and which of them others share."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.raster.vectors.cells import NOTHING
from pipeline.raster.vectors.components import Pairs, diagonals, label, number, touching, unite


@dataclass(frozen=True)
class Measures:
    """Sums over pixels; whole numbers, so that their order does not matter.

    Attributes:
        pixels: How many.
        area: Sum of their areas in quanta.
        confidence: Sum of their confidence as stored.
    """

    pixels: NDArray[np.int64]
    area: NDArray[np.int64]
    confidence: NDArray[np.int64]

    def over(self, numbers: NDArray[np.int64], count: int) -> "Measures":
        """The sums over groups of these."""

        def total(values: NDArray[np.int64]) -> NDArray[np.int64]:
            sums = np.zeros(count, np.int64)
            np.add.at(sums, numbers, values)
            return sums

        return Measures(total(self.pixels), total(self.area), total(self.confidence))

    def take(self, chosen: NDArray[np.int64]) -> "Measures":
        """Some of them."""
        return Measures(self.pixels[chosen], self.area[chosen], self.confidence[chosen])


@dataclass(frozen=True)
class Units:
    """The components of the wanted classes in one cell, numbered from 0 in reading order.

    Attributes:
        numbers_HW: The unit of each pixel, -1 for none.
        values: The class of each.
        groups: The smallest unit of those that one feature is made of.
        is_shared: Whether its group reaches the cell's edge, where other cells may have more of it.
    """

    numbers_HW: NDArray[np.int64]
    values: NDArray[np.int32]
    groups: NDArray[np.int64]
    is_shared: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def shared_numbers(self) -> NDArray[np.int64]:
        """The place of each shared unit among the cell's shared ones, -1 for the others."""
        return np.where(self.is_shared, np.cumsum(self.is_shared) - 1, NOTHING)

    def measure(self, areas: NDArray[np.int64], confidence_HW: NDArray[np.uint8]) -> Measures:
        """Add up the pixels of each unit; ``areas`` is the area of each row's pixels."""
        flat = self.numbers_HW.ravel() + 1  # pixels of no unit are counted first, and left out
        rows = np.broadcast_to(areas[:, None], self.numbers_HW.shape).ravel()
        weights = (None, rows, confidence_HW.ravel())
        sums = (np.bincount(flat, weight, minlength=len(self) + 1)[1:] for weight in weights)
        return Measures(*(values.astype(np.int64) for values in sums))


def find_units(values_HW: NDArray[np.int32], wanted: NDArray[np.bool_], *, corners: bool) -> Units:
    """The units of a cell.

    Args:
        values_HW: The classes of its pixels, -1 for none.
        wanted: Which classes become polygons.
        corners: Whether pixels of one class that share but a corner belong to one feature.
    """
    if (values_HW < 0).all():  # most of a large mosaic may hold nothing
        none = np.empty(0, np.int64)
        return Units(np.full(values_HW.shape, NOTHING), none.astype(np.int32), none, none.astype(np.bool_))
    wanted_HW = np.where(wanted[values_HW] & (values_HW >= 0), values_HW, NOTHING).astype(np.int32)
    numbers = label(wanted_HW)
    count = int(numbers.max()) + 1
    values = np.zeros(count, np.int32)
    values[numbers[numbers >= 0]] = wanted_HW[numbers >= 0]
    groups = unite(count, diagonals(wanted_HW, numbers)) if corners else np.arange(count)
    edge = np.concatenate([numbers[0], numbers[-1], numbers[:, 0], numbers[:, -1]])
    is_shared = np.zeros(count, np.bool_)
    is_shared[groups[edge[edge >= 0]]] = True
    return Units(numbers, values, groups, is_shared[groups])


def seams(
    values_HW: NDArray[np.int32], numbers_HW: NDArray[np.int64], *, corners: bool
) -> tuple[Pairs, Pairs]:
    """Shared units of different cells that touch: by a side, and, where asked for, by a corner.

    Args:
        values_HW: A cell's values, padded by ``Seam``.
        numbers_HW: The numbers of shared units, padded the same way.
        corners: Whether corners count.
    """

    def meet(first: tuple[slice | int, slice | int], second: tuple[slice | int, slice | int]) -> Pairs:
        a, b = numbers_HW[first], numbers_HW[second]
        return touching(a, b, (a >= 0) & (b >= 0) & (values_HW[first] == values_HW[second]))

    rest = slice(1, None)
    inner = slice(1, -1)
    sides = (meet((0, inner), (1, inner)), meet((rest, 0), (rest, 1)))
    none = np.empty(0, np.int64), np.empty(0, np.int64)
    if not corners:
        return _joined(sides), none
    diagonal = (
        meet((0, slice(None, -2)), (1, inner)),
        meet((0, slice(2, None)), (1, inner)),
        meet((slice(1, -1), 0), (slice(2, None), 1)),
        meet((slice(2, None), 0), (slice(1, -1), 1)),
    )
    return _joined(sides), _joined(diagonal)


def _joined(parts: tuple[Pairs, ...]) -> Pairs:
    return np.concatenate([first for first, _ in parts]), np.concatenate([second for _, second in parts])


def renumber(roots: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """Numbers from 0 for united elements, and how many there are."""
    numbers = number(roots, np.ones(len(roots), np.bool_))
    return numbers, int(numbers.max()) + 1 if len(numbers) else 0
