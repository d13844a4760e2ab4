"""Tissue: found on an overview, never cut into, and glass left out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import SettingsError
from pipeline.raster.levels import LevelWish
from pipeline.raster.slide import find_slide
from pipeline.raster.tissue import TissueMask, is_tissue, otsu
from pipeline.raster.window import Window
from tests.pipeline.raster.slides import levels_of, slide_of, tissue_of, write_slide

MARGIN = 64


def found_on(tmp_path, image, *, level=0, style="subifd", margin=MARGIN, compression="deflate", count=3):
    url = write_slide(tmp_path / "s.tif", levels_of(image, count), style=style, compression=compression)
    return find_slide(url, nodata=None, wish=LevelWish(number=level), tissue_margin_px=margin)


def grown(tissue, margin):
    """Every pixel no further from tissue than the margin, along rows and columns: the slow way."""
    result = tissue.copy()
    for axis in (0, 1):
        source = result.copy()
        for step in range(1, margin + 1):
            for sign in (-1, 1):
                moved = np.roll(source, sign * step, axis)
                edge = [slice(None), slice(None)]
                edge[axis] = slice(0, step) if sign > 0 else slice(-step, None)
                moved[tuple(edge)] = False
                result |= moved
    return result


@pytest.mark.parametrize(("style", "compression"), [("subifd", "deflate"), ("pages", "jpeg")])
def test_all_tissue_with_its_margin_is_kept_and_glass_is_not(style, compression, tmp_path):
    tissue = tissue_of(1203, 1501)
    found = found_on(tmp_path, slide_of(tissue), style=style, compression=compression)
    kept = found.tissue.covers(found.info.grid.window)
    assert kept[grown(tissue, MARGIN)].all()
    assert not kept[~grown(tissue, MARGIN + 4 * 32)].any(), "cells of 32 px, and one more for their own place"
    assert kept.mean() < 0.6


def test_on_a_coarser_level_the_margin_is_that_levels(tmp_path):
    tissue = tissue_of(1600, 2000, blobs=1)
    found = found_on(tmp_path, slide_of(tissue), level=1, margin=40)
    kept = found.tissue.covers(found.info.grid.window)
    here = tissue.reshape(400, 4, 500, 4).any(axis=(1, 3))
    assert kept[grown(here, 40)].all()
    assert kept.mean() < 0.6


def test_a_slide_full_of_tissue_loses_none(tmp_path):
    found = found_on(tmp_path, slide_of(np.ones((600, 700), bool)), margin=0)
    assert found.tissue.share == 1.0


def test_pale_tissue_beside_dark_is_kept(tmp_path):
    image = np.full((640, 640, 3), 242, np.uint8)
    image[100:200, 100:200] = (90, 20, 110)
    image[400:500, 400:500] = (242, 214, 232)
    kept = found_on(tmp_path, image, margin=0).tissue.covers(Window(0, 0, 640, 640))
    assert kept[100:200, 100:200].all()
    assert kept[400:500, 400:500].all()


def test_grey_stain_is_tissue_by_its_shade(tmp_path):
    image = np.full((640, 640, 3), 235, np.uint8)
    image[200:300, 200:300] = 190
    kept = found_on(tmp_path, image, margin=0).tissue.covers(Window(0, 0, 640, 640))
    assert kept[200:300, 200:300].all()
    assert kept.mean() < 0.2


def test_an_empty_slide_says_so(tmp_path, caplog):
    found = found_on(tmp_path, slide_of(np.zeros((600, 700), bool)))
    assert found.tissue.share == 0.0
    assert "no tissue was found" in caplog.text


def test_reading_tells_what_is_wanted_and_leaves_the_rest_as_it_is(tmp_path):
    tissue = np.zeros((1200, 1200), bool)
    tissue[500:560, 500:560] = True
    image = slide_of(tissue)
    source = found_on(tmp_path, image).spec((1, 2, 3)).open()
    window = Window(400, 300, 300, 400)
    pixels = source.read(window)
    np.testing.assert_array_equal(np.moveaxis(pixels.samples_CHW, 0, -1), image[400:700, 300:700])
    assert pixels.valid_HW.all(), "glass is seen by the network, only not asked for"
    assert pixels.wanted_HW[100:160, 200:260].all()
    assert not pixels.wanted_HW.all()
    bare = source.read(Window(0, 0, 100, 120))
    assert bare.samples_CHW.shape == (3, 100, 120)
    assert not bare.valid_HW.any()
    assert not bare.wanted_HW.any()
    source.close()


def test_the_fingerprint_holds_mask_and_margin(tmp_path):
    image = slide_of(tissue_of(600, 700))
    fields = [
        found_on(tmp_path, image, margin=margin).spec((1, 2, 3)).result_fields()["tissue"]
        for margin in (32, 32, 99)
    ]
    assert fields[0] == fields[1]
    assert fields[0] != fields[2]
    assert fields[2]["margin_px"] == 99


def test_only_colours_of_8_bits(write):
    url = write(np.zeros((1, 50, 60), np.uint8))
    with pytest.raises(
        SettingsError, match=r"source\.tissue: auto needs red, green and blue of 8 bits, got 1 bands"
    ):
        find_slide(url, nodata=None, wish=LevelWish(), tissue_margin_px=8)


@settings(deadline=None, max_examples=40)
@given(
    cells=st.integers(1, 9).flatmap(
        lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=1, max_size=9)
    ),
    cell_px=st.floats(1, 40),
    window=st.builds(
        Window, st.integers(-50, 200), st.integers(-50, 200), st.integers(0, 40), st.integers(0, 40)
    ),
)
def test_a_mask_answers_alike_for_every_window(cells, cell_px, window):
    mask = TissueMask.of(np.array(cells), cell_px=(cell_px, cell_px), margin_px=0)
    np.testing.assert_array_equal(mask.cells, cells)
    whole = mask.covers(Window(-60, -60, 320, 320))
    np.testing.assert_array_equal(mask.covers(window), whole[window.shift(60, 60).slices])


def test_otsu_parts_two_groups():
    random = np.random.default_rng(0)
    values = np.concatenate([random.normal(40, 6, 3000), random.normal(180, 9, 900)])
    assert 55 < otsu(values) < 150


def test_a_dark_ground_is_all_kept():
    colors = np.full((3, 20, 20), 4.0, np.float32)
    colors[1, 5:9, 5:9] = 200.0
    assert is_tissue(colors)[5:9, 5:9].all()
