"""What holds data: declared values, masks, alpha, NaN and settings, one by one and together."""

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from pipeline.raster.gdal_source import inspect_raster
from tests.pipeline.raster.rasters import HEIGHT, WIDTH, assert_holds, holes, read, samples, write_vrt

NAN = float("nan")
RGB = [ColorInterp.red, ColorInterp.green, ColorInterp.blue]


class TestNodata:
    @pytest.mark.parametrize(
        ("dtype", "nodata"),
        [
            ("uint8", 0),
            ("uint8", 255),
            ("int16", -9999),
            ("uint16", 65535),
            ("int32", -(2**31)),
            ("float32", -9999.0),
            ("float32", -3.4e38),  # not a float32: the file holds its neighbour
            ("float32", float(np.finfo(np.float32).min)),
            ("float64", -1.7976931348623157e308),
            ("float64", 0.1),
            ("int64", -9999),
        ],
    )
    def test_a_declared_value(self, write, dtype, nodata):
        values = samples(2, dtype)
        values[:, 3:9, 4:8] = nodata
        url = write(values, nodata=nodata)
        with rasterio.open(url) as dataset:
            oracle = dataset.read_masks() > 0
        assert not oracle[:, 3:9, 4:8].any()
        assert_holds(read(url), values.astype(np.float64) if dtype == "float64" else values, oracle)

    @pytest.mark.parametrize(
        ("kind", "dtype", "nodata"),
        [
            ("Int64", "int64", -(2**63)),
            ("Int64", "int64", 2**63 - 1),
            ("Int64", "int64", 2**53 + 1),
            ("UInt64", "uint64", 2**64 - 1),
        ],
    )
    def test_a_value_that_no_float_can_hold(self, write, tmp_path, kind, dtype, nodata):
        """rasterio tells nodata as a float, which rounds these; their neighbours are data."""
        values = samples(1, dtype)
        values[0, 0, 0], values[0, 0, 1] = nodata, nodata + (1 if nodata < 0 else -1)
        write(values)
        vrt = write_vrt(tmp_path, [(kind, nodata, None, "a.tif", 1)])
        assert_holds(read(vrt), values, values != nodata)

    def test_nan_is_nodata_declared_or_not(self, write):
        values = samples(3, "float32")
        values[0, 1:5, 1:5] = np.nan
        values[:, 10, 10] = np.nan
        for nodata in (NAN, None, -1.0):
            assert_holds(read(write(values, nodata=nodata)), values, np.isfinite(values))

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_infinities_are_no_data(self, write, dtype):
        values = samples(2, dtype)
        values[0, 5, 5], values[1, 6, 6], values[:, 7, 7] = np.inf, -np.inf, np.inf
        assert_holds(read(write(values)), values, np.isfinite(values))

    def test_what_would_become_infinite_is_no_data(self, write):
        """The lowest float64, undeclared, as some tools fill with: in float32 it is minus infinity."""
        values = samples(2, "float64")
        values[:, 5, 5] = np.finfo(np.float64).min
        values[1, 6, 6] = 1e39
        assert_holds(read(write(values)), values, np.abs(values) < 1e38)

    def test_a_setting_replaces_the_declared_value(self, write):
        values = samples(2, "uint8")
        values[:, 0, 0], values[:, 1, 1] = 0, 255
        url = write(values, nodata=255)
        assert_holds(read(url, nodata=0.0), values, values != 0)
        assert_holds(read(url), values, values != 255)

    @pytest.mark.parametrize("nodata", [-1.0, 256.0, 0.5, NAN, 1e300])
    def test_a_setting_that_the_type_cannot_hold_masks_nothing(self, write, nodata):
        assert_holds(read(write(samples(1, "uint8")), nodata=nodata), samples(1, "uint8"), has_data=True)

    def test_a_setting_beyond_float32_masks_nothing(self, write):
        values = samples(1, "float32")
        assert_holds(read(write(values), nodata=1e300), values, has_data=True)

    def test_one_band_may_lack_what_another_has(self, write):
        values = samples(3, "int16")
        values[1, 4:9, 4:9] = -1
        values[:, 20, 20] = -1
        pixels = read(write(values, nodata=-1))
        assert_holds(pixels, values, values != -1)
        assert pixels.valid_HW[5, 5]
        assert not pixels.valid_HW[20, 20]

    def test_bands_of_a_vrt_differ_in_type_and_nodata(self, write, tmp_path):
        floats, whole = samples(1, "float32"), samples(1, "int32", seed=1)
        floats[0, 2, 2] = np.float32(-3.4e38)
        whole[0, 3, 3] = 7
        write(floats, "floats.tif")
        write(whole, "whole.tif")
        bands = [("Float32", "-3.4e+38", None, "floats.tif", 1), ("Int32", 7, None, "whole.tif", 1)]
        vrt = write_vrt(tmp_path, bands)
        values = np.concatenate([floats.astype(np.float64), whole.astype(np.float64)])
        has_data = np.ones(values.shape, bool)
        has_data[0, 2, 2] = has_data[1, 3, 3] = False
        assert_holds(read(vrt), values, has_data)


