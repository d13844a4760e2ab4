"""Writing a mosaic block by block: whole chunks and shards, so each object has one writer."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import ObjectStore, StorePath, WrapperStore

from pipeline.raster.mosaic_layout import MosaicLayout, array_names
from pipeline.raster.plane import Plane
from pipeline.raster.window import Window
from pipeline.storage import Folder, explained


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

    def write(self, window: Window, arrays: BlockArrays, plane: Plane | None = None) -> dict[str, str]:
        """Write a block's arrays and tell the objects written, each with its checksum.

        Args:
            window: The block, in the mosaic's pixels.
            arrays: What it adds.
            plane: Which plane of a stack it belongs to; None in a mosaic of one.
        """
        if (plane is None) != (self._layout.stack is None):
            raise ValueError(f"a block must name its plane exactly in a stack, got {plane}")
        at = () if plane is None else (plane.t, plane.z)
        store = _RecordingStore(self._store)
        with explained("write a block of the mosaic at", self._url, missing_is_fault=True):
            self._array(store, "classes")[*at, *window.slices] = arrays.classes_HW
            self._array(store, "confidence")[*at, *window.slices] = arrays.confidence_HW
            if arrays.logits_KHW is not None:
                rows, cols = self.logits_slices(window)
                owned = arrays.logits_KHW[:, : rows.stop - rows.start, : cols.stop - cols.start]
                self._array(store, "logits")[*at, :, rows, cols] = owned
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
    """Remembers the checksum of every object that goes through it, and reads none.

    zarr looks at a shard before it writes it, to keep what is not written. A block's objects are wholly its
    own: nothing of them is kept, a request is saved, and one that was damaged is replaced like any other.
    """

    def __init__(self, store: ObjectStore[Any]) -> None:
        super().__init__(store)
        self.written: dict[str, str] = {}

    async def get(
        self,
        key: str,  # noqa: ARG002 - whatever is asked for
        prototype: BufferPrototype,  # noqa: ARG002
        byte_range: ByteRequest | None = None,  # noqa: ARG002
    ) -> Buffer | None:
        """Nothing: see above."""
        return None

    async def set(self, key: str, value: Buffer) -> None:
        await super().set(key, value)
        self.written[key] = checksum(value.to_bytes())


def checksum(data: bytes) -> str:
    """A short digest that tells an object's bytes from others'."""
    return checksum_of([data])


def checksum_of(parts: Iterable[bytes]) -> str:
    """The same of an object that is read part by part."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:32]
