"""The closed forms of the lattice against loops over every crop, pixel and node."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.raster.window import Window
from pipeline.segment.lattice import WEIGHT_FLOOR, Axis, Lattice, blend_weights, pixels_use_node


@st.composite
def axes(draw):
    crop = draw(st.integers(1, 9)) * 16 + 1
    stride = draw(st.integers(1, (crop - 1) // 16)) * 16
    return Axis(draw(st.integers(1, 700)), crop, stride, draw(st.sampled_from([1, 2, 4, 8, 16])))


@st.composite
def axes_with_spans(draw):
    axis = draw(axes())
    start = draw(st.integers(0, axis.length_px - 1))
    return axis, start, draw(st.integers(start + 1, axis.length_px))


def all_crops(axis):
    """Every crop's pixels, laid one by one until the axis is covered."""
    crops, origin = [], 0
    while True:
        crops.append(range(origin, origin + axis.crop_px))
        if origin + axis.crop_px >= axis.length_px:
            return crops
        origin += axis.stride_px


def interpolated_from(axis, pixel):
    """The nodes with a weight above zero at a pixel."""
    left = pixel // axis.node_px
    return {left} if pixel % axis.node_px == 0 else {left, left + 1}


@given(axes())
def test_crops_are_as_few_as_cover_the_axis(axis):
    crops = all_crops(axis)
    assert axis.num_crops == len(crops)
    covered = set().union(*crops)
    assert covered.issuperset(range(axis.length_px))
    assert axis.extent(range(axis.num_crops)) == (0, max(covered) + 1)


@given(axes_with_spans())
def test_nodes_are_those_that_a_pixel_is_interpolated_from(case):
    axis, start, stop = case
    expected = set().union(*(interpolated_from(axis, pixel) for pixel in range(start, stop)))
    assert list(axis.nodes(start, stop)) == sorted(expected)


@given(axes_with_spans())
def test_crops_are_those_that_hold_a_node_of_the_span(case):
    axis, start, stop = case
    wanted = set().union(*(interpolated_from(axis, pixel) for pixel in range(start, stop)))
    expected = [
        index
        for index, crop in enumerate(all_crops(axis))
        if wanted & {pixel // axis.node_px for pixel in crop if pixel % axis.node_px == 0}
    ]
    assert list(axis.crops(start, stop)) == expected
    first, last = axis.extent(axis.crops(start, stop))
    assert first == expected[0] * axis.stride_px >= 0
    assert last == expected[-1] * axis.stride_px + axis.crop_px
    assert first <= min(wanted) * axis.node_px
    assert max(wanted) * axis.node_px < last


@given(axes_with_spans())
def test_every_node_of_every_span_lies_in_a_crop(case):
    """Where none did, the blend would divide by zero."""
    axis, start, stop = case
    crops = all_crops(axis)
    for node in axis.nodes(start, stop):
        assert any(node * axis.node_px in crops[index] for index in axis.crops(start, stop))


@given(axes())
def test_crop_nodes_fall_on_the_global_nodes(axis):
    for crop in all_crops(axis):
        places = [crop.start + index * axis.node_px for index in range(axis.nodes_per_crop)]
        assert places[-1] == crop.stop - 1
        assert all(place % axis.node_px == 0 for place in places)


def test_nothing_takes_nothing():
    axis = Axis(100, 33, 16, 4)
    assert len(axis.nodes(40, 40)) == len(axis.crops(40, 40)) == 0
    assert axis.extent(range(0)) == (0, 0)


@pytest.mark.parametrize(
    ("length", "expected"),
    [(1, 1), (512, 1), (513, 1), (514, 2), (897, 2), (898, 3), (10**6, math.ceil((10**6 - 513) / 384) + 1)],
)
def test_crops_along_an_axis_as_the_design_has_them(length, expected):
    assert Axis(length, 513, 384, 4).num_crops == expected


@settings(max_examples=50)
@given(axes_with_spans(), axes_with_spans())
def test_a_window_takes_rows_and_columns_from_its_axes(rows_case, cols_case):
    rows, row_start, row_stop = rows_case
    cols, col_start, col_stop = cols_case
    cols = Axis(cols.length_px, rows.crop_px, rows.stride_px, rows.node_px)
    lattice = Lattice(rows, cols)
    window = Window.from_bounds(row_start, col_start, row_stop, col_stop)
    nodes = lattice.node_window(window)
    assert range(nodes.row, nodes.row_stop) == rows.nodes(row_start, row_stop)
    assert range(nodes.col, nodes.col_stop) == cols.nodes(col_start, col_stop)
    halo = lattice.halo(window)
    assert (halo.row, halo.row_stop) == rows.extent(rows.crops(row_start, row_stop))
    assert (halo.col, halo.col_stop) == cols.extent(cols.crops(col_start, col_stop))
    assert halo.contains(window)


@pytest.mark.parametrize("kind", ["gaussian", "hann", "flat"])
@pytest.mark.parametrize("nodes", [1, 2, 5, 17, 129, 513])
def test_weights_are_positive_symmetric_and_highest_in_the_middle(kind, nodes):
    weights = blend_weights(kind, nodes)
    assert weights.dtype == np.float32
    assert weights.shape == (nodes,)
    assert weights.min() >= np.float32(WEIGHT_FLOOR)
    np.testing.assert_array_equal(weights, weights[::-1])
    half = weights[: (nodes + 1) // 2]
    assert (np.diff(half) >= 0).all()


def test_weights_follow_their_formulas():
    crop_px, node_px = 513, 4
    distance_px = np.arange(0, crop_px, node_px) - (crop_px - 1) / 2
    sigma_px = (crop_px - 1) / 8
    gaussian = np.exp(-(distance_px**2) / (2 * sigma_px**2))
    hann = np.cos(np.pi * distance_px / (crop_px - 1)) ** 2
    np.testing.assert_allclose(blend_weights("gaussian", 129), np.maximum(gaussian, 1e-3), rtol=1e-6)
    np.testing.assert_allclose(blend_weights("hann", 129), np.maximum(hann, 1e-3), rtol=1e-5)
    np.testing.assert_array_equal(blend_weights("flat", 129), np.ones(129))


@given(st.integers(0, 40), st.sampled_from([1, 2, 4, 8]))
def test_a_node_is_used_by_the_pixels_around_it(node, node_px):
    axis = Axis(1000, 33, 16, node_px)
    start, stop = pixels_use_node(node, node_px)
    users = [pixel for pixel in range(400) if node in interpolated_from(axis, pixel)]
    assert [pixel for pixel in range(start, stop) if pixel >= 0] == users
