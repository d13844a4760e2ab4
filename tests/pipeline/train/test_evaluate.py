"""A mosaic against labels: the figures are those of the whole raster, however the work is cut."""

import json

import numpy as np
import pytest
import rasterio

from pipeline.errors import MismatchError, Refused, SettingsError, StorageError
from pipeline.raster.mosaic import Mosaic
from pipeline.train.evaluate.plan import plan_evaluation
from pipeline.train.evaluate.run import evaluate
from pipeline.train.evaluate.worker import EvaluateWorker
from tests.pipeline.raster.mosaics import UPRIGHT
from tests.pipeline.train.evaluated import (
    NAMES,
    UNLABELLED,
    boundary_of,
    config,
    confusion_of,
    run,
    truth_of,
    without_time,
    write_labels,
    write_mosaic,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("evaluated")


@pytest.fixture(scope="module")
def contents(place):
    return write_mosaic(place / "mosaic.zarr")


@pytest.fixture(scope="module")
def truth(contents, place):
    truth = truth_of(contents)
    write_labels(place / "truth.tif", truth)
    return truth


@pytest.fixture(scope="module")
def report(place, truth):
    assert truth.any()
    return run(place / "mosaic.zarr", place / "truth.tif", place / "out")


def test_the_confusion_is_that_of_the_whole_raster(contents, truth, report):
    expected = confusion_of(contents.classes, truth)
    assert expected[:, -1].sum() > 0, "the mosaic's hole must lie under labels"
    np.testing.assert_array_equal(report["confusion"], expected)
    assert report["pixels"]["labelled"] == expected.sum()
    assert report["pixels"]["without_prediction"] == expected[:, -1].sum()


def test_figures_follow_from_the_confusion(contents, truth, report):
    for index, name in enumerate(NAMES):
        said, is_so = contents.classes == index, truth == index
        said &= truth != UNLABELLED
        both = np.count_nonzero(said & is_so)
        assert report["iou"][name] == pytest.approx(both / np.count_nonzero(said | is_so))
        assert report["dice"][name] == pytest.approx(2 * both / (said.sum() + is_so.sum()))
        assert report["precision"][name] == pytest.approx(both / said.sum())
        assert report["recall"][name] == pytest.approx(both / is_so.sum())
    labelled = truth != UNLABELLED
    right = (contents.classes == truth)[labelled]
    assert report["pixel_accuracy"] == pytest.approx(right.mean())
    assert report["miou"] == pytest.approx(np.mean(list(report["iou"].values())))
    shares = [np.mean(truth[labelled] == index) for index in range(3)]
    assert report["frequency_weighted_iou"] == pytest.approx(np.dot(shares, list(report["iou"].values())))


def test_contours_across_blocks_are_counted_as_on_the_whole_raster(contents, truth, report):
    expected = boundary_of(contents.classes, truth, report["boundary_px"])
    np.testing.assert_array_equal(list(report["boundary_iou"].values()), expected)


def test_the_error_map_is_right_wrong_or_silent(contents, truth, place, report):
    errors = Mosaic.open(report["error_map"])
    expected = np.where(truth == UNLABELLED, 255, np.where(contents.classes == truth, 0, 1))
    np.testing.assert_array_equal(errors.classes(), expected)
    assert errors.grid == contents.layout.grid
    assert errors.array("classes").chunks == Mosaic.open(str(place / "mosaic.zarr")).array("classes").chunks
    np.testing.assert_array_equal(
        errors.confidence(), np.where(truth == UNLABELLED, 255, contents.confidence)
    )


def test_areas_have_the_whole_maps_sizes_and_the_labels_truth(contents, truth, report):
    mapped = [np.count_nonzero(contents.classes == index) for index in range(3)]
    assert report["class_pixels"] == mapped
    area = report["area"]
    assert area["unit"] == "m²"
    assert area["total"] == pytest.approx(100 * sum(mapped))
    known = (truth != UNLABELLED) & (contents.classes != UNLABELLED)
    for index, name in enumerate(NAMES):
        shares = [np.mean(truth[known & (contents.classes == stratum)] == index) for stratum in range(3)]
        estimated = 100 * np.dot(mapped, shares)
        assert area["classes"][name]["estimated_area"]["value"] == pytest.approx(estimated)
        assert area["classes"][name]["mapped_area"] == pytest.approx(100 * mapped[index])


def test_errors_in_patches_widen_the_interval_of_clusters(report):
    """Patches of 16 px hold 256 pixels of one error: independent they are not."""
    overall = report["area"]["overall_accuracy"]
    assert overall["cluster_standard_error"] > 5 * overall["standard_error"]


@pytest.mark.parametrize("block_px", [2048, 3072])
def test_the_result_does_not_depend_on_blocks(place, report, block_px):
    other = run(
        place / "mosaic.zarr", place / "truth.tif", place / f"out{block_px}", block={"size_px": block_px}
    )
    assert other["blocks"]["total"] < report["blocks"]["total"]
    assert without_time(other) == without_time(report)
    np.testing.assert_array_equal(
        Mosaic.open(other["error_map"]).classes(), Mosaic.open(report["error_map"]).classes()
    )


@pytest.mark.parametrize("boundary_px", [1, 40])
def test_any_width_of_contours_fits_any_block(contents, truth, place, tmp_path, boundary_px):
    settings = {"boundary": {"width_px": boundary_px}}
    found = run(place / "mosaic.zarr", place / "truth.tif", tmp_path / "out", **settings)
    expected = boundary_of(contents.classes, truth, boundary_px)
    np.testing.assert_array_equal(list(found["boundary_iou"].values()), expected)


def test_a_part_of_the_mosaic_may_be_labelled(contents, truth, place, tmp_path):
    """A tile cut from the scene lies a whole number of pixels away; a boundary of it is a boundary."""
    row, col, height, width = 900, 1010, 250, 300
    tile = truth[row : row + height, col : col + width]
    write_labels(tmp_path / "tile.tif", tile, transform=UPRIGHT @ UPRIGHT.translation(col, row))
    found = run(place / "mosaic.zarr", tmp_path / "tile.tif", tmp_path / "out")
    alone = np.full_like(truth, UNLABELLED)
    alone[row : row + height, col : col + width] = tile
    np.testing.assert_array_equal(found["confusion"], confusion_of(contents.classes, alone))
    expected = boundary_of(contents.classes, alone, found["boundary_px"])
    np.testing.assert_array_equal(list(found["boundary_iou"].values()), expected)
    assert found["class_pixels"] == [np.count_nonzero(contents.classes == index) for index in range(3)]


def test_of_several_files_the_first_that_labels_a_pixel_counts(contents, truth, place, tmp_path):
    first = np.full_like(truth, UNLABELLED)
    first[300:700, 400:1100] = 2
    write_labels(tmp_path / "first.tif", first)
    urls = [str(tmp_path / "first.tif"), str(place / "truth.tif")]
    found = run(place / "mosaic.zarr", {"urls": urls}, tmp_path / "out")
    merged = np.where(first != UNLABELLED, first, truth)
    np.testing.assert_array_equal(found["confusion"], confusion_of(contents.classes, merged))
    by_name = {part["name"]: part for part in found["sources"]}
    assert by_name["first.tif"]["pixels"] == np.count_nonzero(first != UNLABELLED)
    rest = confusion_of(contents.classes, np.where(first != UNLABELLED, UNLABELLED, truth))
    assert by_name["truth.tif"]["pixels"] == rest.sum()
    assert by_name["truth.tif"]["pixel_accuracy"] == pytest.approx(np.trace(rest[:, :3]) / rest.sum())


def test_values_are_mapped_and_the_rest_ignored(contents, truth, place, tmp_path):
    codes = np.array([70, 40, 10], np.int16)
    raw = np.where(truth == UNLABELLED, -5, codes[np.minimum(truth, 2)]).astype(np.int16)
    write_labels(tmp_path / "codes.tif", raw)
    labels = {
        "urls": str(tmp_path / "codes.tif"),
        "values": {70: "class 0", 40: "class 1", 10: "class 2"},
        "ignore": [-5],
    }
    found = run(place / "mosaic.zarr", labels, tmp_path / "out")
    np.testing.assert_array_equal(found["confusion"], confusion_of(contents.classes, truth))


def test_declared_nodata_is_no_label_unless_it_is_mapped(contents, truth, place, tmp_path):
    write_labels(tmp_path / "zero.tif", truth, nodata=0)
    url = {"urls": str(tmp_path / "zero.tif")}
    found = run(place / "mosaic.zarr", url, tmp_path / "out")
    silent = np.where(truth == 0, UNLABELLED, truth)
    np.testing.assert_array_equal(found["confusion"], confusion_of(contents.classes, silent))
    found = run(place / "mosaic.zarr", url | {"values": {0: "class 0"}}, tmp_path / "mapped")
    np.testing.assert_array_equal(found["confusion"], confusion_of(contents.classes, truth))


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ({"values": {3: "marsh"}}, "must name classes of the mosaic, which are class 0, class 1, class 2"),
        ({"split": "val"}, "--split needs a tile set"),
        ({"ignore": []}, r"label values must be .* got 255 \(\d+ px\) in .*truth.tif"),
    ],
)
def test_labels_that_mean_nothing_are_refused_and_nothing_stays(place, tmp_path, labels, sentence):
    settings = {"urls": str(place / "truth.tif")} | labels
    with pytest.raises(SettingsError, match=sentence):
        run(place / "mosaic.zarr", settings, tmp_path / "out")
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left == []


