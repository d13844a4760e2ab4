"""OME-NGFF's metadata: read of either version, and written for a mosaic as its own models have them."""

import logging

import numpy as np
import pytest
import zarr
from affine import Affine

from pipeline.errors import SourceError
from pipeline.raster.grid import Grid
from pipeline.raster.mosaic import Mosaic, MosaicLayout, create_mosaic
from pipeline.raster.plane import Stack, StackAxis
from pipeline.raster.zarrs.ome import is_ome, mosaic_attributes, parse_image
from pipeline.storage import Folder
from tests.pipeline.raster.zarrs import multiscales

AXES = "tczyx"


def attributes(version="0.5", **changes):
    described = multiscales(AXES, ["0", "1"])[0] | changes
    if version == "0.4":
        return {"multiscales": [described | {"version": "0.4"}]}
    return {"ome": {"version": version, "multiscales": [described]}}


def stack(num_t=1, z=(0.0, 1.5, 3.0), unit="micrometer"):
    times = StackAxis(tuple(range(num_t)), tuple(2.5 * index for index in range(num_t)), 2.5, "second")
    return Stack(times, StackAxis(tuple(range(len(z))), z, 1.5, unit))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_both_versions_say_the_same(version):
    image = parse_image(attributes(version), "a.zarr")
    assert image.dims == tuple(AXES)
    assert image.unit == "micrometer"
    assert [image.pixel_size(level) for level in (0, 1)] == [0.5, 1.0]
    assert is_ome(attributes(version))


def test_transformations_follow_one_another():
    common = [
        {"type": "scale", "scale": [1, 1, 1, 2, 4]},
        {"type": "translation", "translation": [0, 0, 0, 5, 6]},
    ]
    own = [
        {"type": "scale", "scale": [1, 1, 1, 0.5, 0.5]},
        {"type": "translation", "translation": [0, 0, 0, 10, 20]},
    ]
    image = parse_image(
        attributes(
            coordinateTransformations=common, datasets=[{"path": "0", "coordinateTransformations": own}]
        ),
        "a.zarr",
    )
    assert image.levels[0].scale[3:] == (1.0, 2.0)
    assert image.levels[0].translation[3:] == (25.0, 86.0)


def test_axes_may_be_told_by_type():
    axes = [{"name": "time", "type": "time"}, {"name": "wavelength", "type": "channel"}]
    axes += [{"name": name, "type": "space"} for name in "zyx"]
    assert parse_image(attributes(axes=axes), "a.zarr").dims == tuple(AXES)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"axes": [{"name": name} for name in "tczyq"]}, "axes must be t, c, z, y and x, got 'q'"),
        ({"axes": [{"name": name} for name in "tczxx"]}, "axes y and x, each once"),
        ({"datasets": []}, "and a level"),
        ({"datasets": [{}]}, "must follow OME-NGFF, got no 'path'"),
        ({"coordinateTransformations": [{"type": "affine"}]}, "a scale or a translation"),
        ({"coordinateTransformations": [{"type": "scale", "scale": [1, 1]}]}, "of 5 numbers"),
        ({"coordinateTransformations": [{"type": "scale", "scale": [1, 1, 1, 0, 1]}]}, "must not be 0"),
    ],
)  # fmt: skip
def test_what_no_image_is_made_of_is_refused(changes, sentence):
    with pytest.raises(SourceError, match=sentence):
        parse_image(attributes(**changes), "a.zarr")


def test_other_versions_are_refused():
    with pytest.raises(SourceError, match=r"version 0\.4 or 0\.5, got 0\.6"):
        parse_image(attributes("0.6"), "a.zarr")


def test_a_name_that_two_channels_share_names_none(caplog):
    labels = [{"label": "a"}, {"label": "b"}, {"label": "a"}, {}]
    document = attributes() | {}
    document["ome"]["omero"] = {"channels": labels}
    with caplog.at_level(logging.WARNING):
        assert parse_image(document, "a.zarr").channels == (None, "b", None, None)
    assert "choose them by number" in caplog.text


def test_a_mosaics_pixels_keep_their_centres():
    grid = Grid(100, 60, Affine(0.5, 0, 10, 0, 0.25, 20), None, "micrometer")
    found = mosaic_attributes(
        "classes", [("classes", grid), ("overviews/2/classes", grid.coarsen(2))], stack()
    )
    image = parse_image({"ome": found}, "out.zarr")
    assert image.dims == ("t", "z", "y", "x")
    for level, step in enumerate((1, 2)):
        assert image.levels[level].scale == (2.5, 1.5, 0.25 * step, 0.5 * step)
        assert image.levels[level].translation == (0.0, 0.0, 20 + 0.125 * step, 10 + 0.25 * step)
    assert image.grid(0, (1, 3, 100, 60)) == grid
    assert image.units == ("second", "micrometer", "micrometer", "micrometer")


def test_uneven_planes_are_counted():
    grid = Grid(10, 10, Affine.scale(0.5), None, "micrometer")
    axis = mosaic_attributes("classes", [("classes", grid)], stack(z=(0.0, 1.5, 9.0)))["multiscales"][0]
    assert axis["axes"][1] == {"name": "z", "type": "space"}
    assert axis["datasets"][0]["coordinateTransformations"][0]["scale"][1] == 1.0


def test_units_that_ome_does_not_know_are_left_out():
    grid = Grid(10, 10, Affine.scale(0.5), None, "micrometer")
    axes = mosaic_attributes("classes", [("classes", grid)], stack(unit="level of the model"))["multiscales"][
        0
    ]["axes"]
    assert axes[1] == {"name": "z", "type": "space"}


@pytest.mark.parametrize("planes", [None, stack(2)])
def test_a_mosaic_is_an_image_by_omes_own_models(planes, tmp_path):
    models = pytest.importorskip("ome_zarr_models.v05.image", reason="ome-zarr-models is not installed")
    from pipeline.segment.overviews import create_overviews

    layout = MosaicLayout(
        grid=Grid(3000, 2100, Affine(0.5, 0, 10, 0, 0.5, 20), None, "micrometer"),
        class_names=("a", "b"), class_colors=("#000000", "#ffffff"), logits="lattice", node_px=4,
        attributes={}, stack=planes, is_microscopy=True,
    )  # fmt: skip
    create_mosaic(Folder(str(tmp_path)), layout)
    create_overviews(Folder(str(tmp_path)), layout)
    image = models.Image.from_zarr(zarr.open_group(str(tmp_path), mode="r", use_consolidated=False))
    scales = image.ome_attributes.multiscales[0]
    assert [dataset.path for dataset in scales.datasets] == [
        "classes",
        "overviews/2/classes",
        "overviews/4/classes",
    ]
    mosaic = Mosaic.open(str(tmp_path))
    assert (mosaic.layout.stack, mosaic.grid) == (planes, layout.grid)
    assert mosaic.attributes["pixel_size_um"] == [0.5, 0.5]
    np.testing.assert_allclose(mosaic.array("y")[:3], [20.25, 20.75, 21.25])
    assert mosaic.array("y").attrs["units"] == "micrometer"
