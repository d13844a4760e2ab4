"""Choosing planes, and what their axes say of themselves."""

import pytest

from pipeline.errors import SettingsError
from pipeline.plane_config import PlaneRange, as_wish
from pipeline.raster.plane import Plane, Stack, StackAxis, choose_planes, planes


def choose(wish, count=5):
    return choose_planes(wish, count, setting="source.z", where="a.zarr")


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, (0, 1, 2, 3, 4)),
        (3, (3,)),
        ((4, 0), (4, 0)),
        (PlaneRange(start=1), (1, 2, 3, 4)),
        (PlaneRange(start=1, stop=4, step=2), (1, 3)),
        (PlaneRange(stop=99), (0, 1, 2, 3, 4)),
    ],
)
def test_every_way_to_choose(choice, expected):
    assert choose(as_wish(choice)) == expected


@pytest.mark.parametrize("wish", [(5,), (0, 7), slice(5, None)])
def test_planes_that_are_not_there_are_refused(wish):
    with pytest.raises(SettingsError, match=r"source\.z must lie between 0 and 4, got .*a\.zarr has 5"):
        choose(wish)


def test_a_plane_is_chosen_once():
    with pytest.raises(SettingsError, match="each plane once"):
        choose((1, 1))


def test_uneven_planes_have_no_step():
    assert StackAxis((0, 1, 2), (1.0, 1.5, 2.0)).even_step == 0.5
    assert StackAxis((0, 1, 5), (1.0, 1.5, 3.5)).even_step is None
    assert StackAxis((5, 0), (3.5, 1.0)).even_step is None, "OME's scales are not negative"
    assert StackAxis((7,), (3.5,), spacing=0.5).even_step == 0.5


def test_a_stack_survives_json():
    stack = Stack(StackAxis((0,), (0.0,)), StackAxis((1, 4), (0.5, 2.0), 0.5, "micrometer"))
    assert Stack.from_json(stack.to_json()) == stack
    assert stack.shape == (1, 2)
    assert not stack.is_single


def test_planes_come_one_time_point_after_the_other():
    assert list(planes((2, 2))) == [Plane(0, 0), Plane(0, 1), Plane(1, 0), Plane(1, 1)]
    assert Plane(3, 12).id == "t003z012"