def test_labels_elsewhere_are_refused(place, truth, tmp_path):
    write_labels(tmp_path / "far.tif", truth, transform=UPRIGHT @ UPRIGHT.translation(5000, 0))
    with pytest.raises(SettingsError, match="labels must lie on the mosaic, whose bounds are"):
        run(place / "mosaic.zarr", tmp_path / "far.tif", tmp_path / "out")


def test_three_bands_are_no_labels(place, tmp_path):
    with rasterio.open(
        tmp_path / "rgb.tif", "w", driver="GTiff", height=9, width=9, count=3, dtype="uint8"
    ) as target:
        target.write(np.zeros((3, 9, 9), np.uint8))
    with pytest.raises(Refused, match="labels must be one band of class values, got 3 bands"):
        run(place / "mosaic.zarr", tmp_path / "rgb.tif", tmp_path / "out")


def test_started_again_it_compares_only_what_is_missing(place, report, tmp_path):
    output = tmp_path / "out"
    first = run(place / "mosaic.zarr", place / "truth.tif", output)
    records = sorted((output / "blocks").iterdir())
    assert len(records) == 4
    kept = {path.name: path.stat().st_mtime_ns for path in records[1:]}
    (output / "blocks" / records[0].name).unlink()
    again = run(place / "mosaic.zarr", place / "truth.tif", output)
    assert without_time(again) == without_time(first) == without_time(report)
    assert kept == {path.name: path.stat().st_mtime_ns for path in sorted((output / "blocks").iterdir())[1:]}


