"""A mosaic as labels see it: its pixels, its classes, and where it lies in the scene it was made from."""

from dataclasses import dataclass
from typing import Any

from pipeline.raster.grid import Grid
from pipeline.raster.mosaic import Mosaic
from pipeline.raster.window import Window
from pipeline.train.evaluate.placement import Placement, Shifted, place


@dataclass(frozen=True)
class Scene:
    """What a mosaic says of itself.

    Attributes:
        grid: The mosaic's grid.
        class_names: Its classes.
        unlabelled: The index that is no class.
        origin: Row and column of its first pixel in the scene.
        scene_shape: The scene's size, where the mosaic says it.
        sources: URLs of the files that the scene is made of, without passwords.
    """

    grid: Grid
    class_names: tuple[str, ...]
    unlabelled: int
    origin: tuple[int, int]
    scene_shape: tuple[int, int] | None
    sources: tuple[str, ...] = ()

    @classmethod
    def of(cls, mosaic: Mosaic) -> "Scene":
        """The scene of a mosaic."""
        attributes: dict[str, Any] = dict(mosaic.attributes)
        row, col = attributes.get("source_origin", (0, 0))
        grid = attributes.get("settings", {}).get("source", {}).get("grid")
        layout = mosaic.layout
        return cls(
            layout.grid,
            layout.class_names,
            layout.class_nodata,
            (int(row), int(col)),
            (int(grid["height"]), int(grid["width"])) if grid else None,
            tuple(source["url"] for source in attributes.get("sources", [])),
        )

    def place(self, labels: Grid, what: str) -> tuple[Placement, Window]:
        """How labels lie on the mosaic, and the window outside of which they have nothing to say."""
        placement = place(self.grid, labels, what, origin=self.origin, scene_shape=self.scene_shape)
        if isinstance(placement, Shifted):
            whole = labels.window.shift(-placement.rows, -placement.cols)
            return placement, whole.intersect(self.grid.window)
        return placement, placement.footprint()
