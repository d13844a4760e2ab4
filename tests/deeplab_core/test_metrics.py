"""The confusion matrix and its figures against loops over pixels, and merging in any order."""

import json
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from deeplab_core import label_counts
from deeplab_core.metrics import ConfusionMatrix

NUM_CLASSES = 4
IGNORED = 255

label_images = arrays(np.uint8, (5, 7), elements=st.sampled_from([0, 1, 2, 3, IGNORED]))
image_lists = st.lists(st.tuples(label_images, label_images), min_size=1, max_size=5)


def counted(*images: tuple[NDArray[np.integer], NDArray[np.integer]]) -> ConfusionMatrix:
    matrix = ConfusionMatrix(NUM_CLASSES)
    for predictions, labels in images:
        matrix.update(predictions, labels)
    return matrix


def looped_figures(
    predictions: NDArray[np.integer], labels: NDArray[np.integer]
) -> dict[str, float | list[float]]:
    """Every figure from its definition, over sets of pixels."""
    valid = [(int(p), int(t)) for p, t in zip(predictions.flat, labels.flat, strict=True) if t != IGNORED]
    iou, dice, recall, weighted = [], [], [], 0.0
    for k in range(NUM_CLASSES):
        both = sum(p == k and t == k for p, t in valid)
        either = sum(k in (p, t) for p, t in valid)
        true, predicted = sum(t == k for _, t in valid), sum(p == k for p, _ in valid)
        iou.append(both / either if either else np.nan)
        dice.append(2 * both / (true + predicted) if true + predicted else np.nan)
        recall.append(both / true if true else np.nan)
        weighted += true / len(valid) * (both / either) if true else 0.0
    return {
        "iou": iou,
        "miou": float(np.nanmean(iou)),
        "dice": dice,
        "mean_dice": float(np.nanmean(dice)),
        "class_accuracy": recall,
        "mean_accuracy": float(np.nanmean(recall)),
        "pixel_accuracy": sum(p == t for p, t in valid) / len(valid),
        "frequency_weighted_iou": weighted,
    }


@given(label_images, label_images)
@settings(max_examples=60, deadline=None)
def test_figures_equal_loops_over_pixels(predictions: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
    labels[0, 0], predictions[0, 0] = 1, 1  # something must be counted
    matrix = counted((predictions, labels))
    for name, expected in looped_figures(predictions, labels).items():
        assert getattr(matrix, name) == pytest.approx(expected, nan_ok=True), name


@given(image_lists, st.randoms())
@settings(max_examples=40, deadline=None)
def test_merging_gives_the_same_counts_in_any_grouping_and_order(
    images: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]], random: Random
) -> None:
    whole = counted(*images)
    shuffled = images.copy()
    random.shuffle(shuffled)
    cut = random.randint(0, len(images))
    left, right = counted(*shuffled[:cut]), counted(*shuffled[cut:])
    assert np.array_equal((left + right).counts, whole.counts)
    left.merge(right)
    assert np.array_equal(left.counts, whole.counts)


@given(label_images, label_images, st.permutations(range(35)))
@settings(max_examples=40, deadline=None)
def test_counts_do_not_depend_on_where_the_pixels_lie(
    predictions: NDArray[np.uint8], labels: NDArray[np.uint8], order: list[int]
) -> None:
    moved = counted((predictions.flat[order], labels.flat[order]))
    assert np.array_equal(moved.counts, counted((predictions, labels)).counts)


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "bool"]
)
def test_arrays_and_tensors_of_any_integer_type_count_alike(dtype: str) -> None:
    rng = np.random.default_rng(0)
    predictions, labels = rng.integers(0, 2, (2, 30, 40))
    expected = np.array([[np.sum((labels == t) & (predictions == p)) for p in range(2)] for t in range(2)])
    frozen = predictions.astype(dtype)
    frozen.setflags(write=False)  # a block read from a store may be read-only
    for other in (frozen, torch.from_numpy(predictions.astype(dtype))):
        matrix = ConfusionMatrix(2)
        matrix.update(other, labels.astype(dtype)[:, ::1])
        matrix.update(other, torch.from_numpy(labels.astype(dtype)))
        assert np.array_equal(matrix.counts[:, :2], 2 * expected)


