"""Looking at a Zarr store: which image is in it, and which version of it."""

import logging
import math
from dataclasses import dataclass

import numpy as np
import zarr

from pipeline.errors import SourceError
from pipeline.raster.levels import Level, choose_level
from pipeline.raster.plane import Stack
from pipeline.raster.source import MAX_BANDS, BandInfo, Identity, SourceInfo
from pipeline.raster.window import Window
from pipeline.raster.zarrs.arrays import BandPlace
from pipeline.raster.zarrs.image import ZarrImage, ZarrWish
from pipeline.raster.zarrs.ome import first_series, is_ome, parse_image
from pipeline.raster.zarrs.plain import lone_array, plain_image
from pipeline.raster.zarrs.source import ZarrSpec
from pipeline.raster.zarrs.store import array_at, identify_array, open_node
from pipeline.storage import join_url, normalise_url, redact, split_url

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoundZarr:
    """A group that has been looked at.

    Attributes:
        url: The group, normalised.
        nodata: The setting; None: as the arrays declare.
        info: What it says of itself.
        places: Where each band's samples are.
        level: The level's path.
        stack: The chosen planes, one at least.
        chunk_bytes: Size of a decoded chunk, the largest of the arrays'.
    """

    url: str
    nodata: float | None
    info: SourceInfo
    places: tuple[BandPlace, ...]
    level: str
    stack: Stack
    chunk_bytes: int

    def spec(self, bands: tuple[int, ...]) -> ZarrSpec:
        """How to open it for these bands."""
        places = tuple(self.places[band - 1] for band in bands)
        return ZarrSpec(
            self.url, self.info, bands, places, self.nodata, self.level, self.stack, self.chunk_bytes
        )

    def identities_in(self, window: Window) -> tuple[Identity, ...]:  # noqa: ARG002 - told of arrays, not chunks
        """The arrays that may show in a window: all."""
        return self.info.identities


def find_zarr(url: str, wish: ZarrWish, *, identified: bool = True) -> FoundZarr:
    """Look at the group or array at a URL; ``identified``: its objects are listed, to tell who it is."""
    url = normalise_url(url)
    node, only = open_node(url), None
    if isinstance(node, zarr.Array):
        group, name = _around(url)
        if group is None:
            return _found(url, lone_array(url, node, wish), wish, identified=identified)
        url, node, only = split_url(url)[0], group, name
    attributes = dict(node.attrs)
    inner = None if only else first_series(attributes)
    if inner is not None and inner in node and "1" not in node:
        return find_zarr(join_url(url, inner), wish, identified=identified)
    if is_ome(attributes):
        return _found(url, _ome_image(url, node, only, wish), wish, identified=identified)
    return _found(url, plain_image(url, node, only, wish), wish, identified=identified)


def _around(url: str) -> tuple[zarr.Group | None, str | None]:
    """The group that an array lies in, with the array's name."""
    parent, name = split_url(url)
    try:
        node = open_node(parent)
    except SourceError:
        return None, None
    return (node, name) if isinstance(node, zarr.Group) else (None, None)


def _ome_image(url: str, group: zarr.Group, only: str | None, wish: ZarrWish) -> ZarrImage:
    """An image by OME-NGFF; ``only`` is the level that the URL itself names."""
    where = redact(url)
    image = parse_image(dict(group.attrs), where)
    arrays = [array_at(group, level.path, where) for level in image.levels]
    odd = [array.path for array in arrays if array.ndim != len(image.dims)]
    if odd:
        raise SourceError(f"arrays of {where} must have axes {image.dims}, but {odd[0]!r} has another number")
    y, x, paths = image.dims.index("y"), image.dims.index("x"), [level.path for level in image.levels]
    levels = [
        Level(path, array.shape[y], array.shape[x], image.pixel_size(index))
        for index, (path, array) in enumerate(zip(paths, arrays, strict=True))
    ]
    if only in paths:
        number = paths.index(only)
    else:
        number = choose_level(levels, wish.level, unit=image.unit, where=where)
    array, path = arrays[number], paths[number]
    count = array.shape[image.dims.index("c")] if "c" in image.dims else 1
    names = image.channels if len(image.channels) == count else (None,) * count
    return ZarrImage(
        grid=image.grid(number, array.shape),
        bands=tuple(
            BandInfo(index, name, array.dtype.name, is_alpha=False) for index, name in enumerate(names, 1)
        ),
        places=tuple(
            BandPlace(path, image.dims, index if "c" in image.dims else None, ()) for index in range(count)
        ),
        stack=image.stack(number, array.shape, t=wish.t, z=wish.z, where=where),
        arrays={path: array},
        level=path,
        is_microscopy=True,
    )


def _found(url: str, image: ZarrImage, wish: ZarrWish, *, identified: bool) -> FoundZarr:
    """The image, with its identity where that is wanted; refuses what cannot be segmented."""
    where = redact(url)
    if len(image.bands) > MAX_BANDS:
        raise SourceError(f"a source must have 1 to {MAX_BANDS} bands, got {len(image.bands)} in {where}")
    odd = [band.dtype for band in image.bands if np.dtype(band.dtype).kind not in "biuf"]
    if odd:
        raise SourceError(f"bands must hold real numbers, got {odd[0]} in {where}")
    if not image.grid.window.num_pixels:
        raise SourceError(f"a source must have pixels, got shape {image.grid.window.shape} in {where}")
    first = image.places[0]
    sides = dict(zip(first.dims, image.arrays[first.path].chunks, strict=True))
    _warn_of_crowded_chunks(sides, image.stack, where)
    info = SourceInfo(
        url=where,
        grid=image.grid,
        bands=image.bands,
        identities=tuple(identify_array(url, path) for path in image.arrays) if identified else (),
        block_shape=(sides["y"], sides["x"]),
        stack=None if image.stack.is_single else image.stack,
        is_microscopy=image.is_microscopy,
    )
    chunk_bytes = max(math.prod(array.chunks) * array.dtype.itemsize for array in image.arrays.values())
    return FoundZarr(url, wish.nodata, info, image.places, image.level, image.stack, chunk_bytes)


def _warn_of_crowded_chunks(sides: dict[str, int], stack: Stack, where: str) -> None:
    for name, count in zip("tz", stack.shape, strict=True):
        if count > 1 and sides.get(name, 1) > 1:
            logger.warning(
                "a chunk of %s holds %d planes along %s: it is read again for each of them",
                where, sides[name], name,
            )  # fmt: skip
