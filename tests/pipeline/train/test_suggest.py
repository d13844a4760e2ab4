"""Tiles worth labelling: the least sure, far apart, of different kinds."""

import itertools
import json
import math

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS, Transformer
from shapely.geometry import shape

from pipeline.errors import SettingsError, StorageError
from pipeline.raster.mosaic import MosaicLayout
from pipeline.raster.window import Window
from pipeline.storage import Folder
from pipeline.train.suggest.doubt import Candidate, anchors, class_borders, distance_px
from pipeline.train.suggest.run import choose_diverse, suggest
from pipeline.train.suggest.settings import SuggestConfig
from tests.pipeline.raster.mosaics import UPRIGHT, UTM, Contents, make_contents

NODATA = 255


def write(path, classes, confidence, *, transform=UPRIGHT, crs_wkt=UTM, attributes=None) -> str:
    layout = make_contents(20, 20, transform=transform, crs_wkt=crs_wkt).layout
    grid = layout.grid.__class__(*classes.shape, transform, crs_wkt)
    layout = MosaicLayout(grid, layout.class_names, layout.class_colors, "none", 4, attributes or {})
    Contents(layout, classes.astype(np.uint8), confidence.astype(np.uint8), None).write(Folder.at(path))
    return str(path)


def suggested(mosaic, path, **group):
    report = suggest(SuggestConfig.model_validate({"mosaic": mosaic, "output": str(path)} | group))
    return report, json.loads(path.read_text())


@pytest.fixture(scope="module")
def doubtful(tmp_path_factory):
    """A sure mosaic with three unsure places, the worst first: two of class 0, the third of class 2."""
    classes = np.zeros((2200, 2600))
    classes[:, 1800:] = 2
    confidence = np.full(classes.shape, 240)
    confidence[300:700, 400:800] = 60
    confidence[1500:1900, 300:700] = 70
    confidence[1700:2100, 2100:2500] = 80
    return write(tmp_path_factory.mktemp("doubt") / "m.zarr", classes, confidence)


def centres(document):
    return [
        (row + height / 2, col + width / 2)
        for row, col, height, width in (one["properties"]["window"] for one in document["features"])
    ]


def test_the_least_sure_places_come_first(doubtful, tmp_path):
    report, document = suggested(doubtful, tmp_path / "t.geojson", size_px=256, count=3, variety=0)
    assert report["status"] == "complete"
    assert report["tiles"] == 3
    for found, expected in zip(centres(document), [(500, 600), (1700, 500), (1900, 2300)], strict=True):
        assert math.dist(found, expected) <= 128 * math.sqrt(2)
    scores = [one["properties"]["score"] for one in document["features"]]
    assert scores == sorted(scores, reverse=True)


def test_variety_prefers_what_was_not_shown_yet(doubtful, tmp_path):
    _, document = suggested(doubtful, tmp_path / "t.geojson", size_px=256, count=2, variety=1)
    assert [next(iter(one["properties"]["classes"])) for one in document["features"]] == [
        "class 0",
        "class 2",
    ]


@pytest.mark.parametrize("apart_px", [0, 300, 900])
def test_tiles_keep_their_distance(doubtful, tmp_path, apart_px):
    _, document = suggested(doubtful, tmp_path / "t.geojson", size_px=256, count=12, min_distance_px=apart_px)
    found = centres(document)
    nearest = min(math.dist(one, other) for one in found for other in found if one != other)
    assert nearest >= max(apart_px, 1)
    assert (apart_px < 300) == (nearest < 300)


