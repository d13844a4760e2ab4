"""Elements that name their successor, put in order: lines and circles. Pure."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

END = -1
"""The successor of the last element of a line."""


@dataclass(frozen=True)
class Chains:
    """Elements in walking order.

    Attributes:
        order: The elements, chain after chain.
        offsets: Where each chain begins in ``order``, and its length as the last.
    """

    order: NDArray[np.int64]
    offsets: NDArray[np.int64]

    @property
    def of(self) -> NDArray[np.int64]:
        """The chain of each place in ``order``."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))


def walk(successor: NDArray[np.int64]) -> Chains:
    """Follow every chain; no element may have two predecessors.

    Pointers are doubled, so that the number of steps is the logarithm of the longest chain.
    """
    last, distance, circling, smallest = _double(successor)
    if len(circling):
        cut = successor.copy()
        cut[circling[successor[circling] == smallest[circling]]] = END
        last, distance, _, _ = _double(cut)
    order = np.lexsort((-distance, last))
    ends = np.flatnonzero(distance[order] == 0)
    return Chains(order, np.concatenate([[0], ends + 1]))


def _double(
    successor: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Each element's last one, the steps to it, the elements of circles and the smallest of each's circle."""
    is_last = successor == END
    ahead = np.where(is_last, np.arange(len(successor)), successor)
    distance = (~is_last).astype(np.int64)
    smallest = np.minimum(np.arange(len(successor)), ahead)
    active = np.flatnonzero(~is_last[ahead])
    reach = 1
    while len(active) and reach <= len(successor):
        target = ahead[active]
        further = ahead[target], distance[active] + distance[target], smallest[target]
        ahead[active], distance[active] = further[0], further[1]
        smallest[active] = np.minimum(smallest[active], further[2])
        active = active[~is_last[further[0]]]
        reach *= 2
    return ahead, distance, active, smallest
