"""Overviews of untouched squares are copied, and which objects those are."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.raster.region import Region
from pipeline.raster.window import Window
from pipeline.segment import overviews
from pipeline.segment.lattice import Lattice
from pipeline.segment.nightly.copy_blocks import _objects_of, copied_record, touched_squares
from pipeline.segment.plan import Plan
from tests.pipeline.segment.nights import GRID, Product
from tests.pipeline.segment.scene import array_objects

SIZES = st.integers(1, 140_000)


def plan_of(height, width, block_px=4096):
    lattice = Lattice.over(height, width, crop_px=513, stride_px=384, node_px=4)
    return Plan(lattice, Region(Window(0, 0, height, width)), block_px)


@given(SIZES, SIZES)
def test_squares_share_out_every_object_that_overviews_have(height, width):
    keys = [
        key
        for base in overviews.rounds(height, width)
        for task in overviews.tasks(height, width, base)
        for key in _objects_of(task, height, width)
    ]
    expected = {
        f"overviews/{factor}/{array}/c/{row}/{col}"
        for factor in overviews.factors(height, width)
        for array in ("classes", "confidence")
        for row in range(math.ceil(math.ceil(height / factor) / 1024))
        for col in range(math.ceil(math.ceil(width / factor) / 1024))
    }
    assert len(keys) == len(set(keys))
    assert set(keys) == expected


@given(SIZES, SIZES, st.data())
def test_a_touched_square_is_one_that_shows_a_pixel_of_a_touched_block(height, width, data):
    plan = plan_of(height, width)
    row = data.draw(st.integers(0, plan.block_rows - 1))
    col = data.draw(st.integers(0, plan.block_cols - 1))
    block = plan.window(type(next(plan.tasks()))(row, col))
    for base in overviews.rounds(height, width):
        side = overviews.SQUARE_PX * base
        shown = {
            task
            for task in overviews.tasks(height, width, base)
            if block.intersect(
                Window(int(task.split("/")[1]) * side, int(task.split("/")[2]) * side, side, side)
            ).num_pixels
        }
        assert touched_squares(plan, [f"r{row:05d}c{col:05d}"], base) == shown


def test_a_copy_keeps_what_is_true_of_it():
    first = {
        "block": "b", "state": "done", "objects": {"k": "sum"}, "pixels": 1, "class_pixels": [1], "crops": 9,
        "seconds": {"read": 1}, "worker": "w", "started": 5.0, "peak_rss_bytes": 7, "batch": 2,
    }  # fmt: skip
    second = copied_record(first, "v-1")
    assert second == {
        "block": "b", "state": "done", "objects": {"k": "sum"}, "pixels": 1, "class_pixels": [1],
        "copied_from": "v-1", "computed_in": "v-1",
    }  # fmt: skip
    assert copied_record(second, "v-2") == {**second, "copied_from": "v-2"}


def test_overviews_of_untouched_squares_are_copied(model, tmp_path):
    product = Product(str(tmp_path), str(model))
    left, _, right, top = GRID["bounds"]
    taller = {"grid": {**GRID, "bounds": [left, top - 8704 * 10, right, top]}}
    source = {"urls": [f"{tmp_path}/scenes/*.tif"], **taller}
    product.put("far.tif", row=8400, seed=7)
    product.night(source=source)
    before = Path(product.latest()["url"])
    product.put("far.tif", row=8400, seed=8)
    report = product.night(source=source)
    assert report["incremental"]["recomputed"] == 1
    after = Path(product.latest()["url"])

    def is_shared(key):
        return (before / key).samefile(after / key)

    assert is_shared("overviews/2/classes/c/0/0")
    assert is_shared("overviews/8/confidence/c/0/0")
    assert not is_shared("overviews/2/classes/c/4/0")
    assert not is_shared("overviews/16/classes/c/0/0"), "the coarsest shows all of the mosaic"
    product.night(source=source, product="scratch")
    assert array_objects(str(after)) == array_objects(product.latest("scratch")["url"])


@pytest.mark.slow
def test_stale_overviews_are_made_anew(model, tmp_path):
    """A previous version without overviews of its own blocks has none worth copying."""
    product = Product(str(tmp_path), str(model))
    product.night(output={"overviews": False})
    product.put("bottom.tif", seed=30)
    product.night()
    assert Path(f"{product.latest()['url']}.run", "overviews.json").is_file()
    product.night(product="scratch")
    assert array_objects(product.latest()["url"]) == array_objects(product.latest("scratch")["url"])
