"""The engine against the whole-raster reference, block by block."""

import numpy as np
import pytest
import torch

from pipeline.raster.region import Region
from pipeline.raster.source import Pixels
from pipeline.raster.window import Window
from pipeline.segment.engine import BlockEngine, EngineSettings, nodes_in_use
from pipeline.segment.lattice import Lattice
from pipeline.segment.plan import Plan
from tests.pipeline.segment.reference import PositionDependentModel, assert_same_mosaic, segment_whole

BANDS, CLASSES = 3, 5
GAIN, BIAS = (0.02, 0.03, 0.01), (-1.0, -2.0, 0.5)


def pixels_of(raw, valid, halo):
    """What a source would give for a halo that may pass the raster's edges."""
    samples = np.zeros((raw.shape[0], *halo.shape), raw.dtype)
    known = np.zeros(halo.shape, bool)
    inside = halo.intersect(Window(0, 0, *raw.shape[1:]))
    part, there = inside.relative_to(halo).slices, inside.slices
    samples[:, *part] = raw[:, *there] * valid[there]
    known[part] = valid[there]
    return Pixels(samples, known, None)


def run_blocks(
    raw, valid, *, wanted=None, block=64, crop=65, stride=48, window="gaussian", batch=3, **options
):
    """All blocks of a plan through the engine, pasted together in numpy."""
    height, width = raw.shape[1:]
    node_px = options.get("node_px", 4)
    fuse_logits = options.get("fuse_logits", False)
    lattice = Lattice.over(height, width, crop_px=crop, stride_px=stride, node_px=node_px)
    plan = Plan(lattice, options.get("region", Region(Window(0, 0, height, width))), block)
    settings = EngineSettings(lattice, GAIN, BIAS, CLASSES, window, fuse_logits, "lattice", batch)
    model = PositionDependentModel(BANDS, CLASSES, node_px, fuse_logits=fuse_logits)
    engine = BlockEngine(model, settings, device=torch.device("cpu"), dtype=torch.float32)
    wanted = valid if wanted is None else wanted & valid
    mosaic = plan.mosaic_window
    classes = np.full(mosaic.shape, 7, np.uint8)
    confidence = np.full(mosaic.shape, 7, np.uint8)
    logits = {}
    for block_ in plan.blocks():
        target, served, halo = plan.window(block_), plan.served_window(block_), plan.halo(block_)
        asked = pixels_of(np.ones((1, *wanted.shape), np.uint8), wanted, halo).valid_HW
        arrays, _ = engine.compute(plan.source_window(block_), served, pixels_of(raw, valid, halo), asked)
        classes[target.slices], confidence[target.slices] = arrays.classes_HW, arrays.confidence_HW
        logits[block_] = arrays.logits_KHW
    return classes, confidence, logits, plan


def reference_of(
    raw, valid, *, wanted=None, crop=65, stride=48, window="gaussian", node_px=4, fuse_logits=False
):
    model = PositionDependentModel(BANDS, CLASSES, node_px, fuse_logits=fuse_logits)
    asked = valid if wanted is None else wanted & valid
    options = {"gain": GAIN, "bias": BIAS, "crop": crop, "stride": stride, "node_px": node_px}
    return segment_whole(raw, valid, asked, model, **options, window=window, fuse_logits=fuse_logits)


def raster(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 200, (BANDS, height, width)).astype(np.uint8)


@pytest.mark.parametrize("window", ["gaussian", "hann", "flat"])
@pytest.mark.parametrize(
    "size", [(1, 1), (64, 64), (65, 65), (66, 67), (113, 114), (200, 37), (131, 257), (48, 193)]
)
def test_blocks_equal_the_whole_raster(size, window):
    raw, valid = raster(*size), np.ones(size, bool)
    classes, confidence, _, _ = run_blocks(raw, valid, window=window)
    assert_same_mosaic(classes, confidence, reference_of(raw, valid, window=window))


