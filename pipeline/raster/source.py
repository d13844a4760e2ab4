"""Windowed reads from a raster that may be far larger than memory: what every kind of source has in common.

What the settings name is *found* (``FoundSource``: what it says of itself), then specified (``SourceSpec``:
plain data that travels to workers) and there opened (``RasterSource``). Outside a source nothing is valid;
what is not valid never reaches a network as a value.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pipeline.raster.grid import Grid
from pipeline.raster.plane import Plane, Stack
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
    """One band as the file describes it; ``number`` counts from 1.

    Attributes:
        number: Its number in the source.
        name: Its own name, or None.
        dtype: Type of its samples.
        is_alpha: Whether it says where the others hold data.
        aliases: Other names that it answers to, as "red" for a Sentinel-2 "B04".
        scale: Factor that the file declares; applied where ``source.scale`` is "metadata", never unasked.
        offset: Summand that the file declares, after the factor.
    """

    number: int
    name: str | None
    dtype: str
    is_alpha: bool
    aliases: tuple[str, ...] = ()
    scale: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True)
class SourceInfo:
    """What a source says of itself before any pixel is read.

    Attributes:
        url: Where it lies, fit for logs.
        grid: Its pixels on the ground.
        bands: What can be read of it.
        identities: The files it is made of, in the order in which they count.
        block_shape: Rows and columns that are stored together: reads along them are cheap.
        stack: The chosen planes, where they are several; the source is then a ``StackSource``.
        is_microscopy: Whether it is seen under a microscope: its mosaic says so in OME's words, too.
    """

    url: str
    grid: Grid
    bands: tuple[BandInfo, ...]
    identities: tuple[Identity, ...]
    block_shape: tuple[int, int]
    stack: Stack | None = None
    is_microscopy: bool = False


@dataclass(frozen=True)
class Pixels:
    """A window's pixels.

    Attributes:
        samples_CHW: Raw values; whatever stands where nothing is valid is 0.
        valid_HW: Where at least one band has data.
        missing_CHW: Samples without data at pixels that are valid, or None where there are none.
        wanted_HW: Pixels worth computing, or None: all of them. The network sees the others as they are, so
            that a result does not depend on what is left out around it.
    """

    samples_CHW: NDArray[Any]
    valid_HW: NDArray[np.bool_]
    missing_CHW: NDArray[np.bool_] | None
    wanted_HW: NDArray[np.bool_] | None = None


class RasterSource(Protocol):
    """Anything that pixels can be read from by window, by several threads at once."""

    @property
    def info(self) -> SourceInfo:
        """What it says of itself."""

    def read(self, window: Window) -> Pixels:
        """The pixels of a window, which may pass the source's edges."""

    def close(self) -> None:
        """Let go of files and connections."""


@runtime_checkable
class StackSource(RasterSource, Protocol):
    """A source of several planes; read without naming one, it gives a plane that stands for all."""

    def at(self, plane: Plane) -> RasterSource:
        """One plane as a source, which ends with this one."""


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

    def memory_bytes(self, halo: Window) -> int:
        """The most that reading a window of this size takes, besides the pixels that it returns."""


class FoundSource(Protocol):
    """What the settings name, looked at but not yet opened for work."""

    @property
    def info(self) -> SourceInfo:
        """What it says of itself."""

    def spec(self, bands: tuple[int, ...]) -> SourceSpec:
        """How to open it for these bands."""

    def identities_in(self, window: Window) -> tuple[Identity, ...]:
        """The files that may show in a window, in the order in which they count."""


@runtime_checkable
class FoundMany(FoundSource, Protocol):
    """Scenes, others in other places; ``result_fields`` sums all of them up as ``scenes``."""

    def described_in(self, window: Window) -> str:
        """A digest of what, besides its files' bytes, decides a window's pixels: places, bands, scales."""
