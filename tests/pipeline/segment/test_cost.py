"""What a run is said to take, against published figures and against what is really allocated."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import shapely

from deeplab_core import ModelConfig
from pipeline.raster import region as regions
from pipeline.raster.grid import Grid
from pipeline.raster.mosaic import MosaicLayout, MosaicWriter, create_mosaic
from pipeline.raster.region import Region
from pipeline.raster.window import Window
from pipeline.segment.cost import (
    LIVE_ACTIVATIONS,
    Memory,
    NetworkCost,
    Numbers,
    network_cost,
    plan_bytes,
    project_memory,
)
from pipeline.segment.lattice import Lattice
from pipeline.segment.overviews import factors
from pipeline.segment.plan import Plan
from pipeline.storage import Folder

CLASSES = tuple(f"class {index}" for index in range(21))
NETWORK = NetworkCost(72_200_000_000, 40_350_000, 5_000_000, 4, 16)


def plan_of(height, width, *, region=None, block=2048, crop=513, stride=384):
    lattice = Lattice.over(height, width, crop_px=crop, stride_px=stride, node_px=4)
    return Plan(lattice, region or Region(Window(0, 0, height, width)), block)


def numbers_of(**changes):
    given = {"num_bands": 3, "sample_bytes": 2, "value_bytes": 4, "num_classes": 7, "logits": "lattice"}
    return Numbers(**(given | {"reading_bytes": lambda _: 256 << 20} | changes))


def memory_of(plan, numbers=None, *, network=NETWORK, batch=2, compiled=False, device="cpu"):
    return project_memory(
        plan, network, numbers or numbers_of(), batch=batch, compiled=compiled, device=device
    )


def test_multiply_adds_are_the_published_ones():
    config = ModelConfig(backbone="resnet50", classes=CLASSES, pretrained=True)  # and nothing is downloaded
    cost = network_cost(config, crop_px=513, scales=(1.0,), views=1)
    assert cost.multiply_adds == pytest.approx(72.2e9, rel=0.003)
    assert cost.parameters == pytest.approx(40.35e6, rel=0.001)
    assert cost.largest_activation >= 256 * 129 * 129
    assert (cost.node_px, cost.input_multiple_px) == (4, 16)


def test_every_scale_and_view_is_counted():
    config = ModelConfig(backbone="resnet18", classes=("a", "b"), in_channels=5)

    def count(scales, views):
        return network_cost(config, crop_px=129, scales=scales, views=views)

    half, whole, double = (count((scale,), 1) for scale in (0.5, 1.0, 2.0))
    together = count((0.5, 1.0, 2.0), 4)
    parts = half.multiply_adds + whole.multiply_adds + double.multiply_adds
    assert together.multiply_adds == 4 * parts
    assert together.largest_activation == double.largest_activation > whole.largest_activation
    assert double.multiply_adds == pytest.approx(4 * whole.multiply_adds, rel=0.1)
    assert (whole.num_sizes, together.num_sizes) == (1, 3)


def test_a_denser_encoder_asks_for_its_own_crop_sizes():
    config = ModelConfig(backbone="resnet18", classes=("a",), output_stride=8)
    cost = network_cost(config, crop_px=129, scales=(1.0,), views=1)
    assert cost.input_multiple_px == 8


@pytest.mark.parametrize("region", [None, Region(Window(700, 1300, 2500, 900)), Region(Window(5, 5, 1, 1))])
@pytest.mark.parametrize("logits", ["none", "lattice", "full"])
@pytest.mark.parametrize("num_classes", [2, 300])
def test_projected_arrays_hold_what_the_largest_block_allocates(region, logits, num_classes):
    plan = plan_of(5000, 4100, region=region)
    numbers = numbers_of(logits=logits, num_classes=num_classes)
    memory = memory_of(plan, numbers)
    for block in plan.blocks():
        halo, window = plan.halo(block), plan.source_window(block)
        samples = halo.num_pixels * 3 * 2
        normalised = halo.num_pixels * 3 * 4
        nodes = plan.lattice.node_window(window).num_pixels
        label_bytes = 1 if num_classes < 256 else 2
        kept = {"none": 0, "lattice": nodes, "full": window.num_pixels}[logits] * num_classes * 2
        assert memory.pixels >= 2 * (samples + 2 * halo.num_pixels) + normalised
        assert memory.blending >= 2 * nodes * num_classes * 4
        assert memory.outputs >= 2 * (window.num_pixels * (label_bytes + 1) + kept)


def test_memory_stays_flat_as_the_raster_grows():
    small, large = memory_of(plan_of(20_000, 20_000)), memory_of(plan_of(80_000, 80_000))
    assert small == large


def test_memory_grows_with_what_takes_it():
    plan = plan_of(20_000, 20_000)
    base = memory_of(plan)
    assert memory_of(plan_of(20_000, 20_000, block=4096)).total > base.total
    assert memory_of(plan, batch=4).activations == 2 * base.activations
    assert base.activations == LIVE_ACTIVATIONS * 2 * NETWORK.largest_activation * 4
    assert memory_of(plan, compiled=True).total > base.total
    assert memory_of(plan, compiled=True).network == base.network + 4 * NETWORK.parameters
    three = replace(NETWORK, num_sizes=3)
    assert memory_of(plan, network=three).network == base.network, "only compiled code keeps its own weights"
    assert memory_of(plan, network=three, compiled=True).network == base.network + 3 * 4 * NETWORK.parameters
    assert memory_of(plan, numbers_of(num_bands=13)).pixels > base.pixels
    assert memory_of(plan, numbers_of(num_classes=150)).blending > 20 * base.blending
    assert memory_of(plan, numbers_of(logits="full")).outputs > base.outputs
    assert memory_of(plan, device="cuda").activations == 0


def test_memory_is_the_sum_of_its_parts():
    memory = Memory(1, 20, 300, 4_000, 50_000, 600_000)
    assert memory.total == 654_321
    stated = memory.to_json()
    assert stated.pop("total_bytes") == memory.total == sum(stated.values())
    assert json.loads(json.dumps(stated)) == stated


@pytest.mark.parametrize("size", [(1, 1), (513, 513), (2049, 2049), (5000, 700), (9000, 3000)], ids=str)
def test_bytes_to_read_are_those_of_every_blocks_halo(size):
    plan = plan_of(*size)
    source = Window(0, 0, *size)
    read = sum(plan.halo(block).intersect(source).num_pixels for block in plan.blocks())
    stated = plan_bytes(plan, numbers_of())
    assert stated["read_bytes"] == read * 3 * 2
    assert stated["read_at_least_bytes"] == math.prod(size) * 3 * 2 <= stated["read_bytes"]


def test_bytes_to_read_leave_out_what_a_polygon_leaves_out():
    disc = shapely.Point(10_000, 10_000).buffer(9_000)
    region = regions.from_polygons(Grid(20_000, 20_000), disc, "test")
    plan = plan_of(20_000, 20_000, region=region)
    source = Window(0, 0, 20_000, 20_000)
    read = sum(plan.halo(block).intersect(source).num_pixels for block in plan.blocks())
    assert plan_bytes(plan, numbers_of())["read_bytes"] == pytest.approx(read * 3 * 2, rel=0.02)


@pytest.mark.parametrize("logits", ["none", "lattice", "full"])
@pytest.mark.parametrize("size", [(1, 1), (3, 1026), (1025, 2050)])
def test_the_bound_on_bytes_to_write_holds_every_array(size, logits, tmp_path):
    layout = MosaicLayout(Grid(*size), ("a", "b", "c"), ("#000000",) * 3, logits, 4, {})
    folder = Folder.at(tmp_path)
    create_mosaic(folder, layout)
    writer = MosaicWriter(folder, layout)
    values = sum(math.prod(part.stop - part.start for part in writer.logits_slices(layout.grid.window))
                 for _ in range(3)) if logits != "none" else 0  # fmt: skip
    pixels = math.prod(size) + sum(
        math.prod(layout.grid.coarsen(factor).window.shape) for factor in factors(*size)
    )
    stated = plan_bytes(plan_of(*size), numbers_of(logits=logits, num_classes=3))
    assert stated["output_at_most_bytes"] == 2 * pixels + 2 * values


def test_a_class_index_takes_the_bytes_that_the_mosaic_stores():
    for num_classes in (1, 254, 255, 256, 300):
        names = tuple(map(str, range(num_classes)))
        layout = MosaicLayout(Grid(1, 1), names, ("#000000",) * num_classes, "none", 4, {})
        assert numbers_of(num_classes=num_classes).class_bytes == np.dtype(layout.class_dtype).itemsize
