"""Losses against loops over pixels in numpy, and their behaviour where there is nothing to learn from."""

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from pydantic import ValidationError

from deeplab_core.class_weights import WeightingRule, class_weights
from deeplab_core.loss_config import LossConfig
from deeplab_core.loss_terms import dice_loss, lovasz_softmax_loss, mean_of_hardest
from deeplab_core.losses import build_loss

Pixels = list[tuple[NDArray[np.float64], int]]

NUM_CLASSES = 4
IGNORED = 255
# Every term alone, each with the settings that make it non-trivial.
SINGLE_TERMS = {
    "cross_entropy": LossConfig(),
    "weighted": LossConfig(class_weights=(0.5, 1.0, 2.0, 4.0)),
    "mined": LossConfig(top_k_percent=25),
    "dice": LossConfig(cross_entropy=0, dice=1),
    "focal": LossConfig(cross_entropy=0, focal=1, focal_gamma=1.5),
    "weighted focal": LossConfig(cross_entropy=0, focal=1, class_weights=(0.5, 1.0, 2.0, 4.0)),
    "lovasz": LossConfig(cross_entropy=0, lovasz=1),
}
MIXED = LossConfig(cross_entropy=0.7, dice=1.5, focal=0.3, lovasz=2.0, top_k_percent=30)


