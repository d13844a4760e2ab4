"""Zarr as a source: OME-Zarr images and plain arrays with CF or GeoZarr georeference, in versions 2 and 3.

Chunks are read whole and alone: what a window does not touch is neither fetched nor decoded, and of a shard
only the chunks in it. Samples are raw; ``scale_factor`` and ``add_offset`` are declared to the reader, as
GDAL's scale and offset are, and applied only by ``source.scale``.
"""

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import zarr
from numpy.typing import NDArray

from pipeline.errors import BlockError
from pipeline.raster.gdal_bands import has_data, working_dtype
from pipeline.raster.plane import Plane, Stack
from pipeline.raster.source import Pixels, SourceInfo
from pipeline.raster.window import Window
from pipeline.raster.zarrs.arrays import BandPlace
from pipeline.storage import Folder, explained, join_url, redact

READS_AT_ONCE = 2
"""A worker reads one block's window while another is read or computed."""

COPIES = 3


@dataclass(frozen=True)
class ZarrSpec:
    """How to open arrays of a Zarr group.

    Attributes:
        url: The group, or the array where it lies alone; normalised.
        info: What it says of itself.
        bands: Band numbers in the model's order.
        places: Where their samples are.
        nodata: Value without data; None: as the arrays declare.
        level: The level of the pyramid, by its path.
        stack: The chosen planes.
        chunk_bytes: Size of a decoded chunk, the largest of the arrays'.
    """

    url: str
    info: SourceInfo
    bands: tuple[int, ...]
    places: tuple[BandPlace, ...]
    nodata: float | None
    level: str
    stack: Stack
    chunk_bytes: int

    def open(self) -> "ZarrSource":
        """The source."""
        return ZarrSource(self)

    def with_threads(self, num_threads: int) -> Self:  # noqa: ARG002 - zarr decodes in threads of its own
        """The same source: how many threads decode is zarr's matter, and changes nothing else."""
        return self

    def result_fields(self) -> Mapping[str, Any]:
        """Whatever, besides the objects' identities, decides the pixels."""
        return {
            "bands": list(self.bands),
            "nodata": self.nodata,
            "level": self.level,
            "t": list(self.stack.t.indices),
            "z": list(self.stack.z.indices),
        }

    def memory_bytes(self, halo: Window) -> int:
        """Chunks at work at once, each as stored, as decoded and as copied out, in two windows at a time."""
        touched = 1
        for size, side, length in zip(
            halo.shape, self.info.block_shape, self.info.grid.window.shape, strict=True
        ):
            touched *= min(math.ceil(size / side) + 1, math.ceil(length / side))
        at_once = READS_AT_ONCE * min(int(zarr.config.get("async.concurrency")), touched)
        return COPIES * at_once * self.chunk_bytes


class ZarrSource:
    """Arrays of a group, open. zarr's own loop fetches and decodes, so any number of threads may read."""

    def __init__(self, spec: ZarrSpec) -> None:
        self.spec = spec
        self.info = spec.info
        store = Folder(spec.url).zarr_store(read_only=True)
        with explained("open", spec.url):
            self._arrays = {
                place.path: zarr.open_array(store, path=place.path, mode="r") for place in spec.places
            }
        self._file_dtype = np.result_type(*[_native(array.dtype) for array in self._arrays.values()])

    def read(self, window: Window) -> Pixels:
        """The pixels of a window of the plane in the middle, which stands for the others."""
        num_t, num_z = self.spec.stack.shape
        return self.read_plane(Plane(num_t // 2, num_z // 2), window)

    def at(self, plane: Plane) -> "ZarrPlane":
        """One plane as a source."""
        return ZarrPlane(self, plane)

    def read_plane(self, plane: Plane, window: Window) -> Pixels:
        """The pixels of a plane's window, which may pass its edges."""
        inside = window.intersect(self.info.grid.window)
        samples = np.zeros((len(self.spec.places), *window.shape), working_dtype(self._file_dtype))
        present = np.zeros(samples.shape, np.bool_)
        if inside.num_pixels:
            for path in self._arrays:
                self._fill(path, plane, inside, window, samples, present)
        valid: NDArray[np.bool_] = np.any(present, axis=0)
        missing = ~present & valid
        samples[~present] = 0
        return Pixels(samples, valid, missing if missing.any() else None)

    def close(self) -> None:
        """Nothing is held open."""

    def _fill(
        self,
        path: str,
        plane: Plane,
        inside: Window,
        frame: Window,
        samples: NDArray[Any],
        present: NDArray[np.bool_],
    ) -> None:
        """Read the bands of one array together: a chunk may hold them all."""
        rows, cols = inside.relative_to(frame).slices
        channels = [index for index, place in enumerate(self.spec.places) if place.path == path]
        for channel, raw in zip(channels, self._read_array(path, channels, plane, inside), strict=True):
            has = present[channel, rows, cols]
            has[:] = has_data(raw, self.spec.nodata)
            if self.spec.nodata is None:
                for nodata in self.spec.places[channel].nodata:
                    # Whole numbers are compared as such: no float holds all of 64 bits.
                    has &= raw != nodata if isinstance(nodata, int) else has_data(raw, nodata)
            with np.errstate(over="ignore"):  # what overflows float32 is infinite now, and no data
                samples[channel, rows, cols] = raw
            if samples.dtype.kind == "f":
                has &= np.isfinite(samples[channel, rows, cols])

    def _read_array(self, path: str, channels: list[int], plane: Plane, inside: Window) -> NDArray[Any]:
        """Bands of an array, band first, in this machine's byte order."""
        array, places = self._arrays[path], [self.spec.places[channel] for channel in channels]
        dims, stack = places[0].dims, self.spec.stack
        wanted = [place.channel or 0 for place in places]
        chosen = sorted(set(wanted))
        rows, cols = inside.slices
        parts: dict[str, Any] = {"t": stack.t.indices[plane.t], "z": stack.z.indices[plane.z], "-": 0}
        parts |= {"c": chosen, "y": rows, "x": cols}
        with explained(f"read {path!r} of", self.spec.url):
            try:
                found = np.asarray(array.oindex[tuple(parts[name] for name in dims)])
            except (RuntimeError, ValueError, EOFError, zlib.error) as error:  # bytes that no codec knows
                raise BlockError(
                    f"cannot read {redact(join_url(self.spec.url, path))}: a chunk is damaged: {error}"
                ) from error
        left = [name for name in dims if name in "cyx"]
        order = [left.index(name) for name in "cyx" if name in left]
        bands = found.transpose(order) if "c" in left else found.transpose(order)[None]
        native = bands.astype(_native(bands.dtype), copy=False)
        return native if wanted == chosen else native[[chosen.index(band) for band in wanted]]


class ZarrPlane:
    """One plane of an open source, which stays its owner."""

    def __init__(self, source: ZarrSource, plane: Plane) -> None:
        self.info = source.info
        self._source = source
        self._plane = plane

    def read(self, window: Window) -> Pixels:
        """The pixels of a window, which may pass the edges."""
        return self._source.read_plane(self._plane, window)

    def close(self) -> None:
        """The source is closed by whoever opened it."""


def _native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type as this machine computes in it; truth values become 0 and 1."""
    return np.dtype(np.uint8) if dtype.kind == "b" else dtype.newbyteorder("=")
