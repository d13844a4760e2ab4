"""Whole runs on what microscopes and scanners give: OME-Zarr in and out, slides with bare glass."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from pipeline.config import RunConfig
from pipeline.errors import SettingsError
from pipeline.raster.export.ome_labels import export_labels_into
from pipeline.raster.mosaic import Mosaic
from pipeline.raster.zarrs.ome import parse_image
from pipeline.segment.run import plan_only, segment
from pipeline.storage import Folder
from tests.pipeline.raster.ome_models import validated
from tests.pipeline.raster.slides import levels_of, slide_of, tissue_of, write_large_slide, write_slide
from tests.pipeline.segment.scene import array_objects, ledger_records, settings

CHANNELS = ["DAPI", "Lamin B1", "nanog"]
LEVEL = {"bands": CHANNELS, "um_per_px": 2.6}


def run(source, model, output, /, **groups):
    return segment(RunConfig.model_validate(settings(source, model, output, **groups)))


@pytest.fixture(scope="module")
def model(light_model) -> Path:
    return light_model


@pytest.fixture(scope="module")
def cardio(shared_data) -> Path:
    return shared_data / "omezarr_cardio" / "cardio_B03_mip.zarr"


@pytest.fixture(scope="module")
def cardio_run(cardio, model, tmp_path_factory):
    output = tmp_path_factory.mktemp("cardio") / "out.zarr"
    assert run(cardio, model, output, source=LEVEL)["status"] == "complete"
    return output


def copy_as_0_5(cardio: Path, path: Path) -> Path:
    """The same image in Zarr v3, its metadata where 0.5 has them."""
    old = zarr.open_group(str(cardio), mode="r")
    multiscales = [dict(scale) for scale in old.attrs["multiscales"]]
    for scale in multiscales:
        del scale["version"]
    ome = {"version": "0.5", "multiscales": multiscales, "omero": old.attrs["omero"]}
    new = zarr.create_group(str(path), attributes={"ome": ome})
    for level in ("1", "2", "3"):
        new.create_array(level, data=old[level][:], chunks=(1, 1, 256, 256), dimension_names=list("czyx"))
    return path


def test_an_image_of_0_5_gives_the_bytes_of_0_4(cardio, cardio_run, model, tmp_path):
    copy = copy_as_0_5(cardio, tmp_path / "copy.zarr")
    run(copy, model, tmp_path / "out.zarr", source=LEVEL)
    assert array_objects(tmp_path / "out.zarr") == array_objects(cardio_run)
    assert set(np.unique(Mosaic.open(str(cardio_run)).classes())) > {0, 1}, "one class would hide faults"


def test_channels_are_what_the_network_saw(cardio, cardio_run, model, tmp_path):
    """The level's samples through a plain Zarr without any metadata: the same bytes."""
    level = zarr.open_group(str(cardio), mode="r")["3"]
    zarr.create_array(str(tmp_path / "plain.zarr"), data=level[:][[0, 2, 1], 0], chunks=(3, 300, 300))
    run(tmp_path / "plain.zarr", model, tmp_path / "out.zarr")
    names = ("classes", "confidence", "logits")
    plain, found = array_objects(tmp_path / "out.zarr"), array_objects(cardio_run)
    assert plain == {key: data for key, data in found.items() if key.split("/")[0] in (*names, "spatial_ref")}


def test_napari_lays_image_and_mosaic_on_each_other(cardio, cardio_run):
    image = parse_image(zarr.open_group(str(cardio), mode="r").attrs.asdict(), "image")
    mosaic = parse_image(zarr.open_group(str(cardio_run), mode="r").attrs.asdict(), "mosaic")
    assert mosaic.dims == ("y", "x")
    assert mosaic.levels[0].scale == image.levels[2].scale[2:]
    assert mosaic.levels[0].translation == image.levels[2].translation[2:]
    assert mosaic.unit == image.unit == "micrometer"


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_image_mosaic_and_labels_hold_by_omes_own_models(version, cardio, cardio_run, tmp_path):
    """In as it came, out beside it: of either version, whole groups and all they point to."""
    image = tmp_path / "image.zarr"
    if version == "0.4":
        shutil.copytree(cardio, image)
    else:
        copy_as_0_5(cardio, image)
    validated(image, version, "Image")
    validated(cardio_run, "0.5", "Image")
    exported = export_labels_into(str(cardio_run), str(image), name="classes")
    assert exported.version == version
    validated(image / "labels" / "classes", version, "ImageLabel")
    assert "classes" in validated(image, version, "Image").labels.attributes.model_dump_json()
    classes = Mosaic.open(str(cardio_run)).classes()
    labels = zarr.open_group(str(image / "labels" / "classes"), mode="r")["0"][...]
    np.testing.assert_array_equal(labels.squeeze(), np.where(classes == 255, 0, classes.astype(int) + 1))


def test_xarray_opens_the_mosaic(cardio_run):
    with xr.open_zarr(str(cardio_run)) as opened:
        assert opened["classes"].shape == (270, 320)
        np.testing.assert_allclose(opened["x"][:3], [0.0, 2.6, 5.2])
        assert opened["x"].attrs["units"] == "micrometer"


def test_a_mosaics_classes_are_a_source_again(cardio_run, model, tmp_path):
    document = settings(cardio_run / "classes", model, tmp_path / "again.zarr", source={"bands": [1, 1, 1]})
    plan = plan_only(RunConfig.model_validate(document))
    assert plan["grid"]["transform"] == list(Mosaic.open(str(cardio_run)).grid.transform)[:6]


