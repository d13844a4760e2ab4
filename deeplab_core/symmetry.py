"""The eight symmetries of the square, as something to do to an image and to undo on its logits."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_EXPECTED = '"h", "v", both, or "d4" alone'


class Symmetry(NamedTuple):
    """A transposition, then flips. With 0 to 3 of them this makes all eight symmetries.

    Attributes:
        transposed: Rows and columns change places first.
        flipped: Dimensions reversed after that, of −2 (rows) and −1 (columns).
    """

    transposed: bool
    flipped: tuple[int, ...]

    def apply(self, images_NCHW: Tensor) -> Tensor:
        """Gives the image seen through this symmetry; the image itself for the identity.

        Args:
            images_NCHW: Images, or any tensor whose last two dimensions are rows and columns.
        """
        moved = images_NCHW.transpose(-2, -1) if self.transposed else images_NCHW
        return torch.flip(moved, self.flipped) if self.flipped else moved

    def undo(self, logits_NKHW: Tensor) -> Tensor:
        """Brings what was computed on `apply(images)` back onto the images.

        Args:
            logits_NKHW: Anything computed on the lattice of the seen image.
        """
        unflipped = torch.flip(logits_NKHW, self.flipped) if self.flipped else logits_NKHW
        return unflipped.transpose(-2, -1) if self.transposed else unflipped


def symmetries(flips: Sequence[str]) -> tuple[Symmetry, ...]:
    """Gives the symmetries that a setting names, the identity first.

    Args:
        flips: Any of "h" (columns reversed) and "v" (rows reversed), which combine: both give four. "d4"
            gives all eight.

    Returns:
        The symmetries.

    Raises:
        ValueError: A name is unknown or repeated.
    """
    names = (flips,) if isinstance(flips, str) else tuple(flips)
    if len(set(names)) != len(names) or not ({*names} <= {"h", "v"} or names == ("d4",)):
        raise ValueError(f"flips must be {_EXPECTED}, got {list(names)}")
    is_square = names == ("d4",)
    rows = [(), (-2,)] if is_square or "v" in names else [()]
    columns = [(), (-1,)] if is_square or "h" in names else [()]
    return tuple(
        Symmetry(transposed, (*row, *column))
        for transposed in ([False, True] if is_square else [False])
        for row in rows
        for column in columns
    )
