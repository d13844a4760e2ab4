"""Labels in OME-NGFF: equal to the mosaic, valid by others' models, in place beside the image."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import zarr
from affine import Affine

from pipeline.errors import SettingsError, StorageError
from pipeline.raster.export.ome_labels import export_labels, export_labels_into
from pipeline.raster.grid import Grid
from pipeline.raster.zarrs.ome import parse_image
from pipeline.segment.overviews import OverviewWorker, create_overviews, rounds, tasks
from pipeline.storage import Folder
from tests.pipeline.raster.mosaics import make_contents
from tests.pipeline.raster.ome_models import validated

HALF = 0.65 / 2


def microscopy(height, width, *, size=0.65, corner=(-HALF, -HALF), unit="micrometer"):
    """Contents in the coordinates of an image: the corner of its first pixel lies half a pixel before 0."""
    contents = make_contents(height, width)
    grid = Grid(height, width, Affine(size, 0, corner[1], 0, size, corner[0]), None, unit)
    return replace(contents, layout=replace(contents.layout, grid=grid))


def labelled(contents, classes=None):
    classes = contents.classes if classes is None else classes
    return np.where(classes == 255, 0, classes.astype(int) + 1)


@pytest.fixture
def cardio(shared_data, tmp_path):
    """A real image of version 0.4 with labels of its own."""
    shutil.copytree(shared_data / "omezarr_cardio" / "cardio_B03_mip.zarr", tmp_path / "image.zarr")
    return tmp_path / "image.zarr"


@pytest.fixture
def image(tmp_path):
    """A small image of version 0.5."""
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": name, "type": "space", "unit": "micrometer"} for name in ("y", "x")]
    datasets = [
        {
            "path": str(level),
            "coordinateTransformations": [{"type": "scale", "scale": [1, 0.65 * step, 0.65 * step]}],
        }
        for level, step in enumerate((1, 2))
    ]
    ome = {"version": "0.5", "multiscales": [{"name": "a", "axes": axes, "datasets": datasets}]}
    group = zarr.create_group(tmp_path / "image.zarr", zarr_format=3, attributes={"ome": ome})
    for level, step in enumerate((1, 2)):
        group.create_array(str(level), shape=(1, 300 // step, 420 // step), dtype="u1",
                           dimension_names=("c", "y", "x"))  # fmt: skip
    return tmp_path / "image.zarr"


def test_a_real_image_gets_labels_of_its_own_version(cardio, tmp_path):
    contents = microscopy(1080, 1280)
    contents.write(Folder.at(tmp_path / "m"))
    exported = export_labels_into(str(tmp_path / "m"), str(cardio), name="classes")
    assert (exported.version, exported.url) == ("0.4", f"{cardio}/labels/classes")
    group = zarr.open_group(str(cardio / "labels" / "classes"), mode="r")
    assert group.metadata.zarr_format == 2
    np.testing.assert_array_equal(group["0"][0], labelled(contents))  # z, y, x as the image has it
    listed = json.loads((cardio / "labels" / ".zattrs").read_text())
    assert listed == {"labels": ["nuclei", "classes"]}
    assert zarr.open_group(str(cardio), mode="r")["labels/nuclei/1"].shape == (1, 1080, 1280)
    model = validated(cardio / "labels" / "classes", "0.4", "ImageLabel").attributes
    assert model.image_label.source.image == "../../"
    assert validated(cardio, "0.4", "Image").labels.attributes.labels == ["nuclei", "classes"]


def test_labels_lie_where_the_image_lies(cardio, tmp_path):
    microscopy(1080, 1280).write(Folder.at(tmp_path / "m"))
    export_labels_into(str(tmp_path / "m"), str(cardio), name="classes")
    image = parse_image(json.loads((cardio / ".zattrs").read_text()), "image")
    labels = parse_image(json.loads((cardio / "labels/classes/.zattrs").read_text()), "labels")
    assert labels.grid(0, (1, 1080, 1280)) == image.grid(0, (3, 1, 1080, 1280))
    # The only z plane too, units and all: napari refuses to lay µm on pixels.
    assert (labels.dims, labels.units) == (image.dims[1:], image.units[1:])
    assert labels.levels[0].scale[0] == image.levels[0].scale[1]


def test_colours_and_names(image, tmp_path):
    contents = microscopy(300, 420)
    contents.write(Folder.at(tmp_path / "m"))
    assert export_labels_into(str(tmp_path / "m"), str(image), name="classes").version == "0.5"
    ome = zarr.open_group(str(image / "labels/classes"), mode="r").attrs["ome"]
    colors = {each["label-value"]: each["rgba"] for each in ome["image-label"]["colors"]}
    names = {each["label-value"]: each["class"] for each in ome["image-label"]["properties"]}
    for index, (name, color) in enumerate(
        zip(contents.layout.class_names, contents.layout.class_colors, strict=True)
    ):
        assert names[index + 1] == name
        assert colors[index + 1] == [*bytes.fromhex(color[1:]), 255]
    assert 0 not in colors
    assert "index" not in ome["image-label"]["properties"][0], "napari's own column: it opens no such labels"
    validated(image / "labels" / "classes", "0.5", "ImageLabel")
    validated(image, "0.5", "Image")


def test_every_level_of_the_mosaic_is_a_level(tmp_path):
    contents = microscopy(1500, 2500)
    folder = Folder.at(tmp_path / "m")
    contents.write(folder)
    create_overviews(folder, contents.layout)
    worker = OverviewWorker(folder, contents.layout)
    for base in rounds(1500, 2500):
        for task in tasks(1500, 2500, base):
            worker(task)
    exported = export_labels(str(tmp_path / "m"), str(tmp_path / "labels.zarr"))
    assert exported.levels == 3
    group = zarr.open_group(str(tmp_path / "labels.zarr"), mode="r")
    overview = zarr.open_group(folder.url, mode="r")["overviews/2/classes"][:]
    np.testing.assert_array_equal(group["0"][:], labelled(contents))
    np.testing.assert_array_equal(group["1"][:], labelled(contents, overview))  # the same majority
    image = parse_image(group.attrs.asdict(), "labels")
    for level, factor in enumerate((1, 2, 4)):
        grid, expected = image.grid(level, group[str(level)].shape), contents.layout.grid.coarsen(factor)
        assert grid.window == expected.window
        assert grid.transform.almost_equals(expected.transform, 1e-9)
    validated(tmp_path / "labels.zarr", "0.5", "ImageLabel")


def test_a_coarser_level_was_segmented(image, tmp_path):
    """A mosaic of the second level lies by its own scale; one that tells none, by its size."""
    for contents in (
        microscopy(150, 210, size=1.3, corner=(-0.65, -0.65)),
        replace(microscopy(150, 210), layout=replace(make_contents(150, 210).layout, grid=Grid(150, 210))),
    ):
        shutil.rmtree(tmp_path / "m", ignore_errors=True)
        contents.write(Folder.at(tmp_path / "m"))
        export_labels_into(str(tmp_path / "m"), str(image), name="classes")
        attributes = zarr.open_group(str(image / "labels/classes"), mode="r").attrs.asdict()
        assert (
            parse_image(attributes, "labels").grid(0, (150, 210))
            == microscopy(150, 210, size=1.3, corner=(-0.65, -0.65)).layout.grid
        )


def test_again_replaces_ours_and_never_others(cardio, tmp_path):
    contents = microscopy(1080, 1280)
    contents.write(Folder.at(tmp_path / "m"))
    for _ in range(2):
        export_labels_into(str(tmp_path / "m"), str(cardio), name="classes")
    assert json.loads((cardio / "labels" / ".zattrs").read_text())["labels"].count("classes") == 1
    before = sorted(path for path in (cardio / "labels/nuclei").rglob("*"))
    with pytest.raises(StorageError, match=r"labels/nuclei holds what is not of this program"):
        export_labels_into(str(tmp_path / "m"), str(cardio), name="nuclei")
    assert sorted(path for path in (cardio / "labels/nuclei").rglob("*")) == before


def test_beside_the_image_they_name_it(image, tmp_path):
    microscopy(300, 420).write(Folder.at(tmp_path / "m"))
    export_labels(str(tmp_path / "m"), str(tmp_path / "labels.zarr"), image_url=str(image))
    ome = zarr.open_group(str(tmp_path / "labels.zarr"), mode="r").attrs["ome"]
    assert ome["image-label"]["source"] == {"image": "../image.zarr"}


@pytest.mark.parametrize(
    ("contents", "sentence"),
    [
        (make_contents(300, 420), "need a mosaic whose rows|lies on the ground"),
        (microscopy(300, 420, corner=(100.0, 0.0)), "must lie in the image"),
        (microscopy(299, 420, unit=None, size=1.0, corner=(0, 0)), "be as large as one of its levels"),
    ],
)
def test_mosaics_of_something_else_are_refused(image, tmp_path, contents, sentence):
    contents.write(Folder.at(tmp_path / "m"))
    with pytest.raises(SettingsError, match=sentence):
        export_labels_into(str(tmp_path / "m"), str(image), name="classes")
    assert not (image / "labels").exists()


def test_in_any_unit_of_length_a_pixel_beyond_is_allowed_and_no_more(image, tmp_path):
    """In metres pixels are so small that a tolerance in units would let everything pass."""
    group = zarr.open_group(str(image), mode="r+")
    ome = group.attrs["ome"]
    for axis in ome["multiscales"][0]["axes"][1:]:
        axis["unit"] = "meter"
    for dataset in ome["multiscales"][0]["datasets"]:
        (step,) = dataset["coordinateTransformations"]
        step["scale"] = [1, *(size * 1e-6 for size in step["scale"][1:])]
    group.attrs["ome"] = ome
    for beyond_px, fits in ((1, True), (3, False)):
        microscopy(300, 420, corner=(0.65 * beyond_px - HALF, -HALF)).write(Folder.at(tmp_path / f"{fits}"))
    assert export_labels_into(str(tmp_path / "True"), str(image), name="fits").levels == 2
    with pytest.raises(SettingsError, match="must lie in the image"):
        export_labels_into(str(tmp_path / "False"), str(image), name="beyond")


def test_in_a_bucket(s3_bucket):
    contents = microscopy(300, 420)
    contents.write(Folder.at(f"{s3_bucket.url}/m"))
    export_labels(f"{s3_bucket.url}/m", f"{s3_bucket.url}/labels.zarr")
    store = Folder.at(f"{s3_bucket.url}/labels.zarr").zarr_store(read_only=True)
    np.testing.assert_array_equal(zarr.open_group(store, mode="r")["0"][:], labelled(contents))
