"""The demo's pictures: the scene, its classes, and how the part held out was mapped."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.windows import from_bounds

from pipeline.raster.mosaic import Mosaic
from pipeline.raster.window import Window
from pipeline.report.pictures import (
    SHADES_PX,
    Picture,
    class_palette,
    data_uri,
    encode_png,
    picture_of_classes,
    sampling_step,
)
from pipeline.report.source_picture import color_bands, stretched
from pipeline.synthetic.landscape import GAP_PX, IGNORED

LAND_PERCENT = 93.0
"""Shades above are those of clouds and their rims."""

RIGHT_RGBA, WRONG_RGBA = (214, 209, 200, 255), (176, 36, 24, 255)
RIGHT_COLOR, WRONG_COLOR = "#d6d1c8", "#b02418"


@dataclass(frozen=True)
class DemoPictures:
    """All pictures of the page.

    Attributes:
        scene: The whole scene in natural colours.
        classes: The whole mosaic.
        truth: Labels of the part held out.
        map: The mosaic there.
        errors: Where the two differ.
        trained_share: Where the part that was learnt from ends, as a share of the width.
        held_out_share: Where the part held out begins.
        held_out_shape: Its height and width in px.
    """

    scene: Picture
    classes: Picture
    truth: Picture
    map: Picture
    errors: Picture
    trained_share: float
    held_out_share: float
    held_out_shape: tuple[int, int]


def take_pictures(scene: Path, mosaic_path: Path, held_out: Path) -> DemoPictures:
    """Read what the demo wrote, and make pictures of it.

    Args:
        scene: The raster.
        mosaic_path: The mosaic made of it.
        held_out: Labels of the part held out.
    """
    mosaic = Mosaic.open(str(mosaic_path))
    window, labels_HW = held_out_part(mosaic, held_out)
    step = sampling_step(window.height, window.width, SHADES_PX)
    truth_HW = labels_HW[step // 2 :: step, step // 2 :: step]
    mapped_HW = mosaic.classes(window)[step // 2 :: step, step // 2 :: step]
    mapped_HW = np.where(truth_HW == IGNORED, IGNORED, mapped_HW).astype(np.uint8)
    palette_RGBA = class_palette(mosaic.layout)
    errors_RGBA = np.zeros((256, 4), np.uint8)
    errors_RGBA[:2] = RIGHT_RGBA, WRONG_RGBA
    errors_HW = np.where(truth_HW == IGNORED, 255, truth_HW != mapped_HW).astype(np.uint8)
    grid = mosaic.grid
    return DemoPictures(
        scene=_scene_picture(scene),
        classes=picture_of_classes(mosaic, has_overviews=True),
        truth=_picture(truth_HW, palette_RGBA, step),
        map=_picture(mapped_HW, palette_RGBA, step),
        errors=_picture(errors_HW, errors_RGBA, step),
        trained_share=(window.col - GAP_PX) / grid.width,
        held_out_share=window.col / grid.width,
        held_out_shape=window.shape,
    )


def held_out_part(mosaic: Mosaic, path: Path) -> tuple[Window, NDArray[np.uint8]]:
    """The part held out as a window of the mosaic, and its labels.

    Args:
        mosaic: Of the whole scene.
        path: The labels.
    """
    with rasterio.open(path) as labels:
        place = from_bounds(*labels.bounds, transform=mosaic.grid.transform)
        window = Window(round(place.row_off), round(place.col_off), labels.height, labels.width)
        return window, labels.read(1)


def natural_colors(values_CHW: NDArray[Any]) -> NDArray[np.uint8]:
    """Red, green, blue and alpha for the eye.

    Clouds are cut off before it is stretched, or the land would be black.

    Args:
        values_CHW: A masked array of a red, a green and a blue band.
    """
    has_data = ~np.ma.getmaskarray(values_CHW)
    land_CHW = np.ma.getdata(values_CHW).astype(np.float32)
    for band_HW, known_HW in zip(land_CHW, has_data, strict=True):
        if known_HW.any():
            np.minimum(band_HW, np.percentile(band_HW[known_HW], LAND_PERCENT), out=band_HW)
    return stretched(land_CHW, has_data, alike=False)


def _scene_picture(path: Path) -> Picture:
    with rasterio.open(path) as scene:
        step = sampling_step(scene.height, scene.width, SHADES_PX)
        shape = -(-scene.height // step), -(-scene.width // step)
        bands = color_bands(scene, scene.indexes)
        values = scene.read(bands, out_shape=(3, *shape), resampling=Resampling.average, masked=True)
    return Picture(data_uri(encode_png(natural_colors(values))), shape[1], shape[0], step)


def _picture(values_HW: NDArray[np.uint8], palette_RGBA: NDArray[np.uint8], step: int) -> Picture:
    height, width = values_HW.shape
    return Picture(data_uri(encode_png(values_HW[None], palette_RGBA)), width, height, step, is_sampled=True)
