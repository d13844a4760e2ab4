"""A mosaic's classes as OME-NGFF labels: inside the image that was segmented, or as a group of their own.

Values are class indices + 1: by the specification 0 is background, and it stands here for pixels without
data. Coarser levels hold the commonest of 2 × 2 values; inside an image there are as many levels as it has,
as the specification asks. Labels are of version 0.4 inside an image of 0.4 (Zarr v2), else of 0.5 (Zarr v3).
They are registered in the image's list of labels last: readers see them finished or not at all.
"""

import math
import posixpath
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec
from zarr.errors import GroupNotFoundError

from pipeline.errors import SettingsError, StorageError
from pipeline.raster.grid import Grid
from pipeline.raster.halve import majority
from pipeline.raster.levels import MICROMETRES
from pipeline.raster.mosaic import CHUNK_PX, Mosaic, MosaicLayout
from pipeline.raster.plane import planes
from pipeline.raster.window import Window
from pipeline.raster.zarrs.ome import KINDS, OmeImage, mosaic_attributes, parse_image
from pipeline.storage import Folder, explained, normalise_url, redact

MARK = "terrazzo"
"""The attribute by which we know our labels again: they may be replaced, others' never."""

STRIP_PX = 8 * CHUNK_PX
"""Columns read at once."""

CLOSE = 1e-3
"""Share of a pixel by which places may differ and still be the same."""


@dataclass(frozen=True)
class ExportedLabels:
    """What was written."""

    url: str
    version: str
    levels: int
    seconds: float


@dataclass(frozen=True)
class _Leading:
    """A dimension before y and x; of a single plane it lies where the image's only plane lies."""

    name: str
    unit: str | None = None
    scale: float = 1.0
    translation: float = 0.0

    @property
    def axis(self) -> dict[str, str]:
        """As OME-NGFF describes it."""
        unit = {"unit": self.unit} if self.unit else {}
        return {"name": self.name, "type": KINDS[self.name], **unit}


@dataclass(frozen=True)
class _Target:
    """Where labels go.

    Attributes:
        folder: Their group.
        version: Of OME-NGFF.
        image: The image they belong to, as it is named from the labels' group; None for none.
        leading: Dimensions before y and x.
        scales: Scale and translation of each level, finest first.
        unit: Of y and x.
    """

    folder: Folder
    version: str
    image: str | None
    leading: tuple[_Leading, ...]
    scales: tuple[tuple[list[float], list[float]], ...]
    unit: str | None

    @property
    def zarr_format(self) -> Any:  # noqa: ANN401 - zarr's literal type
        """The Zarr version that this version of OME-NGFF is written in."""
        return 2 if self.version == "0.4" else 3


def export_labels_into(mosaic_url: str, image_url: str, *, name: str) -> ExportedLabels:
    """Write a mosaic's classes as ``labels/<name>`` of the image that was segmented.

    Args:
        mosaic_url: The mosaic.
        image_url: The image's group.
        name: What the labels are called.
    """
    began = time.monotonic()
    mosaic = Mosaic.open(mosaic_url)
    folder = Folder(normalise_url(image_url))
    group = _open(folder, "--image must be an OME-Zarr image")
    image = parse_image(group.attrs.asdict(), redact(folder.url))
    version = "0.4" if group.metadata.zarr_format == 2 else "0.5"
    at_image = _placed_in(mosaic.grid, image, group, redact(folder.url))
    single = tuple(_leading(image, dim) for dim in ("t", "z") if _size(group, image, dim) == 1)
    target = _Target(
        folder=folder.child(f"labels/{name}"),
        version=version,
        image="../../",
        leading=_of_stack(mosaic.layout) or single,
        scales=tuple(_scale(at_image.coarsen(1 << level)) for level in range(len(image.levels))),
        unit=at_image.unit,
    )
    _write(mosaic, target, name)
    _register(group, folder, name, target)
    return ExportedLabels(redact(target.folder.url), version, len(target.scales), time.monotonic() - began)


