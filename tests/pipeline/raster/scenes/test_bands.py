"""Bands of scenes: by name or number, one file a band, each at its own resolution, scaled, without clouds."""

import numpy as np
import pytest
import rasterio
from affine import Affine

from pipeline.errors import ModelError, SettingsError, SourceError
from pipeline.raster.bands import choose_bands
from pipeline.raster.window import Window
from tests.pipeline.raster.scenes.scene_files import PLACE, find, moved, present, read, write_scene

COARSE = PLACE @ Affine.scale(2)
COARSEST = PLACE @ Affine.scale(6)


def bands_by(found, *names):
    return choose_bands(found.info.bands, wanted=None, model_bands=names, in_channels=len(names))


class TestOneFileABand:
    @pytest.fixture
    def carson(self, shared_data):
        return shared_data / "s2_rachel_carson"

    def test_a_folder_of_bands_with_a_ragged_undeclared_border(self, carson):
        names = {"red": "B04.tif", "green": "B03.tif", "nir": "B08.tif"}
        found = find([str(carson)], band_files=names, nodata=255)
        bands = bands_by(found, "nir", "red", "green")
        window = Window(1000, 300, 300, 400)
        pixels = read(found, window, bands=bands)
        stack = []
        for name in ("B08", "B04", "B03"):
            with rasterio.open(carson / f"{name}.tif") as dataset:
                stack.append(dataset.read(1, window=((1000, 1300), (300, 700))))
        stack = np.stack(stack)
        there = stack != 255
        assert there.any()
        assert not there.all()
        np.testing.assert_array_equal(present(pixels), there)
        np.testing.assert_array_equal(pixels.samples_CHW, np.where(there, stack, 0))

    def test_a_template_and_a_pattern_name_the_same(self, carson):
        window = Window(1000, 300, 50, 50)
        by_template = find([f"{carson}/{{band}}.tif"], band_files={"a": "B01", "b": "B02"})
        by_pattern = find([str(carson)], band_files={"a": "*01.tif", "b": "*02.tif"})
        assert by_template.info.identities == by_pattern.info.identities
        np.testing.assert_array_equal(
            read(by_template, window).samples_CHW, read(by_pattern, window).samples_CHW
        )

    def test_each_band_at_its_own_resolution(self, tmp_path):
        rng = np.random.default_rng(0)
        fine, coarse, coarsest = (
            rng.integers(1, 9000, (side, side)).astype(np.uint16) for side in (120, 60, 20)
        )
        for scene, first in (("S2A_20240101", 0), ("S2A_20240109", 1)):
            folder = tmp_path / scene / "IMG_DATA"
            write_scene(folder / "R10m" / f"T33_{scene}_B04_10m.tif", fine + first, nodata=0)
            write_scene(folder / "R20m" / f"T33_{scene}_B11_20m.tif", coarse, transform=COARSE, nodata=0)
            write_scene(folder / "R60m" / f"T33_{scene}_B09_60m.tif", coarsest, transform=COARSEST, nodata=0)
        found = find(
            [f"{tmp_path}/S2A_*"],
            band_files={
                "B04": "IMG_DATA/R10m/*_B04_10m.tif",
                "B11": "**/*_B11_*.tif",
                "B09": "**/*_B09_*.tif",
            },
            order="newest",
            resampling="nearest",
        )
        assert len(found.scenes) == 2
        pixels = read(found, bands=bands_by(found, "red", "swir16", "nir09"))
        np.testing.assert_array_equal(pixels.samples_CHW[0], fine + 1)
        np.testing.assert_array_equal(pixels.samples_CHW[1], np.kron(coarse, np.ones((2, 2), np.uint16)))
        np.testing.assert_array_equal(pixels.samples_CHW[2], np.kron(coarsest, np.ones((6, 6), np.uint16)))
        assert pixels.missing_CHW is None

    def test_a_scene_without_one_of_the_files_is_named(self, tmp_path):
        for scene, bands in (("one", ("B02", "B03")), ("two", ("B02",))):
            for band in bands:
                write_scene(tmp_path / scene / f"{band}.tif", np.ones((8, 8), np.uint8))
        with pytest.raises(SourceError, match=r"one file for green \(B03\.tif\).*two/B02\.tif has none"):
            find([f"{tmp_path}/*"], band_files={"blue": "B02.tif", "green": "B03.tif"})

    def test_two_files_for_a_band_are_named(self, tmp_path):
        for name in ("B02_a", "B02_b"):
            write_scene(tmp_path / f"{name}.tif", np.ones((8, 8), np.uint8))
        with pytest.raises(SourceError, match=r"one file for blue .*B02_a\.tif, .*B02_b\.tif"):
            find([str(tmp_path)], band_files={"blue": "B02_*.tif"})

    def test_a_template_without_band_files_is_refused(self):
        with pytest.raises(SettingsError, match=r"source\.band_files must say what \{band\} stands for"):
            find(["/data/{band}.tif"])


