"""Many lines in two arrays: their points one after the other, and where each begins. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Lines:
    """Lines on the corners of pixels.

    Attributes:
        points_N2: Row and column of each point.
        offsets: Where each line begins in ``points_N2``, and its length as the last.
    """

    points_N2: NDArray[np.int32]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """How many points each line has."""
        return np.diff(self.offsets)

    @property
    def of(self) -> NDArray[np.int64]:
        """The line of each point."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @property
    def first(self) -> NDArray[np.int32]:
        """The first point of each line."""
        return self.points_N2[self.offsets[:-1]]

    @property
    def last(self) -> NDArray[np.int32]:
        """The last point of each line."""
        return self.points_N2[self.offsets[1:] - 1]

    def take(self, chosen: NDArray[np.int64], is_reversed: NDArray[np.bool_] | None = None) -> "Lines":
        """Some of the lines in the order asked for, some of them backwards."""
        lengths = self.lengths[chosen]
        offsets = offsets_of(lengths)
        step = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        begins = np.repeat(self.offsets[:-1][chosen], lengths)
        if is_reversed is None or not is_reversed.any():
            return Lines(self.points_N2[begins + step], offsets)
        backwards = np.repeat(lengths, lengths) - 1 - step
        step = np.where(np.repeat(is_reversed, lengths), backwards, step)
        return Lines(self.points_N2[begins + step], offsets)

    def keep_points(self, is_kept: NDArray[np.bool_]) -> "Lines":
        """The lines without some of their points."""
        kept = np.concatenate([[0], np.cumsum(is_kept)])
        return Lines(self.points_N2[is_kept], kept[self.offsets])


def offsets_of(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where things of these lengths begin, one after the other."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def concatenate(parts: Sequence[Lines]) -> Lines:
    """All lines of several."""
    points = np.concatenate([part.points_N2 for part in parts]) if parts else np.empty((0, 2), np.int32)
    lengths = np.concatenate([part.lengths for part in parts]) if parts else np.empty(0, np.int64)
    return Lines(points, offsets_of(lengths))