def export_labels(mosaic_url: str, output_url: str, *, image_url: str | None = None) -> ExportedLabels:
    """Write a mosaic's classes as a label image of its own, of version 0.5.

    Args:
        mosaic_url: The mosaic.
        output_url: The group to write.
        image_url: The image they belong to, where it is known.
    """
    began = time.monotonic()
    mosaic = Mosaic.open(mosaic_url)
    _check_upright(mosaic.grid)
    folder = Folder(normalise_url(output_url))
    levels = _levels(mosaic.grid)
    target = _Target(
        folder=folder,
        version="0.5",
        image=_named_from(folder.url, image_url),
        leading=_of_stack(mosaic.layout),
        scales=tuple(_scale(mosaic.grid.coarsen(1 << level)) for level in range(levels)),
        unit=mosaic.grid.unit,
    )
    _write(mosaic, target, folder.url.rsplit("/", 1)[-1].removesuffix(".zarr"))
    return ExportedLabels(redact(folder.url), "0.5", levels, time.monotonic() - began)


def _levels(grid: Grid) -> int:
    """How many levels there are until one fits into a chunk."""
    return 1 + max(0, math.ceil(math.log2(max(grid.height, grid.width) / CHUNK_PX)))


def _open(folder: Folder, what: str) -> zarr.Group:
    if folder.is_empty():  # asked first: to open a local place for writing makes its directory
        raise StorageError(f"{what}; there is none at {redact(folder.url)}")
    try:
        with explained("open", folder.url):
            return zarr.open_group(folder.zarr_store(), mode="r+", use_consolidated=False)
    except (GroupNotFoundError, FileNotFoundError) as error:
        raise StorageError(f"{what}; there is none at {redact(folder.url)}") from error


def _size(group: zarr.Group, image: OmeImage, dim: str) -> int | None:
    """Planes of the image along a dimension; None where it has none."""
    array = group[image.levels[0].path]
    if dim not in image.dims or not isinstance(array, zarr.Array):
        return None
    return array.shape[image.dims.index(dim)]


def _leading(image: OmeImage, dim: str) -> _Leading:
    """A dimension as the image has it: napari lays layers on each other only where their units agree."""
    at, finest = image.dims.index(dim), image.levels[0]
    return _Leading(dim, image.units[at], finest.scale[at], finest.translation[at])


def _of_stack(layout: MosaicLayout) -> tuple[_Leading, ...]:
    """The dimensions of a stack, by name: where its planes lie, it says itself."""
    return tuple(_Leading(dim) for dim in layout.stack_dims)


def _placed_in(grid: Grid, image: OmeImage, group: zarr.Group, where: str) -> Grid:
    """The mosaic's grid in the image's own coordinates.

    A mosaic that says where it lies is placed by that; one that does not must be as large as a level.
    """
    _check_upright(grid)
    if grid.crs_wkt is not None:
        raise SettingsError(f"labels of {where} need a mosaic of that image, but this one has a CRS")
    if grid.is_georeferenced and (grid.unit == image.unit or {grid.unit, image.unit} <= set(MICROMETRES)):
        factor = 1.0
        if grid.unit != image.unit:
            factor = MICROMETRES[grid.unit or ""] / MICROMETRES[image.unit or ""]
        to_image = type(grid.transform).scale(factor)
        placed = Grid(grid.height, grid.width, to_image @ grid.transform, None, image.unit)
        _check_inside(placed, image, group, where)
        return placed
    for number, level in enumerate(image.levels):
        array = group[level.path]
        if isinstance(array, zarr.Array):
            candidate = image.grid(number, array.shape)
            if candidate.window == grid.window:
                return candidate
    raise SettingsError(
        f"the mosaic must say where it lies in the image, or be as large as one of its levels; it has "
        f"{grid.height} × {grid.width} px and no place in {where}"
    )