class TestBandsOfAFile:
    def test_named_bands_are_matched_whatever_their_order(self, tmp_path):
        values = np.stack([np.full((16, 16), value, np.uint8) for value in (10, 20, 30)])
        paths = [
            write_scene(tmp_path / "a.tif", values, names=["red", "green", "nir"]),
            write_scene(
                tmp_path / "b.tif", values[[2, 0, 1]], names=["nir", "Red", "green"], transform=moved(16, 0)
            ),
        ]
        pixels = read(find(paths))
        assert [set(np.unique(band)) for band in pixels.samples_CHW] == [{10}, {20}, {30}]

    def test_bands_that_lack_a_name_are_refused(self, tmp_path):
        values = np.ones((2, 8, 8), np.uint8)
        paths = [
            write_scene(tmp_path / "a.tif", values, names=["red", "green"]),
            write_scene(tmp_path / "b.tif", values, names=["red", "nir"]),
        ]
        with pytest.raises(
            SourceError, match=r"1 \(red\), 2 \(green\), but .*b\.tif has 1 \(red\), 2 \(nir\)"
        ):
            find(paths)

    def test_another_number_of_bands_is_refused(self, tmp_path):
        paths = [write_scene(tmp_path / f"{n}.tif", np.ones((n, 8, 8), np.uint8)) for n in (3, 4)]
        with pytest.raises(
            SourceError, match=r"the bands of the first, 1, 2, 3, but .*4\.tif has 1, 2, 3, 4"
        ):
            find(paths)

    @pytest.mark.parametrize(
        ("name", "file", "wanted", "is_there"),
        [
            ("B04", "anything.tif", "red", True),
            ("B8A", "S2A_MSIL2A.tif", "nir08", True),
            ("SR_B4", "LC09_L2SP_191027.tif", "red", True),
            ("SR_B4", "LT05_L2SP_191027.tif", "nir", True),
            ("B05", "HLS.L30.T33UWP.tif", "nir", True),
            ("B4", "anything.tif", "red", False),
        ],
    )
    def test_common_names_are_the_satellites(self, tmp_path, name, file, wanted, is_there):
        other = write_scene(tmp_path / "x" / file, np.ones((1, 8, 8), np.uint8), names=[name])
        found = find([other, other], grid={"resolution": 10})
        if is_there:
            assert bands_by(found, wanted) == (1,)
        else:
            with pytest.raises(ModelError, match=wanted):
                bands_by(found, wanted)


class TestScale:
    def two(self, tmp_path):
        """The same ground before and after a change of offset."""
        raw = np.random.default_rng(1).integers(2000, 9000, (20, 20)).astype(np.uint16)
        before, after = {"offsets": [0.0]}, {"offsets": [-0.1], "transform": moved(0, 20)}
        return raw, [
            write_scene(tmp_path / "a.tif", raw, scales=[0.0001], nodata=0, **before),
            write_scene(tmp_path / "b.tif", raw + 1000, scales=[0.0001], nodata=0, **after),
        ]

    def test_raw_values_unless_asked_and_then_said(self, tmp_path, caplog):
        raw, paths = self.two(tmp_path)
        pixels = read(find(paths))
        np.testing.assert_array_equal(pixels.samples_CHW[0], np.hstack([raw, raw + 1000]))
        assert "scenes declare different scales or offsets" in caplog.text

    def test_metadata_makes_scenes_agree(self, tmp_path, caplog):
        raw, paths = self.two(tmp_path)
        found = find(paths, scale="metadata")
        pixels = read(found)
        assert pixels.samples_CHW.dtype == np.float32
        np.testing.assert_allclose(pixels.samples_CHW[0], np.hstack([raw, raw]) * 1e-4, atol=2e-7)
        assert (found.info.bands[0].scale, found.info.bands[0].offset) == (1.0, 0.0), "it would count twice"
        assert not caplog.text


