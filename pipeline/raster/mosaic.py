"""The mosaic: a Zarr v3 group that other software opens without ours.

Created once, written block by block (whole chunks and shards, so each object has one writer), read by window.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.codecs import ZstdCodec
from zarr.core.buffer import Buffer
from zarr.errors import ArrayNotFoundError, ContainsArrayError, GroupNotFoundError
from zarr.storage import ObjectStore, StorePath, WrapperStore

from pipeline.errors import StorageError
from pipeline.raster import georeference
from pipeline.raster.grid import Grid
from pipeline.raster.interpolate import upsample
from pipeline.raster.window import Window
from pipeline.storage import Folder, explained, redact

CHUNK_PX = 1024
"""Side of a chunk of ``classes`` and of a shard of ``logits``: blocks are multiples of it."""

CONFIDENCE_NODATA = 255
CONFIDENCE_STEPS = 254
FORMAT = "terrazzo-mosaic/1"

PLAIN: Any = {"zarr_format": 3, "use_consolidated": False}
"""How groups are opened: consolidated metadata are for others, and may be older than the arrays."""

LogitsLayout = Literal["none", "lattice", "full"]


@dataclass(frozen=True)
class MosaicLayout:
    """Everything the arrays' metadata depend on.

    Attributes:
        grid: Size and place.
        class_names: In the order of indices.
        class_colors: ``#rrggbb``, one a class.
        logits: Whether and how log-probabilities are kept.
        node_px: Distance of lattice nodes.
        attributes: What else the group says: model, settings, sources, versions.
    """

    grid: Grid
    class_names: tuple[str, ...]
    class_colors: tuple[str, ...]
    logits: LogitsLayout
    node_px: int
    attributes: Mapping[str, Any]

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @property
    def class_dtype(self) -> np.dtype[Any]:
        """The smallest type that holds every class and nodata."""
        return np.dtype(np.uint8 if self.num_classes <= np.iinfo(np.uint8).max else np.uint16)

    @property
    def class_nodata(self) -> int:
        """What stands in ``classes`` where nothing is known."""
        return int(np.iinfo(self.class_dtype).max)

    @property
    def lattice_shape(self) -> tuple[int, int]:
        """Nodes along rows and columns."""
        rows, cols = (math.ceil((size - 1) / self.node_px) + 1 for size in self.grid.window.shape)
        return rows, cols


class Mosaic:
    """A mosaic to read by window, in its own pixels, rows first."""

    def __init__(self, group: zarr.Group, url: str) -> None:
        self._group = group
        self._url = url
        self.layout = _layout_of(group)
        self.grid = self.layout.grid

    @classmethod
    def open(cls, url: str) -> "Mosaic":
        """The mosaic at a URL or path."""
        folder = Folder.at(url)
        try:
            with explained("open a mosaic at", folder.url):
                group = zarr.open_group(folder.zarr_store(read_only=True), mode="r", **PLAIN)
        except (GroupNotFoundError, ContainsArrayError, FileNotFoundError) as error:
            raise StorageError(f"there must be a mosaic at {redact(folder.url)}; there is none") from error
        if group.attrs.get("format") != FORMAT:
            raise StorageError(f"{redact(folder.url)} is a Zarr group, but not a mosaic of format {FORMAT}")
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

    def classes(self, window: Window | None = None) -> NDArray[Any]:
        """Class indices of a window; nodata where nothing is known."""
        return self._read("classes", self._within(window).slices)

    def confidence(self, window: Window | None = None) -> NDArray[np.uint8]:
        """Probability of the winner in 254ths, as stored; 255 where nothing is known."""
        return self._read("confidence", self._within(window).slices)

    def logits(self, window: Window | None = None) -> NDArray[np.float32]:
        """Log-probabilities of a window, class first; NaN where nothing is known.

        From the lattice they are log(interpolated probabilities), so that their argmax is ``classes`` again.
        """
        window = self._within(window)
        if self.layout.logits == "none":
            raise StorageError("this mosaic was written with output.logits: none")
        if self.layout.logits == "full":
            return np.asarray(self._read("logits", (slice(None), *window.slices)), np.float32)
        node_px = self.layout.node_px
        rows = slice(window.row // node_px, -(-(window.row_stop - 1) // node_px) + 1)
        cols = slice(window.col // node_px, -(-(window.col_stop - 1) // node_px) + 1)
        stored = np.asarray(self._read("logits", (slice(None), rows, cols)), np.float32)
        probabilities = np.nan_to_num(np.exp(stored), nan=0.0)
        offset = window.row - rows.start * node_px, window.col - cols.start * node_px
        full = upsample(probabilities, node_px, offset=offset, shape=window.shape)
        with np.errstate(divide="ignore"):
            logits = np.log(full)
        logits[:, self.classes(window) == self.layout.class_nodata] = np.nan
        return logits

    def _read(self, name: str, part: tuple[slice, ...]) -> NDArray[Any]:
        with explained(f"read {name!r} of the mosaic at", self._url):
            try:
                return np.asarray(self.array(name)[part])
            except (RuntimeError, ValueError) as error:  # what codecs raise on bytes that are not theirs
                raise StorageError(
                    f"an object of {name!r} in the mosaic at {redact(self._url)} is damaged: {error}; "
                    "run its job again: the audit finds and mends it"
                ) from error

    def _within(self, window: Window | None) -> Window:
        if window is None:
            return self.grid.window
        if not self.grid.window.contains(window):
            raise ValueError(f"the window must lie in the mosaic's {self.grid.window.shape}, got {window}")
        return window


@dataclass(frozen=True)
class BlockArrays:
    """What a block adds to the mosaic; lattice logits may be one node longer than the block's share."""

    classes_HW: NDArray[Any]
    confidence_HW: NDArray[np.uint8]
    logits_KHW: NDArray[np.float16] | None


