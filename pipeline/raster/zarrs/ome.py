"""What OME-NGFF says of an image in a Zarr group, versions 0.4 (Zarr v2) and 0.5 (Zarr v3); and of a mosaic.

OME places the centre of pixel 0 at an axis' translation; our grids place the corner of pixel 0 at theirs.
Half a pixel lies between the two, and is added and taken away here and nowhere else.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from affine import Affine

from pipeline.errors import SourceError
from pipeline.raster.grid import Grid
from pipeline.raster.levels import MICROMETRES
from pipeline.raster.plane import PlaneWish, Stack, StackAxis, choose_planes

logger = logging.getLogger(__name__)

VERSIONS = ("0.4", "0.5")
KINDS = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
UNITS_OF_TIME = (
    "attosecond", "centisecond", "day", "decisecond", "exasecond", "femtosecond", "gigasecond", "hectosecond",
    "hour", "kilosecond", "megasecond", "microsecond", "millisecond", "minute", "nanosecond", "petasecond",
    "picosecond", "second", "terasecond", "yoctosecond", "yottasecond", "zeptosecond", "zettasecond",
)  # fmt: skip


@dataclass(frozen=True)
class OmeLevel:
    """One level of the pyramid.

    Attributes:
        path: Its array, below the image's group.
        scale: Distance of pixels along each axis.
        translation: Place of the first pixel's centre along each axis.
    """

    path: str
    scale: tuple[float, ...]
    translation: tuple[float, ...]


@dataclass(frozen=True)
class OmeImage:
    """An image as its metadata describe it.

    Attributes:
        dims: Axes in the arrays' order, each one of t, c, z, y, x.
        units: Unit of each, where it is told.
        levels: From the finest.
        channels: Labels of the channels, None where there are none of them.
    """

    dims: tuple[str, ...]
    units: tuple[str | None, ...]
    levels: tuple[OmeLevel, ...]
    channels: tuple[str | None, ...]

    @property
    def unit(self) -> str | None:
        """Unit of y and x, where both have the same."""
        units = {self.units[self.dims.index(name)] for name in ("y", "x")}
        return units.pop() if len(units) == 1 else None

    def pixel_size(self, level: int) -> float:
        """Side of a level's pixels, as a square of their area has it."""
        scale = self.levels[level].scale
        return math.sqrt(abs(scale[self.dims.index("y")] * scale[self.dims.index("x")]))

    def grid(self, level: int, shape: Sequence[int]) -> Grid:
        """Where the pixels of a level lie."""
        scale, translation = self.levels[level].scale, self.levels[level].translation
        y, x = self.dims.index("y"), self.dims.index("x")
        transform = Affine(
            scale[x], 0.0, translation[x] - scale[x] / 2, 0.0, scale[y], translation[y] - scale[y] / 2
        )
        return Grid(shape[y], shape[x], transform, None, self.unit)

    def stack(self, level: int, shape: Sequence[int], *, t: PlaneWish, z: PlaneWish, where: str) -> Stack:
        """The chosen planes of a level."""
        wishes = {"t": t, "z": z}
        return Stack(**{name: self._axis(name, level, shape, wishes[name], where) for name in wishes})

    def _axis(self, name: str, level: int, shape: Sequence[int], wish: PlaneWish, where: str) -> StackAxis:
        if name not in self.dims:
            chosen = choose_planes(wish, 1, setting=f"source.{name}", where=where)
            return StackAxis(chosen, tuple(float(index) for index in chosen))
        at = self.dims.index(name)
        spacing, first = self.levels[level].scale[at], self.levels[level].translation[at]
        chosen = choose_planes(wish, shape[at], setting=f"source.{name}", where=where)
        positions = tuple(first + index * spacing for index in chosen)
        return StackAxis(chosen, positions, spacing, self.units[at])


def is_ome(attributes: Mapping[str, Any]) -> bool:
    """Whether a group is an image, or a plate, a well or a collection of images, by OME-NGFF."""
    ome = _ome(attributes)
    if any(key in ome for key in ("plate", "well", "bioformats2raw.layout", "series")):
        return True
    scales = ome.get("multiscales")
    return isinstance(scales, list) and bool(scales) and isinstance(scales[0], dict) and "axes" in scales[0]


def parse_image(attributes: Mapping[str, Any], where: str) -> OmeImage:
    """The image that a group's attributes describe; refuses what no image is made of."""
    ome = _ome(attributes)
    scales = ome.get("multiscales")
    if not scales:
        raise SourceError(_not_an_image(ome, where))
    if len(scales) > 1:
        logger.warning("%s holds %d images; the first is read", where, len(scales))
    image = scales[0]
    version = str(image.get("version") or ome.get("version") or VERSIONS[0])
    if version not in VERSIONS:
        raise SourceError(
            f"OME-Zarr must be of version {' or '.join(VERSIONS)}, got {version} in {where}; convert it"
        )
    try:
        dims = tuple(_role(axis, where) for axis in image["axes"])
        units = tuple(axis.get("unit") for axis in image["axes"])
        common = _transformation(image.get("coordinateTransformations"), len(dims), where)
        levels = tuple(_level(dataset, common, len(dims), where) for dataset in image["datasets"])
    except (KeyError, TypeError, AttributeError) as error:
        raise SourceError(f"the multiscales of {where} must follow OME-NGFF, got no {error}") from error
    if not {"y", "x"} <= set(dims) or len(set(dims)) < len(dims) or not levels:
        raise SourceError(f"an image must have axes y and x, each once, and a level, got {dims} in {where}")
    return OmeImage(dims, units, levels, _channels(ome, where))


