"""Raw values to classes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.train.tiles.label_values import LabelValues, by_names
from pipeline.train.tiles.settings import LabelsSettings

UNLABELLED = 255
VALUES = LabelValues(((-3, 1), (7, 2), (200, 0), (9, -1)), (0, 250), 3, UNLABELLED)


def expected(raw, valid):
    """The rule in words, one pixel at a time."""
    if not valid:
        return UNLABELLED, None
    for value, index in VALUES.pairs:
        if raw == value:
            return (index if index >= 0 else UNLABELLED), None
    if raw in VALUES.ignore:
        return UNLABELLED, None
    if raw in (0, 1, 2):
        return int(raw), None
    return UNLABELLED, f"{raw:g}"


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["uint8", "int8", "int16", "uint16", "int32", "float32"]),
    st.lists(st.tuples(st.integers(-5, 12), st.booleans()), min_size=1, max_size=40),
)
def test_every_type_of_value_follows_the_rule(dtype, pixels):
    raw = np.array([[value for value, _ in pixels]]).astype(dtype)
    valid = np.array([[flag for _, flag in pixels]])
    labels, unknown = VALUES.translate(raw, valid)
    rule = [expected(float(value), flag) for value, flag in zip(raw[0].tolist(), valid[0], strict=True)]
    assert labels[0].tolist() == [label for label, _ in rule]
    strange = [name for _, name in rule if name]
    if len(set(strange)) <= 8:
        assert unknown == {name: strange.count(name) for name in set(strange)}


def test_halves_are_no_classes():
    labels, unknown = VALUES.translate(np.array([[1.5, 1.0]], np.float32), np.ones((1, 2), bool))
    assert labels.tolist() == [[UNLABELLED, 1]]
    assert unknown == {"1.5": 1}


def test_what_is_no_number_is_no_class():
    raw = np.array([[np.nan, np.inf, 1.0, np.nan]], np.float32)
    labels, unknown = VALUES.translate(raw, np.array([[True, True, True, False]]))
    assert labels.tolist() == [[UNLABELLED, UNLABELLED, 1, UNLABELLED]]
    assert unknown == {"nan": 1, "inf": 1}


def test_where_each_object_has_its_own_value_the_others_are_one_class():
    """Nuclei are numbered: 0 is no nucleus, every other number is one."""
    nuclei = by_names(LabelsSettings(values={0: "none"}, other="nucleus"), ("none", "nucleus"), UNLABELLED)
    labels, unknown = nuclei.translate(np.array([[0, 1, 2, 60_000]], np.uint16), np.ones((1, 4), bool))
    assert labels.tolist() == [[0, 1, 1, 1]]
    assert not unknown


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_of_many_strange_values_the_commonest_are_told(dtype):
    raw = np.repeat(np.arange(10, 30), np.arange(20, 40))[None].astype(dtype)
    _, unknown = VALUES.translate(raw, np.ones(raw.shape, bool))
    assert unknown == {str(value): value + 10 for value in range(22, 30)}
