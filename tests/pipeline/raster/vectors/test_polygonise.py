"""Polygons of label images: the same for all cells, exact before and without gaps after simplifying."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from rasterio.features import rasterize, shapes

from pipeline.raster.vectors.cells import Cells
from pipeline.raster.vectors.parts import CROWD, part_by_crowd
from pipeline.raster.vectors.polygonise import Rules, Surface, polygonise
from pipeline.raster.window import Window

NUM_CLASSES = 4
FEW = settings(max_examples=25, deadline=None)

images = st.tuples(
    arrays(
        np.int32, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9), elements=st.integers(-1, 3)
    ),
    st.integers(1, 3),
).map(lambda drawn: drawn[0].repeat(drawn[1], 0).repeat(drawn[1], 1))


def polygons(image, cell_px, *, corners=False, min_area=0, tolerance_px=0.0, wanted=None, confidence=None):
    """Every feature: (geometry, class, pixels, area, confidence), in pixels, x to the right and y down."""
    confidence = np.full(image.shape, 7, np.uint8) if confidence is None else confidence
    surface = Surface(
        cells=Cells(Window(0, 0, *image.shape), cell_px),
        values=lambda window: image[window.slices],
        confidence=lambda window: confidence[window.slices],
        areas=lambda rows: np.arange(rows.start, rows.stop) + 1,
        wanted=np.ones(NUM_CLASSES, np.bool_) if wanted is None else wanted,
    )
    found = []
    for features in polygonise(surface, Rules(corners, min_area, tolerance_px), Path(tempfile.gettempdir())):
        lines, measures = features.rings.lines, features.measures
        rings = shapely.linearrings(lines.points_N2[:, ::-1].astype(float), indices=lines.of)
        parts = shapely.polygons(rings, indices=features.rings.polygon)
        geometries = shapely.multipolygons(parts, indices=features.feature)
        columns = (features.values, measures.pixels, measures.area, measures.confidence)
        found += [
            (geometry, *(int(value) for value in row))
            for geometry, *row in zip(geometries, *columns, strict=True)
        ]
    return found


def as_bytes(found):
    return sorted((geometry.wkb, *rest) for geometry, *rest in found)


def geometries(found):
    return np.array([geometry for geometry, *_ in found], dtype=object)


def assert_exact(image, found, *, corners=False):
    """Valid, one a component, as many pixels as area, and the image again when burnt."""
    shown = geometries(found)
    count = sum(1 for _ in shapes(image, mask=image >= 0, connectivity=8 if corners else 4))
    assert len(found) == count
    if not found:
        return
    assert shapely.is_valid(shown).all()
    np.testing.assert_array_equal(shapely.area(shown), [pixels for _, _, pixels, *_ in found])
    burnt = rasterize(
        [(shape, value) for shape, value, *_ in found], out_shape=image.shape, fill=-1, dtype="int32"
    )
    np.testing.assert_array_equal(burnt, image)
    assert shapely.coverage_is_valid(shown)


def assert_without_gaps(image, found, exact):
    shown = geometries(found)
    assert shapely.is_valid(shown).all()
    assert [rest for _, *rest in found] == [rest for _, *rest in exact]
    together = shapely.union_all(shown)
    assert shapely.area(shown).sum() == pytest.approx(together.area, abs=1e-9)
    assert shapely.coverage_is_valid(shown)
    if (image >= 0).all():
        assert together.geom_type == "Polygon"
        assert not together.interiors


@FEW
@given(images, st.integers(1, 12), st.booleans())
def test_any_cell_gives_the_same_exact_polygons(image, cell_px, corners):
    whole = polygons(image, 64, corners=corners)
    assert_exact(image, whole, corners=corners)
    assert as_bytes(polygons(image, cell_px, corners=corners)) == as_bytes(whole)


@FEW
@given(images, st.sampled_from((4, 9, 64)), st.sampled_from((0.8, 1.5, 4.0)))
def test_simplified_polygons_neither_overlap_nor_leave_gaps(image, cell_px, tolerance_px):
    exact = polygons(image, cell_px)
    if exact:
        assert_without_gaps(image, polygons(image, cell_px, tolerance_px=tolerance_px), exact)


@FEW
@given(images, st.sampled_from((5, 64)))
def test_no_border_moves_further_than_asked(image, cell_px):
    exact = polygons(image, cell_px)
    for before, after in zip(exact, polygons(image, cell_px, tolerance_px=1.5), strict=True):
        assert shapely.hausdorff_distance(before[0].boundary, after[0].boundary) <= 1.5 + 1e-9


def spiral(side):
    image = np.zeros((side, side), np.int32)
    row = col = 0
    drow, dcol = 0, 1
    image[0, 0] = 1
    turns = 0
    while turns < 2:
        ahead = row + 2 * drow, col + 2 * dcol
        inside = 0 <= row + drow < side and 0 <= col + dcol < side
        free = inside and not (0 <= ahead[0] < side and 0 <= ahead[1] < side and image[ahead])
        if free and not image[row + drow, col + dcol]:
            row, col, turns = row + drow, col + dcol, 0
            image[row, col] = 1
        else:
            drow, dcol, turns = dcol, -drow, turns + 1
    return image


def rings_in_rings(side):
    rows, cols = np.mgrid[0:side, 0:side]
    return (np.maximum(abs(rows - side // 2), abs(cols - side // 2)) % 3).astype(np.int32)


def checkerboard(side):
    return (np.indices((side, side)).sum(0) % 2).astype(np.int32)


@pytest.mark.parametrize("make", [spiral, rings_in_rings, checkerboard])
@pytest.mark.parametrize("corners", [False, True])
def test_shapes_that_wind_through_many_cells(make, corners):
    image = make(33)
    found = polygons(image, 8, corners=corners)
    assert_exact(image, found, corners=corners)
    assert as_bytes(polygons(image, 100, corners=corners)) == as_bytes(found)


def test_a_spiral_is_one_polygon_and_rings_have_holes():
    assert sum(value == 1 for _, value, *_ in polygons(spiral(33), 8)) == 1
    assert (
        sum(len(part.interiors) for shape, *_ in polygons(rings_in_rings(31), 7) for part in shape.geoms)
        == 15
    )


def test_corners_join_a_checkerboard():
    image = checkerboard(12)
    assert len(polygons(image, 5)) == 144
    assert [(value, pixels) for _, value, pixels, *_ in polygons(image, 5, corners=True)] == [
        (0, 72),
        (1, 72),
    ]


def test_a_hole_that_touches_its_shell_is_a_hole():
    image = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], np.int32)
    (ring,) = [shape for shape, value, *_ in polygons(image, 2) if value == 1]
    (polygon,) = ring.geoms
    assert polygon.is_valid
    assert [shapely.Polygon(hole).area for hole in polygon.interiors] == [1.0]


def test_sums_are_over_the_whole_feature():
    image = np.zeros((5, 7), np.int32)
    confidence = np.arange(35, dtype=np.uint8).reshape(5, 7)
    for cell_px in (1, 3, 64):
        ((_, value, pixels, area, total),) = polygons(image, cell_px, confidence=confidence)
        assert (value, pixels, area, total) == (0, 35, 7 * (1 + 2 + 3 + 4 + 5), confidence.sum())


@pytest.mark.parametrize("cell_px", [2, 3, 64])
def test_small_features_are_left_out_whole(cell_px):
    image = np.zeros((6, 9), np.int32)
    image[1, 1], image[2:5, 3:6], image[1:3, 7] = 1, 2, 1  # areas by row: 2, 36, 5
    kept = polygons(image, cell_px, min_area=5)
    assert [(value, pixels, area) for _, value, pixels, area, _ in kept if value] == [(1, 2, 5), (2, 9, 36)]
    background = next(shape for shape, value, *_ in kept if value == 0)
    assert background.area == 54 - 12  # what was left out stays a hole


def test_classes_chosen_alone_fit_those_chosen_together():
    """Nodes are where three values meet, whichever are wanted: files of single classes lie side by side."""
    rng = np.random.default_rng(5)
    image = rng.integers(0, 4, (12, 12)).repeat(4, 0).repeat(4, 1).astype(np.int32)
    together = as_bytes(polygons(image, 16, tolerance_px=3.0))
    alone = [polygons(image, 16, tolerance_px=3.0, wanted=np.arange(4) == chosen) for chosen in range(4)]
    assert sorted(each for found in alone for each in as_bytes(found)) == together


def test_simplifying_saves_points():
    rows, cols = np.mgrid[0:200, 0:200]
    image = (rows * 0.37 + cols > 140).astype(np.int32)
    exact, simple = (geometries(polygons(image, 64, tolerance_px=px)) for px in (0.0, 1.5))
    assert shapely.get_num_coordinates(simple).sum() * 5 < shapely.get_num_coordinates(exact).sum()


def test_crowded_cells_are_cut_by_what_they_hold():
    """The method's time grows with the square of the lines: noise is simplified in small parts."""
    noise = np.random.default_rng(0).integers(0, 4, (257, 257)).astype(np.int32)
    assert list(part_by_crowd(np.zeros((257, 257), np.int32))) == [Window(0, 0, 256, 256)]
    parts = list(part_by_crowd(noise))
    assert len(parts) == (256 // 32) ** 2 or max(part.height for part in parts) <= 64
    assert sum(part.num_pixels for part in parts) == 256**2
    assert CROWD < 256**2 / 4


def test_crowded_cells_are_simplified_without_gaps():
    noise = np.random.default_rng(0).integers(0, 3, (90, 90)).astype(np.int32)
    exact = polygons(noise, 100)
    assert_without_gaps(noise, polygons(noise, 100, tolerance_px=2.0), exact)


def test_nothing_gives_nothing():
    assert polygons(np.full((5, 5), -1, np.int32), 3) == []
    assert polygons(np.zeros((5, 5), np.int32), 3, wanted=np.zeros(NUM_CLASSES, np.bool_)) == []