def first_series(attributes: Mapping[str, Any]) -> str | None:
    """The path of the image in a group that bioformats2raw wrote for a file of several; None for others."""
    return "0" if "bioformats2raw.layout" in _ome(attributes) else None


def _ome(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """The metadata of either version: 0.5 has them in a place of their own."""
    nested = attributes.get("ome")
    return nested if isinstance(nested, Mapping) else attributes


def _not_an_image(ome: Mapping[str, Any], where: str) -> str:
    inner: list[str] = []
    for kind, members in (("plate", "wells"), ("well", "images")):
        inner += [str(one.get("path")) for one in ome.get(kind, {}).get(members, [])]
    what = "a plate" if "plate" in ome else "a well" if "well" in ome else "a collection"
    named = f": {', '.join(inner[:8])}{', …' if len(inner) > 8 else ''}" if inner else ""
    return f"a source must be one image, but {where} is {what}; give one of the images in it{named}"


def _role(axis: Mapping[str, Any], where: str) -> str:
    name = str(axis["name"]).lower()
    kind = axis.get("type")
    role = "c" if kind == "channel" else "t" if kind == "time" else name
    if role not in KINDS or kind not in (None, KINDS[role]):
        raise SourceError(f"axes must be t, c, z, y and x, got {axis['name']!r} of type {kind!r} in {where}")
    return role


def _level(
    dataset: Mapping[str, Any], common: tuple[list[float], list[float]], num_dims: int, where: str
) -> OmeLevel:
    """A level's place: its own transformation first, then the one that all levels share."""
    own = _transformation(dataset.get("coordinateTransformations"), num_dims, where)
    scale = tuple(a * b for a, b in zip(own[0], common[0], strict=True))
    translation = tuple(a * b + c for a, b, c in zip(own[1], *common, strict=True))
    if 0.0 in scale:
        raise SourceError(f"scales must not be 0, got {scale} in {where}")
    return OmeLevel(str(dataset["path"]), scale, translation)


def _transformation(
    steps: Sequence[Mapping[str, Any]] | None, num_dims: int, where: str
) -> tuple[list[float], list[float]]:
    """Scale and translation of one after another."""
    scale, translation = [1.0] * num_dims, [0.0] * num_dims
    for step in steps or ():
        if step["type"] == "identity":
            continue
        values: object = step.get(step["type"])
        if step["type"] not in ("scale", "translation") or not _are_numbers(values, num_dims):
            raise SourceError(
                f"coordinateTransformations must be a scale or a translation of {num_dims} numbers, "
                f"got {dict(step)} in {where}"
            )
        if step["type"] == "scale":
            scale = [a * float(b) for a, b in zip(scale, values, strict=True)]
            translation = [a * float(b) for a, b in zip(translation, values, strict=True)]
        else:
            translation = [a + float(b) for a, b in zip(translation, values, strict=True)]
    return scale, translation


def _are_numbers(values: object, count: int) -> TypeGuard[list[float]]:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(value, int | float) and math.isfinite(value) for value in values)
    )


def _channels(ome: Mapping[str, Any], where: str) -> tuple[str | None, ...]:
    """Labels of the channels; one that several have names none of them."""
    listed = (ome.get("omero") or {}).get("channels") or []
    labels = [str(one["label"]) if one.get("label") is not None else None for one in listed]
    twice = {label for label in labels if label is not None and labels.count(label) > 1}
    if twice:
        logger.warning("channels %s of %s share a name: choose them by number", sorted(twice), where)
    return tuple(None if label in twice else label for label in labels)


def mosaic_attributes(name: str, levels: Sequence[tuple[str, Grid]], stack: Stack | None) -> dict[str, Any]:
    """The ``ome`` attribute of a mosaic's group, so that napari opens it.

    Args:
        name: What the image is called.
        levels: Paths of the arrays with their grids, from the finest.
        stack: The planes, where there are several.
    """
    grid = levels[0][1]
    planes = (
        [] if stack is None else [("t", *_even(stack.t, UNITS_OF_TIME)), ("z", *_even(stack.z, MICROMETRES))]
    )
    axes = [_axis_json(axis, unit) for axis, _, _, unit in planes]
    axes += [_axis_json(axis, grid.unit) for axis in ("y", "x")]
    datasets = []
    for path, level in levels:
        step, corner = level.transform, level.transform @ (0.5, 0.5)
        scale = [spacing for _, spacing, _, _ in planes] + [step.e, step.a]
        translation = [first for _, _, first, _ in planes] + [corner[1], corner[0]]
        transformations = [
            {"type": "scale", "scale": scale},
            {"type": "translation", "translation": translation},
        ]
        datasets.append({"path": path, "coordinateTransformations": transformations})
    return {"version": "0.5", "multiscales": [{"name": name, "axes": axes, "datasets": datasets}]}


def _even(axis: StackAxis, units: Sequence[str] | Mapping[str, float]) -> tuple[float, float, str | None]:
    """Spacing, first position and unit as OME can tell them: uneven planes are counted."""
    step = axis.even_step
    if step is None:
        return 1.0, 0.0, None
    return step, axis.positions[0], axis.unit if axis.unit in units else None


def _axis_json(name: str, unit: str | None) -> dict[str, str]:
    return {"name": name, "type": KINDS[name]} | ({"unit": unit} if unit else {})
