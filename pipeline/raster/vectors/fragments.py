"""Pieces of polygons' borders, each with its polygon on the left, and the rings they close to. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.raster.vectors import lines as line_arrays
from pipeline.raster.vectors.arcs import Arcs
from pipeline.raster.vectors.chains import walk
from pipeline.raster.vectors.lines import Lines, offsets_of


@dataclass(frozen=True)
class Fragments:
    """Directed pieces of borders.

    Attributes:
        lines: Where they run.
        polygon: The polygon on the left.
        beyond: The value of the pixels on the right.
        first_direction: Direction of the first crack, before anything was simplified.
        last_direction: Direction of the last one.
    """

    lines: Lines
    polygon: NDArray[np.int64]
    beyond: NDArray[np.int32]
    first_direction: NDArray[np.int8]
    last_direction: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.polygon)

    def take(self, chosen: NDArray[np.int64]) -> "Fragments":
        """Some of them, in the order asked for."""
        return Fragments(
            self.lines.take(chosen),
            self.polygon[chosen],
            self.beyond[chosen],
            self.first_direction[chosen],
            self.last_direction[chosen],
        )


def fragments_of(arcs: Arcs) -> Fragments:
    """Both sides of every arc that has a polygon there."""
    ahead, back = np.flatnonzero(arcs.left >= 0), np.flatnonzero(arcs.right >= 0)
    chosen = np.concatenate([ahead, back])
    is_back = np.arange(len(chosen)) >= len(ahead)
    turned = ((arcs.last_direction + 2) % 4)[back], ((arcs.first_direction + 2) % 4)[back]
    return Fragments(
        lines=arcs.lines.take(chosen, is_back),
        polygon=np.concatenate([arcs.left[ahead], arcs.right[back]]),
        beyond=np.concatenate([arcs.right_value[ahead], arcs.left_value[back]]),
        first_direction=np.concatenate([arcs.first_direction[ahead], turned[0]]),
        last_direction=np.concatenate([arcs.last_direction[ahead], turned[1]]),
    )


def no_fragments() -> Fragments:
    """What ground without borders has."""
    directions = np.empty(0, np.int8)
    numbers = np.empty(0, np.int64)
    return Fragments(line_arrays.concatenate([]), numbers, np.empty(0, np.int32), directions, directions)


def concatenate(parts: Sequence[Fragments]) -> Fragments:
    """All fragments of several."""
    return Fragments(
        line_arrays.concatenate([part.lines for part in parts]),
        np.concatenate([part.polygon for part in parts]),
        np.concatenate([part.beyond for part in parts]),
        np.concatenate([part.first_direction for part in parts]),
        np.concatenate([part.last_direction for part in parts]),
    )


@dataclass(frozen=True)
class Rings:
    """Closed lines that do not touch themselves, each begun and closed at its first corner.

    Attributes:
        lines: Where they run, the polygon on the left.
        polygon: Whose they are; a polygon's rings follow each other, its shell first.
    """

    lines: Lines
    polygon: NDArray[np.int64]


def close(fragments: Fragments) -> Rings:
    """The rings that complete polygons' fragments make."""
    chains = walk(_successors(fragments))
    walked = fragments.take(chains.order)
    points = walked.lines.keep_points(~_is_last(walked.lines))  # the next fragment begins with it
    rings = Lines(points.points_N2, points.offsets[chains.offsets])
    rings = rings.keep_points(~_needless(rings, walked, points.offsets[:-1], chains.of))
    rings = _from_first_corner(rings)
    polygon = walked.polygon[chains.offsets[:-1]]
    is_hole = _doubled_areas(rings) < 0
    order = np.lexsort((rings.first[:, 1], rings.first[:, 0], is_hole, polygon))
    _check(polygon, is_hole)
    return Rings(rings.take(order), polygon[order])


