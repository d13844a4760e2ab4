"""Windowed reads from a raster that may be far larger than memory: what every kind of source has in common.

What the settings name is *found* (``FoundSource``: what it says of itself), then specified (``SourceSpec``:
plain data that travels to workers) and there opened (``RasterSource``). Outside a source nothing is valid;
what is not valid never reaches a network as a value.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.raster.grid import Grid
from pipeline.raster.window import Window

MAX_BANDS = 64


@dataclass(frozen=True)
class Identity:
    """What tells one version of a file from another."""

    url: str
    size_bytes: int | None
    etag: str | None
    modified: str | None


@dataclass(frozen=True)
class BandInfo:
    """One band as the file describes it; ``number`` counts from 1."""

    number: int
    name: str | None
    dtype: str
    is_alpha: bool


@dataclass(frozen=True)
class SourceInfo:
    """What a source says of itself before any pixel is read.

    Attributes:
        url: Where it lies, fit for logs.
        grid: Its pixels on the ground.
        bands: What can be read of it.
        identities: The files it is made of, in the order in which they count.
        block_shape: Rows and columns that are stored together: reads along them are cheap.
    """

    url: str
    grid: Grid
    bands: tuple[BandInfo, ...]
    identities: tuple[Identity, ...]
    block_shape: tuple[int, int]


@dataclass(frozen=True)
class Pixels:
    """A window's pixels.

    Attributes:
        samples_CHW: Raw values; whatever stands where nothing is valid is 0.
        valid_HW: Where at least one band has data.
        missing_CHW: Samples without data at pixels that are valid, or None where there are none.
    """

    samples_CHW: NDArray[Any]
    valid_HW: NDArray[np.bool_]
    missing_CHW: NDArray[np.bool_] | None


class RasterSource(Protocol):
    """Anything that pixels can be read from by window, by several threads at once."""

    @property
    def info(self) -> SourceInfo:
        """What it says of itself."""

    def read(self, window: Window) -> Pixels:
        """The pixels of a window, which may pass the source's edges."""

    def close(self) -> None:
        """Let go of files and connections."""


class SourceSpec(Protocol):
    """How to open a source: frozen, plain values only, so that it travels to workers."""

    @property
    def bands(self) -> tuple[int, ...]:
        """Band numbers in the model's order."""

    def open(self) -> RasterSource:
        """The source."""

    def with_threads(self, num_threads: int) -> Self:
        """The same source, decoded by so many CPU threads."""

    def result_fields(self) -> Mapping[str, Any]:
        """Whatever, besides the files' identities, decides the pixels; part of a run's fingerprint."""


class FoundSource(Protocol):
    """What the settings name, looked at but not yet opened for work."""

    @property
    def info(self) -> SourceInfo:
        """What it says of itself."""

    def spec(self, bands: tuple[int, ...]) -> SourceSpec:
        """How to open it for these bands."""
