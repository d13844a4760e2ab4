"""One small picture for who has not run the demo: land that training never saw, and beside it its map."""

from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image
from rasterio.enums import Resampling
from rasterio.windows import Window as RasterioWindow

from pipeline.demo.pictures import held_out_part, natural_colors
from pipeline.raster.mosaic import Mosaic
from pipeline.raster.window import Window
from pipeline.report.pictures import class_palette, encode_png
from pipeline.report.source_picture import color_bands
from pipeline.synthetic.landscape import IGNORED

SIDE_PX = 480
"""Of each of the two squares, at most."""

STEP = 3
"""Pixels of the landscape for one of the picture, at most: parcels and roads are still to be seen."""

GUTTER_PX = 12
MOVE_PX = 128
"""Distance of the squares that are looked at for the one to show."""

SCENE_COLORS = 112
"""With all of its shades the picture would be four times as large."""


def write_postcard(path: Path, scene: Path, mosaic_path: Path, held_out: Path) -> None:
    """Write the picture, a PNG of a few hundred kilobytes at most.

    Args:
        path: Where to.
        scene: The raster.
        mosaic_path: The mosaic made of it.
        held_out: Labels of the part held out.
    """
    mosaic = Mosaic.open(str(mosaic_path))
    place, labels_HW = held_out_part(mosaic, held_out)
    step = max(1, min(STEP, min(place.shape) // SIDE_PX))
    side = min(SIDE_PX, min(place.shape) // step)
    window = most_varied(labels_HW, side * step).shift(place.row, place.col)
    seen_HW, seen_RGBA = _in_few_colors(_photograph(scene, window, side))
    classes_HW = mosaic.classes(window)[step // 2 :: step, step // 2 :: step]
    known = [index for index in range(len(mosaic.layout.class_names)) if (classes_HW == index).any()]
    palette_RGBA = np.zeros((256, 4), np.uint8)  # what is not named below is transparent
    palette_RGBA[: len(seen_RGBA)] = seen_RGBA
    picture_HW = np.full((side, 2 * side + GUTTER_PX), 255, np.uint8)
    picture_HW[:, :side] = seen_HW
    for number, index in enumerate(known, len(seen_RGBA)):
        palette_RGBA[number] = class_palette(mosaic.layout)[index]
        picture_HW[:, side + GUTTER_PX :][classes_HW == index] = number
    part = path.with_suffix(".part")
    part.write_bytes(encode_png(picture_HW[None], palette_RGBA))
    part.replace(path)


def most_varied(labels_HW: NDArray[np.uint8], side: int) -> Window:
    """The square where the classes are mixed best and least is hidden; the first of equals.

    Args:
        labels_HW: Labels to choose by.
        side: Of the square, in px.
    """
    height, width = labels_HW.shape
    corners = [
        (row, col)
        for row in range(0, max(1, height - side + 1), MOVE_PX)
        for col in range(0, max(1, width - side + 1), MOVE_PX)
    ]
    variety = [_variety(labels_HW[row : row + side, col : col + side]) for row, col in corners]
    return Window(*corners[int(np.argmax(variety))], side, side)


def _variety(labels_HW: NDArray[np.uint8]) -> float:
    """Entropy of the classes, times the share of the pixels that have one."""
    counts_K = np.bincount(labels_HW[labels_HW != IGNORED])
    shares = counts_K[counts_K > 0] / max(1, counts_K.sum())
    return float(-(shares * np.log(shares)).sum() * counts_K.sum() / labels_HW.size)


def _photograph(scene: Path, window: Window, side: int) -> NDArray[np.uint8]:
    """A square of the scene for the eye, as red, green, blue and alpha (4, side, side)."""
    with rasterio.open(scene) as opened:
        values = opened.read(
            color_bands(opened, opened.indexes),
            window=RasterioWindow(window.col, window.row, window.width, window.height),
            out_shape=(3, side, side),
            resampling=Resampling.average,
            masked=True,
        )
    return natural_colors(values)


def _in_few_colors(pixels_CHW: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Numbers of colours, 255 where transparent, and the colours."""
    picture = Image.fromarray(np.ascontiguousarray(np.moveaxis(pixels_CHW[:3], 0, -1)))
    reduced = picture.quantize(SCENE_COLORS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    colors_RGB = np.array(reduced.getpalette(), np.uint8).reshape(-1, 3)[:SCENE_COLORS]
    numbers_HW = np.where(pixels_CHW[3] == 0, 255, np.asarray(reduced)).astype(np.uint8)
    return numbers_HW, np.pad(colors_RGB, ((0, 0), (0, 1)), constant_values=255)
