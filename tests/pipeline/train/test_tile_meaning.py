"""Which class a raw label value is."""

import pytest

from pipeline.errors import SettingsError
from pipeline.train.tiles.meaning import resolve_meaning
from pipeline.train.tiles.settings import LabelsSettings
from pipeline.train.tiles.tile_set import IGNORE


@pytest.mark.parametrize(
    ("labels", "classes", "expected_classes", "expected_values"),
    [
        ({"values": {1: "a", 2: "b"}, "ignore": (0,)}, None, ("a", "b"), {0: IGNORE, 1: 0, 2: 1}),
        ({"values": {255: "vessel"}}, ["background", "vessel"], ("background", "vessel"), {0: 0, 255: 1}),
        ({"values": {255: "vessel"}}, None, ("background", "vessel"), {0: 0, 255: 1}),
        ({"values": {7: "b", 3: "a"}, "ignore": (0,)}, None, ("a", "b"), {0: IGNORE, 3: 0, 7: 1}),
        ({"values": {3: "b"}}, ["a", "b", "c"], ("a", "b", "c"), {0: 0, 2: 2, 3: 1}),
        ({}, ["a", "b"], ("a", "b"), {0: 0, 1: 1}),
        ({"values": {1: "road", 2: "road"}}, None, ("background", "road"), {0: 0, 1: 1, 2: 1}),
        ({"values": {0: "soil"}, "other": "cell"}, None, ("soil", "cell"), {0: 0}),
        (
            {"values": {-1: "a", 5: "b"}, "ignore": (0, 255)},
            None,
            ("a", "b"),
            {-1: 0, 0: IGNORE, 5: 1, 255: IGNORE},
        ),
    ],
)
def test_names_order_and_values(labels, classes, expected_classes, expected_values):
    meaning = resolve_meaning(LabelsSettings(**labels), classes, drawn=False)
    assert meaning.classes == expected_classes
    assert meaning.values == expected_values
    assert len(meaning.colors) == len(set(meaning.colors)) == len(expected_classes)


def test_a_value_is_no_class_whose_own_value_is_another():
    meaning = resolve_meaning(LabelsSettings(values={255: "vessel"}), None, drawn=False)
    assert 1 not in meaning.values


def test_polygons_leave_no_background_between_them_unless_it_is_named():
    plain = resolve_meaning(LabelsSettings(values={1: "field"}), None, drawn=True)
    outside = resolve_meaning(LabelsSettings(values={1: "field"}, outside="rest"), None, drawn=True)
    assert plain.classes == ("field",)
    assert plain.outside == IGNORE
    assert outside.classes == ("field", "rest")
    assert outside.outside == 1


def test_colours_by_name():
    meaning = resolve_meaning(LabelsSettings(values={1: "a"}, colors={"a": "#ABCDEF"}), None, drawn=False)
    assert meaning.colors[1] == "#abcdef"


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        ({"values": {1: "sea"}}, ["a", "b"], "classes of the model, which are a, b; got sea"),
        ({}, None, r"labels\.values must name the classes"),
        (
            {"values": {value: f"c{value}" for value in range(300)}},
            None,
            "at most 255 different names, got 300",
        ),
        ({"values": {1: "a"}}, ["a", "a"], "different names, got 2"),
    ],
)
def test_what_cannot_be_meant_is_refused(labels, classes, message):
    with pytest.raises(SettingsError, match=message):
        resolve_meaning(LabelsSettings(**labels), classes, drawn=False)


def test_a_value_is_not_both_named_and_ignored():
    with pytest.raises(ValueError, match=r"must not share values, got \[2\]"):
        LabelsSettings(values={2: "a"}, ignore=(2,))
