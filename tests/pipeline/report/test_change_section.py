"""The part of the page about what a nightly version changed."""

from affine import Affine
from pyproj import CRS

from pipeline.report.page import write_report
from pipeline.storage import Folder
from tests.pipeline.report.fabricated import small_run
from tests.pipeline.report.parsed import Page

CHANGES = {
    "previous": "v-before",
    "pixels_compared": 2400,
    "pixels_changed": 400,
    "classes": [
        {"name": "water", "before": 900, "after": 540, "lost": 380, "gained": 20},
        {"name": "forest", "before": 160, "after": 540, "lost": 20, "gained": 400},
        {"name": "town", "before": 0, "after": 0, "lost": 0, "gained": 0},
    ],
    "transitions": [
        {"from": "water", "to": "forest", "pixels": 380},
        {"from": "forest", "to": "water", "pixels": 20},
    ],
    "not_compared": {},
}
TOLD = {
    "version": "v-now",
    "previous": "v-before",
    "unchanged": False,
    "copied": 7,
    "recomputed": 3,
    "reasons": {"scenes": 2, "damaged": 1},
    "fields": [],
    "scenes": [{"change": "changed", "url": "s3://scenes/<b>.tif", "blocks": 2}],
    "changes": CHANGES,
}
UTM = {"crs_wkt": CRS(32633).to_wkt(), "transform": Affine(10.0, 0, 500_000, 0, -10.0, 5_200_000)}


def page_of(output):
    write_report(output)
    return Page(Folder.at(f"{output}.run").read("report.html").decode())


def test_an_ordinary_run_says_nothing_of_changes(tmp_path):
    page = page_of(small_run(tmp_path))
    assert "What changed" not in page.text
    assert not page.all("a", href="#changes")


def test_changes_are_told_in_blocks_scenes_pixels_and_area(tmp_path):
    page = page_of(small_run(tmp_path, **UTM, incremental=TOLD))
    assert page.all("a", href="#changes")
    assert "2 blocks: other scenes show in them" in page.text
    assert "1 block: their copies were missing or damaged" in page.text
    assert page.rows("Scenes that differ")[1] == ["s3://scenes/<b>.tif", "changed", "2"]
    header, water, forest = page.rows("Pixels of every class since v-before")
    assert header == ["Class", "Before", "After", "Gained", "Lost", "Change", "ha"]
    # 100 m² a pixel, but for what the projection distorts.
    assert water == ["water", "900", "540", "20", "380", "-360", "−3.60"]
    assert forest[:6] == ["forest", "160", "540", "400", "20", "+380"]
    assert forest[6].startswith("+3.")
    assert page.rows("What became what")[1] == ["water → forest", "380", "95.0 %"]


def test_without_a_size_of_pixels_areas_are_counted_in_pixels(tmp_path):
    page = page_of(small_run(tmp_path, incremental=TOLD))
    assert page.rows("Pixels of every class since v-before")[0][-1] == "Change"


def test_a_first_night_has_nothing_to_compare_with(tmp_path):
    told = {
        "version": "v-now", "previous": None, "unchanged": False, "copied": 0, "recomputed": 1,
        "reasons": {"first": 1}, "fields": [], "scenes": [], "changes": None,
    }  # fmt: skip
    page = page_of(small_run(tmp_path, incremental=told))
    assert "there was nothing to copy from" in page.text
    assert "Classes were not compared with an earlier mosaic." in page.text


def test_what_all_blocks_share_is_named(tmp_path):
    told = {**TOLD, "reasons": {"settings": 3}, "fields": ["inference.scales"], "scenes": []}
    page = page_of(small_run(tmp_path, incremental=told))
    assert "Different in all blocks: inference.scales." in page.text