class MosaicWriter:
    """Writes blocks. Several writers, in one process or many, work side by side on different blocks."""

    def __init__(self, folder: Folder, layout: MosaicLayout) -> None:
        self._url = folder.url
        self._layout = layout
        with explained("open a mosaic at", folder.url, missing_is_fault=True):
            self._store = folder.zarr_store()
            self._metadata = {
                name: zarr.open_array(self._store, path=name, mode="r").metadata
                for name in array_names(layout)
            }

    def write(self, window: Window, arrays: BlockArrays) -> dict[str, str]:
        """Write a block's arrays and tell the objects written, each with its checksum."""
        store = _RecordingStore(self._store)
        with explained("write a block of the mosaic at", self._url, missing_is_fault=True):
            self._array(store, "classes")[window.slices] = arrays.classes_HW
            self._array(store, "confidence")[window.slices] = arrays.confidence_HW
            if arrays.logits_KHW is not None:
                rows, cols = self.logits_slices(window)
                owned = arrays.logits_KHW[:, : rows.stop - rows.start, : cols.stop - cols.start]
                self._array(store, "logits")[:, rows, cols] = owned
        return dict(sorted(store.written.items()))

    def logits_slices(self, window: Window) -> tuple[slice, slice]:
        """The part of ``logits`` that a block owns: its nodes, the last blocks also the remainder."""
        if self._layout.logits == "full":
            return window.slices
        node_px, grid, nodes = self._layout.node_px, self._layout.grid, self._layout.lattice_shape
        row_stop = nodes[0] if window.row_stop == grid.height else window.row_stop // node_px
        col_stop = nodes[1] if window.col_stop == grid.width else window.col_stop // node_px
        return slice(window.row // node_px, row_stop), slice(window.col // node_px, col_stop)

    def _array(self, store: Store, name: str) -> zarr.Array[Any]:
        # Built from known metadata: opening by name would read it again for every block.
        return zarr.Array(zarr.AsyncArray(self._metadata[name], StorePath(store, name)))


class _RecordingStore(WrapperStore[ObjectStore[Any]]):
    """Remembers the checksum of every object that goes through it."""

    def __init__(self, store: ObjectStore[Any]) -> None:
        super().__init__(store)
        self.written: dict[str, str] = {}

    async def set(self, key: str, value: Buffer) -> None:
        await super().set(key, value)
        self.written[key] = checksum(value.to_bytes())


def checksum(data: bytes) -> str:
    """A short digest that tells an object's bytes from others'."""
    return hashlib.sha256(data).hexdigest()[:32]


def array_names(layout: MosaicLayout) -> list[str]:
    """The arrays that blocks are written to."""
    return ["classes", "confidence"] + (["logits"] if layout.logits != "none" else [])


def create_mosaic(folder: Folder, layout: MosaicLayout) -> None:
    """Write the group's and arrays' metadata and coordinates; harmless where they are there already."""
    attributes = {
        "format": FORMAT,
        "class_names": list(layout.class_names),
        "class_colors": list(layout.class_colors),
        "logits": layout.logits,
        "node_px": layout.node_px,
        **georeference.convention_attributes(layout.grid),
        **layout.attributes,
    }
    with explained("create a mosaic at", folder.url, missing_is_fault=True):
        store = folder.zarr_store()
        if not _has_group(store):
            zarr.create_group(store, attributes=attributes, overwrite=False)
        group = zarr.open_group(store, mode="r+", **PLAIN)
        create_class_arrays(group, layout, layout.grid)
        if layout.logits != "none":
            _create_logits(group, layout)


def create_class_arrays(group: zarr.Group, layout: MosaicLayout, grid: Grid) -> None:
    """``classes`` and ``confidence`` on a grid, with everything that places and colours them."""
    mapping = {"grid_mapping": "spatial_ref"}
    classes: dict[str, Any] = {
        "long_name": "class",
        "_FillValue": layout.class_nodata,
        "flag_values": list(range(layout.num_classes)),
        "flag_meanings": " ".join("_".join(name.split()) for name in layout.class_names),
        **mapping,
    }
    confidence: dict[str, Any] = {
        "long_name": "probability of the class",
        "_FillValue": CONFIDENCE_NODATA,
        "scale_factor": 1 / CONFIDENCE_STEPS,
        **mapping,
    }
    _create_array(group, "classes", grid.window.shape, layout.class_dtype, layout.class_nodata, classes)
    _create_array(group, "confidence", grid.window.shape, np.dtype(np.uint8), CONFIDENCE_NODATA, confidence)
    _create_reference(group, grid)


def _create_array(
    group: zarr.Group,
    name: str,
    shape: tuple[int, int],
    dtype: np.dtype[Any],
    fill: int,
    attributes: dict[str, Any],
) -> None:
    if name in group:
        return
    group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=(CHUNK_PX, CHUNK_PX),
        fill_value=fill,
        compressors=ZstdCodec(level=3),
        dimension_names=("y", "x"),
        attributes=attributes,
    )


