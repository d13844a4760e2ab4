"""Several scenes over one place: by order or by median, against loops."""

import numpy as np
import pytest

from pipeline.errors import SourceError
from pipeline.raster.scenes.composite import compose
from pipeline.raster.scenes.warp import Layer
from pipeline.raster.window import Window
from tests.pipeline.raster.scenes.scene_files import find, first_of, read, write_scene

CELL = Window(34, 46, 17, 23)


def layers_of(count, dtype, seed=0):
    rng = np.random.default_rng(seed)
    layers = []
    for _ in range(count):
        values = rng.uniform(0, 250, (3, 17, 23)).astype(dtype)
        there = np.repeat(rng.random((1, 17, 23)) < 0.5, 3, axis=0)
        there[1] &= rng.random((17, 23)) < 0.8
        layers.append(Layer(CELL, values, there))
    return layers


def empty_of(dtype):
    return Layer(CELL, np.zeros((3, 17, 23), dtype), np.zeros((3, 17, 23), np.bool_))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "float32"])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 6, 7])
def test_the_median_is_numpys(dtype, count):
    layers = layers_of(count, dtype)
    got = compose(iter(layers), empty_of(dtype), "median")
    for place in np.ndindex(3, 17, 23):
        known = [float(layer.samples_CHW[place]) for layer in layers if layer.present_CHW[place]]
        assert got.present_CHW[place] == bool(known)
        expected = np.median(known) if known else 0
        expected = np.rint(expected) if dtype != "float32" else expected
        assert got.samples_CHW[place] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("count", [0, 1, 4])
def test_first_takes_all_bands_of_a_pixel_from_one_scene(count):
    layers = layers_of(count, "uint8")
    got = compose(iter(layers), empty_of("uint8"), "first")
    if not count:
        assert not got.present_CHW.any()
        return
    samples, there = first_of([(layer.samples_CHW, layer.present_CHW) for layer in layers])
    np.testing.assert_array_equal(got.present_CHW, there)
    np.testing.assert_array_equal(got.samples_CHW, np.where(there, samples, 0))


def test_scenes_under_a_full_one_are_never_asked_for():
    full = Layer(CELL, np.ones((3, 17, 23), np.uint8), np.ones((3, 17, 23), np.bool_))

    def layers():
        yield full
        raise AssertionError("what lies below cannot be seen")

    assert compose(layers(), empty_of("uint8"), "first").samples_CHW.all()


@pytest.fixture
def stacked(tmp_path):
    """Three scenes over the same place, and an index that says when and how cloudy."""
    for name, value in (("one", 10), ("two", 20), ("three", 30)):
        write_scene(tmp_path / f"{name}.tif", np.full((8, 8), value, np.uint8))
    index = tmp_path / "index.csv"
    index.write_text(
        "url,datetime,cloud_cover\n"
        "one.tif,2024-05-03T10:00:00Z,40\n"
        "two.tif,2024-05-03T12:00:00+01:00,5\n"
        "three.tif,2023-01-01,20.5\n"
    )
    return str(index)


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ({}, 10),
        ({"order": "newest"}, 20),
        ({"order": "least_cloud"}, 20),
        ({"composite": "median"}, 20),
        ({"composite": "median", "order": "newest"}, 20),
    ],
)
def test_the_topmost_scene_is_seen(stacked, settings, value):
    assert set(np.unique(read(find(index=stacked, **settings)).samples_CHW)) == {value}


def test_order_names_files_in_the_order_in_which_they_count(stacked):
    found = find(index=stacked, order="newest")
    names = [identity.url.rsplit("/", 1)[1] for identity in found.info.identities]
    assert names == ["two.tif", "one.tif", "three.tif"]
    assert found.identities_in(found.info.grid.window) == found.info.identities


def test_a_date_in_a_satellites_file_name_counts(tmp_path):
    old = write_scene(tmp_path / "S2A_20230505T101010_T33.tif", np.full((8, 8), 1, np.uint8))
    new = write_scene(tmp_path / "S2B_20240505T101010_T33.tif", np.full((8, 8), 2, np.uint8))
    assert (read(find([old, new], order="newest")).samples_CHW == 2).all()


@pytest.mark.parametrize(("order", "what"), [("newest", "a time"), ("least_cloud", "a cloud cover")])
def test_scenes_that_cannot_be_ordered_are_named(tmp_path, order, what):
    paths = [write_scene(tmp_path / f"{name}.tif", np.ones((8, 8), np.uint8)) for name in "ab"]
    with pytest.raises(SourceError, match=rf"source\.order: {order} needs {what} .*a\.tif.*source\.index"):
        find(paths, order=order)