def test_a_valid_pixel_without_a_prediction_counts_as_missed() -> None:
    labels = np.array([0, 0, 0, 0, 1, IGNORED])
    predictions = np.array([0, 255, -1, 2**40, 1, 255])
    matrix = ConfusionMatrix(2)
    matrix.update(predictions, labels)
    assert matrix.counts.tolist() == [[1, 0, 3], [0, 1, 0]]
    assert matrix.iou == pytest.approx([1 / 4, 1])
    assert matrix.dice == pytest.approx([2 / 5, 1])
    assert matrix.pixel_accuracy == pytest.approx(2 / 5)


def test_a_class_absent_from_truth_and_prediction_is_left_out_of_the_means() -> None:
    matrix = counted((np.array([0, 0, 1, 2]), np.array([0, 0, 1, 1])))
    assert matrix.iou == pytest.approx([1, 1 / 2, 0, np.nan], nan_ok=True)
    assert matrix.miou == pytest.approx(1.5 / 3)  # class 2 is predicted somewhere, class 3 nowhere
    assert matrix.mean_accuracy == pytest.approx((1 + 0.5) / 2)  # class 2 is true nowhere


def test_nothing_counted_gives_nan_not_a_flattering_number() -> None:
    matrix = counted((np.zeros((3, 3), int), np.full((3, 3), IGNORED)))
    for name in ("miou", "mean_dice", "mean_accuracy", "pixel_accuracy", "frequency_weighted_iou"):
        assert np.isnan(getattr(matrix, name)), name


def test_counting_in_pieces_gives_the_same_and_a_bad_label_in_the_last_piece_counts_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(1)
    predictions, labels = rng.integers(0, NUM_CLASSES, (2, 37, 11))
    whole = counted((predictions, labels))
    monkeypatch.setattr(label_counts, "_HOST_PIECE_PX", 50)
    pieces = counted((predictions, labels), (torch.from_numpy(predictions), torch.from_numpy(labels)))
    assert np.array_equal(pieces.counts, 2 * whole.counts)
    labels[-1, -1] = 9
    with pytest.raises(ValueError, match=r"labels must be 0…3 or ignore_index 255, got 9"):
        pieces.update(predictions, labels)
    assert np.array_equal(pieces.counts, 2 * whole.counts)


def test_an_empty_image_counts_nothing() -> None:
    matrix = counted((np.zeros((0, 7), np.uint8), np.zeros((0, 7), np.uint8)))
    matrix.update(torch.zeros(0, dtype=torch.uint8), torch.zeros(0, dtype=torch.uint8))
    assert matrix.counts.sum() == 0


def test_counts_survive_json_beyond_32_bits() -> None:
    matrix = counted((np.array([0, 1]), np.array([0, 2])))
    matrix.counts[0, 0] = 3 * 2**40
    loaded = ConfusionMatrix.from_dict(json.loads(json.dumps(matrix.to_dict())))
    assert np.array_equal(loaded.counts, matrix.counts)
    assert loaded.counts.dtype == np.int64
    assert (loaded.num_classes, loaded.ignore_index) == (NUM_CLASSES, IGNORED)


def test_wrong_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match="ignore_index lie outside the classes"):
        ConfusionMatrix(300)  # 255 would silently leave class 255 out
    matrix = ConfusionMatrix(NUM_CLASSES)
    with pytest.raises(ValueError, match="must have one shape"):
        matrix.update(np.zeros((2, 3), int), np.zeros((3, 2), int))
    with pytest.raises(ValueError, match="got -1"):
        matrix.update(np.zeros(2, int), np.array([0, -1]))
    for logits in (np.zeros(2), torch.zeros(2)):
        with pytest.raises(TypeError, match=r"predictions must be of an integer type, got .*float"):
            matrix.update(logits, np.zeros(2, int))
    with pytest.raises(ValueError, match="taken under the same settings"):
        matrix.merge(ConfusionMatrix(NUM_CLASSES + 1))
    with pytest.raises(ValueError, match="taken under the same settings"):
        _ = matrix + ConfusionMatrix(NUM_CLASSES, ignore_index=-1)
    for counts in ([[1, 2]], [[0.5] * 5] * 4, [[-1] * 5] * 4):
        with pytest.raises(ValueError, match="stored counts must be integers"):
            ConfusionMatrix.from_dict(matrix.to_dict() | {"counts": counts})