def test_another_evaluation_in_the_same_place_is_refused_until_told(place, truth, tmp_path):
    output = tmp_path / "out"
    run(place / "mosaic.zarr", place / "truth.tif", output)
    other = config(place / "mosaic.zarr", place / "truth.tif", output, reliability={"bins": 10})
    with pytest.raises(MismatchError, match=r"reliability\.bins = 15, now 10"):
        evaluate(other)
    assert evaluate(other, overwrite=True)["reliability"]["bins"] == 10
    write_labels(tmp_path / "new.tif", truth_of(write_mosaic(tmp_path / "m.zarr", 300, 300)))
    with pytest.raises(MismatchError, match=r"mosaic\.url"):
        run(tmp_path / "m.zarr", tmp_path / "new.tif", output)
    assert json.loads((output / "report.json").read_text())["reliability"]["bins"] == 10
    assert truth.size


def test_a_mosaic_that_changed_is_another_mosaic(tmp_path):
    contents = write_mosaic(tmp_path / "m.zarr", 300, 300)
    write_labels(tmp_path / "l.tif", truth_of(contents))
    run(tmp_path / "m.zarr", tmp_path / "l.tif", tmp_path / "out")
    chunk = tmp_path / "m.zarr" / "classes" / "c" / "0" / "0"
    data = chunk.read_bytes()
    chunk.unlink()
    chunk.write_bytes(data)
    with pytest.raises(MismatchError, match=r"mosaic\.contents"):
        run(tmp_path / "m.zarr", tmp_path / "l.tif", tmp_path / "out")


