"""Boundary IoU against the definition, pixel by pixel, and its exactness over blocks."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from deeplab_core.metrics import BoundaryIoU

NUM_CLASSES = 3
IGNORED = 255

label_images = arrays(np.uint8, (9, 11), elements=st.sampled_from([0, 1, 2, IGNORED]))


def looped_band(mask: NDArray[np.bool_], valid: NDArray[np.bool_], distance: int) -> NDArray[np.bool_]:
    """Valid mask pixels with the frame or a valid pixel outside the mask within a square around them."""
    height, width = mask.shape
    band = np.zeros_like(mask)
    for y, x in zip(*np.nonzero(mask & valid), strict=True):
        rows, columns = range(y - distance, y + distance + 1), range(x - distance, x + distance + 1)
        band[y, x] = any(
            not (0 <= r < height and 0 <= c < width) or (valid[r, c] and not mask[r, c])
            for r in rows
            for c in columns
        )
    return band


def looped_counts(
    predictions: NDArray[np.integer], labels: NDArray[np.integer], distance: int
) -> tuple[list[int], list[int]]:
    valid = labels != IGNORED
    bands = [
        (looped_band(labels == k, valid, distance), looped_band(predictions == k, valid, distance))
        for k in range(NUM_CLASSES)
    ]
    return [int((t & p).sum()) for t, p in bands], [int((t | p).sum()) for t, p in bands]


def counted(predictions: NDArray[np.integer], labels: NDArray[np.integer], **arguments: int) -> BoundaryIoU:
    boundary = BoundaryIoU(NUM_CLASSES, **arguments)
    boundary.update(predictions, labels)
    return boundary


@given(label_images, label_images, st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_counts_equal_the_definition_pixel_by_pixel(
    predictions: NDArray[np.uint8], labels: NDArray[np.uint8], width_px: int
) -> None:
    boundary = counted(predictions, labels, width_px=width_px)
    intersections, unions = looped_counts(predictions, labels, width_px)
    assert boundary.intersections.tolist() == intersections
    assert boundary.unions.tolist() == unions


def test_figures_of_a_shifted_square_by_hand() -> None:
    labels, predictions = np.zeros((2, 12, 12), np.uint8)
    labels[2:8, 2:8] = 1
    predictions[2:8, 3:9] = 1
    boundary = counted(predictions, labels, width_px=1)
    # Rings of 20 pixels each, one pixel wide and shifted by one column: they share 5 pixels of the top row
    # and 5 of the bottom one, and none of their upright sides.
    assert boundary.intersections[1] == 10
    assert boundary.unions[1] == 30
    assert boundary.iou[1] == pytest.approx(1 / 3)
    assert np.isnan(boundary.iou[2])
    assert boundary.miou == pytest.approx((boundary.iou[0] + boundary.iou[1]) / 2)


def test_it_sees_a_ragged_outline_that_iou_hardly_notices() -> None:
    labels = np.zeros((100, 100), np.uint8)
    labels[10:90, 10:90] = 1
    predictions = labels.copy()
    predictions[10, 10:90:2] = 0
    assert counted(labels, labels, width_px=2).miou == 1
    assert counted(predictions, labels, width_px=2).iou[1] < 0.97
    assert (predictions & labels).sum() / (predictions | labels).sum() > 0.99


def test_ignored_pixels_draw_no_contour() -> None:
    labels = np.ones((20, 20), np.uint8)
    labels[:, 8:12] = IGNORED
    predictions = np.ones_like(labels)
    predictions[:, 8:12] = 0  # whatever is predicted there
    boundary = counted(predictions, labels, width_px=2)
    frame_only = 16 * 20 - 2 * (6 * 16)  # two halves of 20 × 8, without what is 2 px from the frame
    assert boundary.intersections.tolist() == boundary.unions.tolist() == [0, frame_only, 0]


def test_an_image_without_truth_counts_nothing() -> None:
    boundary = counted(np.ones((5, 5), np.uint8), np.full((5, 5), IGNORED, np.uint8))
    assert boundary.unions.sum() == 0
    assert np.isnan(boundary.miou)


def test_default_width_is_two_percent_of_the_diagonal_and_at_least_one() -> None:
    labels = np.zeros((60, 80), np.uint8)  # diagonal 100
    labels[20:40, 20:60] = 1
    predictions = np.roll(labels, 1, axis=0)
    unions = {width: counted(predictions, labels, width_px=width).unions.tolist() for width in (1, 2, 3)}
    assert unions[1] != unions[2] != unions[3]
    assert counted(predictions, labels).unions.tolist() == unions[2]
    tiny = np.zeros((5, 5), np.uint8)  # diagonal 7: a fraction of a pixel
    assert counted(tiny, tiny).unions[0] == 16


def test_blocks_with_a_halo_sum_to_the_whole_image_exactly() -> None:
    rng = np.random.default_rng(2)
    coarse = rng.integers(0, NUM_CLASSES, (2, 8, 9))
    predictions, labels = (np.kron(image, np.ones((6, 6), int)).astype(np.uint8) for image in coarse)
    labels[rng.random(labels.shape) < 0.1] = IGNORED
    halo = 4
    blocks = BoundaryIoU(NUM_CLASSES, width_px=halo)
    for top in range(0, 48, 20):
        for left in range(0, 54, 20):
            window = slice(max(0, top - halo), top + 20 + halo), slice(max(0, left - halo), left + 20 + halo)
            own = np.zeros(labels.shape, bool)
            own[top : top + 20, left : left + 20] = True
            blocks.update(predictions[window], labels[window], own[window])
    whole = counted(predictions, labels, width_px=halo)
    assert np.array_equal(blocks.intersections, whole.intersections)
    assert np.array_equal(blocks.unions, whole.unions)


def test_batches_tensors_merging_and_json_give_the_same_counts() -> None:
    rng = np.random.default_rng(3)
    predictions, labels = rng.integers(0, NUM_CLASSES, (2, 3, 20, 20))
    batch = counted(torch.from_numpy(predictions), torch.from_numpy(labels))
    single = [counted(p, t) for p, t in zip(predictions, labels, strict=True)]
    merged = single[2] + single[0] + single[1]
    loaded = BoundaryIoU.from_dict(json.loads(json.dumps(merged.to_dict())))
    assert np.array_equal(loaded.unions, batch.unions)
    assert np.array_equal(loaded.intersections, batch.intersections)
    assert single[0].unions.sum() < merged.unions.sum()  # adding leaves its parts alone


def test_wrong_inputs_are_refused() -> None:
    image = np.zeros((4, 4), int)
    boundary = BoundaryIoU(NUM_CLASSES)
    with pytest.raises(ValueError, match="labels must be images"):
        boundary.update(image[0], image[0])
    with pytest.raises(ValueError, match="must have one shape"):
        boundary.update(image, image[:2])
    with pytest.raises(ValueError, match="got 7"):
        boundary.update(image, image + 7)
    with pytest.raises(TypeError, match="labels must be of an integer type"):
        boundary.update(image, image / 2)
    with pytest.raises(ValueError, match="taken under the same settings"):
        boundary.merge(BoundaryIoU(NUM_CLASSES, width_px=3))
    with pytest.raises(ValueError, match="fraction above 0"):
        BoundaryIoU(NUM_CLASSES, fraction=0)
    with pytest.raises(ValueError, match="width_px of at least 1"):
        BoundaryIoU(NUM_CLASSES, width_px=0)
