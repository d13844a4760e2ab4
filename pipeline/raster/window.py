"""Half-open integer windows, rows first: the one way this program names a part of a raster."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """Pixels ``[row, row + height) × [col, col + width)``.

    ``row`` and ``col`` may be negative or lie beyond a raster: halos do. Sizes are never negative.
    """

    row: int
    col: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 0 or self.width < 0:
            raise ValueError(f"a window's size must not be negative, got {self.height} × {self.width}")

    @classmethod
    def from_bounds(cls, row_start: int, col_start: int, row_stop: int, col_stop: int) -> "Window":
        """The window between two corners; empty, never negative, where they cross."""
        return cls(row_start, col_start, max(0, row_stop - row_start), max(0, col_stop - col_start))

    @property
    def row_stop(self) -> int:
        """One past the last row."""
        return self.row + self.height

    @property
    def col_stop(self) -> int:
        """One past the last column."""
        return self.col + self.width

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    @property
    def num_pixels(self) -> int:
        """Height × width."""
        return self.height * self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """Row and column slices, for indexing an array whose (0, 0) is this frame's (0, 0)."""
        return slice(self.row, self.row_stop), slice(self.col, self.col_stop)

    def intersect(self, other: "Window") -> "Window":
        """The pixels in both; empty where they do not meet."""
        return Window.from_bounds(
            max(self.row, other.row),
            max(self.col, other.col),
            min(self.row_stop, other.row_stop),
            min(self.col_stop, other.col_stop),
        )

    def contains(self, other: "Window") -> bool:
        """Whether every pixel of ``other`` lies in this window."""
        return self.intersect(other) == other or other.num_pixels == 0

    def shift(self, rows: int, cols: int) -> "Window":
        """The same window moved by whole pixels."""
        return Window(self.row + rows, self.col + cols, self.height, self.width)

    def grow(self, margin_px: int) -> "Window":
        """The window with a margin on all four sides."""
        return Window.from_bounds(
            self.row - margin_px, self.col - margin_px, self.row_stop + margin_px, self.col_stop + margin_px
        )

    def relative_to(self, frame: "Window") -> "Window":
        """This window in the frame whose (0, 0) is the corner of ``frame``."""
        return self.shift(-frame.row, -frame.col)

    def snap_outward(self, multiple_px: int) -> "Window":
        """The smallest window around this one whose edges lie on multiples of ``multiple_px``."""
        return Window.from_bounds(
            self.row // multiple_px * multiple_px,
            self.col // multiple_px * multiple_px,
            -(-self.row_stop // multiple_px) * multiple_px,
            -(-self.col_stop // multiple_px) * multiple_px,
        )