def test_a_folder_with_other_things_is_not_written_into(place, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StorageError, match="holds something that is no evaluation"):
        run(place / "mosaic.zarr", place / "truth.tif", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_damaged_block_is_told_and_the_others_are_compared(tmp_path, monkeypatch):
    from pipeline.segment import executor

    monkeypatch.setattr(executor, "RETRY_DELAY_S", 0.01)
    contents = write_mosaic(tmp_path / "m.zarr", 1100, 1500)
    truth = truth_of(contents)
    write_labels(tmp_path / "l.tif", truth)
    chunk = tmp_path / "m.zarr" / "classes" / "c" / "1" / "1"
    good = chunk.read_bytes()
    chunk.write_bytes(b"no chunk at all")
    # No halo reaches over: only the damaged block itself fails.
    truth[1020:, :] = truth[:, 1020:] = UNLABELLED
    write_labels(tmp_path / "l.tif", truth)
    found = run(tmp_path / "m.zarr", tmp_path / "l.tif", tmp_path / "out", boundary={"width_px": 1})
    assert found["status"] == "incomplete"
    assert found["blocks"] == {"total": 4, "done": 3, "failed": 1}
    assert found["failures"][0]["block"] == "r00001c00001"
    assert "damaged" in found["failures"][0]["reason"]
    chunk.write_bytes(good)
    with pytest.raises(MismatchError, match=r"mosaic\.contents"):  # mended is changed
        run(tmp_path / "m.zarr", tmp_path / "l.tif", tmp_path / "out", boundary={"width_px": 1})


def test_labels_that_label_nothing_give_no_figures(contents, place, tmp_path):
    write_labels(tmp_path / "empty.tif", np.full(contents.classes.shape, UNLABELLED, np.uint8))
    found = run(place / "mosaic.zarr", tmp_path / "empty.tif", tmp_path / "out")
    assert found["status"] == "complete"
    assert found["miou"] is found["pixel_accuracy"] is found["reliability"]["ece"] is None
    assert found["sources"] == []
    assert found["area"]["covered_share"] == 0
    assert "No pixel has a label yet." in (tmp_path / "out" / "report.html").read_text()
    assert np.all(Mosaic.open(found["error_map"]).classes() == 255)


def test_a_worker_that_does_not_see_the_output_refuses(place, truth, tmp_path):
    """On another machine a local path is another place: what it wrote there, nobody would find."""
    spec = plan_evaluation(config(place / "mosaic.zarr", place / "truth.tif", tmp_path / "out")).spec
    with pytest.raises(StorageError, match=r"every node must see the output, but .* finds no plan"):
        EvaluateWorker(spec)
    assert truth.size


def test_the_error_map_as_a_cog(contents, truth, place, tmp_path):
    output = tmp_path / "errors.tif"
    found = run(place / "mosaic.zarr", place / "truth.tif", tmp_path / "out", error_cog=str(output))
    assert found["error_cog"] == str(output)
    with rasterio.open(output) as dataset:
        expected = np.where(truth == UNLABELLED, 255, np.where(contents.classes == truth, 0, 1))
        np.testing.assert_array_equal(dataset.read(1), expected)
        assert dataset.nodata == 255
        assert dataset.crs.to_epsg() == 32633
