"""Mosaics of several planes: where a plane's block goes, what comes back, what other software sees."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
import zarr

from pipeline.raster.consolidate import consolidate
from pipeline.raster.mosaic import Mosaic, MosaicWriter, create_mosaic
from pipeline.raster.plane import Plane, Stack, StackAxis, planes
from pipeline.raster.window import Window
from pipeline.storage import Folder
from tests.pipeline.raster.mosaics import Contents, make_contents

STACK = Stack(
    StackAxis((0, 4), (0.0, 10.0), 2.5, "second"), StackAxis((1, 2, 3), (0.5, 1.0, 1.5), 0.5, "micrometer")
)


def of_plane(contents: Contents, plane: Plane) -> Contents:
    """The same blotches, turned for every plane."""
    turn = 7 * plane.t + 40 * plane.z
    logits = None if contents.logits is None else np.roll(contents.logits, turn // 4, axis=2)
    return replace(
        contents,
        classes=np.roll(contents.classes, turn, axis=1),
        confidence=np.roll(contents.confidence, turn, axis=1),
        logits=logits,
    )


def write(folder, contents, stack=STACK):
    layout = replace(contents.layout, stack=stack)
    create_mosaic(folder, layout)
    writer, written = MosaicWriter(folder, layout), {}
    for plane in planes(stack.shape):
        own = of_plane(contents, plane)
        for window in own.windows():
            written[plane, window] = writer.write(window, own.arrays(window), plane)
    consolidate(folder)
    return written


@pytest.fixture(scope="module", params=["none", "lattice", "full"])
def stored(request, tmp_path_factory):
    contents = make_contents(130, 1060, logits=request.param)
    folder = Folder(str(tmp_path_factory.mktemp("mosaic")))
    return contents, folder, write(folder, contents)


def test_every_plane_comes_back_as_if_it_were_alone(stored, tmp_path):
    contents, folder, _ = stored
    mosaic = Mosaic.open(folder.url)
    window = Window(30, 990, 90, 70)
    for plane in planes(STACK.shape):
        alone = Folder(str(tmp_path / plane.id))
        of_plane(contents, plane).write(alone)
        single, at = Mosaic.open(alone.url), {"t": plane.t, "z": plane.z}
        np.testing.assert_array_equal(mosaic.classes(**at), single.classes())
        np.testing.assert_array_equal(mosaic.confidence(window, **at), single.confidence(window))
        if contents.logits is not None:
            np.testing.assert_array_equal(mosaic.logits(window, **at), single.logits(window))


def test_every_object_has_one_writer_and_its_planes_bytes(stored, tmp_path):
    contents, _, written = stored
    keys = [key for objects in written.values() for key in objects]
    assert len(keys) == len(set(keys))
    plane = Plane(1, 2)
    alone = of_plane(contents, plane).write(Folder(str(tmp_path)))
    inserted = {key.replace("/c/", "/c/1/2/"): checksum for key, checksum in alone.items()}
    mine = {
        key: checksum
        for (own, _), objects in written.items()
        if own == plane
        for key, checksum in objects.items()
    }
    assert mine == inserted


def test_xarray_sees_four_dimensions_with_coordinates(stored):
    contents, folder, _ = stored
    with xr.open_zarr(folder.url, consolidated=True) as opened:
        assert opened["classes"].dims == ("t", "z", "y", "x")
        np.testing.assert_array_equal(opened["t"], [0.0, 10.0])
        np.testing.assert_array_equal(opened["z"], [0.5, 1.0, 1.5])
        assert opened["z"].attrs["units"] == "micrometer"
        picked = opened["confidence"].sel(t=10.0, z=1.5)
        expected = of_plane(contents, Plane(1, 2)).confidence / 254
        known = expected <= 1
        np.testing.assert_allclose(picked.values[known], expected[known], rtol=1e-6)
        if contents.logits is not None:
            assert opened["logits"].dims[:3] == ("t", "z", "class")


def test_a_plane_that_is_not_there_is_refused(stored):
    mosaic = Mosaic.open(stored[1].url)
    with pytest.raises(ValueError, match="has 2 t and 3 z, counted from 0; got 0 and 3"):
        mosaic.classes(z=3)
    with pytest.raises(ValueError, match="got -1 and 0"):
        mosaic.confidence(t=-1)


def test_a_mosaic_of_one_plane_has_plane_0_only(tmp_path):
    contents = make_contents(50, 60)
    contents.write(Folder(str(tmp_path)))
    mosaic = Mosaic.open(str(tmp_path))
    np.testing.assert_array_equal(mosaic.classes(t=0, z=0), contents.classes)
    with pytest.raises(ValueError, match="has 1 t and 1 z"):
        mosaic.classes(z=1)
    assert "planes" not in zarr.open_group(str(tmp_path), mode="r").attrs


def test_a_block_names_its_plane_exactly_in_a_stack(stored, tmp_path):
    contents, folder, _ = stored
    window = contents.windows()[0]
    with pytest.raises(ValueError, match="must name its plane exactly in a stack"):
        MosaicWriter(folder, replace(contents.layout, stack=STACK)).write(window, contents.arrays(window))
    create_mosaic(Folder(str(tmp_path)), contents.layout)
    with pytest.raises(ValueError, match="must name its plane exactly in a stack"):
        MosaicWriter(Folder(str(tmp_path)), contents.layout).write(
            window, contents.arrays(window), Plane(0, 0)
        )


def test_the_layout_survives_storing(stored):
    contents, folder, _ = stored
    layout = Mosaic.open(folder.url).layout
    assert layout.stack == STACK
    assert layout.grid == contents.layout.grid
    assert Mosaic.open(folder.url).num_pixels == 6 * 130 * 1060
