"""The grid of a raster or mosaic: its size and where it lies on the ground."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from affine import Affine

from pipeline.raster.window import Window

IDENTITY = Affine.identity()


@dataclass(frozen=True, slots=True)
class Grid:
    """Pixels on the ground.

    Attributes:
        height: Rows.
        width: Columns.
        transform: Pixel (column, row) to world (x, y); the identity where nothing is known.
        crs_wkt: The coordinate reference system as WKT, or None where there is none.
        unit: What world coordinates without a CRS are counted in, for example ``micrometer``; None: unknown.
    """

    height: int
    width: int
    transform: Affine = IDENTITY
    crs_wkt: str | None = None
    unit: str | None = None

    @property
    def window(self) -> Window:
        """The whole grid."""
        return Window(0, 0, self.height, self.width)

    @property
    def is_georeferenced(self) -> bool:
        """Whether pixels have a place on the ground."""
        return self.crs_wkt is not None or self.transform != IDENTITY

    @property
    def is_rotated(self) -> bool:
        """Whether rows and columns are not parallel to the world's axes."""
        return bool(self.transform.b or self.transform.d)

    @property
    def pixel_area(self) -> float:
        """Area of one pixel in squared units of the CRS."""
        return abs(self.transform.determinant)

    def crop(self, window: Window) -> "Grid":
        """The grid of a window of this one."""
        moved = self.transform @ Affine.translation(window.col, window.row)
        return replace(self, height=window.height, width=window.width, transform=moved)

    def coarsen(self, factor: int) -> "Grid":
        """The grid whose pixels are ``factor`` × ``factor`` of this one's, the last ones partly outside."""
        return replace(
            self,
            height=-(-self.height // factor),
            width=-(-self.width // factor),
            transform=self.transform @ Affine.scale(factor),
        )

    def bounds(self) -> tuple[float, float, float, float]:
        """Left, bottom, right, top of the smallest upright box around the grid."""
        corners = [
            self.transform @ (col, row)
            for col, row in ((0, 0), (self.width, 0), (0, self.height), (self.width, self.height))
        ]
        xs, ys = zip(*corners, strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    def to_json(self) -> dict[str, Any]:
        """Plain values that ``from_json`` takes back."""
        return {
            "height": self.height,
            "width": self.width,
            "transform": list(self.transform)[:6],
            "crs_wkt": self.crs_wkt,
            **({"unit": self.unit} if self.unit else {}),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Grid":
        """The grid that ``to_json`` described."""
        transform = Affine(*value["transform"])
        return cls(value["height"], value["width"], transform, value["crs_wkt"], value.get("unit"))