class TestMasks:
    @pytest.mark.parametrize("internal", [True, False])
    def test_internal_and_external_masks(self, write, tmp_path, internal):
        values = samples(3, "uint8")
        url = write(values, mask=holes(), internal_mask=internal)
        assert (tmp_path / "a.tif.msk").exists() != internal
        assert_holds(read(url), values, holes())
        assert_holds(read(url, bands=(2,)), values[[1]], holes())

    def test_a_mask_and_a_value_both_mask(self, write):
        values = samples(2, "uint8")
        values[0, 0, 0] = 9
        has_data = holes() & (values != 9)
        assert_holds(read(write(values, mask=holes(), nodata=9)), values, has_data)

    @pytest.mark.parametrize("dtype", ["uint8", "uint16"])
    def test_alpha_masks_and_a_trace_of_it_is_data(self, write, dtype):
        values = samples(4, dtype)
        values[3] = np.where(holes(), np.iinfo(dtype).max, 0)
        values[3, 0, 0] = 1
        url = write(values, colorinterp=[*RGB, ColorInterp.alpha])
        info = inspect_raster(url)
        assert [band.is_alpha for band in info.bands] == [False, False, False, True]
        assert_holds(read(url, bands=(1, 2, 3)), values[:3], values[3] > 0)
        assert_holds(read(url, bands=(2,)), values[[1]], values[3] > 0)

    def test_alpha_that_is_data_masks_nothing(self, write):
        values = samples(4, "uint8")
        values[3] = np.where(holes(), 200, 0)
        url = write(values, colorinterp=[*RGB, ColorInterp.alpha])
        assert_holds(read(url, bands=(1, 2, 3, 4)), values, has_data=True)
        assert_holds(read(url, bands=(4, 1)), values[[3, 0]], has_data=True)

    def test_alpha_masks_beside_a_declared_value(self, write):
        """GDAL looks at the value only; what is transparent would come through as black earth."""
        values = samples(4, "uint8")
        values[:3, 0, 0] = 250
        values[3] = np.where(holes(), 255, 0)
        url = write(values, colorinterp=[*RGB, ColorInterp.alpha], nodata=250)
        assert_holds(read(url, bands=(1, 2, 3)), values[:3], holes() & (values[:3] != 250))

    def test_only_one_band_declares_a_value_beside_alpha(self, write, tmp_path):
        values = samples(3, "uint8")
        values[2] = np.where(holes(), 255, 0)
        values[0, 0, 0:9] = 77
        write(values)
        bands = [
            ("Byte", 77, "Gray", "a.tif", 1),
            ("Byte", None, "Undefined", "a.tif", 2),
            ("Byte", None, "Alpha", "a.tif", 3),
        ]
        vrt = write_vrt(tmp_path, bands)
        has_data = np.stack([holes() & (values[0] != 77), holes()])
        assert_holds(read(vrt, bands=(1, 2)), values[:2], has_data)

    def test_bands_may_have_masks_of_their_own(self, write, tmp_path):
        values = samples(2, "uint8")
        write(np.concatenate([values, np.where(holes(), 255, 0).astype(np.uint8)[None]]))
        source = (
            '<SimpleSource><SourceFilename relativeToVRT="1">a.tif</SourceFilename>'
            "<SourceBand>{}</SourceBand></SimpleSource>"
        )
        mask = f'<MaskBand><VRTRasterBand dataType="Byte">{source.format(3)}</VRTRasterBand></MaskBand>'
        (tmp_path / "own.vrt").write_text(
            f'<VRTDataset rasterXSize="{WIDTH}" rasterYSize="{HEIGHT}">'
            f'<VRTRasterBand dataType="Byte" band="1">{source.format(1)}{mask}</VRTRasterBand>'
            f'<VRTRasterBand dataType="Byte" band="2">{source.format(2)}</VRTRasterBand></VRTDataset>'
        )
        has_data = np.stack([holes(), np.ones_like(holes())])
        assert_holds(read(str(tmp_path / "own.vrt")), values, has_data)

    def test_nothing_valid_at_all(self, write):
        pixels = read(write(samples(2, "uint8"), mask=np.zeros((HEIGHT, WIDTH), bool)))
        assert not pixels.valid_HW.any()
        assert not pixels.samples_CHW.any()
        assert pixels.missing_CHW is None
