"""The mosaic: a Zarr v3 group that other software opens without ours.

Created once (``mosaic_create``), written block by block (``mosaic_writer``), read by window. What its arrays
are like is said in ``mosaic_layout``. Whatever others need of all four has its name here.
"""

import math
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.errors import ArrayNotFoundError, ContainsArrayError, GroupNotFoundError

from pipeline.errors import StorageError
from pipeline.latest import resolve_latest
from pipeline.raster.interpolate import upsample
from pipeline.raster.mosaic_create import create_class_arrays, create_mosaic, describe_levels
from pipeline.raster.mosaic_layout import (
    CHUNK_PX,
    CONFIDENCE_NODATA,
    CONFIDENCE_STEPS,
    FORMAT,
    FORMAT_FAMILY,
    PLAIN,
    LogitsLayout,
    MosaicLayout,
    array_names,
    layout_of,
)
from pipeline.raster.mosaic_writer import BlockArrays, MosaicWriter, checksum, checksum_of
from pipeline.raster.window import Window
from pipeline.remedies import where_to_look
from pipeline.storage import Folder, explained, redact

__all__ = [
    "CHUNK_PX",
    "CONFIDENCE_NODATA",
    "CONFIDENCE_STEPS",
    "BlockArrays",
    "LogitsLayout",
    "Mosaic",
    "MosaicLayout",
    "MosaicWriter",
    "array_names",
    "checksum",
    "checksum_of",
    "create_class_arrays",
    "create_mosaic",
    "describe_levels",
]


class Mosaic:
    """A mosaic to read by window, in its own pixels, rows first."""

    def __init__(self, group: zarr.Group, url: str) -> None:
        self._group = group
        self._url = url
        self.layout = layout_of(group)
        self.grid = self.layout.grid

    @classmethod
    def open(cls, url: str) -> "Mosaic":
        """The mosaic at a URL or path, or the one that a ``latest.json`` names."""
        folder = Folder.at(resolve_latest(url))
        try:
            with explained("open a mosaic at", folder.url):
                group = zarr.open_group(folder.zarr_store(read_only=True), mode="r", **PLAIN)
        except (GroupNotFoundError, ContainsArrayError, FileNotFoundError) as error:
            where = redact(folder.url)
            raise StorageError(
                f"there must be a mosaic at {where}; there is none; {where_to_look(where)}"
            ) from error
        _check_format(group.attrs.get("format"), folder.url)
        try:
            return cls(group, folder.url)
        except KeyError as error:
            raise StorageError(
                f"the mosaic at {redact(folder.url)} lacks {error}: it was not created to the end; "
                "run its job again to go on"
            ) from error

    @property
    def attributes(self) -> dict[str, Any]:
        """What the mosaic says of itself: classes, model, settings, sources."""
        return dict(self._group.attrs)

    def array(self, name: str) -> zarr.Array[Any]:
        """One of the arrays, for example ``overviews/4/classes``."""
        try:
            found = self._group[name]
        except (KeyError, ArrayNotFoundError) as error:
            raise StorageError(f"the mosaic has no array {name!r}") from error
        if not isinstance(found, zarr.Array):
            raise StorageError(f"{name!r} of the mosaic is a group, not an array")
        return found

    def overview_factors(self) -> list[int]:
        """By how much the overviews are smaller, from the finest."""
        overviews = self._group.get("overviews")
        return (
            sorted(int(name) for name in overviews.group_keys()) if isinstance(overviews, zarr.Group) else []
        )

    @property
    def num_pixels(self) -> int:
        """Pixels of all planes."""
        return math.prod(self.layout.stack_shape) * self.grid.window.num_pixels

    @property
    def middle(self) -> dict[str, int]:
        """The plane in the middle of a stack, where one has to stand for all."""
        num_t, num_z = self.layout.stack_shape or (1, 1)
        return {"t": num_t // 2, "z": num_z // 2}

    def classes(self, window: Window | None = None, *, t: int = 0, z: int = 0) -> NDArray[Any]:
        """Class indices of a window; nodata where nothing is known.

        Args:
            window: Part of the mosaic, None: all of it.
            t: Time point, counted among those of the mosaic.
            z: Depth, likewise.
        """
        return self.plane("classes", *self._within(window).slices, t=t, z=z)

    def confidence(self, window: Window | None = None, *, t: int = 0, z: int = 0) -> NDArray[np.uint8]:
        """Probability of the winner in 254ths, as stored; 255 where nothing is known."""
        return self.plane("confidence", *self._within(window).slices, t=t, z=z)

    def logits(self, window: Window | None = None, *, t: int = 0, z: int = 0) -> NDArray[np.float32]:
        """Log-probabilities of a window, class first; NaN where nothing is known.

        From the lattice they are log(interpolated probabilities), so that their argmax is ``classes`` again.
        """
        window = self._within(window)
        if self.layout.logits == "none":
            raise StorageError("this mosaic was written with output.logits: none")
        if self.layout.logits == "full":
            return np.asarray(self.plane("logits", slice(None), *window.slices, t=t, z=z), np.float32)
        node_px = self.layout.node_px
        rows = slice(window.row // node_px, -(-(window.row_stop - 1) // node_px) + 1)
        cols = slice(window.col // node_px, -(-(window.col_stop - 1) // node_px) + 1)
        stored = np.asarray(self.plane("logits", slice(None), rows, cols, t=t, z=z), np.float32)
        probabilities = np.nan_to_num(np.exp(stored), nan=0.0)
        offset = window.row - rows.start * node_px, window.col - cols.start * node_px
        full = upsample(probabilities, node_px, offset=offset, shape=window.shape)
        with np.errstate(divide="ignore"):
            logits = np.log(full)
        logits[:, self.classes(window, t=t, z=z) == self.layout.class_nodata] = np.nan
        return logits

    def plane(self, name: str, *part: slice, t: int = 0, z: int = 0) -> NDArray[Any]:
        """Part of one plane of an array, for example of ``overviews/4/classes``, as stored."""
        index: Any = (*self._plane_index(t, z), *part)
        with explained(f"read {name!r} of the mosaic at", self._url):
            try:
                return np.asarray(self.array(name)[index or ...])
            except (RuntimeError, ValueError) as error:  # what codecs raise on bytes that are not theirs
                raise StorageError(
                    f"an object of {name!r} in the mosaic at {redact(self._url)} is damaged: {error}; "
                    "run its job again: the audit finds and mends it"
                ) from error

    def _plane_index(self, t: int, z: int) -> tuple[int, ...]:
        shape = self.layout.stack_shape or (1, 1)
        if not (0 <= t < shape[0] and 0 <= z < shape[1]):
            raise ValueError(f"the mosaic has {shape[0]} t and {shape[1]} z, counted from 0; got {t} and {z}")
        return (t, z) if self.layout.stack_shape else ()

    def _within(self, window: Window | None) -> Window:
        if window is None:
            return self.grid.window
        if not self.grid.window.contains(window):
            raise ValueError(f"the window must lie in the mosaic's {self.grid.window.shape}, got {window}")
        return window


def _check_format(found: object, url: str) -> None:
    """Refuse a group that is no mosaic, and a mosaic of another time."""
    if found == FORMAT:
        return
    if isinstance(found, str) and found.startswith(FORMAT_FAMILY):
        raise StorageError(
            f"a mosaic must be of format {FORMAT}, got {found} at {redact(url)}: another version of this "
            "program wrote it; read it with that version, or write it anew with this one"
        )
    raise StorageError(f"{redact(url)} is a Zarr group, but not a mosaic of format {FORMAT}")
