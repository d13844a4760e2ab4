"""Windows are sets of pixels: every operation is checked against the set it stands for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.raster.window import Window

places = st.integers(-40, 40)
sizes = st.integers(0, 30)
windows = st.builds(Window, places, places, sizes, sizes)
full_windows = st.builds(Window, places, places, st.integers(1, 30), st.integers(1, 30))


def pixels(window):
    return {
        (row, col)
        for row in range(window.row, window.row + window.height)
        for col in range(window.col, window.col + window.width)
    }


@given(windows, windows)
def test_an_intersection_holds_the_pixels_of_both(a, b):
    assert pixels(a.intersect(b)) == pixels(a) & pixels(b)
    assert a.intersect(b).num_pixels == b.intersect(a).num_pixels == len(pixels(a) & pixels(b))


@given(windows, windows)
def test_containing_is_holding_every_pixel(a, b):
    assert a.contains(b) == (pixels(b) <= pixels(a))


@given(windows, windows)
def test_a_frame_and_back(window, frame):
    assert window.relative_to(frame).shift(frame.row, frame.col) == window
    assert frame.relative_to(frame) == Window(0, 0, *frame.shape)


@given(full_windows, st.integers(1, 20))
def test_snapping_is_the_smallest_window_on_the_multiples(window, multiple):
    snapped = window.snap_outward(multiple)
    assert snapped.contains(window)
    for edge in (snapped.row, snapped.col, snapped.row_stop, snapped.col_stop):
        assert edge % multiple == 0
    assert window.row - snapped.row < multiple
    assert window.col - snapped.col < multiple
    assert snapped.row_stop - window.row_stop < multiple
    assert snapped.col_stop - window.col_stop < multiple
    assert snapped.snap_outward(multiple) == snapped


@given(full_windows, st.integers(0, 10))
def test_growing_adds_pixels_no_further_than_the_margin(window, margin):
    grown = window.grow(margin)
    near = {
        (row + rows, col + cols)
        for row, col in pixels(window)
        for rows in (-margin, 0, margin)
        for cols in (-margin, 0, margin)
    }
    assert near <= pixels(grown)
    assert grown.shape == (window.height + 2 * margin, window.width + 2 * margin)


@given(st.builds(Window, st.integers(0, 9), st.integers(0, 9), sizes, sizes))
def test_slices_index_the_frame(window):
    rows, cols = np.mgrid[0:60, 0:60]
    found = set(zip(rows[window.slices].ravel().tolist(), cols[window.slices].ravel().tolist(), strict=True))
    assert found == pixels(window)


def test_from_bounds_of_crossing_corners_is_empty():
    assert Window.from_bounds(5, 5, 3, 9) == Window(5, 5, 0, 4)


@pytest.mark.parametrize("shape", [(-1, 3), (3, -1)])
def test_a_negative_size_is_refused(shape):
    with pytest.raises(ValueError, match="must not be negative, got"):
        Window(0, 0, *shape)


def test_windows_sort_by_rows_first():
    assert sorted([Window(1, 0, 1, 1), Window(0, 9, 1, 1)])[0].row == 0
