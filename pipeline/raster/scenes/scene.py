"""Scenes as plain data: which files, which of their bands, where they lie on the ground."""

import hashlib
from collections.abc import Container
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.raster.grid import Grid

Resampling = Literal["nearest", "bilinear", "cubic", "average"]
Composite = Literal["first", "median"]
Order = Literal["given", "newest", "least_cloud"]


@dataclass(frozen=True, slots=True)
class SceneFile:
    """One raster file of a scene.

    Attributes:
        url: Where it lies, normalised.
        grid: Its pixels on the ground.
        numbers: Numbers that its bands have in the source, from 1.
        file_bands: Their numbers in the file.
        nodata: Value without data; None: as the file declares.
        scales: A factor for each band; None: raw values.
        offsets: Added after the factor.
        is_mask: Whether its values are flags, all of which count, rather than measurements.
        is_alone: Whether nothing lies beside it that GDAL would look for, which it then need not.
        has_mask: Whether a mask lies beside it, which GDAL must then find.
    """

    url: str
    grid: Grid
    numbers: tuple[int, ...]
    file_bands: tuple[int, ...]
    nodata: float | None = None
    scales: tuple[float, ...] | None = None
    offsets: tuple[float, ...] | None = None
    is_mask: bool = False
    is_alone: bool = False
    has_mask: bool = False

    def only(self, numbers: frozenset[int]) -> "SceneFile | None":
        """The same file with some of its bands; None where it has none of them."""
        kept = [index for index, number in enumerate(self.numbers) if number in numbers]
        if not kept:
            return None
        return replace(
            self,
            numbers=tuple(self.numbers[index] for index in kept),
            file_bands=tuple(self.file_bands[index] for index in kept),
            scales=None if self.scales is None else tuple(self.scales[index] for index in kept),
            offsets=None if self.offsets is None else tuple(self.offsets[index] for index in kept),
        )

    def to_json(self) -> list[Any]:
        """What decides its pixels, besides its bytes; where it lies does not."""
        bands = [self.numbers, self.file_bands, self.scales, self.offsets]
        return [self.grid.to_json(), self.nodata, bands]


@dataclass(frozen=True, slots=True)
class Scene:
    """One image: files that show the same ground at the same time.

    Attributes:
        files: Its bands.
        mask: The layer that says which of its pixels are clouds and the like.
    """

    files: tuple[SceneFile, ...]
    mask: SceneFile | None = None

    def only(self, numbers: frozenset[int]) -> "Scene":
        """The same scene with some of its bands."""
        files = tuple(kept for file in self.files if (kept := file.only(numbers)))
        return Scene(files, self.mask)

    def knowing(self, lone: Container[str], masked: Container[str]) -> "Scene":
        """The same scene, with the URLs of files beside which nothing lies, and of those with a mask."""

        def told(file: SceneFile) -> SceneFile:
            return replace(file, is_alone=file.url in lone, has_mask=file.url in masked)

        return Scene(tuple(map(told, self.files)), None if self.mask is None else told(self.mask))

    def to_json(self) -> list[Any]:
        """What decides its pixels, besides its files' bytes."""
        return [[file.to_json() for file in self.files], self.mask.to_json() if self.mask else None]


@dataclass(frozen=True)
class QualityRule:
    """Which values of a quality layer mean that a pixel is no data.

    Attributes:
        values: These values.
        bits: Values in which any of these bits, from 0, is set.
    """

    values: tuple[int, ...]
    bits: tuple[int, ...]

    def rejects(self, samples: NDArray[Any]) -> NDArray[np.bool_]:
        """Where samples of the layer say no data."""
        whole = np.nan_to_num(samples).astype(np.int64)
        flags = sum(1 << bit for bit in self.bits)
        return np.asarray(np.isin(whole, self.values) | ((whole & flags) != 0), np.bool_)


PRESETS = {
    # No data, saturated, cloud shadow, clouds of medium and high probability, thin cirrus.
    "scl": QualityRule(values=(0, 1, 3, 8, 9, 10), bits=()),
    # Fill, dilated cloud, cirrus, cloud, cloud shadow.
    "qa_pixel": QualityRule(values=(), bits=(0, 1, 2, 3, 4)),
    # Cirrus, cloud, beside a cloud, cloud shadow; 255 is fill.
    "fmask": QualityRule(values=(255,), bits=(0, 1, 2, 3)),
}
"""What the makers of these layers advise to leave out; snow and water are data."""


def digest(scenes: tuple[Scene, ...]) -> str:
    """One short name for all that decides the pixels of many scenes, besides their files' bytes."""
    hashed = hashlib.sha256()
    for scene in scenes:
        hashed.update(repr(scene.to_json()).encode())
    return hashed.hexdigest()
