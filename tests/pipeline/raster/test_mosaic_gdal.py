"""The mosaic in GDAL, as the README promises it from 3.12 on; skipped, and said so, where GDAL is older."""

import numpy as np
import pytest
import rasterio
from pyproj import CRS

from pipeline.raster.consolidate import consolidate
from pipeline.storage import Folder
from tests.pipeline.raster.mosaics import ROTATED, UPRIGHT, UTM, make_contents

VERSION = tuple(int(part) for part in rasterio.__gdal_version__.split(".")[:2])
pytestmark = pytest.mark.skipif(
    VERSION < (3, 12), reason=f"GDAL {rasterio.__gdal_version__}: that 3.12 reads a mosaic is NOT shown"
)


def stored(tmp_path, transform):
    contents = make_contents(1100, 700, logits="lattice", transform=transform, crs_wkt=UTM)
    folder = Folder.at(tmp_path / "mosaic.zarr")
    contents.write(folder)
    consolidate(folder)
    return folder.url, contents


@pytest.mark.parametrize("name", ["classes", "confidence"])
def test_an_array_lies_where_its_source_does(name, tmp_path):
    url, contents = stored(tmp_path, UPRIGHT)
    with rasterio.open(f'ZARR:"{url}":/{name}') as opened:
        np.testing.assert_array_equal(opened.read(1), getattr(contents, name))
        assert opened.nodata == 255
        assert opened.transform.almost_equals(UPRIGHT, 1e-9)
        assert CRS.from_user_input(opened.crs.to_wkt()).to_epsg() == 32633


def test_of_a_rotated_one_pixels_are_read(tmp_path):
    url, contents = stored(tmp_path, ROTATED)
    with rasterio.open(f'ZARR:"{url}":/classes') as opened:
        np.testing.assert_array_equal(opened.read(1), contents.classes)
