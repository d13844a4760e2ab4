"""Real overlapping COGs, the third in another CRS, against rasterio's own merge and warp."""

import warnings
from contextlib import ExitStack

import numpy as np
import pytest
import rasterio
from rasterio.enums import Resampling
from rasterio.io import MemoryFile
from rasterio.merge import merge
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds

from pipeline.raster.window import Window
from tests.pipeline.raster.scenes.scene_files import find, first_of, nearest, present, read


@pytest.fixture(scope="module")
def cogs(shared_data):
    return [
        str(shared_data / "io_fixtures" / "rio_tiler" / f"mosaic_cog{number}.tif") for number in (1, 2, 3)
    ]


def warped_by_rasterio(path, grid, resampling):
    """The whole file at once, through rasterio alone."""
    with (
        rasterio.open(path) as dataset,
        WarpedVRT(
            dataset, crs=grid.crs_wkt, transform=grid.transform, height=grid.height, width=grid.width,
            resampling=resampling, tolerance=1e-5, XSCALE=1, YSCALE=1,
        ) as warped,
    ):  # fmt: skip
        return warped.read()


def merged_by_rasterio(layers, grid, nodata):
    with ExitStack() as stack:
        opened = []
        for values in layers:
            memory = stack.enter_context(MemoryFile())
            profile = {
                "driver": "GTiff", "count": 3, "height": grid.height, "width": grid.width, "nodata": nodata,
                "dtype": values.dtype.name, "crs": grid.crs_wkt, "transform": grid.transform,
            }  # fmt: skip
            with memory.open(**profile) as target:
                target.write(values)
            opened.append(stack.enter_context(memory.open()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PendingDeprecationWarning)  # rasterio's own use of affine
            return merge(opened)[0]


def test_the_grid_is_the_finest_scenes_own_and_covers_all(cogs):
    grid = find(cogs).info.grid
    with rasterio.open(cogs[0]) as first:
        moved = ~first.transform @ grid.transform
        assert np.allclose(tuple(moved)[:6], (1, 0, round(moved.c), 0, 1, round(moved.f)), atol=1e-6)
        assert rasterio.crs.CRS.from_wkt(grid.crs_wkt) == first.crs
    left, bottom, right, top = grid.bounds()
    for path in cogs:
        with rasterio.open(path) as dataset:
            box = transform_bounds(dataset.crs, grid.crs_wkt, *dataset.bounds)
        assert left <= box[0] + 1
        assert bottom <= box[1] + 1
        assert right >= box[2] - 1
        assert top >= box[3] - 1


def test_nearest_equals_the_pixel_under_each_centre_and_rasterios_merge(cogs):
    found = find(cogs, resampling="nearest")
    grid, pixels = found.info.grid, read(found)
    by_hand = [nearest(grid, path) for path in cogs]
    samples, there = first_of([(values, known) for values, known, _ in by_hand])
    clear = ~np.any([close for _, _, close in by_hand], axis=0)
    assert clear.mean() > 0.98
    np.testing.assert_array_equal(pixels.samples_CHW[:, clear], samples[:, clear])
    np.testing.assert_array_equal(present(pixels)[:, clear], there[:, clear])
    merged = merged_by_rasterio(
        [warped_by_rasterio(path, grid, Resampling.nearest) for path in cogs], grid, 0
    )
    # rasterio lets a band of one scene show through where another's has none; we never mix scenes.
    unmixed = there.all(axis=0) | ~there.any(axis=0)
    assert unmixed.mean() > 0.99
    same = (merged == pixels.samples_CHW).all(axis=0)
    assert same[clear & unmixed].mean() > 0.9999


def test_pixels_on_the_grid_are_copied_and_others_are_gdals(cogs):
    found = find(cogs)
    grid, pixels = found.info.grid, read(found)
    with rasterio.open(cogs[0]) as first:
        values = first.read()
        place = ~grid.transform @ first.transform
    part = Window(round(place.f), round(place.c), *values.shape[1:]).slices
    own = (values != 0).all(axis=0)
    np.testing.assert_array_equal(pixels.samples_CHW[:, *part][:, own], values[:, own])
    # Far from every edge, the second COG is as GDAL warps all of it at once.
    second = warped_by_rasterio(cogs[1], grid, Resampling.bilinear)
    _, there, close = nearest(grid, cogs[1])
    alone = there.all(axis=0) & ~close
    alone[part] &= ~(values != 0).any(axis=0)
    edge = np.ones_like(alone)
    edge[3:-3, 3:-3] = False
    alone &= ~edge
    for shift in ((2, 0), (-2, 0), (0, 2), (0, -2)):
        alone &= np.roll(there.all(axis=0), shift, (0, 1))
    assert alone.sum() > 50_000
    difference = pixels.samples_CHW[:, alone].astype(int) - second[:, alone]
    assert np.abs(difference).max() <= 1
    assert (difference != 0).mean() < 1e-3


@pytest.mark.parametrize("composite", ["first", "median"])
def test_windows_are_parts_of_the_whole_whatever_their_shape(cogs, composite):
    found = find(cogs, composite=composite)
    whole, source = read(found), found.spec((1, 2, 3)).open()
    try:
        for window in (Window(-40, 333, 700, 300), Window(511, 0, 2, 2000), Window(600, 900, 1, 1)):
            part = source.read(window)
            inside = window.intersect(found.info.grid.window)
            np.testing.assert_array_equal(
                part.samples_CHW[:, *inside.relative_to(window).slices], whole.samples_CHW[:, *inside.slices]
            )
            assert part.valid_HW.sum() == whole.valid_HW[inside.slices].sum(), "nothing is valid outside"
    finally:
        source.close()
