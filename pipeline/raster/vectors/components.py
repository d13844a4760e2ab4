"""Connected components by whole arrays: runs of equal pixels, and unions of whatever has a number. Pure."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]


def label(values_HW: NDArray[np.int32]) -> NDArray[np.int64]:
    """Numbers from 0 for the components of equal pixels that share a side, in order of their first pixel.

    Negative values are background and get -1.
    """
    starts = np.ones(values_HW.shape, np.bool_)
    starts[:, 1:] = values_HW[:, 1:] != values_HW[:, :-1]
    runs_HW = np.cumsum(starts.ravel()).reshape(values_HW.shape) - 1
    # Two rows' runs meet first where one of them starts: there, and there only, a link is needed.
    meets = (values_HW[1:] == values_HW[:-1]) & (starts[1:] | starts[:-1])
    roots = unite(int(runs_HW[-1, -1]) + 1, (runs_HW[:-1][meets], runs_HW[1:][meets]))
    is_kept = values_HW.ravel()[starts.ravel()] >= 0
    return number(roots, is_kept)[runs_HW]


def number(roots: NDArray[np.int64], is_kept: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The roots' places among the roots that are kept; -1 for the others."""
    is_root = (roots == np.arange(len(roots))) & is_kept
    places = np.cumsum(is_root) - 1
    numbers: NDArray[np.int64] = np.where(is_kept, places[roots], -1)
    return numbers


def unite(count: int, *pairs: Pairs) -> NDArray[np.int64]:
    """For each of ``count`` elements the smallest element that a chain of pairs leads to."""
    roots = np.arange(count)
    left = np.concatenate([first for first, _ in pairs]) if pairs else np.empty(0, np.int64)
    right = np.concatenate([second for _, second in pairs]) if pairs else np.empty(0, np.int64)
    while len(left):
        left, right = roots[left], roots[right]
        apart = left != right
        left, right = left[apart], right[apart]
        np.minimum.at(roots, np.maximum(left, right), np.minimum(left, right))
        while not np.array_equal(shorter := roots[roots], roots):
            roots = shorter
    return roots


def touching(first: NDArray[Any], second: NDArray[Any], meets: NDArray[np.bool_]) -> Pairs:
    """The different pairs of numbers at the places where two arrays meet."""
    found = np.unique(np.stack([first[meets], second[meets]]).astype(np.int64), axis=1)
    return found[0], found[1]


def diagonals(values_HW: NDArray[np.int32], numbers_HW: NDArray[np.int64]) -> Pairs:
    """Pairs of different components of one value that share a corner."""
    begin, rest = slice(None, -1), slice(1, None)
    firsts, seconds = [], []
    for one, other in (((begin, begin), (rest, rest)), ((begin, rest), (rest, begin))):
        alike = (values_HW[one] == values_HW[other]) & (values_HW[one] >= 0)
        pairs = touching(numbers_HW[one], numbers_HW[other], alike & (numbers_HW[one] != numbers_HW[other]))
        firsts.append(pairs[0])
        seconds.append(pairs[1])
    return np.concatenate(firsts), np.concatenate(seconds)
