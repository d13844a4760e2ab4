"""What a page is about: a run, its mosaic, and the ground under it, looked at once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.raster.mosaic import Mosaic
from pipeline.raster.window import Window
from pipeline.report.ground import AreaUnit, Ground, area_unit
from pipeline.report.pictures import Picture, safe_color
from pipeline.report.run_folder import StoredRun
from pipeline.report.source_picture import NoPicture
from pipeline.storage import split_url


@dataclass(frozen=True)
class ClassShare:
    """How much of a mosaic is of one class."""

    index: int
    name: str
    color: str
    pixels: int
    share: float
    area_m2: float | None


@dataclass(frozen=True)
class Subject:
    """Everything that sections of a page show."""

    run: StoredRun
    mosaic: Mosaic
    ground: Ground
    classes_picture: Picture
    confidence_picture: Picture
    source_picture: Picture | NoPicture

    @property
    def name(self) -> str:
        """The mosaic's name."""
        return split_url(self.run.output_url)[1]

    @property
    def attributes(self) -> Mapping[str, Any]:
        """What the mosaic says of itself."""
        return self.mosaic.layout.attributes

    @property
    def num_known_pixels(self) -> int:
        """Pixels with a class."""
        return sum(self.run.class_pixels)

    @cached_property
    def classes(self) -> Sequence[ClassShare]:
        """Every class, the largest first; shares are of the area where pixels have one, else of pixels."""
        layout = self.mosaic.layout
        pixels = self.run.class_pixels + [0] * layout.num_classes
        areas = None
        if self.ground.is_known:
            areas = self.ground.class_areas_m2(self._counts()) + [0.0] * layout.num_classes
        sizes: Sequence[float] = pixels if areas is None else areas
        total = sum(sizes) or 1.0
        shares = [
            ClassShare(
                index,
                name,
                safe_color(color),
                pixels[index],
                sizes[index] / total,
                areas[index] if areas is not None else None,
            )
            for index, (name, color) in enumerate(zip(layout.class_names, layout.class_colors, strict=True))
        ]
        return sorted(shares, key=lambda share: -share.share)

    @property
    def area_unit(self) -> AreaUnit | None:
        """The unit for areas; None where pixels have no known size."""
        areas = [one.area_m2 for one in self.classes if one.area_m2 is not None]
        return area_unit(sum(areas)) if areas else None

    def _counts(self) -> Iterator[tuple[Window, NDArray[np.int64]]]:
        """The window of every block and its pixels of each class."""
        side = int(self.run.plan["block"]["size_px"])
        for block in self.run.blocks:
            row, col = block.place
            window = Window(row * side, col * side, side, side).intersect(self.mosaic.grid.window)
            yield window, block.class_pixels
