"""The landscape as files: a scene in true UTM, its exact labels, tiles to train on and a part held out.

The scene is a cloud-optimised GeoTIFF of four bands with clouds and a ragged edge without data. Labels are
255 where nobody could tell. The west is cut into tiles; the east, behind a gap as wide as a crop, is held
out.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.io import DatasetWriter

from pipeline.synthetic.cover import CLASSES, COLORS, cover_land
from pipeline.synthetic.optics import BANDS, NODATA, OPAQUE, make_sky, photograph
from pipeline.synthetic.terrain import make_terrain

COARSE = 8
"""Pixels of a cell in which land is formed."""

PIXEL_M = 10.0
ORIGIN_M = (399_960.0, 5_400_000.0)
CRS = "EPSG:32633"
TILE_PX = 1024
GAP_PX = 512
TRAINED_SHARE = 0.6
IGNORED = 255


@dataclass(frozen=True)
class LandscapeFiles:
    """Where everything lies.

    Attributes:
        scene: The whole scene.
        labels: Its labels, for looking at.
        tiles: Folder of labelled tiles, ``images/`` and ``labels/``.
        held_out: Labels of the part that no tile shows.
    """

    scene: Path
    labels: Path
    tiles: Path
    held_out: Path


def make_landscape(side: int, seed: int) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Bands (C, H, W) and labels (H, W) of a square landscape.

    Args:
        side: Pixels along an edge, a multiple of 8.
        seed: The same one gives the same landscape.
    """
    if side % COARSE:
        raise ValueError(f"side must be a multiple of {COARSE}, got {side}")
    rng = np.random.default_rng(seed)
    terrain = make_terrain(side // COARSE, rng)
    cover = cover_land(terrain, side, seed, rng)
    sky = make_sky(side, side // COARSE, rng)
    image_CHW = photograph(cover, terrain, sky, rng)
    labels_HW = cover.labels_HW
    labels_HW[sky.clouds_HW > 1 - OPAQUE] = IGNORED
    unseen = _beyond_the_swath(side, rng)
    image_CHW[:, unseen] = NODATA
    labels_HW[unseen] = IGNORED
    return image_CHW, labels_HW


def write_landscape(folder: Path, *, side: int = 6144, seed: int = 7) -> LandscapeFiles:
    """Make a landscape and write all its files, each only when it is whole."""
    image_CHW, labels_HW = make_landscape(side, seed)
    files = LandscapeFiles(*(folder / name for name in ("scene.tif", "labels.tif", "tiles", "held_out.tif")))
    for part in ("images", "labels"):
        (files.tiles / part).mkdir(parents=True, exist_ok=True)
    _write(files.scene, image_CHW)
    _write(files.labels, labels_HW[None])
    trained = int(side * TRAINED_SHARE) // TILE_PX * TILE_PX
    for row in range(0, side, TILE_PX):
        for col in range(0, trained, TILE_PX):
            rows, cols = slice(row, row + TILE_PX), slice(col, min(col + TILE_PX, trained))
            if (labels_HW[rows, cols] != IGNORED).any():
                name = f"r{row // TILE_PX:02d}c{col // TILE_PX:02d}.tif"
                _write(files.tiles / "images" / name, image_CHW[:, rows, cols], at=(row, col))
                _write(files.tiles / "labels" / name, labels_HW[None, rows, cols], at=(row, col))
    first = trained + GAP_PX
    _write(files.held_out, labels_HW[None, :, first:], at=(0, first))
    return files


def _beyond_the_swath(side: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """What the sensor did not see: two slanting edges, ragged as they are delivered."""
    rows = np.arange(side)
    ragged = np.repeat(rng.integers(0, 24, -(-side // 12)), 12)[:side]
    west = 0.012 * side + 0.05 * (side - rows) + ragged
    east = side - 0.012 * side - 0.05 * rows - ragged[::-1]
    cols = rows[None]
    return (cols < west[:, None]) | (cols >= east[:, None])


def _write(path: Path, values_CHW: NDArray[Any], at: tuple[int, int] = (0, 0)) -> None:
    """A cloud-optimised GeoTIFF of bands or of labels, from the landscape's pixel ``at`` on."""
    is_label = values_CHW.dtype == np.uint8
    left, top = ORIGIN_M
    count, height, width = values_CHW.shape
    profile = {
        "driver": "GTiff",
        "count": count,
        "height": height,
        "width": width,
        "dtype": values_CHW.dtype,
        "nodata": IGNORED if is_label else NODATA,
        "crs": CRS,
        "transform": Affine(PIXEL_M, 0, left + at[1] * PIXEL_M, 0, -PIXEL_M, top - at[0] * PIXEL_M),
        "tiled": True,
    }
    whole = path.with_suffix(".part")
    with rasterio.MemoryFile() as memory:
        with memory.open(**profile) as dataset:
            dataset.write(values_CHW)
            _describe(dataset, is_label=is_label)
        with memory.open() as dataset:
            rasterio.shutil.copy(
                dataset,
                whole,
                driver="COG",
                compress="deflate",
                level=1,
                predictor="no" if is_label else "standard",
                num_threads="all_cpus",
                overview_resampling="nearest" if is_label else "average",
            )
    whole.replace(path)


def _describe(dataset: DatasetWriter, *, is_label: bool) -> None:
    if is_label:
        dataset.colorinterp = [ColorInterp.palette]
        dataset.write_colormap(1, {i: _rgb(color) for i, color in enumerate(COLORS)})
        dataset.update_tags(1, **{f"class_{i}": name for i, name in enumerate(CLASSES)})
    else:
        dataset.descriptions = BANDS


def _rgb(color: str) -> tuple[int, int, int]:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return red, green, blue
