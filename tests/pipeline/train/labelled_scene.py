"""Scenes with labels as tile sets of one or a few tiles, made without an index."""

from pathlib import Path

import numpy as np
import rasterio

from pipeline.raster.grid import Grid
from pipeline.train.tiles.tile_reader import IGNORE
from pipeline.train.tiles.tile_set import Tile, TileSet
from tests.pipeline.segment.scene import BANDS, write_scene

CLASSES = ("water", "forest", "field")
COLORS = ("#2f6f9f", "#2e6b3c", "#d9b650")
UNLABELLED = 9


def write_labels(path: Path, height: int, width: int, *, seed: int = 0, patch_px: int = 30) -> np.ndarray:
    """Patches of classes 1 to 3, some of them unlabelled; gives class indices, 255 where unlabelled."""
    rng = np.random.default_rng(seed)
    coarse = rng.choice(
        [1, 2, 3, UNLABELLED], p=[0.5, 0.3, 0.1, 0.1], size=(height // patch_px + 1, width // patch_px + 1)
    )
    raw = np.kron(coarse, np.ones((patch_px, patch_px), np.uint8))[:height, :width].astype(np.uint8)
    profile = {"driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": "uint8"}
    with rasterio.open(path, "w", **profile) as target:
        target.write(raw, 1)
    return np.where(raw == UNLABELLED, IGNORE, raw - 1).astype(np.uint8)


def make_tile(
    folder: Path, name: str, height: int, width: int, *, seed: int = 0, split: str = "val"
) -> tuple[Tile, np.ndarray]:
    """A tile on disk, and its true class indices where they count: labelled, and with imagery."""
    scene = write_scene(folder / f"{name}.tif", height, width, seed=seed, holes=min(height, width) > 200)
    labels = write_labels(folder / f"{name}-labels.tif", height, width, seed=seed)
    with rasterio.open(scene) as source:
        labels[source.dataset_mask() == 0] = IGNORE
        grid = Grid(height, width, source.transform, source.crs.to_wkt())
    counts = tuple(int((labels == index).sum()) for index in range(len(CLASSES)))
    tile = Tile(
        id=name,
        image=str(scene),
        labels=str(folder / f"{name}-labels.tif"),
        grid=grid,
        bands=BANDS,
        dtype="uint8",
        class_pixels=counts,
        sha256=f"{seed:064x}",
        date=None,
        group=name,
        split=split,
    )
    return tile, labels


def tile_set(*tiles: Tile) -> TileSet:
    """A set of these tiles."""
    return TileSet(
        url="/nowhere",
        classes=CLASSES,
        colors=COLORS,
        bands=BANDS,
        values={1: 0, 2: 1, 3: 2},
        ignore=(UNLABELLED,),
        tiles=tuple(tiles),
        bad=(),
        seed=0,
    )
