"""Small pictures of a mosaic of any size: a bounded number of chunks is read, a strip at a time."""

import base64
import itertools
import math
import re
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from pipeline.raster.mosaic import CHUNK_PX, CONFIDENCE_NODATA, CONFIDENCE_STEPS, Mosaic, MosaicLayout

CLASSES_PX = 1600
"""Longest side of the preview of classes: a palette of few colours is small as PNG."""

SHADES_PX = 1024
"""Longest side of previews with many shades, confidence and source."""

MOST_CHUNKS = 4096
"""Chunks read for one picture where there are no overviews: 4 Gpx looked at, about a minute."""

NEUTRAL_COLOR = "#8a8a8a"
"""Stands for a class whose colour is none."""

CONFIDENCE_RAMP = ("#2a1a3e", "#6b3f73", "#b4646c", "#e6a565", "#f8efc0")
"""From 0 to 1, evenly darker to lighter, told apart also without colour vision."""


@dataclass(frozen=True)
class Picture:
    """A picture for a page.

    Attributes:
        data_uri: A PNG as text.
        width: Its columns.
        height: Its rows.
        step: Raster pixels for each of its pixels.
        is_sampled: Whether single pixels stand for their surroundings, for want of overviews.
        mean: Mean of the values shown, where that says something.
    """

    data_uri: str
    width: int
    height: int
    step: int
    is_sampled: bool = False
    mean: float | None = None


@dataclass(frozen=True)
class Preview:
    """Values to make a picture of."""

    values_HW: NDArray[Any]
    step: int
    is_sampled: bool


def picture_of_classes(mosaic: Mosaic, *, has_overviews: bool) -> Picture:
    """The classes in their colours; transparent where nothing is known."""
    preview = read_preview(mosaic, "classes", CLASSES_PX, has_overviews=has_overviews)
    return _picture(preview, class_palette(mosaic.layout))


def picture_of_confidence(mosaic: Mosaic, *, has_overviews: bool) -> Picture:
    """Confidence on a ramp from dark to light; transparent where nothing is known."""
    preview = read_preview(mosaic, "confidence", SHADES_PX, has_overviews=has_overviews)
    known = preview.values_HW[preview.values_HW != CONFIDENCE_NODATA]
    mean = float(known.mean()) / CONFIDENCE_STEPS if known.size else None
    return _picture(preview, confidence_palette(), mean=mean)


def class_palette(layout: MosaicLayout) -> NDArray[np.uint8]:
    """Red, green, blue and alpha of every value of ``classes``; nodata is transparent."""
    palette_RGBA = np.zeros((layout.class_nodata + 1, 4), np.uint8)
    for index, color in enumerate(layout.class_colors):
        palette_RGBA[index] = (*bytes.fromhex(safe_color(color)[1:]), 255)
    return palette_RGBA


def confidence_palette() -> NDArray[np.uint8]:
    """Red, green, blue and alpha of every value of ``confidence``; nodata is transparent."""
    anchors = np.array([list(bytes.fromhex(color[1:])) for color in CONFIDENCE_RAMP], np.float64)
    places = np.linspace(0, 1, len(anchors))
    shades = np.linspace(0, 1, CONFIDENCE_STEPS + 1)
    palette_RGBA = np.zeros((CONFIDENCE_NODATA + 1, 4), np.uint8)
    palette_RGBA[:-1, 3] = 255
    for channel in range(3):
        palette_RGBA[:-1, channel] = np.rint(np.interp(shades, places, anchors[:, channel]))
    return palette_RGBA


def read_preview(mosaic: Mosaic, name: str, limit_px: int, *, has_overviews: bool) -> Preview:
    """An array made so small that its longer side fits; of a stack, the plane in the middle.

    Args:
        mosaic: The mosaic.
        name: ``classes`` or ``confidence``.
        limit_px: The longer side at most.
        has_overviews: Whether overviews are filled; they are created before they are.
    """
    height, width = mosaic.grid.window.shape
    if max(height, width) <= limit_px:
        return Preview(mosaic.plane(name, **mosaic.middle), 1, is_sampled=False)
    fitting = [factor for factor in mosaic.overview_factors() if max(height, width) <= limit_px * factor]
    if has_overviews and fitting:
        values_HW = mosaic.plane(f"overviews/{fitting[0]}/{name}", **mosaic.middle)
        return Preview(values_HW, fitting[0], is_sampled=False)
    step = sampling_step(height, width, limit_px)
    return Preview(_every(mosaic, name, step), step, is_sampled=True)


def sampling_step(height: int, width: int, limit_px: int) -> int:
    """Distance of samples such that the picture fits and no more than ``MOST_CHUNKS`` chunks are touched.

    Up to a chunk's side every chunk is touched, whatever the distance; beyond, each sample is a chunk.
    """
    step = math.ceil(max(height, width) / limit_px)
    if math.ceil(height / CHUNK_PX) * math.ceil(width / CHUNK_PX) <= MOST_CHUNKS:
        return step
    step = max(step, CHUNK_PX + 1)
    while math.ceil(height / step) * math.ceil(width / step) > MOST_CHUNKS:
        step = max(step + 1, math.floor(step * 1.02))
    return step


def _every(mosaic: Mosaic, name: str, step: int) -> NDArray[Any]:
    """Every ``step``-th pixel; one row of chunks is held at a time."""
    height, width = mosaic.grid.window.shape
    first_row, first_col = min(step // 2, height - 1), min(step // 2, width - 1)
    rows = np.arange(first_row, height, step)
    strips = []
    for _, own in _groups(rows // CHUNK_PX):
        chosen = rows[own]
        part = slice(int(chosen[0]), int(chosen[-1]) + 1, step), slice(first_col, None, step)
        strips.append(mosaic.plane(name, *part, **mosaic.middle))
    return np.concatenate(strips)


def _groups(keys: NDArray[np.int64]) -> list[tuple[int, slice]]:
    """Runs of equal keys."""
    edges = [0, *(np.flatnonzero(np.diff(keys)) + 1).tolist(), len(keys)]
    return [(int(keys[a]), slice(a, b)) for a, b in itertools.pairwise(edges)]


def _picture(preview: Preview, palette_RGBA: NDArray[np.uint8], mean: float | None = None) -> Picture:
    values_HW = preview.values_HW
    if len(palette_RGBA) <= 256:
        png = encode_png(values_HW[None], palette_RGBA)
    else:
        png = encode_png(np.moveaxis(palette_RGBA[values_HW], -1, 0))
    height, width = values_HW.shape
    return Picture(data_uri(png), width, height, preview.step, preview.is_sampled, mean)


def encode_png(pixels_CHW: NDArray[np.uint8], palette_RGBA: NDArray[np.uint8] | None = None) -> bytes:
    """A PNG: one channel with a palette, or red, green, blue and alpha."""
    channels, height, width = pixels_CHW.shape
    with warnings.catch_warnings(), MemoryFile() as memory:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # a PNG in a page lies nowhere
        with memory.open(driver="PNG", height=height, width=width, count=channels, dtype="uint8") as target:
            target.write(pixels_CHW)
            if palette_RGBA is not None:
                colors = (tuple(int(value) for value in color) for color in palette_RGBA)
                target.write_colormap(1, dict(enumerate(colors)))
        return bytes(memory.read())


def data_uri(png: bytes) -> str:
    """A PNG as an address that needs no request."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def safe_color(color: str) -> str:
    """The colour if it is one: colours are user data too, and go into attributes."""
    return color if re.fullmatch(r"#[0-9a-fA-F]{6}", color) else NEUTRAL_COLOR