def _check_inside(placed: Grid, image: OmeImage, group: zarr.Group, where: str) -> None:
    array = group[image.levels[0].path]
    if not isinstance(array, zarr.Array):
        raise StorageError(f"{where} must hold an array {image.levels[0].path!r}")
    whole, part = image.grid(0, array.shape).bounds(), placed.bounds()
    slack = (1 + CLOSE) * math.sqrt(placed.pixel_area)  # coarser levels are rounded up to whole pixels
    beyond = (whole[0] - part[0], whole[1] - part[1], part[2] - whole[2], part[3] - whole[3])
    if max(beyond) > slack:
        raise SettingsError(
            f"the mosaic must lie in the image, but covers {list(part)} where {where} covers {list(whole)}"
        )


def _check_upright(grid: Grid) -> None:
    if grid.is_rotated or grid.transform.a <= 0 or grid.transform.e <= 0:
        if grid.crs_wkt is None and grid.is_georeferenced:
            raise SettingsError("labels need a mosaic whose rows and columns run along the image's")
        raise SettingsError(
            "labels are for slides and microscopy; this mosaic lies on the ground: use jobs/export_cog.py"
        )


def _scale(grid: Grid) -> tuple[list[float], list[float]]:
    corner = grid.transform @ (0.5, 0.5)  # OME places centres of pixels
    return [grid.transform.e, grid.transform.a], [corner[1], corner[0]]


def _named_from(labels_url: str, image_url: str | None) -> str | None:
    """The image as it is named from the labels' group: relative where both lie in one place."""
    if image_url is None:
        return None
    image = normalise_url(image_url)
    scheme = image.partition("://")[0] if "://" in image else ""
    same = scheme == (labels_url.partition("://")[0] if "://" in labels_url else "")
    return posixpath.relpath(image, labels_url) if same else redact(image)


def _write(mosaic: Mosaic, target: _Target, name: str) -> None:
    """The arrays first, what makes labels of them last."""
    folder, attributes = target.folder, mosaic.attributes
    _clear(folder)
    # Marked before anything else, so that a run that was killed can be started again.
    mark = {"run_id": attributes.get("run_id"), "fingerprint": attributes.get("fingerprint")}
    with explained("write labels to", folder.url, missing_is_fault=True):
        store = folder.zarr_store()
        group = zarr.create_group(store, zarr_format=target.zarr_format, attributes={MARK: mark})
        finer = None
        for level in range(len(target.scales)):
            finer = _write_level(mosaic, target, group, level, finer)
        group.attrs.update(_attributes(mosaic.layout, target, name))


def _write_level(
    mosaic: Mosaic, target: _Target, group: zarr.Group, level: int, finer: zarr.Array[Any] | None
) -> zarr.Array[Any]:
    layout = mosaic.layout
    grid = layout.grid.coarsen(1 << level)
    array = _create_array(group, str(level), target, layout, grid)
    for window in _windows(grid.window):
        for plane in planes(layout.stack.shape if layout.stack else (1, 1)):
            place = (plane.t, plane.z) if layout.stack else (0,) * len(target.leading)
            index: Any = (*place, *window.slices)
            if finer is None:
                classes = mosaic.classes(window, t=plane.t, z=plane.z)
                array[index] = _as_labels(classes, layout.class_nodata, array.dtype)
            else:
                array[index] = _halved(finer, place, window)
    return array


def _clear(folder: Folder) -> None:
    """Labels of ours are replaced; what is not ours stays, and stops us."""
    if folder.is_empty():
        return
    group = _open(folder, "the labels' place must be empty or hold labels of this program")
    if MARK not in group.attrs:
        raise StorageError(
            f"{redact(folder.url)} holds what is not of this program; give another place or name"
        )
    folder.delete_all()


def _create_array(
    group: zarr.Group, path: str, target: _Target, layout: MosaicLayout, grid: Grid
) -> zarr.Array[Any]:
    leading = layout.stack_shape or (1,) * len(target.leading)
    dims = (*(dim.name for dim in target.leading), "y", "x")
    is_v2 = target.zarr_format == 2
    dtype = np.uint8 if layout.num_classes <= np.iinfo(np.uint8).max else np.uint16
    return group.create_array(
        path,
        shape=(*leading, *grid.window.shape),
        chunks=(*(1 for _ in leading), CHUNK_PX, CHUNK_PX),
        dtype=np.dtype(dtype),
        fill_value=0,
        compressors="auto" if is_v2 else ZstdCodec(level=3),
        chunk_key_encoding={"name": "v2", "separator": "/"} if is_v2 else None,
        dimension_names=None if is_v2 else dims,
    )


