"""A raster made of other files is another one when they change."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio import Affine

from pipeline.raster.gdal_source import inspect_raster

VRT = """<VRTDataset rasterXSize="8" rasterYSize="8">
  <VRTRasterBand dataType="Byte" band="1">
    <SimpleSource>
      <SourceFilename relativeToVRT="1">part.tif</SourceFilename>
      <SourceBand>1</SourceBand>
    </SimpleSource>
  </VRTRasterBand>
</VRTDataset>
"""


def write(path: Path, value: int) -> None:
    profile = {"driver": "GTiff", "height": 8, "width": 8, "count": 1, "dtype": "uint8"}
    with rasterio.open(path, "w", **profile, transform=Affine(1, 0, 0, 0, -1, 8)) as raster:
        raster.write(np.full((1, 8, 8), value, np.uint8))


def test_the_parts_of_a_vrt_are_part_of_who_it_is(tmp_path: Path) -> None:
    write(tmp_path / "part.tif", 1)
    (tmp_path / "whole.vrt").write_text(VRT)
    before = inspect_raster(str(tmp_path / "whole.vrt")).identities
    assert [Path(one.url).name for one in before] == ["whole.vrt", "part.tif"]
    (tmp_path / "part.tif").unlink()
    write(tmp_path / "part.tif", 2)
    after = inspect_raster(str(tmp_path / "whole.vrt")).identities
    assert after[0] == before[0]
    assert after[1] != before[1]


@pytest.mark.parametrize("has_mask", [False, True])
def test_a_mask_beside_it_counts_too(tmp_path: Path, has_mask: bool) -> None:
    write(tmp_path / "raster.tif", 1)
    if has_mask:
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False),
            rasterio.open(tmp_path / "raster.tif", "r+") as raster,
        ):
            raster.write_mask(np.full((8, 8), 255, np.uint8))
    names = [Path(one.url).name for one in inspect_raster(str(tmp_path / "raster.tif")).identities]
    assert names == ["raster.tif", "raster.tif.msk"][: 1 + has_mask]
