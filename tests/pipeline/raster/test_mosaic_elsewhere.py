"""The mosaic in other people's software: xarray, rioxarray, tensorstore, zarr-python."""

import numpy as np
import pytest
import rioxarray  # noqa: F401 - gives arrays their .rio
import tensorstore
import xarray
import zarr
from affine import Affine
from pyproj import CRS

from pipeline.raster.consolidate import consolidate
from pipeline.raster.grid import Grid
from pipeline.raster.mosaic import Mosaic, create_class_arrays, create_mosaic
from pipeline.storage import Folder
from tests.pipeline.raster.mosaics import ROTATED, UPRIGHT, UTM, make_contents

# affine 3 wishes for "@" where rioxarray still writes "*"; every other warning is an error here.
pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

GEOGRAPHIC = CRS.from_epsg(4326).to_wkt()
PLACES = {
    "projected": (UPRIGHT, UTM),
    "geographic": (Affine(0.01, 0, 10, 0, -0.01, 50), GEOGRAPHIC),
    "rows go up": (Affine(10, 0, 300_000, 0, 10, 4_000_000), UTM),
    "rotated": (ROTATED, UTM),
    "nowhere": (Affine.identity(), None),
}


@pytest.fixture(params=PLACES, ids=str)
def placed(request, tmp_path):
    """A mosaic and what was written, somewhere on the ground or nowhere."""
    transform, crs_wkt = PLACES[request.param]
    contents = make_contents(1100, 700, logits="lattice", transform=transform, crs_wkt=crs_wkt)
    folder = Folder.at(tmp_path / "mosaic.zarr")
    contents.write(folder)
    consolidate(folder)
    return folder.url, contents


def test_xarray_and_rioxarray_open_it_without_a_warning(placed):
    """Every warning is an error in these tests, also the one for metadata that are not consolidated."""
    url, contents = placed
    grid = contents.layout.grid
    with xarray.open_dataset(url, engine="zarr", decode_coords="all", mask_and_scale=False) as dataset:
        classes = dataset["classes"]
        np.testing.assert_array_equal(classes, contents.classes)
        np.testing.assert_array_equal(dataset["confidence"], contents.confidence)
        assert classes.dims == ("y", "x")
        assert classes.rio.nodata == 255
        assert classes.rio.transform().almost_equals(grid.transform, 1e-9)
        if grid.crs_wkt:
            assert CRS.from_user_input(classes.rio.crs.to_wkt()) == CRS.from_wkt(grid.crs_wkt)
        else:
            assert classes.rio.crs is None


def test_xarray_masks_and_scales(placed):
    url, contents = placed
    with xarray.open_zarr(url) as dataset:
        known = contents.classes != 255
        np.testing.assert_array_equal(dataset["classes"].notnull(), known)
        probability = dataset["confidence"].to_numpy()
        np.testing.assert_allclose(probability[known], contents.confidence[known] / 254, atol=1e-6)
        assert np.isnan(probability[~known]).all()
        assert dataset["classes"].attrs["flag_meanings"].split() == ["class_0", "class_1", "class_2"]
        np.testing.assert_array_equal(dataset["classes"].attrs["flag_values"], [0, 1, 2])


def test_coordinates_select_the_pixel_that_lies_there(placed):
    url, contents = placed
    grid = contents.layout.grid
    with xarray.open_zarr(url) as dataset:
        if grid.is_rotated or not grid.is_georeferenced:
            assert not set(dataset.coords) & {"x", "y", "lattice_x", "lattice_y"}
            return
        row, col = 810, 333
        t = grid.transform
        x, y = t.a * (col + 0.4) + t.c, t.e * (row + 0.6) + t.f
        # xarray cannot take a decreasing index by "nearest" of two dimensions at once any other way.
        found = dataset["confidence"].sel(x=x, y=y, method="nearest")
        assert found.item() == pytest.approx(contents.confidence[row, col] / 254)
        node = dataset["logits"].sel(lattice_x=x, lattice_y=y, method="nearest").to_numpy()
        np.testing.assert_array_equal(node, contents.logits[:, 203, 83])


def test_tensorstore_reads_every_array(placed):
    url, contents = placed
    for name, expected in (
        ("classes", contents.classes), ("confidence", contents.confidence), ("logits", contents.logits)
    ):  # fmt: skip
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{url}/{name}/"}}
        np.testing.assert_array_equal(tensorstore.open(spec).result().read().result(), expected)


def test_zarr_python_reads_every_array(placed):
    url, contents = placed
    group = zarr.open_group(url, mode="r")
    np.testing.assert_array_equal(group["classes"][:], contents.classes)
    np.testing.assert_array_equal(group["logits"][:], contents.logits)
    assert group["classes"].chunks == (1024, 1024)
    assert group["classes"].shards is None  # GDAL reads unsharded arrays only
    assert group["logits"].shards is not None


def test_an_overview_lies_on_the_same_ground(tmp_path):
    folder = Folder.at(tmp_path)
    contents = make_contents(1101, 701)
    create_mosaic(folder, contents.layout)
    level = zarr.open_group(folder.zarr_store(), mode="r+").require_group("overviews/2")
    create_class_arrays(level, contents.layout, contents.layout.grid.coarsen(2))
    consolidate(folder)
    assert Mosaic.open(folder.url).overview_factors() == [2]
    with xarray.open_zarr(folder.url, group="overviews/2", decode_coords="all") as dataset:
        assert dataset["classes"].shape == (551, 351)
        assert dataset["classes"].rio.transform().almost_equals(UPRIGHT @ Affine.scale(2), 1e-9)
        assert dataset["classes"].rio.crs.to_epsg() == 32633


class TestConsolidated:
    def test_ours_does_not_trust_metadata_older_than_the_arrays(self, tmp_path):
        folder = Folder.at(tmp_path)
        contents = make_contents(300, 300)
        create_mosaic(folder, contents.layout)
        consolidate(folder)
        level = zarr.open_group(folder.zarr_store(), mode="r+", use_consolidated=False)
        create_class_arrays(level.require_group("overviews/2"), contents.layout, Grid(150, 150))
        assert Mosaic.open(folder.url).overview_factors() == [2]
        create_mosaic(folder, contents.layout)

    def test_twice_is_once(self, tmp_path):
        folder = Folder.at(tmp_path)
        create_mosaic(folder, make_contents(300, 300).layout)
        consolidate(folder)
        once = folder.read("zarr.json")
        consolidate(folder)
        assert folder.read("zarr.json") == once