def _windows(whole: Window) -> Iterator[Window]:
    """Whole chunks, a row of them at a time."""
    for row in range(0, whole.height, CHUNK_PX):
        for col in range(0, whole.width, STRIP_PX):
            yield Window(row, col, CHUNK_PX, STRIP_PX).intersect(whole)


def _halved(finer: zarr.Array[Any], place: tuple[int, ...], window: Window) -> NDArray[Any]:
    """A window's values from the next finer level."""
    part = Window(2 * window.row, 2 * window.col, 2 * window.height, 2 * window.width)
    index: Any = (*place, *part.slices)  # a last odd row or column ends where the array does
    return majority(np.asarray(finer[index]), 0)


def _as_labels(values: NDArray[Any], nodata: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.where(values == nodata, 0, values.astype(np.int32) + 1).astype(dtype)


def _attributes(layout: MosaicLayout, target: _Target, name: str) -> dict[str, Any]:
    """What makes an image of labels of the group."""
    multiscale = _multiscale(layout, target, name)
    colors, properties = [], []  # none of which may be called "index": napari has a column of that name
    for index, (class_name, color) in enumerate(zip(layout.class_names, layout.class_colors, strict=True)):
        rgba = [*bytes.fromhex(color.removeprefix("#")), 255]
        colors.append({"label-value": index + 1, "rgba": rgba})
        properties.append({"label-value": index + 1, "class": class_name})
    label: dict[str, Any] = {"colors": colors, "properties": properties}
    if target.image is not None:
        label["source"] = {"image": target.image}
    if target.version == "0.4":
        versioned = {"version": "0.4"}
        return {"multiscales": [multiscale | versioned], "image-label": label | versioned}
    return {"ome": {"version": target.version, "multiscales": [multiscale], "image-label": label}}


def _multiscale(layout: MosaicLayout, target: _Target, name: str) -> dict[str, Any]:
    stack: Mapping[str, Any] = {}
    if layout.stack is not None:
        whole = mosaic_attributes(name, [("0", layout.grid)], layout.stack)["multiscales"][0]
        first = whole["datasets"][0]["coordinateTransformations"]
        stack = {"axes": whole["axes"][:2], "scale": first[0]["scale"][:2], "at": first[1]["translation"][:2]}
    axes = stack.get("axes") or [dim.axis for dim in target.leading]
    unit = {"unit": target.unit} if target.unit else {}
    axes = [*axes, *({"name": dim, "type": "space"} | unit for dim in ("y", "x"))]
    datasets = []
    for level, (scale, translation) in enumerate(target.scales):
        steps = [*(stack.get("scale") or (dim.scale for dim in target.leading)), *scale]
        place = [*(stack.get("at") or (dim.translation for dim in target.leading)), *translation]
        transformations = [{"type": "scale", "scale": steps}, {"type": "translation", "translation": place}]
        datasets.append({"path": str(level), "coordinateTransformations": transformations})
    return {"name": name, "axes": axes, "datasets": datasets}


def _register(image: zarr.Group, folder: Folder, name: str, target: _Target) -> None:
    """Add the labels to the image's list."""
    with explained("write labels to", folder.url, missing_is_fault=True):
        labels = image.require_group("labels")
        attributes = labels.attrs.asdict()
        is_v2 = target.zarr_format == 2
        inner: Any = attributes if is_v2 else attributes.get("ome", {"version": target.version})
        listed = [*inner.get("labels", [])]
        if name not in listed:
            listed.append(name)
        labels.attrs.update({"labels": listed} if is_v2 else {"ome": {**inner, "labels": listed}})
        if folder.exists(".zmetadata"):  # readers that go by it would not see the labels
            zarr.consolidate_metadata(folder.zarr_store(), zarr_format=2)
