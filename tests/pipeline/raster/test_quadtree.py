"""Boxes that polygons touch, against asking for every single box."""

import itertools

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.raster import quadtree
from pipeline.raster.quadtree import Spans, touched_boxes

SHAPES = {
    "disc": shapely.Point(500, 480).buffer(300),
    "ring": shapely.Point(500, 480).buffer(400).difference(shapely.Point(500, 480).buffer(390)),
    "dust": shapely.union_all([shapely.Point(97 * i % 1000, 61 * i % 1000).buffer(2) for i in range(40)]),
    "needle": shapely.Polygon([(5, 5), (980, 970), (981, 968)]),
    "all": shapely.box(-10, -10, 2000, 2000),
    "none": shapely.box(3000, 3000, 3001, 3001),
    "on an edge": shapely.box(640, 320, 700, 400),
    "hole in the middle": shapely.box(0, 0, 1000, 1000).difference(shapely.box(300, 300, 301, 301)),
}


def one_by_one(polygons, rows, cols):
    """The definition."""
    return np.array(
        [
            [polygons.intersects(shapely.box(left, top, right, bottom)) for left, right in cols]
            for top, bottom in rows
        ],
        bool,
    ).reshape(len(rows), len(cols))


def spans(step, before, after, count):
    return [(index * step - before, (index + 1) * step + after) for index in range(count)]


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("before", "after"), [(0, 0), (3, 0), (3, 57)])
def test_the_answer_is_that_of_every_single_box(name, before, after):
    polygons = SHAPES[name]
    shapely.prepare(polygons)
    rows, cols = spans(64, before, after, 16), spans(80, before, after, 13)
    np.testing.assert_array_equal(
        touched_boxes(polygons, Spans.of(rows), Spans.of(cols)), one_by_one(polygons, rows, cols)
    )


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(*[st.integers(0, 200)] * 2), min_size=3, max_size=9), st.integers(1, 12), st.data())
def test_any_polygon_any_grid(points, count, data):
    polygons = shapely.make_valid(shapely.Polygon(points))
    shapely.prepare(polygons)
    edges = st.lists(st.integers(-20, 230), min_size=2, max_size=count + 1, unique=True).map(sorted)
    rows, cols = ([*itertools.pairwise(data.draw(edges))] for _ in range(2))
    np.testing.assert_array_equal(
        touched_boxes(polygons, Spans.of(rows), Spans.of(cols)), one_by_one(polygons, rows, cols)
    )


def test_effort_grows_with_the_border_and_not_with_the_area(monkeypatch):
    asked = []

    def counting(rows):
        def hulls(parts, *axes):
            asked.append(len(parts))
            return rows(parts, *axes)

        return hulls

    monkeypatch.setattr(quadtree, "_hulls", counting(quadtree._hulls))
    disc = shapely.Point(50_000, 50_000).buffer(40_000)
    shapely.prepare(disc)
    efforts = []
    for count in (100, 400):
        asked.clear()
        side = 100_000 // count
        touched = touched_boxes(disc, *[Spans.of(spans(side, 0, 0, count))] * 2)
        assert touched.mean() == pytest.approx(np.pi * 0.4**2, rel=0.05)
        efforts.append(sum(asked))
    assert efforts[1] < 5 * efforts[0], "sixteen times as many boxes, four times as long a border"
    assert efforts[1] < 0.15 * 400 * 400
