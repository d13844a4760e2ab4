"""What a mosaic's arrays are like: sizes, types, names, and what the group says of itself."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import zarr

from pipeline.errors import StorageError
from pipeline.raster.grid import Grid
from pipeline.raster.plane import Stack

CHUNK_PX = 1024
"""Side of a chunk of ``classes`` and of a shard of ``logits``: blocks are multiples of it."""

CONFIDENCE_NODATA = 255
CONFIDENCE_STEPS = 254
FORMAT_FAMILY = "terrazzo-mosaic/"
FORMAT = f"{FORMAT_FAMILY}1"

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
        stack: The planes, where there are several; the arrays then begin with the dimensions t and z.
        is_microscopy: Whether the group also says in OME-NGFF's words where its pixels lie.
    """

    grid: Grid
    class_names: tuple[str, ...]
    class_colors: tuple[str, ...]
    logits: LogitsLayout
    node_px: int
    attributes: Mapping[str, Any]
    stack: Stack | None = None
    is_microscopy: bool = False

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

    @property
    def stack_shape(self) -> tuple[int, ...]:
        """How many t and z; nothing where there is one plane."""
        return () if self.stack is None else self.stack.shape

    @property
    def stack_dims(self) -> tuple[str, ...]:
        """Names of the dimensions before y and x."""
        return () if self.stack is None else ("t", "z")


def array_names(layout: MosaicLayout) -> list[str]:
    """The arrays that blocks are written to."""
    return ["classes", "confidence"] + (["logits"] if layout.logits != "none" else [])


def layout_of(group: zarr.Group) -> MosaicLayout:
    """The layout of a stored mosaic."""
    attributes = dict(group.attrs)
    classes = group["classes"]
    if not isinstance(classes, zarr.Array):
        raise StorageError("a mosaic must hold an array 'classes'")
    transform, shape = attributes["spatial:transform"], classes.shape[-2:]
    planes: Any = attributes.get("planes")
    grid = Grid.from_json(
        {
            "height": shape[0],
            "width": shape[1],
            "transform": transform,
            "crs_wkt": group["spatial_ref"].attrs.get("crs_wkt"),
            "unit": attributes.get("unit"),
        }
    )
    return MosaicLayout(
        grid=grid,
        class_names=tuple(attributes["class_names"]),  # type: ignore[arg-type]
        class_colors=tuple(attributes["class_colors"]),  # type: ignore[arg-type]
        logits=attributes["logits"],  # type: ignore[arg-type]
        node_px=attributes["node_px"],  # type: ignore[arg-type]
        attributes=attributes,
        stack=None if planes is None else Stack.from_json(planes),
        is_microscopy="ome" in attributes,
    )
