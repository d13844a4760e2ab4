"""Windowed reads against rasterio: same samples, same masks, past every edge, from many threads."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import BlockError, SourceError
from pipeline.raster.gdal_source import GdalSource, GdalSpec, _split_rows, inspect_raster
from pipeline.raster.window import Window
from pipeline.storage import Folder
from tests.pipeline.raster.rasters import HEIGHT, WHOLE, WIDTH, assert_holds, holes, read, samples


class TestDtypes:
    @pytest.mark.parametrize(
        ("dtype", "kept"),
        [
            ("uint8", "uint8"),
            ("int8", "int8"),
            ("uint16", "uint16"),
            ("int16", "int16"),
            ("uint32", "uint32"),
            ("int32", "int32"),
            ("float32", "float32"),
            ("float64", "float32"),
            ("int64", "float32"),
            ("uint64", "float32"),
        ],
    )
    @pytest.mark.parametrize("count", [1, 3])
    def test_every_real_type(self, write, dtype, kept, count):
        values = samples(count, dtype)
        pixels = read(write(values))
        assert pixels.samples_CHW.dtype == np.dtype(kept)
        assert_holds(pixels, values, has_data=True)

    def test_torch_takes_what_is_kept(self, write):
        import torch

        for dtype in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64", "uint64"):
            values = samples(1, dtype)
            kept = torch.from_numpy(read(write(values)).samples_CHW).to(torch.float32).numpy()
            np.testing.assert_allclose(kept, values.astype(np.float32))

    @pytest.mark.parametrize("count", [2, 13, 64])
    def test_many_bands_in_any_order(self, write, count):
        values = samples(count, "uint16")
        bands = tuple(np.random.default_rng(1).permutation(count) + 1)
        assert_holds(
            read(write(values), bands=[int(band) for band in bands]),
            values[[band - 1 for band in bands]],
            has_data=True,
        )

    def test_a_band_may_be_seen_twice(self, write):
        values = samples(1, "uint8")
        assert_holds(read(write(values), bands=(1, 1, 1)), values[[0, 0, 0]], has_data=True)

    @pytest.mark.parametrize("dtype", ["complex64", "complex_int16"])
    def test_complex_numbers_are_refused(self, write, dtype):
        values = np.ones((1, HEIGHT, WIDTH), np.complex64)
        with pytest.raises(SourceError, match=r"bands must hold real numbers, got complex.* in .*a\.tif"):
            inspect_raster(write(values, dtype=dtype))

    def test_more_than_64_bands_are_refused(self, write):
        with pytest.raises(SourceError, match="must have 1 to 64 bands, got 65"):
            inspect_raster(write(samples(65, "uint8")))


class TestWindows:
    @pytest.mark.parametrize(
        "layout",
        [{}, {"tiled": True, "blockxsize": 16, "blockysize": 16}, {"blockysize": 1}, {"blockysize": 7}],
    )
    @given(
        window=st.builds(
            Window, st.integers(-20, 60), st.integers(-20, 70), st.integers(0, 60), st.integers(0, 60)
        )
    )
    @settings(max_examples=25, deadline=None)
    def test_any_window_is_that_part_of_the_whole_and_nothing_outside(self, tmp_path_factory, layout, window):
        path = tmp_path_factory.getbasetemp() / f"windows-{sorted(layout.items())!r}.tif"
        values = samples(2, "int16")
        if not path.exists():
            profile = {"driver": "GTiff", "count": 2, "height": HEIGHT, "width": WIDTH, "dtype": "int16"}
            with rasterio.open(path, "w", **profile, **layout) as dataset:
                dataset.write(values)
        padded = np.pad(values, ((0, 0), (100, 100), (100, 100)))
        inside = np.pad(np.ones((HEIGHT, WIDTH), bool), 100)
        rows, cols = window.shift(100, 100).slices
        assert_holds(read(str(path), window), padded[:, rows, cols], inside[rows, cols])

    @given(
        row=st.integers(0, 300),
        height=st.integers(1, 300),
        block_rows=st.integers(1, 128),
        parts=st.integers(1, 9),
    )
    def test_strips_cover_a_window_once_and_part_no_block(self, row, height, block_rows, parts):
        window = Window(row, 5, height, 7)
        strips = _split_rows(window, block_rows, parts)
        assert len(strips) <= parts
        covered = [r for strip in strips for r in range(strip.row, strip.row_stop)]
        assert covered == list(range(row, row + height))
        assert all((strip.col, strip.width) == (5, 7) for strip in strips)
        assert all(strip.row % block_rows == 0 for strip in strips[1:])

    @pytest.mark.parametrize("nodata", [None, 7])
    def test_strips_of_a_remote_read_fit_together(self, write, monkeypatch, nodata):
        """As from a bucket, where several ranges are asked for at once."""
        values = samples(3, "uint8")
        url = write(values, tiled=True, blockxsize=16, blockysize=16, nodata=nodata, mask=holes())
        monkeypatch.setattr("pipeline.raster.gdal_source.is_local", lambda _: False)
        source = GdalSource(GdalSpec(url, (1, 2, 3), None))
        has_data = holes() & (values != nodata if nodata else True)
        assert_holds(source.read(WHOLE), values, has_data)
        source.close()

    def test_a_window_beside_the_raster_holds_nothing(self, write):
        pixels = read(write(samples(2, "uint8")), Window(0, WIDTH, 5, 5))
        assert not pixels.valid_HW.any()
        assert not pixels.samples_CHW.any()
        assert pixels.missing_CHW is None


class TestInspection:
    def test_a_rotated_place_is_kept_to_the_bit(self, write):
        transform = Affine.translation(3e5, 5e6) @ Affine.rotation(31) @ Affine.scale(10 / 3, -10 / 3)
        grid = inspect_raster(write(samples(1, "uint8"), transform=transform, crs="EPSG:32633")).grid
        assert grid.transform.almost_equals(transform, 1e-9)
        assert grid.is_rotated
        assert grid.crs_wkt is not None
        assert rasterio.crs.CRS.from_wkt(grid.crs_wkt).to_epsg() == 32633
        assert (grid.height, grid.width) == (HEIGHT, WIDTH)

    def test_no_place_is_no_place(self, write):
        grid = inspect_raster(write(samples(1, "uint8"))).grid
        assert not grid.is_georeferenced
        assert grid.transform == Affine.identity()

    def test_bands_are_described(self, write):
        url = write(samples(3, "int16"), descriptions=["red", "", "NIR 1"])
        assert [(band.number, band.name, band.dtype) for band in inspect_raster(url).bands] == [
            (1, "red", "int16"), (2, None, "int16"), (3, "NIR 1", "int16")
        ]  # fmt: skip

    def test_a_changed_file_has_another_identity_and_a_copy_has_not(self, write, tmp_path):
        url = write(samples(1, "uint8"))
        before = inspect_raster(url).identities
        copy = tmp_path / "kept" / "a.tif"
        copy.parent.mkdir()
        shutil.copy2(url, copy)
        os.utime(url, (1, 1))
        assert inspect_raster(url).identities != before
        shutil.move(copy, url)
        assert inspect_raster(url).identities == before

    def test_a_missing_file_is_said_to_be_missing(self, tmp_path):
        with pytest.raises(
            SourceError, match=r"there must be a raster at .*/none\.tif; there is no such file"
        ):
            inspect_raster(str(tmp_path / "none.tif"))

    def test_a_file_that_is_no_raster(self, tmp_path):
        (tmp_path / "a.tif").write_text("hello")
        with pytest.raises(SourceError, match=r"cannot open .*a\.tif as a raster: "):
            inspect_raster(str(tmp_path / "a.tif"))

    def test_a_container_of_rasters_is_no_raster(self, tmp_path):
        import zarr

        group = zarr.create_group(str(tmp_path / "many.zarr"), zarr_format=2)
        for name in "ab":
            group.create_array(name, shape=(4, 4), dtype="uint8")
        with pytest.raises(SourceError, match=r"got a container without any: .*many\.zarr; give one"):
            inspect_raster(str(tmp_path / "many.zarr"))

    def test_a_damaged_file_costs_a_block_not_the_run(self, write):
        url = write(samples(1, "uint16"), tiled=True, blockxsize=16, blockysize=16, compress="deflate")
        data = Path(url).read_bytes()
        Path(url).write_bytes(data[:-1500] + b"\xff" * 1500)
        source = GdalSource(GdalSpec(url, (1,), None))
        with pytest.raises(BlockError, match=r"cannot read .*a\.tif: "):
            source.read(WHOLE)
        source.close()


FORMATS = {
    "PNG of 8 bits": ("PNG", "uint8", {}),
    "PNG of 16 bits": ("PNG", "uint16", {}),
    "JPEG": ("JPEG", "uint8", {}),
    "progressive JPEG": ("JPEG", "uint8", {"PROGRESSIVE": "ON"}),
    "TIFF": ("GTiff", "uint8", {}),
    "TIFF of JPEG tiles": ("GTiff", "uint8", {"tiled": True, "compress": "jpeg", "photometric": "ycbcr"}),
    "COG": ("COG", "uint8", {"compress": "deflate"}),
    "JPEG 2000": ("JP2OpenJPEG", "uint8", {}),
    "WebP": ("WEBP", "uint8", {}),
}


class TestCutShort:
    """A copy that broke off must never be read as zeros, or as whatever a decoder makes of the rest."""

    @pytest.mark.parametrize("share", [0.5, 0.999])
    @pytest.mark.parametrize("kind", FORMATS)
    def test_a_file_of_any_format_is_refused_or_costs_its_blocks(self, tmp_path, kind, share):
        driver, dtype, options = FORMATS[kind]
        values = np.random.default_rng(0).integers(1, 255, (3, 300, 300)).astype(dtype)
        profile = {"driver": driver, "count": 3, "height": 300, "width": 300, "dtype": dtype}
        with rasterio.open(tmp_path / "whole", "w", **profile, **options) as dataset:
            dataset.write(values)
        data = (tmp_path / "whole").read_bytes()
        (tmp_path / "cut").write_bytes(data[: int(share * len(data))])
        assert read(str(tmp_path / "whole"), Window(0, 0, 300, 300)).valid_HW.all()
        with pytest.raises((SourceError, BlockError), match=r"(cannot read|cannot open|cut short:) .*/cut"):
            read(str(tmp_path / "cut"), Window(0, 0, 300, 300))

    def test_a_png_in_a_bucket_too(self, s3_bucket, tmp_path):
        values = np.random.default_rng(0).integers(1, 255, (1, 90, 90)).astype(np.uint8)
        profile = {"driver": "PNG", "count": 1, "height": 90, "width": 90, "dtype": "uint8"}
        with rasterio.open(tmp_path / "a.png", "w", **profile) as dataset:
            dataset.write(values)
        data = (tmp_path / "a.png").read_bytes()
        Folder(s3_bucket.url).write("whole.png", data + b"what some programs write after it")
        Folder(s3_bucket.url).write("cut.png", data[:-12])
        whole = read(f"{s3_bucket.url}/whole.png", Window(0, 0, 90, 90))
        np.testing.assert_array_equal(whole.samples_CHW, values)
        with pytest.raises(SourceError, match=r"the file is cut short: s3://.*/cut\.png lacks the mark"):
            read(f"{s3_bucket.url}/cut.png", Window(0, 0, 90, 90))


class TestThreads:
    @pytest.mark.parametrize("is_local", [True, False])
    def test_reads_from_eight_threads_equal_serial_ones(self, write, monkeypatch, is_local):
        """Remote files are read in strips, by several threads at once: a data set may serve one of them."""
        values = samples(4, "uint16")
        url = write(values, tiled=True, blockxsize=16, blockysize=16, mask=holes(), compress="zstd")
        random = np.random.default_rng(5)
        windows = [Window(*(int(value) for value in random.integers((-9, -9, 1, 1), 40))) for _ in range(120)]
        monkeypatch.setattr("pipeline.raster.gdal_source.is_local", lambda _: is_local)
        source = GdalSource(GdalSpec(url, (1, 4, 2), None))
        serial = [source.read(window) for window in windows]
        with ThreadPoolExecutor(8) as pool:
            parallel = list(pool.map(source.read, windows))
        source.close()
        for one, other in zip(serial, parallel, strict=True):
            np.testing.assert_array_equal(one.samples_CHW, other.samples_CHW)
            np.testing.assert_array_equal(one.valid_HW, other.valid_HW)


REAL = [
    "io_fixtures/rasterio/RGB.byte.tif",
    "io_fixtures/rio_tiler/cog_nodata.tif",
    "io_fixtures/rio_tiler/cog_rgb_mask.tif",
    "io_fixtures/rio_tiler/cog_rgba.tif",
    "io_fixtures/rio_tiler/mosaic_cog1.tif",
    "naip_nd/m_4709963_se_14_1_20090818.tif",
    "ftw_s2_austria/inference-img.tif",
    "ftw_s2_austria/mask.tif",
    "s2_rachel_carson/B08.tif",
]


@pytest.mark.parametrize("name", REAL)
def test_real_rasters_equal_rasterio(shared_data, name):
    """Samples and GDAL's own masks, for windows at corners and in the middle, past the edges."""
    url = str(shared_data / name)
    info = inspect_raster(url)
    bands = tuple(band.number for band in info.bands if not band.is_alpha)
    source = GdalSpec(url, bands, None).open()
    height, width = info.grid.height, info.grid.width
    with rasterio.open(url) as dataset:
        for row, col in ((0, 0), (height // 2, width // 3), (height - 90, width - 110)):
            window = Window(row, col, 90, 110).intersect(info.grid.window)
            part = rasterio.windows.Window(window.col, window.row, window.width, window.height)
            oracle, masks = dataset.read(bands, window=part), dataset.read_masks(bands, window=part) > 0
            if oracle.dtype.kind == "f":
                masks &= np.isfinite(oracle)
            assert_holds(source.read(window), oracle, masks)
            grown = source.read(window.grow(7))
            np.testing.assert_array_equal(grown.samples_CHW[:, 7:-7, 7:-7], np.where(masks, oracle, 0))
    source.close()


def test_real_masks_are_really_there(shared_data):
    """So that the comparison above has something to find."""
    for name in ("cog_nodata.tif", "cog_rgb_mask.tif", "cog_rgba.tif"):
        url = str(shared_data / "io_fixtures" / "rio_tiler" / name)
        info = inspect_raster(url)
        bands = tuple(band.number for band in info.bands if not band.is_alpha)
        valid = read(url, info.grid.window, bands=bands).valid_HW
        assert 0.01 < valid.mean() < 0.999, name
