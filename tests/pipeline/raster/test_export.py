"""Exported COGs: valid, equal to the mosaic to the pixel, in the right colours and the right place."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.enums import ColorInterp
from rio_cogeo import cog_validate

from pipeline.errors import SettingsError, StorageError
from pipeline.raster.export import cog as export
from pipeline.raster.export.cog import export_cog
from pipeline.raster.mosaic import Mosaic, MosaicWriter, create_mosaic
from pipeline.raster.window import Window
from pipeline.storage import Folder, read_url
from tests.pipeline.raster.mosaics import ROTATED, UPRIGHT, UTM, make_contents

# affine 3 wishes for "@" where rasterio and rio-cogeo still write "*".
pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")


def exported(tmp_path, contents, array="classes"):
    contents.write(Folder.at(tmp_path / "mosaic.zarr"))
    url = str(tmp_path / "out" / f"{array}.tif")
    report = export_cog(str(tmp_path / "mosaic.zarr"), array, url)
    assert report.url == url
    assert report.size_bytes == Path(url).stat().st_size
    return url


def assert_valid(url):
    is_valid, errors, warnings = cog_validate(url, strict=True)
    assert (is_valid, errors, warnings) == (True, [], [])


class TestPixels:
    @pytest.mark.parametrize("shape", [(1, 1), (300, 511), (1100, 2100), (17, 3000)])
    @pytest.mark.parametrize("array", ["classes", "confidence"])
    def test_every_pixel_is_the_mosaics(self, tmp_path, shape, array):
        contents = make_contents(*shape)
        url = exported(tmp_path, contents, array)
        assert_valid(url)
        with rasterio.open(url) as dataset:
            np.testing.assert_array_equal(dataset.read(1), getattr(contents, array))
            assert dataset.nodata == 255
            assert dataset.dtypes == ("uint8",)
            np.testing.assert_array_equal(dataset.read_masks(1) > 0, getattr(contents, array) != 255)

    def test_windows_narrower_than_the_mosaic_fit_together(self, tmp_path, monkeypatch):
        monkeypatch.setattr(export, "READ_COLUMNS_PX", 1024)
        contents = make_contents(1100, 2100)
        with rasterio.open(exported(tmp_path, contents)) as dataset:
            np.testing.assert_array_equal(dataset.read(1), contents.classes)

    def test_what_was_never_written_has_no_data_and_takes_no_room(self, tmp_path):
        contents = make_contents(2100, 3100)
        contents.write(Folder.at(tmp_path / "m"), contents.windows()[:1])
        export_cog(str(tmp_path / "m"), "classes", str(tmp_path / "a.tif"))
        assert_valid(str(tmp_path / "a.tif"))
        with rasterio.open(tmp_path / "a.tif") as dataset:
            values = dataset.read(1)
        np.testing.assert_array_equal(values[:1024, :1024], contents.classes[:1024, :1024])
        assert (values[1024:] == 255).all()
        assert (values[:, 1024:] == 255).all()

    def test_a_mosaic_without_any_data(self, tmp_path):
        contents = make_contents(1500, 700)
        contents.write(Folder.at(tmp_path / "m"), [])
        export_cog(str(tmp_path / "m"), "classes", str(tmp_path / "a.tif"))
        with rasterio.open(tmp_path / "a.tif") as dataset:
            assert (dataset.read(1) == 255).all()

    def test_more_classes_than_bytes(self, tmp_path):
        contents = make_contents(300, 520, num_classes=300)
        url = exported(tmp_path, contents)
        assert_valid(url)
        with rasterio.open(url) as dataset:
            assert dataset.dtypes == ("uint16",)
            assert dataset.nodata == 65535
            np.testing.assert_array_equal(dataset.read(1), contents.classes)
            assert dataset.read(1).max() == 65535


class TestLogits:
    @pytest.mark.parametrize("kept", ["lattice", "full"])
    def test_one_band_a_class_equal_to_the_mosaics(self, tmp_path, kept):
        contents = make_contents(300, 520, logits=kept)
        url = exported(tmp_path, contents, "logits")
        assert_valid(url)
        expected = Mosaic.open(str(tmp_path / "mosaic.zarr")).logits()
        with rasterio.open(url) as dataset:
            assert dataset.dtypes == ("float32",) * 3
            assert dataset.descriptions == contents.layout.class_names
            assert np.isnan(dataset.nodata)
            values = dataset.read()
        np.testing.assert_array_equal(values, expected)
        if kept == "lattice":
            known = contents.classes != 255
            np.testing.assert_array_equal(np.isnan(values).all(0), ~known)
            np.testing.assert_array_equal(values[:, known].argmax(0), contents.classes[known])

    def test_windows_of_many_classes_are_low_and_fit_together(self, tmp_path, monkeypatch):
        monkeypatch.setattr(export, "LOGITS_AT_ONCE", 3 * 64 * 1024)
        contents = make_contents(300, 1100, logits="lattice")
        url = exported(tmp_path, contents, "logits")
        with rasterio.open(url) as dataset:
            expected = Mosaic.open(str(tmp_path / "mosaic.zarr")).logits()
            np.testing.assert_array_equal(dataset.read(), expected)

    def test_overviews_are_means(self, tmp_path):
        contents = make_contents(1100, 1100, logits="lattice")
        url = exported(tmp_path, contents, "logits")
        expected = Mosaic.open(str(tmp_path / "mosaic.zarr")).logits(Window(0, 0, 200, 200))
        blocks = expected.reshape(3, 100, 2, 100, 2)
        with rasterio.open(url, overview_level=0) as dataset:
            part = dataset.read(window=((0, 100), (0, 100)))
        np.testing.assert_allclose(part, blocks.mean((2, 4)), rtol=1e-5)

    def test_a_mosaic_without_them_is_refused(self, tmp_path):
        make_contents(30, 30).write(Folder.at(tmp_path / "m"))
        with pytest.raises(SettingsError, match=r"written with output\.logits: none"):
            export_cog(str(tmp_path / "m"), "logits", str(tmp_path / "a.tif"))
        assert [path.name for path in tmp_path.iterdir()] == ["m"]


class TestNames:
    def test_gdal_reads_them_beside_the_file(self, tmp_path):
        """A VRT that GDAL makes of the file holds whatever GDAL knows of it."""
        contents = make_contents(300, 520)
        url = exported(tmp_path, contents)
        rasterio.shutil.copy(url, tmp_path / "seen.vrt", driver="VRT")
        seen = ET.parse(tmp_path / "seen.vrt").getroot()  # noqa: S314 - our own file
        assert [each.text for each in seen.iter("Category")] == list(contents.layout.class_names)
        rows = [[cell.text for cell in row] for row in seen.iter("Row")]
        colors = [bytes.fromhex(color[1:]) for color in contents.layout.class_colors]
        assert rows == [[str(index), f"class {index}", *map(str, rgb)] for index, rgb in enumerate(colors)]

    def test_of_another_file_they_go_when_it_is_replaced(self, tmp_path):
        contents = make_contents(60, 60)
        url = exported(tmp_path, contents)
        beside = Path(url + ".aux.xml")
        assert beside.is_file()
        export_cog(str(tmp_path / "mosaic.zarr"), "confidence", url)
        assert not beside.exists()


class TestColours:
    @pytest.mark.parametrize("num_classes", [1, 3, 255])
    def test_classes_have_their_colours_and_nodata_is_transparent(self, tmp_path, num_classes):
        contents = make_contents(300, 520, num_classes=num_classes)
        with rasterio.open(exported(tmp_path, contents)) as dataset:
            palette = dataset.colormap(1)
            assert dataset.colorinterp == (ColorInterp.palette,)
        for index, color in enumerate(contents.layout.class_colors):
            assert "#{:02x}{:02x}{:02x}".format(*palette[index][:3]) == color
            assert palette[index][3] == 255
        assert palette[255][3] == 0

    def test_the_file_names_its_classes(self, tmp_path):
        contents = make_contents(300, 520)
        for array in ("classes", "confidence"):
            with rasterio.open(exported(tmp_path, contents, array)) as dataset:
                tags = dataset.tags()
                assert json.loads(tags["CLASS_NAMES"]) == list(contents.layout.class_names)
                assert json.loads(tags["CLASS_COLORS"]) == list(contents.layout.class_colors)
                assert tags["CLASS_2"] == "class 2"

    def test_the_band_says_what_it_is(self, tmp_path):
        contents = make_contents(300, 520)
        with rasterio.open(exported(tmp_path, contents)) as dataset:
            assert dataset.descriptions == ("class",)
        with rasterio.open(exported(tmp_path, contents, "confidence")) as dataset:
            assert dataset.descriptions == ("probability of the class",)
            assert dataset.scales == pytest.approx((1 / 254,))
            assert dataset.colorinterp == (ColorInterp.gray,)


class TestOverviews:
    def test_overviews_of_classes_hold_real_classes_only(self, tmp_path):
        """Classes 0 and 2 side by side: a mean would be class 1, which is nowhere."""
        contents = make_contents(1100, 2100)
        stripes = (np.arange(2100) // 3 % 2 * 2).astype(np.uint8)
        contents.classes[:] = stripes
        contents.classes[200:500, 300:700] = 255
        url = exported(tmp_path, contents)
        with rasterio.open(url) as dataset:
            factors = dataset.overviews(1)
            assert factors[:2] == [2, 4]
        for level in range(len(factors)):
            with rasterio.open(url, overview_level=level) as dataset:
                assert set(np.unique(dataset.read(1))) == {0, 2, 255}
                assert dataset.colormap(1)[2][:3] == tuple(bytes.fromhex(contents.layout.class_colors[2][1:]))

    def test_an_overview_is_the_commonest_class(self, tmp_path):
        contents = make_contents(1100, 1300)
        contents.classes[:] = 0
        contents.classes[::2, ::2] = 1  # one pixel in four
        contents.classes[600:, :] = 2
        with rasterio.open(exported(tmp_path, contents), overview_level=0) as dataset:
            found = dataset.read(1)
        assert (found[:300] == 0).all()
        assert (found[300:] == 2).all()

    def test_an_overview_of_confidence_is_the_mean_of_what_is_known(self, tmp_path):
        contents = make_contents(1100, 1300)
        contents.confidence[:] = 100
        contents.confidence[:, ::2] = 200
        contents.confidence[1::2, :700] = 255
        contents.confidence[0:400, 800:] = 255
        with rasterio.open(exported(tmp_path, contents, "confidence"), overview_level=0) as dataset:
            found = dataset.read(1)
        assert (found[200:] == 150).all()
        assert (found[:200, 400:] == 255).all()


class TestPlace:
    @pytest.mark.parametrize(
        ("transform", "crs_wkt"),
        [(UPRIGHT, UTM), (ROTATED, UTM), (Affine(10, 0, 3e5, 0, 10, 4e6), UTM), (Affine.identity(), None)],
        ids=["upright", "rotated", "rows go up", "nowhere"],
    )
    def test_it_lies_where_the_mosaic_lies(self, tmp_path, transform, crs_wkt):
        contents = make_contents(700, 1100, transform=transform, crs_wkt=crs_wkt)
        with rasterio.open(exported(tmp_path, contents)) as dataset:
            assert dataset.transform.almost_equals(transform, 1e-9)
            assert (dataset.crs.to_epsg() if dataset.crs else None) == (32633 if crs_wkt else None)
            np.testing.assert_array_equal(dataset.read(1), contents.classes)


class TestFiles:
    def test_nothing_but_the_file_and_its_names_is_left(self, tmp_path):
        contents = make_contents(700, 1100)
        exported(tmp_path, contents)
        left = sorted(path.name for path in (tmp_path / "out").iterdir())
        assert left == ["classes.tif", "classes.tif.aux.xml"]

    def test_a_file_that_is_there_is_replaced(self, tmp_path):
        contents = make_contents(700, 1100)
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "classes.tif").write_bytes(b"old")
        assert_valid(exported(tmp_path, contents))

    def test_a_failure_half_way_leaves_the_old_file_and_no_half_one(self, tmp_path):
        contents = make_contents(1100, 1100)
        contents.write(Folder.at(tmp_path / "m"))
        (tmp_path / "out").mkdir()
        old = tmp_path / "out" / "a.tif"
        old.write_bytes(b"old")
        chunk = tmp_path / "m" / "classes" / "c" / "1" / "0"
        chunk.write_bytes(b"no zstd frame at all")
        with pytest.raises(StorageError, match=r"an object of 'classes' in the mosaic at .* is damaged"):
            export_cog(str(tmp_path / "m"), "classes", str(old))
        assert [path.name for path in old.parent.iterdir()] == ["a.tif"]
        assert old.read_bytes() == b"old"

    def test_to_and_from_a_bucket(self, s3_bucket, tmp_path, monkeypatch):
        monkeypatch.setattr("pipeline.storage.MIN_PART_BYTES", 5 << 20)
        contents = make_contents(3000, 3000)
        contents.confidence[:] = np.random.default_rng(0).integers(0, 255, (3000, 3000), dtype=np.uint8)
        contents.write(Folder.at(f"{s3_bucket.url}/m"))
        report = export_cog(f"{s3_bucket.url}/m", "confidence", f"{s3_bucket.url}/maps/a.tif")
        data = read_url(f"{s3_bucket.url}/maps/a.tif")
        assert report.size_bytes == len(data) > 6 << 20  # so several parts were sent
        (tmp_path / "a.tif").write_bytes(data)
        assert_valid(str(tmp_path / "a.tif"))
        with rasterio.open(tmp_path / "a.tif") as dataset:
            np.testing.assert_array_equal(dataset.read(1), contents.confidence)
        assert [found.key for found in Folder.at(f"{s3_bucket.url}/maps").listing()] == ["a.tif"]


class TestRefusals:
    def test_no_mosaic(self, tmp_path):
        with pytest.raises(StorageError, match="there must be a mosaic at"):
            export_cog(str(tmp_path / "absent"), "classes", str(tmp_path / "a.tif"))
        assert list(tmp_path.iterdir()) == []

    def test_a_directory_is_no_file(self, tmp_path):
        make_contents(30, 30).write(Folder.at(tmp_path / "m"))
        with pytest.raises(StorageError, match=r"--output must be a file, but .*m is a directory"):
            export_cog(str(tmp_path / "m"), "classes", str(tmp_path / "m"))
        assert Mosaic.open(str(tmp_path / "m")).classes().shape == (30, 30)

    def test_a_place_that_cannot_be_written(self, tmp_path):
        make_contents(30, 30).write(Folder.at(tmp_path / "m"))
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(StorageError, match=r"cannot write .*/file/a\.tif"):
            export_cog(str(tmp_path / "m"), "classes", str(tmp_path / "file" / "a.tif"))

    def test_a_bucket_that_is_not_there(self, s3_bucket, tmp_path):
        assert s3_bucket.name
        make_contents(30, 30).write(Folder.at(tmp_path / "m"))
        with pytest.raises(
            StorageError, match=r"cannot write 'a\.tif' to s3://terrazzo-absent/x: .*NoSuchBucket"
        ):
            export_cog(str(tmp_path / "m"), "classes", "s3://terrazzo-absent/x/a.tif")
        with pytest.raises(StorageError, match="must name something in the bucket"):
            export_cog(str(tmp_path / "m"), "classes", "s3://terrazzo-absent")


MEASURE = """
import sys
from pathlib import Path
from pipeline.raster.export.cog import export_cog
def peak():  # not getrusage: its peak is inherited from the process that started this one
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
before = peak()
export_cog(sys.argv[1], "confidence", sys.argv[2])
print((peak() - before) // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_memory_stays_bounded(tmp_path):
    """12 000 × 12 000 px, a third of it written: 137 MiB an array, several times that if held at once."""
    contents = make_contents(2048, 12_000)
    contents.confidence[:] = np.random.default_rng(0).integers(0, 255, (2048, 12_000), dtype=np.uint8)
    layout = contents.layout
    tall = type(layout)(
        grid=type(layout.grid)(12_000, 12_000, layout.grid.transform, layout.grid.crs_wkt),
        class_names=layout.class_names,
        class_colors=layout.class_colors,
        logits="none",
        node_px=4,
        attributes={},
    )
    folder = Folder.at(tmp_path / "m")
    create_mosaic(folder, tall)
    writer = MosaicWriter(folder, tall)
    for row in (0, 4096):
        for window in contents.windows(2048):
            writer.write(window.shift(row, 0), contents.arrays(window))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, folder.url, str(tmp_path / "a.tif")],
        capture_output=True, text=True, check=True, cwd=Path(__file__).resolve().parents[3],
    )  # fmt: skip
    assert 0 < int(done.stdout) < 600
    assert_valid(str(tmp_path / "a.tif"))
    with rasterio.open(tmp_path / "a.tif") as dataset:
        window = rasterio.windows.Window(5000, 4096, 500, 500)
        np.testing.assert_array_equal(dataset.read(1, window=window), contents.confidence[:500, 5000:5500])
        assert (dataset.read(1, out_shape=(120, 120))[70:] == 255).all()


@pytest.mark.slow
def test_more_than_four_gigabytes(tmp_path):
    """70 000 × 66 000 px, 4.3 GiB: a BigTIFF, right in its last corner."""
    contents = make_contents(1024, 1024)
    grid = type(contents.layout.grid)(70_000, 66_000, UPRIGHT, UTM)
    layout = replace(contents.layout, grid=grid)
    folder = Folder.at(tmp_path / "m")
    create_mosaic(folder, layout)
    writer = MosaicWriter(folder, layout)
    last = Window(68 * 1024, 64 * 1024, 1024, 1024).intersect(grid.window)
    writer.write(last, contents.arrays(Window(0, 0, last.height, last.width)))
    export_cog(folder.url, "classes", str(tmp_path / "a.tif"))
    assert (tmp_path / "a.tif").read_bytes()[:4] == b"II+\0"
    assert_valid(str(tmp_path / "a.tif"))
    with rasterio.open(tmp_path / "a.tif") as dataset:
        assert (dataset.height, dataset.width) == (70_000, 66_000)
        corner = dataset.read(1, window=((last.row, 70_000), (last.col, 66_000)))
        np.testing.assert_array_equal(corner, contents.classes[: last.height, : last.width])