def _create_logits(group: zarr.Group, layout: MosaicLayout) -> None:
    full = layout.logits == "full"
    if "logits" not in group:
        side = CHUNK_PX if full else CHUNK_PX // layout.node_px
        chunk = min(side, 256)
        group.create_array(
            "logits",
            shape=(layout.num_classes, *(layout.grid.window.shape if full else layout.lattice_shape)),
            dtype=np.dtype(np.float16),
            shards=(layout.num_classes, side, side),
            chunks=(1, chunk, chunk),
            fill_value=math.nan,
            compressors=ZstdCodec(level=1),
            dimension_names=("class", "y", "x") if full else ("class", "lattice_y", "lattice_x"),
            attributes={"long_name": "log-probability", "grid_mapping": "spatial_ref"},
        )
    if not full and georeference.has_coordinate_arrays(layout.grid):
        axes = georeference.coordinate_attributes(layout.grid)
        for axis, values in georeference.coordinates(layout.grid, step_px=layout.node_px).items():
            _create_coordinate(group, f"lattice_{axis}", values, axes[axis])


def _create_reference(group: zarr.Group, grid: Grid) -> None:
    if "spatial_ref" not in group:
        attributes = georeference.grid_mapping_attributes(grid)
        group.create_array("spatial_ref", shape=(), dtype=np.int64, fill_value=0, attributes=attributes)
    if georeference.has_coordinate_arrays(grid):
        axes = georeference.coordinate_attributes(grid)
        for axis, values in georeference.coordinates(grid).items():
            _create_coordinate(group, axis, values, axes[axis])


def _create_coordinate(
    group: zarr.Group, name: str, values: NDArray[Any], attributes: dict[str, Any]
) -> None:
    if name not in group:
        group.create_array(
            name,
            shape=values.shape,
            dtype=np.float64,
            chunks=values.shape,
            fill_value=math.nan,
            dimension_names=(name,),
            attributes=attributes,
        )
    array = group[name]
    if isinstance(array, zarr.Array):
        array[:] = values  # again on resume: a run killed between metadata and values left fill values


def _has_group(store: ObjectStore[Any]) -> bool:
    try:
        zarr.open_group(store, mode="r", **PLAIN)
    except (GroupNotFoundError, FileNotFoundError):
        return False
    return True


def _layout_of(group: zarr.Group) -> MosaicLayout:
    attributes = dict(group.attrs)
    classes = group["classes"]
    if not isinstance(classes, zarr.Array):
        raise StorageError("a mosaic must hold an array 'classes'")
    transform, shape = attributes["spatial:transform"], classes.shape
    grid = Grid.from_json(
        {
            "height": shape[0],
            "width": shape[1],
            "transform": transform,
            "crs_wkt": group["spatial_ref"].attrs.get("crs_wkt"),
        }
    )
    return MosaicLayout(
        grid=grid,
        class_names=tuple(attributes["class_names"]),  # type: ignore[arg-type]
        class_colors=tuple(attributes["class_colors"]),  # type: ignore[arg-type]
        logits=attributes["logits"],  # type: ignore[arg-type]
        node_px=attributes["node_px"],  # type: ignore[arg-type]
        attributes=attributes,
    )