def test_scores_are_those_of_the_tiles_pixels(tmp_path):
    random = np.random.default_rng(4)
    classes = np.kron(random.integers(0, 3, (60, 70)), np.ones((20, 20), int))
    confidence = random.integers(0, 255, classes.shape)
    hole = random.random(classes.shape) < 0.05
    classes[hole], confidence[hole] = NODATA, NODATA
    mosaic = write(tmp_path / "m.zarr", classes, confidence)
    _, document = suggested(mosaic, tmp_path / "t.geojson", size_px=100, count=30, min_distance_px=60)
    borders = np.zeros(classes.shape, bool)
    for row, col in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        padded = np.pad(classes, 1, constant_values=NODATA)
        height, width = classes.shape
        beside = padded[1 + row : 1 + row + height, 1 + col : 1 + col + width]
        borders |= (beside != classes) & (beside != NODATA) & ~hole
    for one in document["features"]:
        told = one["properties"]
        part = Window(*told["window"]).slices
        known = ~hole[part]
        weights = np.where(borders[part], 0.25, 1.0)[known]
        doubt = 1 - confidence[part][known] / 254
        assert told["score"] == pytest.approx(np.average(doubt, weights=weights), abs=1e-6)
        assert told["mean_confidence"] == pytest.approx(1 - doubt.mean(), abs=1e-6)
        assert told["border_share"] == pytest.approx(borders[part][known].mean(), abs=1e-6)
        assert told["nodata_share"] == pytest.approx(1 - known.mean(), abs=1e-6)
        for index in range(3):
            share = np.mean(classes[part][known] == index)
            assert told["classes"].get(f"class {index}", 0) == pytest.approx(share, abs=1e-4)


def test_borders_alone_are_no_reason(tmp_path):
    """Unsure lines between sure fields lose against a field that is a little unsure all over."""
    classes = np.kron(np.indices((32, 32)).sum(axis=0) % 2, np.ones((16, 16), int))
    confidence = np.where(class_borders(classes, NODATA), 100, 250)
    classes, confidence = np.tile(classes, (1, 2)), np.tile(confidence, (1, 2))
    classes[:, 512:], confidence[:, 512:] = 1, 236
    assert (254 - confidence[:, :512]).mean() > (254 - confidence[:, 512:]).mean(), (
        "borders are the less sure"
    )
    mosaic = write(tmp_path / "m.zarr", classes, confidence)
    _, document = suggested(mosaic, tmp_path / "t.geojson", size_px=512, count=1)
    assert document["features"][0]["properties"]["window"] == [0, 512, 512, 512]


def test_margins_tell_a_close_race_from_a_wide_field(tmp_path):
    """0.45 against 0.44 is a closer race than 0.40 against eight others."""
    contents = make_contents(400, 800, logits="lattice", num_classes=10)
    probabilities = np.full((10, *contents.layout.lattice_shape), 0.01)
    probabilities[0], probabilities[1], probabilities[2] = 0.45, 0.44, 0.04
    probabilities[:, :, 100:] = 0.6 / 9
    probabilities[0, :, 100:] = 0.4
    confidence = np.full((400, 800), round(0.45 * 254), np.uint8)
    confidence[:, 400:] = round(0.4 * 254)
    log = np.log(probabilities).astype(np.float16)
    Contents(contents.layout, np.zeros((400, 800), np.uint8), confidence, log).write(
        Folder.at(tmp_path / "m.zarr")
    )
    for doubt, west in (("confidence", False), ("margin", True), ("auto", True)):
        report, document = suggested(
            str(tmp_path / "m.zarr"), tmp_path / "t.geojson", size_px=256, count=1, doubt=doubt
        )
        col = document["features"][0]["properties"]["window"][1]
        assert (col < 272) == west, doubt
        assert report["doubt"] == ("margin" if west else "confidence")


def test_margins_need_logits(doubtful, tmp_path):
    with pytest.raises(StorageError, match=r"doubt: margin needs a mosaic .* use doubt: confidence"):
        suggested(doubtful, tmp_path / "t.geojson", doubt="margin")


def test_tiles_without_data_are_left_out_and_none_is_refused(tmp_path):
    classes, confidence = np.zeros((600, 600)), np.full((600, 600), 200)
    confidence[:300] = 10
    hole = np.zeros((600, 600), bool)
    hole[:290] = True
    classes[hole], confidence[hole] = NODATA, NODATA
    mosaic = write(tmp_path / "m.zarr", classes, confidence)
    _, document = suggested(mosaic, tmp_path / "t.geojson", size_px=200, count=9, max_nodata=0.1)
    assert document["features"]
    for one in document["features"]:
        assert one["properties"]["nodata_share"] <= 0.1
    with pytest.raises(SettingsError, match="tiles of 580 px must have data on all but 10% of their pixels"):
        suggested(mosaic, tmp_path / "none.geojson", size_px=580, max_nodata=0.1)
    assert not (tmp_path / "none.geojson").exists()


