"""Seams that are there are seen, those that are not are not; class areas are counts."""

import numpy as np
import pytest

from pipeline.raster.window import Window
from pipeline.segment.lattice import Lattice
from pipeline.segment.measure import STRIP_PX, count_classes, seam_ratio, seam_sums

SIZE = 2000
LATTICE = Lattice.over(SIZE, SIZE, crop_px=257, stride_px=192, node_px=4)
BEGINNINGS = [192 * index for index in range(1, LATTICE.rows.num_crops)]
"""Crops begin here; the first one begins at the raster's edge, where no crops meet."""
ENDS = [192 * index + 256 for index in range(LATTICE.rows.num_crops - 1)]


def noise(seed=0):
    return np.random.default_rng(seed).integers(60, 200, (SIZE, SIZE)).astype(np.uint8)


def ratio_of(confidence, lattice=LATTICE, cut=SIZE):
    """Over blocks of a size, as a run adds them up."""
    windows = [
        Window(row, col, cut, cut).intersect(Window(0, 0, *confidence.shape))
        for row in range(0, confidence.shape[0], cut)
        for col in range(0, confidence.shape[1], cut)
    ]
    return seam_ratio([seam_sums(confidence[window.slices], window, lattice) for window in windows])


@pytest.mark.parametrize("cut", [SIZE, 512, 333])
def test_noise_without_seams_is_seamless(cut):
    assert ratio_of(noise(), cut=cut) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("edges", "first"), [(BEGINNINGS, 0), (ENDS, 1)], ids=["begin", "end"])
def test_steps_at_crop_borders_are_seen(edges, first, axis):
    """A crop's first pixel differs from the one before it, its last from the one after it."""
    confidence = noise().astype(int) // 8 + 100
    steps = np.zeros(SIZE, int)
    for number, edge in enumerate(edges):
        steps[edge + first :] += 60 if number % 2 == 0 else -60
    confidence = confidence + (steps if axis == 1 else steps[:, None])
    assert ratio_of(confidence.astype(np.uint8)) > 1.5


def test_steps_elsewhere_are_no_seams():
    confidence = noise().astype(int) // 8 + 100
    confidence[:, 300:] += 60
    confidence[1000:] -= 60
    assert ratio_of(confidence.astype(np.uint8)) < 1.02


def test_the_edges_of_the_raster_are_no_seams():
    """Zeros around the raster show in its outermost pixels, however crops are blended."""
    confidence = noise()
    confidence[0], confidence[:, 0], confidence[-1], confidence[:, -1] = 0, 0, 0, 0
    assert ratio_of(confidence) == pytest.approx(1.0, abs=0.05)


def test_borders_are_those_of_the_source_not_of_the_block():
    confidence = noise().astype(int) // 8 + 100
    for number, edge in enumerate(BEGINNINGS):
        confidence[:, edge:] += 60 if number % 2 == 0 else -60
    confidence = confidence.astype(np.uint8)
    part = Window(100, 700, 800, 900)
    right = seam_ratio([seam_sums(confidence[part.slices], part, LATTICE)])
    wrong = seam_ratio([seam_sums(confidence[part.slices], Window(0, 0, 800, 900), LATTICE)])
    assert right > 1.5
    assert wrong < right


def test_what_is_not_known_is_no_gradient():
    confidence = noise()
    clean = ratio_of(confidence)
    for edge in BEGINNINGS:
        confidence[:, edge - 1 : edge + 1] = 255
    confidence[500:700, 500:700] = 255
    assert ratio_of(confidence) == pytest.approx(clean, abs=0.05)
    assert ratio_of(np.full((SIZE, SIZE), 255, np.uint8)) is None


def test_where_there_is_nothing_to_compare_there_is_no_number():
    assert seam_ratio([]) is None
    alone = Lattice.over(200, 200, crop_px=257, stride_px=192, node_px=4)
    assert ratio_of(noise()[:200, :200], alone) is None
    assert ratio_of(np.full((SIZE, SIZE), 77, np.uint8)) is None
    one = Lattice.over(1, 1, crop_px=257, stride_px=192, node_px=4)
    assert ratio_of(np.array([[3]], np.uint8), one) is None


def test_gradients_are_not_cut_off_at_8_bits():
    """254 beside 0 is a step of 254 in either direction."""
    confidence = np.tile(np.array([0, 254], np.uint8), (SIZE, SIZE // 2))
    sums = seam_sums(confidence, Window(0, 0, SIZE, SIZE), LATTICE)
    total = sums["border"][0] + sums["elsewhere"][0]
    assert total == 254 * (SIZE - 1) * SIZE / 8


@pytest.mark.parametrize(
    ("num_classes", "dtype", "nodata"), [(1, np.uint8, 255), (255, np.uint8, 255), (700, np.uint16, 65535)]
)
def test_class_areas_are_counts_without_nodata(num_classes, dtype, nodata):
    rng = np.random.default_rng(2)
    classes = rng.integers(0, num_classes, (STRIP_PX + 37, 61)).astype(dtype)
    classes[rng.random(classes.shape) < 0.3] = nodata
    counts = count_classes(classes, num_classes)
    assert counts == [int((classes == index).sum()) for index in range(num_classes)]
    assert sum(counts) == (classes != nodata).sum()
    assert all(type(count) is int for count in counts)
