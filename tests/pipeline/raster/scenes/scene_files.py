"""Small scenes on disk, found as the settings would have it, and oracles that know nothing of our warping."""

from pathlib import Path

import numpy as np
import pyproj
import rasterio
from affine import Affine

from pipeline.config import SourceSettings
from pipeline.raster.grid import Grid
from pipeline.raster.scenes.find import FoundScenes
from pipeline.raster.source import Pixels
from pipeline.raster.window import Window
from pipeline.segment.find_source import find_source

UTM33 = "EPSG:32633"
UTM32 = "EPSG:32632"
PLACE = Affine(10, 0, 500_000, 0, -10, 5_400_000)


def write_scene(
    path: Path, values, *, transform=PLACE, crs=UTM33, names=None, scales=None, offsets=None, **profile
):
    """Samples (CHW or HW) as a GeoTIFF; gives its path as text."""
    values = np.asarray(values)
    values = values[None] if values.ndim == 2 else values
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {
        "driver": "GTiff", "count": len(values), "height": values.shape[1], "width": values.shape[2],
        "dtype": values.dtype.name, "crs": crs, "transform": transform,
    }  # fmt: skip
    mask = profile.pop("mask", None)
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", **(options | profile)) as dataset,
    ):
        dataset.write(values)
        if mask is not None:
            dataset.write_mask(mask)
        for number, name in enumerate(names or [], 1):
            dataset.set_band_description(number, name)
        if scales:
            dataset.scales = scales
        if offsets:
            dataset.offsets = offsets
    return str(path)


def moved(rows: float, cols: float, transform=PLACE) -> Affine:
    """The same grid, some pixels further down and to the right."""
    return transform @ Affine.translation(cols, rows)


def find(urls=(), **settings) -> FoundScenes:
    """Scenes as settings name them; a grid of their own is no single raster's."""
    found = find_source(SourceSettings(urls=urls, **settings))
    assert isinstance(found, FoundScenes)
    return found


def read(found: FoundScenes, window: Window | None = None, bands=None) -> Pixels:
    """All or a window of what was found."""
    numbers = bands or tuple(band.number for band in found.info.bands)
    source = found.spec(tuple(numbers)).open()
    try:
        return source.read(found.info.grid.window if window is None else window)
    finally:
        source.close()


def present(pixels: Pixels):
    there = np.broadcast_to(pixels.valid_HW, pixels.samples_CHW.shape)
    return there if pixels.missing_CHW is None else there & ~pixels.missing_CHW


def centres_in(target: Grid, path: str):
    """Column and row in a file of the centre of every target pixel, by pyproj, exactly."""
    with rasterio.open(path) as dataset:
        inverse, crs = ~dataset.transform, dataset.crs
    rows, cols = np.mgrid[0 : target.height, 0 : target.width] + 0.5
    x, y = target.transform @ (cols, rows)
    x, y = pyproj.Transformer.from_crs(target.crs_wkt, crs.to_wkt(), always_xy=True).transform(x, y)
    return inverse @ (x, y)


def nearest(target: Grid, path: str, nodata=None):
    """A file on the target by the pixel under each centre: samples, presence, and close calls."""
    cols, rows = centres_in(target, path)
    with rasterio.open(path) as dataset:
        values, nodata = dataset.read(), dataset.nodata if nodata is None else nodata
    row, col = np.floor(rows).astype(int), np.floor(cols).astype(int)
    inside = (row >= 0) & (col >= 0) & (row < values.shape[1]) & (col < values.shape[2])
    samples = np.where(
        inside, values[:, row.clip(0, values.shape[1] - 1), col.clip(0, values.shape[2] - 1)], 0
    )
    there = np.broadcast_to(inside, samples.shape)
    there = there if nodata is None else there & (samples != nodata)
    close = np.minimum(np.abs(rows - np.round(rows)), np.abs(cols - np.round(cols))) < 1e-3
    return np.where(there, samples, 0), there, close


def first_of(layers):
    """The composite rule, written as a loop over scenes: all bands of a pixel from one scene."""
    samples, there = np.zeros_like(layers[0][0]), np.zeros(layers[0][1].shape, bool)
    for rule in (np.all, np.any):
        for values, known in layers:
            take = rule(known, axis=0) & ~there.any(axis=0)
            samples[:, take], there[:, take] = values[:, take], known[:, take]
    return samples, there
