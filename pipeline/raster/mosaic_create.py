"""Creating a mosaic: the metadata of its group and arrays, and everything that places them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec
from zarr.errors import GroupNotFoundError
from zarr.storage import ObjectStore

from pipeline.raster import georeference
from pipeline.raster.grid import Grid
from pipeline.raster.levels import MICROMETRES
from pipeline.raster.mosaic_layout import (
    CHUNK_PX,
    CONFIDENCE_NODATA,
    CONFIDENCE_STEPS,
    FORMAT,
    PLAIN,
    MosaicLayout,
)
from pipeline.raster.zarrs.ome import mosaic_attributes
from pipeline.storage import Folder, explained


def create_mosaic(folder: Folder, layout: MosaicLayout) -> None:
    """Write the group's and arrays' metadata and coordinates; harmless where they are there already."""
    attributes = {
        "format": FORMAT,
        "class_names": list(layout.class_names),
        "class_colors": list(layout.class_colors),
        "logits": layout.logits,
        "node_px": layout.node_px,
        **georeference.convention_attributes(layout.grid),
        **_microscopy_attributes(layout),
        **({"planes": layout.stack.to_json()} if layout.stack else {}),
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


def _microscopy_attributes(layout: MosaicLayout) -> dict[str, Any]:
    """Size of the pixels, and OME-NGFF's metadata of the finest level; others come with their arrays."""
    grid = layout.grid
    attributes: dict[str, Any] = {"unit": grid.unit} if grid.unit else {}
    if grid.unit in MICROMETRES:
        factor = MICROMETRES[grid.unit]
        attributes["pixel_size_um"] = [abs(grid.transform.e) * factor, abs(grid.transform.a) * factor]
    if layout.is_microscopy:
        attributes["ome"] = mosaic_attributes("classes", [("classes", grid)], layout.stack)
    return attributes


def describe_levels(group: zarr.Group, layout: MosaicLayout, factors: Sequence[int]) -> None:
    """Tell in OME-NGFF's words, where they are spoken, which overviews belong to ``classes``."""
    if layout.is_microscopy:
        levels = [("classes", layout.grid)]
        levels += [(f"overviews/{factor}/classes", layout.grid.coarsen(factor)) for factor in factors]
        group.attrs["ome"] = mosaic_attributes("classes", levels, layout.stack)


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
    _create_array(group, "classes", layout, grid, layout.class_dtype, classes)
    _create_array(group, "confidence", layout, grid, np.dtype(np.uint8), confidence)
    create_georeference(group, layout, grid)


def _create_array(
    group: zarr.Group,
    name: str,
    layout: MosaicLayout,
    grid: Grid,
    dtype: np.dtype[Any],
    attributes: dict[str, Any],
) -> None:
    if name in group:
        return
    group.create_array(
        name,
        shape=(*layout.stack_shape, *grid.window.shape),
        dtype=dtype,
        chunks=(*_ones(layout), CHUNK_PX, CHUNK_PX),
        fill_value=attributes["_FillValue"],
        compressors=ZstdCodec(level=3),
        dimension_names=(*layout.stack_dims, "y", "x"),
        attributes=attributes,
    )


def _create_logits(group: zarr.Group, layout: MosaicLayout) -> None:
    full = layout.logits == "full"
    if "logits" not in group:
        side = CHUNK_PX if full else CHUNK_PX // layout.node_px
        chunk = min(side, 256)
        shape = layout.grid.window.shape if full else layout.lattice_shape
        names = ("y", "x") if full else ("lattice_y", "lattice_x")
        group.create_array(
            "logits",
            shape=(*layout.stack_shape, layout.num_classes, *shape),
            dtype=np.dtype(np.float16),
            shards=(*_ones(layout), layout.num_classes, side, side),
            chunks=(*_ones(layout), 1, chunk, chunk),
            fill_value=math.nan,
            compressors=ZstdCodec(level=1),
            dimension_names=(*layout.stack_dims, "class", *names),
            attributes={"long_name": "log-probability", "grid_mapping": "spatial_ref"},
        )
    if not full and georeference.has_coordinate_arrays(layout.grid):
        axes = georeference.coordinate_attributes(layout.grid)
        for axis, values in georeference.coordinates(layout.grid, step_px=layout.node_px).items():
            _create_coordinate(group, f"lattice_{axis}", values, axes[axis])


def _ones(layout: MosaicLayout) -> tuple[int, ...]:
    """A chunk holds one plane: a block is one plane's."""
    return (1,) * len(layout.stack_shape)


def create_georeference(group: zarr.Group, layout: MosaicLayout, grid: Grid) -> None:
    """Everything that places a group's arrays: CRS, coordinates and planes; harmless where it is there."""
    if "spatial_ref" not in group:
        attributes = georeference.grid_mapping_attributes(grid)
        group.create_array("spatial_ref", shape=(), dtype=np.int64, fill_value=0, attributes=attributes)
    if georeference.has_coordinate_arrays(grid):
        axes = georeference.coordinate_attributes(grid)
        for axis, values in georeference.coordinates(grid).items():
            _create_coordinate(group, axis, values, axes[axis])
    if layout.stack is not None:
        for axis, planes in (("t", layout.stack.t), ("z", layout.stack.z)):
            attributes = georeference.plane_attributes(axis, planes)
            _create_coordinate(group, axis, np.asarray(planes.positions, np.float64), attributes)


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