@pytest.mark.parametrize("stride", [16, 32, 48, 64])
@pytest.mark.parametrize("node_px", [1, 2, 4])
def test_any_stride_and_lattice(stride, node_px):
    raw, valid = raster(150, 170), np.ones((150, 170), bool)
    classes, confidence, _, _ = run_blocks(raw, valid, stride=stride, node_px=node_px)
    assert_same_mosaic(classes, confidence, reference_of(raw, valid, stride=stride, node_px=node_px))


def test_logits_are_blended_where_asked_for():
    raw, valid = raster(150, 170), np.ones((150, 170), bool)
    classes, confidence, _, _ = run_blocks(raw, valid, fuse_logits=True)
    assert_same_mosaic(classes, confidence, reference_of(raw, valid, fuse_logits=True))
    other, _, _, _ = run_blocks(raw, valid, fuse_logits=False)
    assert (other != classes).any()


@pytest.mark.parametrize("shape", ["ragged", "hole", "single pixel", "stripes", "corner"])
def test_nodata_of_any_shape_stays_nodata_and_changes_nothing_else(shape):
    raw = raster(190, 210, seed=3)
    valid = np.ones((190, 210), bool)
    rows, cols = np.indices(valid.shape)
    if shape == "ragged":
        valid = cols > 40 + 30 * np.sin(rows / 9)
    elif shape == "hole":
        valid = (rows - 90) ** 2 + (cols - 100) ** 2 > 70**2
    elif shape == "single pixel":
        valid = (rows == 77) & (cols == 131)
    elif shape == "stripes":
        valid = (cols // 5) % 3 != 0
    else:
        valid = (rows > 150) & (cols > 180)
    raw[:, ~valid] = 199
    classes, confidence, _, _ = run_blocks(raw, valid)
    assert_same_mosaic(classes, confidence, reference_of(raw, valid))


@pytest.mark.parametrize("block", [16, 48, 64, 128, 1024])
@pytest.mark.parametrize("batch", [1, 4])
def test_block_size_and_batch_do_not_change_a_bit(block, batch):
    raw, valid = raster(190, 210, seed=5), np.ones((190, 210), bool)
    valid[30:90, 50:140] = False
    once = run_blocks(raw, valid, block=32, batch=3)
    again = run_blocks(raw, valid, block=block, batch=batch)
    np.testing.assert_array_equal(once[0], again[0])
    np.testing.assert_array_equal(once[1], again[1])


def test_a_region_equals_the_same_place_in_a_full_run():
    raw, valid = raster(300, 280, seed=7), np.ones((300, 280), bool)
    valid[100:140, 60:100] = False
    box = Window(77, 90, 111, 97)
    inside = np.zeros_like(valid)
    inside[box.slices] = True
    full_classes, full_confidence, _, _ = run_blocks(raw, valid)
    classes, confidence, _, plan = run_blocks(raw, valid, wanted=inside, region=Region(box))
    place = plan.mosaic_window
    assert place == Window(48, 48, 144, 144)
    expected = np.where(inside, full_classes, 255)[place.slices]
    np.testing.assert_array_equal(classes, expected)
    np.testing.assert_array_equal(confidence, np.where(inside, full_confidence, 255)[place.slices])


def test_lattice_logits_are_log_probabilities_at_the_nodes():
    raw, valid = raster(150, 170), np.ones((150, 170), bool)
    valid[:60, :60] = False
    _, _, logits, plan = run_blocks(raw, valid, block=64)
    nodes = reference_of(raw, valid)[3]
    for block, stored in logits.items():
        at = plan.lattice.node_window(plan.source_window(block))
        expected = np.log(np.maximum(nodes[:, *at.slices], 1e-7))
        known = ~np.isnan(stored[0])
        np.testing.assert_allclose(stored[:, known].astype(float), expected[:, known], atol=0.01, rtol=2e-3)
    first = next(iter(logits.values()))
    assert np.isnan(first[:, 0, 0]).all()
    assert not np.isnan(first[:, 16, 16]).any()


def test_a_node_is_in_use_exactly_where_a_pixel_is_interpolated_from_it():
    rng = np.random.default_rng(1)
    wanted = rng.random((61, 53)) < 0.03
    halo = Window(-8, 4, 61, 53)
    nodes = Window(0, 2, 12, 11)
    used = nodes_in_use(wanted, halo, nodes, 4)
    for i in range(nodes.height):
        for j in range(nodes.width):
            row, col = (nodes.row + i) * 4 - halo.row, (nodes.col + j) * 4 - halo.col
            near = wanted[max(0, row - 3) : row + 4, max(0, col - 3) : col + 4]
            assert used[i, j] == near.any()


def test_crops_without_a_valid_pixel_are_never_computed():
    raw = raster(400, 400)
    valid = np.zeros((400, 400), bool)
    valid[390:, 390:] = True
    calls = []

    class Counting(PositionDependentModel):
        def fused(self, images):
            calls.append(len(images))
            return super().fused(images)

    lattice = Lattice.over(400, 400, crop_px=65, stride_px=48, node_px=4)
    settings = EngineSettings(lattice, GAIN, BIAS, CLASSES, "gaussian", False, "none", 1)
    engine = BlockEngine(Counting(BANDS, CLASSES), settings, device=torch.device("cpu"), dtype=torch.float32)
    plan = Plan(lattice, Region(Window(0, 0, 400, 400)), 1024)
    block = next(plan.blocks())
    halo = plan.halo(block)
    pixels = pixels_of(raw, valid, halo)
    _, crops = engine.compute(plan.source_window(block), plan.served_window(block), pixels, pixels.valid_HW)
    assert sum(calls) == crops == 1


class NeedsMemory(PositionDependentModel):
    """Filled up to a number of crops, as a GPU's network is, on a device that has room for fewer."""

    def __init__(self, fills_up_to, room):
        super().__init__(BANDS, CLASSES)
        self.fills_up_to, self.room = fills_up_to, room

    def fused(self, images_NCHW):
        assert len(images_NCHW) <= self.fills_up_to
        if self.fills_up_to > self.room:
            raise torch.OutOfMemoryError(f"no room for {self.fills_up_to}")
        return super().fused(images_NCHW)


def engine_short_of_memory(room, batch=8):
    raw, valid = raster(190, 210, seed=5), np.ones((190, 210), bool)
    lattice = Lattice.over(190, 210, crop_px=65, stride_px=48, node_px=4)
    settings = EngineSettings(lattice, GAIN, BIAS, CLASSES, "gaussian", False, "none", batch)
    made = []

    def smaller(crops):
        made.append(crops)
        return NeedsMemory(crops, room)

    engine = BlockEngine(
        NeedsMemory(batch, room), settings,
        device=torch.device("cpu"), dtype=torch.float32, smaller=smaller,
    )  # fmt: skip
    plan = Plan(lattice, Region(Window(0, 0, 190, 210)), 1024)
    block = next(plan.blocks())
    pixels = pixels_of(raw, valid, plan.halo(block))

    def compute():
        window, served = plan.source_window(block), plan.served_window(block)
        return engine.compute(window, served, pixels, pixels.valid_HW)[0]

    return engine, compute, made, run_blocks(raw, valid, block=1024)[:2]


def test_short_of_memory_it_goes_on_with_a_network_for_fewer_crops():
    engine, compute, made, (classes, confidence) = engine_short_of_memory(room=2)
    for _ in range(2):  # later blocks keep to it, and ask for no other network
        arrays = compute()
        np.testing.assert_array_equal(arrays.classes_HW, classes)
        np.testing.assert_array_equal(arrays.confidence_HW, confidence)
        assert engine.batch == 2
        assert made == [4, 2]


def test_without_room_for_a_single_crop_the_block_fails():
    _, compute, made, _ = engine_short_of_memory(room=0)
    with pytest.raises(torch.OutOfMemoryError):
        compute()
    assert made == [4, 2, 1]