def make_batch(seed: int = 0, ignored: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels 2×4×5×6; class 3 is absent."""
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(0, 2, (2, NUM_CLASSES, 5, 6)))
    labels = rng.integers(0, NUM_CLASSES - 1, (2, 5, 6))
    labels[rng.random(labels.shape) < ignored] = IGNORED
    return logits, torch.from_numpy(labels)


def pixels_of(logits: torch.Tensor, labels: torch.Tensor) -> Pixels:
    """Probabilities and label of every valid pixel."""
    found = []
    for n, row, column in np.ndindex(*labels.shape):
        if int(labels[n, row, column]) != IGNORED:
            scores = np.exp(logits[n, :, row, column].numpy())
            found.append((scores / scores.sum(), int(labels[n, row, column])))
    return found


def looped_cross_entropy(
    pixels: Pixels, weights: tuple[float, ...] = (1, 1, 1, 1), keep: float = 1.0
) -> float:
    losses = sorted((-weights[label] * math.log(p[label]) for p, label in pixels), reverse=True)
    return float(np.mean(losses[: max(1, math.floor(keep * len(losses)))]))


def looped_dice(pixels: Pixels) -> float:
    terms = []
    for label in {label for _, label in pixels}:
        overlap = sum(p[label] for p, true in pixels if true == label)
        size = sum(p[label] + (true == label) for p, true in pixels)
        terms.append(1 - 2 * overlap / size)
    return float(np.mean(terms))


def looped_focal(pixels: Pixels, gamma: float, weights: tuple[float, ...] = (1, 1, 1, 1)) -> float:
    losses = [-weights[label] * (1 - p[label]) ** gamma * math.log(p[label]) for p, label in pixels]
    return float(np.mean(losses))


def looped_lovasz(pixels: Pixels) -> float:
    """The definition: 1 − IoU of the k worst pixels being wrong, integrated over the sorted errors."""
    terms = []
    for label in {label for _, label in pixels}:
        errors = sorted(
            ((1 - p[label] if true == label else p[label], true == label) for p, true in pixels), reverse=True
        )
        positives = sum(is_true for _, is_true in errors)
        value, before = 0.0, 0.0
        for k in range(1, len(errors) + 1):
            missed = sum(is_true for _, is_true in errors[:k])
            jaccard_loss = 1 - (positives - missed) / (positives + k - missed)
            value, before = value + errors[k - 1][0] * (jaccard_loss - before), jaccard_loss
        terms.append(value)
    return float(np.mean(terms))


EXPECTED = {
    "cross_entropy": looped_cross_entropy,
    "weighted": lambda pixels: looped_cross_entropy(pixels, weights=(0.5, 1.0, 2.0, 4.0)),
    "mined": lambda pixels: looped_cross_entropy(pixels, keep=0.25),
    "dice": looped_dice,
    "focal": lambda pixels: looped_focal(pixels, 1.5),
    "weighted focal": lambda pixels: looped_focal(pixels, 2.0, weights=(0.5, 1.0, 2.0, 4.0)),
    "lovasz": looped_lovasz,
}


@pytest.mark.parametrize("term", SINGLE_TERMS)
@pytest.mark.parametrize("ignored", [0.0, 0.3, 0.9])
def test_each_loss_equals_a_loop_over_its_valid_pixels(term: str, ignored: float) -> None:
    logits, labels = make_batch(ignored=ignored)
    loss = build_loss(SINGLE_TERMS[term], num_classes=NUM_CLASSES)(logits, labels)
    assert float(loss) == pytest.approx(EXPECTED[term](pixels_of(logits, labels)), rel=1e-6)


def test_config_gives_the_weighted_sum_of_terms_and_the_auxiliary_one() -> None:
    logits, labels = make_batch()
    aux_logits, _ = make_batch(seed=1)

    def expected(logits: torch.Tensor) -> float:
        pixels = pixels_of(logits, labels)
        return (
            0.7 * looped_cross_entropy(pixels, keep=0.3)
            + 1.5 * looped_dice(pixels)
            + 0.3 * looped_focal(pixels, 2.0)
            + 2.0 * looped_lovasz(pixels)
        )

    loss = build_loss(MIXED, num_classes=NUM_CLASSES)
    assert float(loss(logits, labels)) == pytest.approx(expected(logits), rel=1e-6)
    both = expected(logits) + 0.4 * expected(aux_logits)
    assert float(loss(logits, labels, aux_logits)) == pytest.approx(both, rel=1e-6)
    assert set(loss.terms(logits, labels)) == {"cross_entropy", "dice", "focal", "lovasz"}


def test_auxiliary_weight_zero_leaves_the_auxiliary_head_out() -> None:
    logits, labels = make_batch()
    loss = build_loss(LossConfig(auxiliary=0), num_classes=NUM_CLASSES)
    assert torch.equal(loss(logits, labels, torch.full_like(logits, torch.nan)), loss(logits, labels))


@pytest.mark.parametrize("term", SINGLE_TERMS)
def test_gradients_equal_numeric_ones(term: str) -> None:
    logits, labels = make_batch(ignored=0.2)
    logits, labels = logits[:1, :, :3, :3].clone().requires_grad_(), labels[:1, :3, :3]
    loss = build_loss(SINGLE_TERMS[term], num_classes=NUM_CLASSES).double()
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), logits)


@pytest.mark.parametrize("ignore_index", [255, -100, 65535])
def test_a_batch_without_valid_pixels_gives_exactly_zero_and_zero_gradients(ignore_index: int) -> None:
    config = LossConfig(**MIXED.model_dump() | {"ignore_index": ignore_index})
    # Not even infinities under the mask may come through.
    logits = torch.full((2, NUM_CLASSES, 3, 3), torch.inf, requires_grad=True)
    labels = torch.full((2, 3, 3), ignore_index)
    loss = build_loss(config, num_classes=NUM_CLASSES)(logits, labels, logits)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_an_empty_batch_gives_zero_so_that_a_worker_without_data_can_go_through_the_motions() -> None:
    logits = torch.zeros(0, NUM_CLASSES, 3, 3, requires_grad=True)
    loss = build_loss(MIXED, num_classes=NUM_CLASSES)(logits, torch.zeros(0, 3, 3, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad.shape == logits.shape


@pytest.mark.parametrize("term", [*SINGLE_TERMS, "mixed"])
def test_what_lies_under_ignored_labels_changes_nothing(term: str) -> None:
    config = MIXED if term == "mixed" else SINGLE_TERMS[term]
    loss = build_loss(config, num_classes=NUM_CLASSES)
    logits, labels = make_batch()
    changed = torch.where((labels == IGNORED)[:, None], torch.nan, logits).requires_grad_()
    value = loss(changed, labels)
    value.backward()
    assert torch.equal(value, loss(logits, labels))
    assert torch.isfinite(changed.grad).all()
    assert (changed.grad.movedim(1, -1)[labels == IGNORED] == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_run_in_float32_under_autocast_and_from_half_logits(dtype: torch.dtype) -> None:
    logits, labels = make_batch()
    loss = build_loss(MIXED, num_classes=NUM_CLASSES)
    halves = logits.to(dtype)
    with torch.autocast("cpu", dtype=dtype):
        inside = loss(halves, labels)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, loss(halves.float(), labels))


def test_labels_may_be_bytes() -> None:
    logits, labels = make_batch()
    for ignore_index in (255, -1):  # −1 as a byte would be 255
        loss = build_loss(LossConfig(ignore_index=ignore_index), num_classes=NUM_CLASSES)
        valid = labels.clamp_max(NUM_CLASSES - 1)
        assert torch.equal(loss(logits, valid.to(torch.uint8)), loss(logits, valid))


def test_mining_keeps_the_hardest_valid_pixels_and_ignored_zeros_do_not_crowd_them_out() -> None:
    losses = torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0])
    assert float(mean_of_hardest(losses, 40)) == 4.5
    assert float(mean_of_hardest(losses, 100)) == 3.0
    assert float(mean_of_hardest(losses, 2)) == 5.0  # at least one
    # Nine pixels of ten ignored: a share of all pixels would keep every valid one, easy or not.
    logits = torch.zeros(1, 2, 10, 10)
    logits[:, 0, 0] = torch.linspace(-4, 5, 10)
    labels = torch.full((1, 10, 10), IGNORED)
    labels[:, 0] = 0
    loss = build_loss(LossConfig(top_k_percent=10), num_classes=2)(logits, labels)
    assert float(loss) == pytest.approx(math.log(1 + math.exp(4)))


def test_mining_ramps_from_all_pixels_to_the_share() -> None:
    loss = build_loss(LossConfig(top_k_percent=20, mining_steps=100), num_classes=NUM_CLASSES)
    assert [loss.kept_percent(step) for step in (0, 50, 100, 900)] == [100, 60, 20, 20]
    logits, labels = make_batch()
    plain = build_loss(LossConfig(), num_classes=NUM_CLASSES)(logits, labels)
    assert torch.equal(loss(logits, labels, step=0), plain)
    assert float(loss(logits, labels, step=100)) > float(plain)
    with pytest.raises(ValueError, match="step=<optimiser steps done>"):
        loss(logits, labels)


def test_lovasz_of_hard_predictions_is_one_minus_iou() -> None:
    truth = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1])
    predicted = torch.tensor([0, 0, 1, 1, 1, 1, 0, 1])
    hard = torch.nn.functional.one_hot(predicted).double()
    assert float(lovasz_softmax_loss(hard.T, truth)) == pytest.approx(1 - (2 / 4 + 4 / 6) / 2)


def test_perfect_predictions_cost_nothing_whatever_the_focusing_exponent() -> None:
    labels = torch.tensor([[[0, 1], [2, 3]]])
    logits = torch.where(torch.nn.functional.one_hot(labels).bool(), 200.0, -200.0).movedim(-1, 1)
    for gamma in (0.0, 0.5, 2.0):
        config = LossConfig(dice=1, focal=1, lovasz=1, focal_gamma=gamma)
        probe = logits.clone().requires_grad_()
        loss = build_loss(config, num_classes=NUM_CLASSES)(probe, labels)
        loss.backward()
        assert loss.item() == 0.0
        assert torch.isfinite(probe.grad).all()


def test_dice_counts_exactly_beyond_what_float32_sums_hold() -> None:
    pixels = 20_000_000  # adding 0.5 to a float32 sum stalls at 2²⁴
    labels = torch.zeros(pixels, dtype=torch.long)
    probabilities = torch.full((2, 1), 0.5).expand(2, pixels)
    assert float(dice_loss(probabilities, labels)) == pytest.approx(1 - 2 * 0.5 / 1.5, abs=1e-5)


class TestClassWeights:
    @pytest.mark.parametrize("rule", ["inverse_log_frequency", "median_frequency"])
    @given(counts=arrays(np.int64, st.integers(1, 8), elements=st.integers(0, 10**12)))
    @settings(max_examples=50, deadline=None)
    def test_weights_are_finite_and_never_smaller_for_a_rarer_class(
        self, rule: WeightingRule, counts: NDArray[np.int64]
    ) -> None:
        counts[0] += 1  # one class at least must have pixels
        weights = class_weights(counts, rule)
        assert np.isfinite(weights).all()
        assert (weights > 0).all()
        assert (np.diff(weights[np.argsort(counts)]) <= 1e-9 * weights.max()).all()

    def test_formulas(self) -> None:
        counts = [0, 10, 30, 60]
        expected = [1 / math.log(1.02 + p) for p in (0, 0.1, 0.3, 0.6)]
        assert class_weights(counts, "inverse_log_frequency") == pytest.approx(expected)
        # The median of 0.1, 0.3, 0.6; the absent class counts as the rarest one seen.
        assert class_weights(counts, "median_frequency") == pytest.approx([3, 3, 1, 0.5])

    def test_a_rule_keeps_the_mean_weight_over_the_counted_pixels_at_one(self) -> None:
        counts = [10, 20, 70, 0]
        config = LossConfig(class_weights="inverse_log_frequency")
        loss = build_loss(config, num_classes=NUM_CLASSES, class_counts=counts)
        assert float(loss.class_weights_K @ torch.tensor(counts).float()) == pytest.approx(100)
        raw = class_weights(counts, "inverse_log_frequency")
        assert (loss.class_weights_K / loss.class_weights_K[0]).numpy() == pytest.approx(raw / raw[0])
        assert loss.state_dict() == {}

    @pytest.mark.parametrize("counts", [[0, 0], [-1, 3], [0.5, 0.5], [[1, 2]]])
    def test_refuses_what_are_no_counts(self, counts: list[Any]) -> None:
        with pytest.raises(ValueError, match="class counts must be integers"):
            class_weights(counts, "median_frequency")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cross_entropy": 0}, "at least one of cross_entropy"),
        ({"top_k_percent": 0.2}, "it is in percent, so write 20"),
        ({"cross_entropy": 0, "dice": 1, "top_k_percent": 20}, "mines pixels of cross_entropy"),
        ({"mining_steps": 10}, "nothing to do"),
        ({"dice": -1}, "greater than or equal to 0"),
        ({"class_weights": "enet"}, "inverse_log_frequency"),
        ({"tversky": 1}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LossConfig(**settings)


@pytest.mark.parametrize(
    ("config", "counts", "message"),
    [
        (LossConfig(ignore_index=2), None, "ignore_index lie outside the classes"),
        (LossConfig(class_weights="median_frequency"), None, "needs class_counts"),
        (LossConfig(class_weights="median_frequency"), [1, 2], "one count for each of 4 classes, got 2"),
        (LossConfig(class_weights=(1.0, 2.0)), None, "one number for each of 4 classes"),
        (LossConfig(class_weights=(0.0,) * 4), None, "not all of them 0"),
    ],
)
def test_losses_that_do_not_fit_the_classes_are_refused(
    config: LossConfig, counts: list[int] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build_loss(config, num_classes=NUM_CLASSES, class_counts=counts)


def test_logits_and_labels_that_do_not_fit_are_refused() -> None:
    loss = build_loss(LossConfig(), num_classes=NUM_CLASSES)
    logits, labels = make_batch()
    with pytest.raises(ValueError, match="upsample the logits to the labels"):
        loss(logits[:, :, :3], labels)
    with pytest.raises(ValueError, match="labels N×H×W of one size"):
        loss(logits[:, :2], labels)
    for wrong in (-1, 4):
        with pytest.raises(ValueError, match=rf"labels must be 0…3 or ignore_index 255, got {wrong}"):
            loss(logits, torch.full_like(labels, wrong))


def test_settings_of_the_loss_import_no_torch() -> None:
    program = "import sys, deeplab_core.loss_config; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