def test_outlines_lie_on_the_ground_where_the_pixels_do(doubtful, tmp_path):
    _, document = suggested(doubtful, tmp_path / "t.geojson", size_px=256, count=4)
    back = Transformer.from_crs("OGC:CRS84", CRS.from_epsg(32633), always_xy=True)
    assert "crs" not in document, "RFC 7946 knows one CRS only"
    for one in document["features"]:
        outline = shape(one["geometry"])
        assert outline.exterior.is_ccw
        row, col, height, width = one["properties"]["window"]
        in_metres = shapely.transform(outline, lambda xy: np.column_stack(back.transform(*xy.T)))
        pixels = shapely.box(*(UPRIGHT @ (col, row + height)), *(UPRIGHT @ (col + width, row)))
        assert in_metres.symmetric_difference(pixels).area < 1e-5 * pixels.area


def test_outlines_are_cut_at_the_antimeridian(tmp_path):
    """East of Fiji, in a projection that knows no such line."""
    fiji = CRS.from_epsg(3832).to_wkt()
    x, y = Transformer.from_crs("OGC:CRS84", fiji, always_xy=True).transform(180, -17)
    transform = Affine(100, 0, x - 30_000, 0, -100, y)
    mosaic = write(
        tmp_path / "m.zarr", np.zeros((600, 600)), np.full((600, 600), 9), transform=transform, crs_wkt=fiji
    )
    _, document = suggested(mosaic, tmp_path / "t.geojson", size_px=600, count=1)
    outline = shape(document["features"][0]["geometry"])
    assert outline.geom_type == "MultiPolygon"
    assert outline.is_valid
    west, east = sorted(part.bounds[0] for part in outline.geoms)
    assert west == -180
    assert 179 < east < 180
    assert outline.area < 1


def test_a_slide_is_told_in_its_pixels(tmp_path):
    attributes = {"source_origin": [384, 768]}
    mosaic = write(
        tmp_path / "m.zarr", np.zeros((300, 300)), np.full((300, 300), 9),
        transform=Affine.identity(), crs_wkt=None, attributes=attributes,
    )  # fmt: skip
    _, document = suggested(mosaic, tmp_path / "t.geojson", size_px=300, count=1)
    one = document["features"][0]
    assert document["coordinates"] == "pixels"
    assert one["properties"]["source_window"] == [384, 768, 300, 300]
    assert shape(one["geometry"]).bounds == (768, 384, 1068, 684)


def test_a_mosaic_smaller_than_a_tile_is_one_tile(tmp_path):
    mosaic = write(tmp_path / "m.zarr", np.zeros((100, 300)), np.full((100, 300), 9))
    report, document = suggested(mosaic, tmp_path / "t.geojson", size_px=512, count=5)
    assert (report["tiles"], report["wanted"]) == (1, 5)
    assert document["features"][0]["properties"]["window"] == [0, 0, 100, 300]


@given(st.integers(1, 5000), st.integers(64, 700))
def test_anchors_cover_an_axis(length_px, size_px):
    found = anchors(length_px, size_px)
    covered = np.zeros(length_px, bool)
    for anchor in found:
        covered[anchor : anchor + size_px] = True
    assert covered.all()
    assert found[-1] + min(size_px, length_px) == length_px
    assert all(later - one <= size_px // 2 for one, later in itertools.pairwise(found))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.floats(0, 1), st.floats(0, 1)), max_size=40),
    st.integers(1, 10),
    st.floats(0, 5),
    st.floats(0, 1),
)
def test_each_choice_is_the_best_of_those_left(found, count, apart_px, variety):
    """The greedy rule, written out."""
    candidates = [
        Candidate(Window(row, col, 2, 2), score, 0.5, 0.0, 0.0, (mix, 1 - mix))
        for row, col, score, mix in found
    ]
    chosen = choose_diverse(candidates, count, apart_px=apart_px, variety=variety)
    expected: list[Candidate] = []
    left = list(candidates)
    while left and len(expected) < count:
        values = [
            one.score
            * (1 - variety * max((sum(map(min, one.mix, other.mix)) for other in expected), default=0))
            for one in left
        ]
        best = left[int(np.argmax(values))]
        expected.append(best)
        left = [one for one in left if one is not best and distance_px(one.window, best.window) >= apart_px]
    assert [one.window for one in chosen] == [one.window for one in expected]
