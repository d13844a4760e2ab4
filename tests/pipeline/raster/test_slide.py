"""Slides: their levels, however they are stored, and how large their pixels are."""

import numpy as np
import pytest
from affine import Affine

from pipeline.errors import SettingsError
from pipeline.raster.gdal_source import FoundRaster
from pipeline.raster.levels import LevelWish
from pipeline.raster.slide import find_slide, pixel_um_of
from pipeline.raster.window import Window
from tests.pipeline.raster.slides import levels_of, shrink, slide_of, tissue_of, write_slide

APERIO = "Aperio Image Library v11.2.1 \r\n46000x32914 (256x256) J2K|AppMag = 20|MPP = 0.4990|Left = 25"
OME = (
    '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
    '<Pixels BigEndian="false" PhysicalSizeX="{x}" PhysicalSizeXUnit="{unit}" PhysicalSizeY="{y}" '
    'PhysicalSizeYUnit="{unit}" SizeX="9"/></Image></OME>'
)


def resolution(unit, *, x, y):
    return {"TIFFTAG_RESOLUTIONUNIT": unit, "TIFFTAG_XRESOLUTION": x, "TIFFTAG_YRESOLUTION": y}


STYLES = pytest.mark.parametrize("style", ["subifd", "pages"])


@pytest.fixture(scope="module")
def levels():
    return levels_of(slide_of(tissue_of(803, 1101)))


def find(url, *, tissue_margin_px=None, nodata=None, **wish):
    return find_slide(url, nodata=nodata, wish=LevelWish(**wish), tissue_margin_px=tissue_margin_px)


def read(found, window=None):
    source = found.spec((1, 2, 3)).open()
    try:
        return source.read(window or found.info.grid.window)
    finally:
        source.close()


@STYLES
@pytest.mark.parametrize("number", [0, 1, 2])
def test_every_level_holds_its_own_pixels(style, number, levels, tmp_path):
    url = write_slide(
        tmp_path / "s.tif", levels, style=style, extras=[levels[1][:, :200], shrink(levels[0], 5)]
    )
    found = find(url, number=number)
    np.testing.assert_array_equal(np.moveaxis(read(found).samples_CHW, 0, -1), levels[number])
    assert found.info.grid.transform == Affine.scale(0.5 * 4**number)
    assert (found.info.grid.unit, found.info.grid.crs_wkt, found.info.is_microscopy) == (
        "micrometer",
        None,
        True,
    )
    around = read(found, Window(-5, -7, 30, 40))
    np.testing.assert_array_equal(np.moveaxis(around.samples_CHW, 0, -1)[5:, 7:], levels[number][:25, :33])
    assert not around.valid_HW[:5].any()
    with pytest.raises(SettingsError, match=r"source\.level must be below 3"):
        find(url, number=3)


@STYLES
def test_levels_by_micrometres(style, levels, tmp_path):
    url = write_slide(tmp_path / "s.tif", levels, style=style)
    assert [find(url, um_per_px=um).spec((1,)).result_fields()["level"] for um in (0.5, 2.0, 1.9, 8.3)] == [
        0,
        1,
        1,
        2,
    ]
    with pytest.raises(
        SettingsError, match=r"pixels of 0\.25 micrometer or finer, but it has level 0 \(1/1\)"
    ):
        find(url, um_per_px=0.25)


def test_jpeg_tiles(levels, tmp_path):
    url = write_slide(tmp_path / "s.svs", levels, style="pages", compression="jpeg", description=APERIO)
    found = find(url, number=1)
    off = np.abs(np.moveaxis(read(found).samples_CHW, 0, -1).astype(int) - levels[1])
    assert off.mean() < 6
    assert found.info.grid.transform == Affine.scale(0.499 * 4)


def test_the_fingerprint_tells_levels_apart(levels, tmp_path):
    url = write_slide(tmp_path / "s.tif", levels, style="subifd")
    fields = [find(url, number=number).spec((1, 2, 3)).result_fields() for number in (0, 1)]
    assert fields[0] == {"bands": [1, 2, 3], "nodata": None, "level": 0}
    assert fields[1]["level"] == 1


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"TIFFTAG_IMAGEDESCRIPTION": APERIO}, (0.499, 0.499)),
        ({"TIFFTAG_IMAGEDESCRIPTION": OME.format(x="0.25", y="0.26", unit="µm")}, (0.26, 0.25)),
        ({"TIFFTAG_IMAGEDESCRIPTION": OME.format(x="250", y="250", unit="nm")}, (0.25, 0.25)),
        ({"TIFFTAG_IMAGEDESCRIPTION": OME.format(x="1", y="1", unit="pixel")}, None),
        (resolution("3 (pixels/cm)", x="40000", y="20000"), (0.5, 0.25)),
        (resolution("2 (pixels/inch)", x="50800", y="50800"), (0.5, 0.5)),
        (resolution("2 (pixels/inch)", x="72", y="72"), None),
        (resolution("1 (unitless)", x="1", y="1"), None),
        ({}, None),
        ({"TIFFTAG_IMAGEDESCRIPTION": "Aperio|MPP = 0.4.9|Left = 25"}, None),
        ({"TIFFTAG_IMAGEDESCRIPTION": "Aperio|MPP = nan"}, None),
        ({"TIFFTAG_IMAGEDESCRIPTION": OME.format(x="wide", y="0.25", unit="µm")}, None),
        (resolution("3 (pixels/cm)", x="(unknown)", y="20000"), None),
    ],
)  # fmt: skip
def test_where_the_size_of_pixels_is_said(tags, expected):
    found = pixel_um_of(tags)
    assert found == (None if expected is None else pytest.approx(expected))


def test_a_raster_that_is_no_slide_is_found_as_ever(write, levels):
    plain = write(np.moveaxis(levels[2], -1, 0), "plain.tif")
    assert isinstance(find(plain), FoundRaster)
    ground = write(
        np.moveaxis(levels[2], -1, 0), "ground.tif", crs="EPSG:32633", transform=Affine(10, 0, 0, 0, -10, 0)
    )
    assert isinstance(find(ground), FoundRaster)
    with pytest.raises(SettingsError, match=r"source\.um_per_px needs a source that tells"):
        find(ground, um_per_px=10)


def test_overviews_of_a_map_are_levels_too(write):
    import rasterio
    from rasterio.enums import Resampling

    values = np.random.default_rng(0).integers(0, 255, (1, 600, 900), dtype=np.uint8)
    url = write(values, crs="EPSG:32633", transform=Affine(10, 0, 500_000, 0, -10, 5_000_000), tiled=True)
    with rasterio.open(url, "r+") as dataset:
        dataset.build_overviews([2, 4], Resampling.nearest)
    found = find(url, resolution=20)
    assert found.info.grid.transform == Affine(20, 0, 500_000, 0, -20, 5_000_000)
    assert found.info.grid.crs_wkt
    assert not found.info.is_microscopy
    source = found.spec((1,)).open()
    with rasterio.open(url, OVERVIEW_LEVEL=0) as overview:
        np.testing.assert_array_equal(source.read(found.info.grid.window).samples_CHW, overview.read())
    source.close()


def test_ragged_levels_keep_whole_factors(tmp_path):
    """803 rows become 200: three rows are cut off, but a pixel is four of them, not 4.015."""
    levels = levels_of(slide_of(tissue_of(803, 1101)))
    grid = find(write_slide(tmp_path / "s.tif", levels, style="subifd"), number=1).info.grid
    assert grid.window.shape == (200, 275)
    assert grid.transform == Affine.scale(2.0)
