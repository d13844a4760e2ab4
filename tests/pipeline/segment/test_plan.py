"""The plan against enumeration: every block, every crop, every chunk and node by itself."""

import itertools
import math
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.raster import region as regions
from pipeline.raster.grid import Grid
from pipeline.raster.mosaic import MosaicLayout, MosaicWriter, create_mosaic
from pipeline.raster.polygons import mask
from pipeline.raster.region import Region
from pipeline.raster.window import Window
from pipeline.segment.lattice import Lattice
from pipeline.segment.plan import Block, Plan
from pipeline.storage import Folder


def plan_of(height, width, *, region=None, block=64, crop=65, stride=48, node=4):
    lattice = Lattice.over(height, width, crop_px=crop, stride_px=stride, node_px=node)
    return Plan(lattice, region or Region(Window(0, 0, height, width)), block)


@st.composite
def plans(draw):
    height, width = draw(st.integers(1, 500)), draw(st.integers(1, 500))
    crop = draw(st.sampled_from([17, 49, 65, 129]))
    stride = draw(st.integers(1, (crop - 1) // 16)) * 16
    row, col = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    box = Window(row, col, draw(st.integers(1, height - row)), draw(st.integers(1, width - col)))
    region = Region(draw(st.sampled_from([Window(0, 0, height, width), box])))
    return plan_of(height, width, region=region, block=draw(st.sampled_from([32, 64, 128, 1024])),
                   crop=crop, stride=stride, node=draw(st.sampled_from([1, 2, 4])))  # fmt: skip


def crop_windows(lattice):
    """Every crop of a source."""
    for i, j in itertools.product(range(lattice.rows.num_crops), range(lattice.cols.num_crops)):
        yield Window(i * lattice.stride_px, j * lattice.stride_px, lattice.crop_px, lattice.crop_px)


def has_a_say(lattice, crop, window):
    """Whether a crop holds a node that a pixel of the window is interpolated from."""
    node = lattice.node_px
    for start, stop, crop_start in (
        (window.row, window.row_stop, crop.row),
        (window.col, window.col_stop, crop.col),
    ):
        first, last = start // node * node, -(-(stop - 1) // node) * node
        if crop_start > last or crop_start + lattice.crop_px - 1 < first:
            return False
    return True


@settings(deadline=None, max_examples=60)
@given(plans())
def test_counts_of_a_box_are_those_of_enumeration(plan):
    crops = list(crop_windows(plan.lattice))
    box = plan.region.box
    per_block = []
    for row, col in itertools.product(range(plan.block_rows), range(plan.block_cols)):
        served = plan.source_window(Block(row, col)).intersect(box)
        if served.num_pixels:
            per_block.append(sum(has_a_say(plan.lattice, crop, served) for crop in crops))
    assert plan.counts.blocks == len(per_block) == len(list(plan.blocks()))
    assert plan.counts.crops_computed == sum(per_block)
    assert plan.counts.crops_largest_block == max(per_block)
    assert plan.counts.crops_unique == sum(has_a_say(plan.lattice, crop, box) for crop in crops)


POLYGONS = {
    "disc": shapely.Point(150, 130).buffer(90),
    "ring": shapely.Point(150, 130).buffer(120).difference(shapely.Point(150, 130).buffer(70)),
    "two islands": shapely.union_all([shapely.box(10, 10, 40, 30), shapely.box(250, 200, 290, 280)]),
    "needle": shapely.Polygon([(5, 5), (280, 270), (281, 268)]),
    "beyond the source": shapely.box(-500, 100, 900, 180),
}


@pytest.mark.parametrize("block", [32, 64, 128])
@pytest.mark.parametrize("name", POLYGONS)
def test_counts_of_polygons_are_those_of_enumeration(name, block):
    region = regions.from_polygons(Grid(300, 310), POLYGONS[name], "test")
    plan = plan_of(300, 310, region=region, block=block)
    lattice, polygons = plan.lattice, POLYGONS[name]
    reach = lattice.node_px - 1

    def meets(window):
        window = window.intersect(region.box)
        sides = (window.col, window.row, window.col_stop, window.row_stop)
        return window.num_pixels > 0 and polygons.intersects(shapely.box(*sides))

    serving = [crop for crop in crop_windows(lattice) if meets(crop.grow(reach))]
    assert plan.counts.crops_unique == len(serving)
    per_block = []
    for row, col in itertools.product(range(plan.block_rows), range(plan.block_cols)):
        window = plan.source_window(Block(row, col))
        if meets(window):
            served = window.intersect(region.box)
            per_block.append(sum(has_a_say(lattice, crop, served) for crop in serving))
    assert plan.counts.blocks == len(per_block) == len(list(plan.blocks()))
    assert plan.counts.crops_computed == sum(per_block)
    assert plan.counts.crops_largest_block == max(per_block)


@pytest.mark.parametrize("name", POLYGONS)
def test_blocks_left_out_hold_no_wanted_pixel(name):
    region = regions.from_polygons(Grid(300, 310), POLYGONS[name], "test")
    plan = plan_of(300, 310, region=region, block=32)
    wanted = mask(region, Window(0, 0, 300, 310))
    kept = set(plan.blocks())
    every = [Block(*place) for place in itertools.product(range(plan.block_rows), range(plan.block_cols))]
    assert kept
    assert len(kept) < len(every) or name == "beyond the source"
    for block in set(every) - kept:
        assert not wanted[plan.source_window(block).slices].any()
    inside = np.zeros_like(wanted)
    inside[plan.mosaic_window.slices] = True
    assert not (wanted & ~inside).any()


@settings(deadline=None, max_examples=60)
@given(plans())
def test_blocks_partition_the_mosaic(plan):
    owners = np.zeros(plan.mosaic_window.shape, int)
    for row, col in itertools.product(range(plan.block_rows), range(plan.block_cols)):
        window = plan.window(Block(row, col))
        assert window.num_pixels
        owners[window.slices] += 1
        assert plan.source_window(Block(row, col)).relative_to(plan.mosaic_window) == window
    assert (owners == 1).all()


@settings(deadline=None, max_examples=60)
@given(plans())
def test_a_regions_mosaic_snaps_outward_to_the_stride(plan):
    mosaic, box, stride = plan.mosaic_window, plan.region.box, plan.lattice.stride_px
    source = Window(0, 0, plan.lattice.rows.length_px, plan.lattice.cols.length_px)
    assert source.contains(mosaic)
    assert mosaic.contains(box)
    assert mosaic.row % stride == mosaic.col % stride == 0
    assert 0 <= box.row - mosaic.row < stride
    assert 0 <= box.col - mosaic.col < stride
    assert mosaic.row_stop == source.row_stop or mosaic.row_stop % stride == 0
    assert mosaic.col_stop == source.col_stop or mosaic.col_stop % stride == 0
    assert mosaic.row_stop - box.row_stop < stride
    assert mosaic.col_stop - box.col_stop < stride


@settings(deadline=None, max_examples=60)
@given(plans())
def test_a_blocks_halo_holds_every_crop_it_needs_and_no_more(plan):
    for block in plan.blocks():
        served = plan.served_window(block)
        crops = [crop for crop in crop_windows(plan.lattice) if has_a_say(plan.lattice, crop, served)]
        assert plan.halo(block) == Window.from_bounds(
            min(crop.row for crop in crops),
            min(crop.col for crop in crops),
            max(crop.row_stop for crop in crops),
            max(crop.col_stop for crop in crops),
        )


@given(st.integers(0, 99_999), st.integers(0, 99_999))
def test_block_names_lead_back_to_their_blocks(row, col):
    assert Block.from_id(Block(row, col).id) == Block(row, col)


@given(st.lists(st.tuples(st.integers(0, 99_999), st.integers(0, 99_999)), min_size=2))
def test_block_names_sort_as_blocks_do(places):
    blocks = [Block(*place) for place in places]
    assert sorted(block.id for block in blocks) == [block.id for block in sorted(blocks)]


def test_the_mosaic_lies_where_its_pixels_lie_in_the_source():
    """Also on a rotated grid: a row step moves x, too."""
    source = Grid(1000, 900, Affine(2.0, 0.5, 5000.0, 0.25, -2.0, 8000.0), None)
    plan = plan_of(1000, 900, region=Region(Window(100, 300, 50, 60)))
    assert plan.mosaic_window == Window(96, 288, 96, 96)
    grid, t = plan.mosaic_grid(source), source.transform
    assert (grid.height, grid.width) == (96, 96)
    corner = (t.a * 288 + t.b * 96 + t.c, t.d * 288 + t.e * 96 + t.f)
    assert tuple(grid.transform)[:6] == pytest.approx((t.a, t.b, corner[0], t.d, t.e, corner[1]))


@pytest.mark.parametrize("node_px", [1, 2, 4, 8])
@pytest.mark.parametrize("logits", ["lattice", "full"])
@pytest.mark.parametrize("size", [(1, 1), (1024, 1025), (2048, 1027), (2500, 3073)])
def test_every_logits_node_and_every_object_has_one_owner(size, logits, node_px, tmp_path):
    plan = plan_of(*size, block=1024, crop=513, stride=384, node=node_px)
    grid = plan.mosaic_grid(Grid(*size))
    layout = MosaicLayout(grid, ("a", "b"), ("#000000", "#ffffff"), logits, node_px, {})
    folder = Folder.at(tmp_path)
    create_mosaic(folder, layout)
    writer = MosaicWriter(folder, layout)
    owners = np.zeros(size if logits == "full" else layout.lattice_shape, int)
    side = 1024 if logits == "full" else 1024 // node_px
    objects = []
    for block in plan.blocks():
        window = plan.window(block)
        rows, cols = writer.logits_slices(window)
        owners[rows, cols] += 1
        objects += set(itertools.product(
            range(rows.start // side, math.ceil(rows.stop / side)),
            range(cols.start // side, math.ceil(cols.stop / side)),
        ))  # fmt: skip
        computed = plan.lattice.node_window(window)
        if logits == "lattice":
            assert rows.start == computed.row
            assert cols.start == computed.col
            assert rows.stop <= computed.row_stop
            assert cols.stop <= computed.col_stop
    assert (owners == 1).all()
    assert len(objects) == len(set(objects))


@pytest.mark.parametrize(("block", "ratio"), [(2048, 1.72), (4096, 1.34), (8192, 1.16), (16384, 1.08)])
def test_the_price_of_one_writer_is_what_the_design_says(block, ratio):
    plan = plan_of(200_000, 200_000, block=block, crop=513, stride=384)
    assert plan.counts.overlap_ratio == pytest.approx(ratio, abs=0.02)
    assert plan.counts.to_json()["crops"]["ratio"] == pytest.approx(ratio, abs=0.02)


@pytest.mark.parametrize("block", [1024, 4096])
def test_a_million_pixels_a_side_is_planned_at_once_in_little_memory(block):
    tracemalloc.start()
    began = time.perf_counter()
    plan = plan_of(10**6, 10**6, block=block, crop=513, stride=384)
    counts = plan.counts
    seconds = time.perf_counter() - began
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert counts.blocks == math.ceil(10**6 / block) ** 2
    assert counts.crops_unique == (math.ceil((10**6 - 513) / 384) + 1) ** 2
    assert seconds < 2.0
    assert peak_bytes < 50e6


def test_a_country_on_a_million_pixels_a_side_is_planned_at_once():
    """A border with bays, for every block size that is weighed: most crops lie off the border."""
    turns = np.linspace(0, 2 * np.pi, 5000, endpoint=False)
    radius = 4.2e5 * (1 + 0.08 * np.sin(7 * turns) + 0.02 * np.sin(53 * turns))
    coast = np.column_stack([5e5 + radius * np.cos(turns), 5e5 + radius * np.sin(turns)])
    region = regions.from_polygons(Grid(10**6, 10**6), shapely.Polygon(coast), "test")
    began = time.perf_counter()
    counts = {
        block: plan_of(10**6, 10**6, region=region, block=block, crop=513, stride=384).counts
        for block in (1024, 2048, 4096)
    }
    seconds = time.perf_counter() - began
    area = shapely.Polygon(coast).area
    for block, one in counts.items():
        assert one.blocks * block**2 == pytest.approx(area, rel=0.05)
        assert one.crops_unique * 384**2 == pytest.approx(area, rel=0.02)
        assert one.crops_computed > one.crops_unique
    assert seconds < 2.0


def test_planning_loads_neither_network_nor_raster_nor_cluster_software():
    script = (
        "import sys, pipeline.segment.plan\n"
        "heavy = {'ray', 'torch', 'torchvision', 'rasterio', 'zarr', 'obstore'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
