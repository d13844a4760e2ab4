"""Calibration, against the definition written as a loop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.train.evaluate.reliability import Reliability

NODATA = 255


def expected_errors(confidence, right, bins):
    """ECE and MCE as Guo et al. define them: bins (m−1)/M < p ≤ m/M, in exact integers of 254ths."""
    ece, mce = 0.0, 0.0
    for index in range(bins):
        chosen = [
            position
            for position, steps in enumerate(confidence.tolist())
            if index * 254 < steps * bins <= (index + 1) * 254 or (index == 0 and steps == 0)
        ]
        if chosen:
            gap = abs(
                sum(bool(right[one]) for one in chosen) / len(chosen)
                - sum(int(confidence[one]) for one in chosen) / 254 / len(chosen)
            )
            ece += len(chosen) / len(confidence) * gap
            mce = max(mce, gap)
    return ece, mce


pixels = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 254)), min_size=1, max_size=200
)


@settings(max_examples=60, deadline=None)
@given(pixels, st.integers(2, 20), st.integers(0, 200))
def test_errors_are_those_of_the_definition_in_any_pieces(found, bins, cut):
    classes, labels, confidence = (np.array(values, np.uint8) for values in zip(*found, strict=True))
    whole, parts = Reliability(3, bins), Reliability(3, bins)
    whole.update(classes, labels, confidence, unlabelled=NODATA)
    for part in (slice(None, cut), slice(cut, None)):
        piece = Reliability(3, bins)
        piece.update(classes[part], labels[part], confidence[part], unlabelled=NODATA)
        parts.merge(Reliability.from_dict(piece.to_dict()))
    assert parts.to_dict() == whole.to_dict()
    summary = whole.summary(("a", "b", "c"))
    assert (summary["ece"], summary["mce"]) == pytest.approx(
        expected_errors(confidence, classes == labels, bins)
    )
    for index, name in enumerate(("a", "b", "c")):
        own = classes == index
        if own.any():
            ece, _ = expected_errors(confidence[own], (classes == labels)[own], bins)
            assert summary["classes"][name]["ece"] == pytest.approx(ece)


def test_unlabelled_and_unpredicted_pixels_do_not_count():
    found = Reliability(2, 4)
    classes = np.array([0, 1, NODATA, 1], np.uint8)
    labels = np.array([0, NODATA, 1, 0], np.uint8)
    found.update(classes, labels, np.array([254, 200, NODATA, 127], np.uint8), unlabelled=NODATA)
    assert found.pixels.tolist() == [[0, 0, 0, 1], [0, 1, 0, 0]]
    assert found.hits.sum() == 1


def test_a_mosaic_that_knows_itself_has_no_error():
    random = np.random.default_rng(0)
    confidence = random.integers(0, 255, 400_000).astype(np.uint8)
    labels = (random.random(400_000) >= confidence / 254).astype(np.uint8)
    found = Reliability(2, 15)
    found.update(np.zeros_like(labels), labels, confidence, unlabelled=NODATA)
    assert found.summary(("a", "b"))["ece"] < 0.01


def test_nothing_counted_is_none_not_zero():
    summary = Reliability(2, 5).summary(("a", "b"))
    assert summary["ece"] is summary["mce"] is summary["accuracy"] is None
    assert summary["bin_accuracy"] == [None] * 5


def test_other_bins_do_not_merge():
    with pytest.raises(ValueError, match="equal classes and bins, got 2 × 5 and 2 × 6"):
        Reliability(2, 5).merge(Reliability(2, 6))