class TestQuality:
    def scene(self, tmp_path, flags, dtype=np.uint8, name="S2_SCL.tif", **profile):
        values = np.random.default_rng(2).integers(1000, 2000, (60, 60)).astype(np.uint16)
        write_scene(tmp_path / "S2.tif", values, nodata=0)
        write_scene(tmp_path / name, flags.astype(dtype), **profile)
        return values, [str(tmp_path / "S2.tif")] * 1

    def test_scl_at_half_the_resolution(self, tmp_path):
        flags = np.random.default_rng(3).integers(0, 12, (30, 30))
        values, paths = self.scene(tmp_path, flags, transform=COARSE, nodata=0)
        found = find(paths, quality_mask={"preset": "scl", "file": "{stem}_SCL.tif"})
        pixels = read(found)
        clear = np.kron(np.isin(flags, (2, 4, 5, 6, 7, 11)), np.ones((2, 2), bool))
        np.testing.assert_array_equal(pixels.valid_HW, clear)
        np.testing.assert_array_equal(pixels.samples_CHW[0], np.where(clear, values, 0))
        assert [identity.url.rsplit("/", 1)[1] for identity in found.info.identities] == [
            "S2.tif",
            "S2_SCL.tif",
        ]

    @pytest.mark.parametrize(
        ("mask", "bad"),
        [
            ({"preset": "qa_pixel"}, lambda flags: flags & 0b11111 != 0),
            ({"preset": "fmask"}, lambda flags: (flags & 0b1111 != 0) | (flags == 255)),
            ({"bits": [3, 7]}, lambda flags: flags & 0b10001000 != 0),
            ({"values": [64, 5]}, lambda flags: (flags == 64) | (flags == 5)),
            ({"preset": "fmask", "bits": [1]}, lambda flags: (flags & 2 != 0) | (flags == 255)),
        ],
    )
    def test_bits_and_values(self, tmp_path, mask, bad):
        flags = np.random.default_rng(4).integers(0, 256, (60, 60))
        flags[::3] &= 0b11100000
        _, paths = self.scene(tmp_path, flags, np.uint16)
        pixels = read(find(paths, quality_mask=mask | {"file": "S2_SCL.tif"}))
        np.testing.assert_array_equal(pixels.valid_HW, ~bad(flags))
        assert 0.05 < pixels.valid_HW.mean() < 0.999

    def test_zero_is_clear_even_where_the_file_calls_it_nodata(self, tmp_path):
        flags = np.zeros((60, 60))
        flags[5:9] = 1
        _, paths = self.scene(tmp_path, flags, nodata=0)
        pixels = read(find(paths, quality_mask={"values": [1], "file": "S2_SCL.tif"}))
        np.testing.assert_array_equal(pixels.valid_HW, flags == 0)

    def test_where_the_layer_ends_nothing_is_known(self, tmp_path):
        _, paths = self.scene(tmp_path, np.full((60, 30), 4))
        pixels = read(find(paths, quality_mask={"preset": "scl", "file": "S2_SCL.tif"}))
        assert pixels.valid_HW[:, :30].all()
        assert not pixels.valid_HW[:, 30:].any()

    def test_a_band_of_the_file_is_no_data_band_then(self, tmp_path):
        values = np.random.default_rng(5).integers(1, 200, (3, 30, 30)).astype(np.uint8)
        values[1] = 0
        values[1, 4:9] = 3
        path = write_scene(tmp_path / "a.tif", values, names=["red", "flags", "nir"])
        found = find([path], quality_mask={"preset": "scl", "band": "flags", "values": [3]})
        assert [band.number for band in found.info.bands] == [1, 3]
        pixels = read(found)
        np.testing.assert_array_equal(pixels.valid_HW, values[1] != 3)
        np.testing.assert_array_equal(
            pixels.samples_CHW[:, pixels.valid_HW], values[[0, 2]][:, pixels.valid_HW]
        )

    def test_clouds_do_not_bleed_into_what_is_warped(self, tmp_path):
        values = np.full((60, 60), 1000, np.uint16)
        values[20:30, 20:30] = 60_000
        flags = np.where(values == 60_000, 9, 4)
        write_scene(tmp_path / "a.tif", values)
        write_scene(tmp_path / "a_SCL.tif", flags.astype(np.uint8))
        found = find(
            [str(tmp_path / "a.tif")],
            quality_mask={"preset": "scl", "file": "{stem}_SCL.tif"},
            grid={"resolution": 7.3},
        )
        pixels = read(found)
        assert set(np.unique(pixels.samples_CHW[0][pixels.valid_HW])) == {1000}
        assert not pixels.valid_HW[35:40, 35:40].any()

    def test_clouds_show_what_lies_below(self, tmp_path):
        flags = np.full((60, 60), 4)
        flags[:, 30:] = 9
        self.scene(tmp_path, flags)
        write_scene(tmp_path / "T2.tif", np.full((60, 60), 7, np.uint16))
        write_scene(tmp_path / "T2_SCL.tif", np.full((60, 60), 5, np.uint8))
        found = find([f"{tmp_path}/*2.tif"], quality_mask={"preset": "scl", "file": "{stem}_SCL.tif"})
        pixels = read(found)
        assert (pixels.samples_CHW[0][:, 30:] == 7).all()
        assert (pixels.samples_CHW[0][:, :30] >= 1000).all()

    def test_a_layer_that_is_not_there_is_named(self, tmp_path):
        path = write_scene(tmp_path / "a.tif", np.ones((8, 8), np.uint8))
        with pytest.raises(SourceError, match=r"a_QA\.tif"):
            find([path], quality_mask={"preset": "qa_pixel", "file": "{stem}_QA.tif"})
        with pytest.raises(SettingsError, match=r"quality_mask\.band: there is no band 'qa'"):
            find([path], quality_mask={"preset": "qa_pixel", "band": "qa"})
