"""Exported parts of a mosaic: whole pixels, in their place, nothing outside polygons."""

import json

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.features import geometry_mask
from rio_cogeo import cog_validate

from pipeline.errors import SettingsError
from pipeline.raster.export.cog import export_cog
from pipeline.raster.export.region import RegionWish, check_plane, parse_region
from pipeline.raster.mosaic import Mosaic
from pipeline.raster.plane import Plane
from pipeline.raster.window import Window
from pipeline.storage import Folder
from tests.pipeline.raster.mosaics import ROTATED, UPRIGHT, make_contents

# affine 3 wishes for "@" where rasterio and rio-cogeo still write "*".
pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")


class TestRegion:
    @pytest.mark.parametrize("array", ["classes", "confidence", "logits"])
    @pytest.mark.parametrize("transform", [UPRIGHT, ROTATED])
    def test_a_window_of_whole_pixels(self, tmp_path, array, transform):
        contents = make_contents(1300, 1200, logits="lattice", transform=transform)
        contents.write(Folder.at(tmp_path / "m"))
        window = Window(1001, 37, 250, 1100)
        url = str(tmp_path / "a.tif")
        export_cog(str(tmp_path / "m"), array, url, region=RegionWish(window=(1001, 37, 250, 1100)))
        assert cog_validate(url, strict=True) == (True, [], [])
        mosaic = Mosaic.open(str(tmp_path / "m"))
        with rasterio.open(url) as dataset:
            values = dataset.read()
            assert dataset.transform.almost_equals(transform @ Affine.translation(37, 1001), 1e-6)
        expected = getattr(mosaic, array)(window)
        np.testing.assert_array_equal(values, expected if array == "logits" else expected[None])

    def test_outside_polygons_there_is_no_data(self, tmp_path):
        contents = make_contents(300, 520)
        contents.write(Folder.at(tmp_path / "m"))
        ring = [
            UPRIGHT @ (col, row) for col, row in ((50.3, 20.2), (399.7, 90.6), (130.4, 249.7), (50.3, 20.2))
        ]
        crs = {"type": "name", "properties": {"name": "EPSG:32633"}}
        (tmp_path / "a.geojson").write_text(
            json.dumps({"type": "Polygon", "coordinates": [ring], "crs": crs})
        )
        export_cog(str(tmp_path / "m"), "classes", str(tmp_path / "a.tif"),
                   region=RegionWish(polygon=str(tmp_path / "a.geojson")))  # fmt: skip
        shape = {"type": "Polygon", "coordinates": [ring]}
        inside = geometry_mask([shape], (300, 520), UPRIGHT, invert=True)
        with rasterio.open(tmp_path / "a.tif") as dataset:
            assert (dataset.height, dataset.width) == (230, 350)
            np.testing.assert_array_equal(
                dataset.read(1), np.where(inside, contents.classes, 255)[20:250, 50:400]
            )


class TestWords:
    def test_what_a_flag_names(self):
        assert parse_region("window=1,2,3,4") == {"region.window": (1, 2, 3, 4)}
        assert parse_region("bbox=1.5,2,3,4") == {"region.bbox": (1.5, 2.0, 3.0, 4.0)}
        assert parse_region("s3://b/a=b.geojson") == {"region.polygon": "s3://b/a=b.geojson"}
        for text in ("window=1,2,3", "bbox=a,b,c,d", "window=1.5,2,3,4"):
            with pytest.raises(SettingsError, match="--region must be window=ROW,COLUMN,HEIGHT,WIDTH"):
                parse_region(text)

    def test_a_plane_that_is_not_there(self):
        layout = make_contents(30, 30).layout
        assert check_plane(layout, Plane(0, 0)) == Plane(0, 0)
        with pytest.raises(
            SettingsError, match="t must be below 1 and z below 1, the mosaic's planes; got 2"
        ):
            check_plane(layout, Plane(2, 0))