def test_from_a_bucket(s3_bucket, cardio, cardio_run, model, tmp_path):
    folder = Folder(f"{s3_bucket.url}/images/cardio.zarr")
    for file in Path(cardio).rglob("*"):
        key = str(file.relative_to(cardio))
        if file.is_file() and (key.startswith("3/") or file.name.startswith(".z")):
            folder.write(key, file.read_bytes())
    run(folder.url, model, tmp_path / "out.zarr", source=LEVEL)
    assert array_objects(tmp_path / "out.zarr") == array_objects(cardio_run)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """More than a block each way, tissue in one corner."""
    tissue = tissue_of(260, 1150, blobs=1)
    path = tmp_path_factory.mktemp("slide") / "slide.svs"
    return write_slide(
        path, levels_of(slide_of(tissue), 3), style="pages", compression="jpeg",
        description="Aperio Image Library|AppMag = 20|MPP = 0.5",
    )  # fmt: skip


RGB = {"bands": [1, 2, 3]}
MASKED = RGB | {"tissue": "auto", "tissue_margin_px": 64}


@pytest.fixture(scope="module")
def whole_slide(slide, model, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "out.zarr"
    run(slide, model, output, source=RGB)
    return output


@pytest.fixture(scope="module")
def masked_slide(slide, model, tmp_path_factory):
    output = tmp_path_factory.mktemp("masked") / "out.zarr"
    return output, run(slide, model, output, source=MASKED)


def test_tissue_is_computed_as_if_there_were_no_mask(masked_slide, whole_slide):
    output, report = masked_slide
    masked, whole = Mosaic.open(str(output)), Mosaic.open(str(whole_slide))
    known = masked.classes() != 255
    assert 0.05 < known.mean() < 0.6
    np.testing.assert_array_equal(masked.classes()[known], whole.classes()[known])
    np.testing.assert_array_equal(masked.confidence()[known], whole.confidence()[known])
    np.testing.assert_array_equal(masked.confidence()[~known], 255)
    computed = report["crops"]["computed"]
    assert computed < 0.7 * sum(record.get("crops", 0) for record in ledger_records(whole_slide).values())
    assert report["plan"]["crops"]["computed"] >= computed, "the plan is an upper bound"


def test_the_mask_does_not_depend_on_blocks(masked_slide, slide, model, tmp_path):
    run(slide, model, tmp_path / "out.zarr", source=MASKED, block={"size_px": 2048})
    assert array_objects(tmp_path / "out.zarr") == array_objects(masked_slide[0])


def test_a_coarser_level_is_a_mosaic_of_its_own(slide, model, tmp_path):
    run(slide, model, tmp_path / "out.zarr", source=RGB | {"um_per_px": 2.0})
    mosaic = Mosaic.open(str(tmp_path / "out.zarr"))
    assert mosaic.grid.window.shape == (65, 287)
    assert mosaic.attributes["pixel_size_um"] == [2.0, 2.0]
    scale, translation = (
        step[step["type"]]
        for step in mosaic.attributes["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    )
    assert (scale, translation) == ([2.0, 2.0], [1.0, 1.0]), "corners of all levels lie at 0"
    page = Path(tmp_path, "out.zarr.run", "report.html").read_text()
    assert "2 µm a pixel" in page
    assert page.count("<img") == 3, "the slide has its picture, too"


def test_glass_alone_is_empty(model, tmp_path):
    path = write_slide(tmp_path / "s.tif", levels_of(slide_of(np.zeros((300, 400), bool))), style="subifd")
    report = run(path, model, tmp_path / "out.zarr", source=RGB | {"tissue": "auto"})
    assert report["status"] == "complete"
    assert (report["blocks"]["empty"], report["crops"]["computed"]) == (1, 0)
    assert (Mosaic.open(str(tmp_path / "out.zarr")).classes() == 255).all()


@pytest.mark.parametrize("setting", [{"t": 0}, {"z": [1]}])
def test_a_slide_has_no_planes(setting, slide, model, tmp_path):
    with pytest.raises(SettingsError, match=r"source\.t and source\.z choose planes of a Zarr source"):
        run(slide, model, tmp_path / "out.zarr", source=RGB | setting)


@pytest.mark.slow
@pytest.mark.parametrize("style", ["subifd", "pages"])
def test_a_large_slide_at_two_levels(style, model, tmp_path):
    side, discs = 30_000, [(9000, 12_000, 1500), (21_000, 20_000, 900)]
    path = write_large_slide(tmp_path / "s.tif", side, discs, style=style)
    for um, size in ((8.0, 1875), (2.0, 7500)):
        output = tmp_path / f"{um}.zarr"
        crop = {"size_px": 257, "stride_px": 208}
        report = run(path, model, output, source=MASKED | {"um_per_px": um}, crop=crop)
        assert report["status"] == "complete"
        mosaic = Mosaic.open(str(output))
        assert mosaic.grid.window.shape == (size, size)
        rows, cols = (np.ogrid[:size, :size][axis] * (side / size) for axis in (0, 1))
        known, tissue = mosaic.classes() != 255, np.zeros((size, size), bool)
        for row, col, radius in discs:
            tissue |= (rows - row) ** 2 + (cols - col) ** 2 < radius**2
        assert known[tissue].all()
        assert known.mean() < 0.25
        assert report["blocks"]["empty"] > 0 or size < 2048
        assert report["peak_rss_bytes"] < report["plan"]["memory_per_worker"]["total_bytes"]