def _successors(fragments: Fragments) -> NDArray[np.int64]:
    """The fragment that each one's polygon goes on with.

    Two go on where two corners of a polygon touch. It turns right then, around what is not the polygon: so
    that no ring touches itself, and holes are holes.
    """
    columns = int(fragments.lines.points_N2[:, 1].max()) + 1
    _, rank = np.unique(fragments.polygon, return_inverse=True)
    place = rank.astype(np.int64) * (columns * (int(fragments.lines.points_N2[:, 0].max()) + 1))

    def code(points_N2: NDArray[np.int32], direction: NDArray[np.int8]) -> NDArray[np.int64]:
        corner = points_N2[:, 0].astype(np.int64) * columns + points_N2[:, 1]
        return (place + corner) * 4 + direction.astype(np.int64)

    begins = code(fragments.lines.first, fragments.first_direction)
    order = np.argsort(begins)
    begins = begins[order]
    anywhere = code(fragments.lines.last, np.zeros(len(fragments), np.int8))
    low, high = np.searchsorted(begins, anywhere), np.searchsorted(begins, anywhere + 4)
    right = np.searchsorted(begins, anywhere + (fragments.last_direction + 1) % 4)
    found = np.where(high - low == 1, low, right)
    if (high == low).any() or (begins[np.minimum(found, len(found) - 1)] // 4 != anywhere // 4).any():
        raise RuntimeError("the border of a polygon is not closed: a fragment was lost or came twice")
    successors: NDArray[np.int64] = order[found].astype(np.int64)
    return successors


def _is_last(lines: Lines) -> NDArray[np.bool_]:
    is_last = np.zeros(len(lines.points_N2), np.bool_)
    is_last[lines.offsets[1:] - 1] = True
    return is_last


def _needless(
    rings: Lines, walked: Fragments, joints: NDArray[np.int64], ring_of: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Joints of cells within a straight border: no node, and no turn before or after simplifying."""
    previous = np.arange(-1, len(walked) - 1)
    first_of_ring = np.flatnonzero(np.diff(ring_of, prepend=-1))
    last_of_ring = np.append(first_of_ring[1:], len(walked)) - 1
    previous[first_of_ring] = last_of_ring
    straight = walked.last_direction[previous] == walked.first_direction
    straight &= walked.beyond[previous] == walked.beyond
    needless = np.zeros(len(rings.points_N2), np.bool_)
    needless[joints[straight]] = True
    before, after = _neighbours(rings)
    here = rings.points_N2.astype(np.int64)
    came, goes = here - rings.points_N2[before], rings.points_N2[after] - here
    return needless & (came[:, 0] * goes[:, 1] == came[:, 1] * goes[:, 0]) & ((came * goes).sum(1) > 0)


def _neighbours(rings: Lines) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The places of each point's neighbours in its ring."""
    places = np.arange(len(rings.points_N2))
    before, after = places - 1, places + 1
    before[rings.offsets[:-1]] = rings.offsets[1:] - 1
    after[rings.offsets[1:] - 1] = rings.offsets[:-1]
    return before, after


def _from_first_corner(rings: Lines) -> Lines:
    """The rings turned so that they begin at their first corner in reading order, and closed there."""
    order = np.lexsort((rings.points_N2[:, 1], rings.points_N2[:, 0], rings.of))
    shift = order[rings.offsets[:-1]] - rings.offsets[:-1]
    lengths = rings.lengths
    offsets = offsets_of(lengths + 1)
    step = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths + 1)
    turned = (step + np.repeat(shift, lengths + 1)) % np.repeat(lengths, lengths + 1)
    return Lines(rings.points_N2[np.repeat(rings.offsets[:-1], lengths + 1) + turned], offsets)


def _doubled_areas(rings: Lines) -> NDArray[np.int64]:
    """Twice the area of each ring in px², positive where it is on the left."""
    relative = rings.points_N2.astype(np.int64) - np.repeat(rings.first, rings.lengths, axis=0)
    row, col = relative[:, 0], relative[:, 1]
    cross = np.zeros(len(row), np.int64)
    cross[:-1] = (
        row[:-1] * col[1:] - col[:-1] * row[1:]
    )  # lines are closed: between rings it is zero or cut off
    cross[rings.offsets[1:] - 1] = 0
    sums: NDArray[np.int64] = np.add.reduceat(cross, rings.offsets[:-1])
    return sums


def _check(polygon: NDArray[np.int64], is_hole: NDArray[np.bool_]) -> None:
    shells = np.sort(polygon[~is_hole])
    if not np.array_equal(shells, np.unique(polygon)):
        raise RuntimeError("a polygon must have one shell: its fragments do not belong together")
