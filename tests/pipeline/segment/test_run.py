"""Whole runs in this process: right, the same however they are cut, resumable, loud."""

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine

from deeplab_core import load_checkpoint
from deeplab_core.multiscale import MultiScale
from pipeline.config import RunConfig
from pipeline.errors import Interrupted, MismatchError, ModelError, SettingsError, StorageError
from pipeline.raster.mosaic import Mosaic
from pipeline.raster.window import Window
from pipeline.segment.ledger import Ledger
from pipeline.segment.run import plan_only, segment
from tests.pipeline.segment.reference import assert_same_mosaic, segment_whole
from tests.pipeline.segment.scene import (
    BANDS,
    CROPS,
    MEAN,
    STD,
    array_objects,
    damage_last_tile,
    ledger_records,
    settings,
    write_scene,
)


def run(*arguments, overwrite=False, **groups):
    return segment(RunConfig.model_validate(settings(*arguments, **groups)), overwrite=overwrite)


def reference(scene: Path, model: Path, *, scales=(1.0,), flips=(), window="gaussian"):
    with rasterio.open(scene) as source:
        raw, valid = source.read(), source.dataset_mask() > 0
    network = MultiScale(load_checkpoint(model), scales=scales, flips=flips)
    gain, bias = [1 / std for std in STD], [-mean / std for mean, std in zip(MEAN, STD, strict=True)]
    with torch.inference_mode():
        return segment_whole(
            raw, valid, valid, network, gain=gain, bias=bias, crop=CROPS["size_px"],
            stride=CROPS["stride_px"], node_px=4, window=window,
        )  # fmt: skip


@pytest.fixture
def continued(undisturbed, tmp_path) -> Path:
    """A copy of the undisturbed run, to be disturbed and gone on with."""
    output = tmp_path / "out.zarr"
    shutil.copytree(undisturbed, output)
    shutil.copytree(f"{undisturbed}.run", f"{output}.run")
    return output


def test_the_mosaic_is_the_whole_raster_reference(scene, model, undisturbed):
    mosaic = Mosaic.open(str(undisturbed))
    assert_same_mosaic(mosaic.classes(), mosaic.confidence(), reference(scene, model))
    assert set(np.unique(mosaic.classes())) == {0, 1, 2, 255}, "a scene of one class would hide faults"


@pytest.mark.parametrize("size", [(1, 1), (128, 129), (130, 113), (400, 37), (257, 263)])
def test_awkward_sizes(size, model, tmp_path):
    scene = write_scene(tmp_path / "scene.tif", *size, holes=False, seed=2)
    run(scene, model, tmp_path / "out.zarr")
    mosaic = Mosaic.open(str(tmp_path / "out.zarr"))
    assert_same_mosaic(mosaic.classes(), mosaic.confidence(), reference(scene, model))


def test_scales_and_flips(model, tmp_path):
    scene = write_scene(tmp_path / "scene.tif", 140, 230, seed=3)
    inference = {"scales": [0.75, 1.0, 1.5], "flips": ["h", "v"]}
    run(scene, model, tmp_path / "out.zarr", inference=inference, blend={"window": "hann"})
    mosaic = Mosaic.open(str(tmp_path / "out.zarr"))
    expected = reference(scene, model, **inference, window="hann")
    assert_same_mosaic(mosaic.classes(), mosaic.confidence(), expected)


def test_block_size_changes_no_byte(model, tmp_path):
    """A strip has several blocks of every size, and few crops."""
    scene = write_scene(tmp_path / "scene.tif", 100, 4300)
    objects = []
    for block_px, batch, blocks in ((1024, 2, 5), (2048, 3, 3), (4096, 1, 2)):
        output = tmp_path / f"{block_px}.zarr"
        report = run(scene, model, output, block={"size_px": block_px}, inference={"batch": batch})
        assert report["blocks"]["total"] == blocks
        objects.append(array_objects(output))
    assert objects[0] == objects[1] == objects[2]


def test_logits_give_the_classes_again(undisturbed):
    mosaic = Mosaic.open(str(undisturbed))
    classes, logits = mosaic.classes(), mosaic.logits()
    known = classes != 255
    np.testing.assert_array_equal(np.isnan(logits[0]), ~known)
    ordered = np.sort(logits[:, known], axis=0)
    clear = ordered[-1] - ordered[-2] > 0.02  # float16 keeps three digits of a logarithm
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(logits.argmax(0)[known][clear], classes[known][clear])
    assert np.abs(np.exp(logits[:, known]).sum(0) - 1).max() < 0.02


def test_the_report_counts_this_run(undisturbed, scene, model):
    stored = json.loads((Path(f"{undisturbed}.run") / "report.json").read_text())
    assert stored["blocks"] == {"total": 4, "done": 4, "empty": 0, "failed": 0, "skipped": 0}
    with rasterio.open(scene) as source:
        assert stored["pixels"] == (source.dataset_mask() > 0).sum() == sum(stored["class_pixels"])
    assert stored["crops"]["computed"] >= stored["crops"]["unique"] > 0
    again = run(scene, model, undisturbed)
    assert again["blocks"] == {"total": 4, "done": 0, "empty": 0, "failed": 0, "skipped": 4}
    assert again["fingerprint"] == stored["fingerprint"]


def test_a_run_continues_where_it_stood(scene, model, undisturbed, continued):
    output = continued
    lost = sorted(ledger_records(output))[1]
    (Path(f"{output}.run") / "blocks" / f"{lost}.json").unlink()
    for name in ("classes/c/0/1", "confidence/c/0/1"):
        (output / name).unlink()
    report = run(scene, model, output)
    assert report["status"] == "complete"
    assert report["blocks"] == {"total": 4, "done": 1, "empty": 0, "failed": 0, "skipped": 3}
    assert array_objects(output) == array_objects(undisturbed)


def test_a_damaged_object_is_computed_again(scene, model, undisturbed, continued):
    output = continued
    for name in ("classes/c/1/0", "confidence/c/1/0", "logits/c/0/1/0"):
        victim = output / name
        victim.write_bytes(victim.read_bytes()[: -(victim.stat().st_size // 2)])
    report = run(scene, model, output)
    assert report["status"] == "complete"
    assert report["blocks"]["done"] == 1
    assert array_objects(output) == array_objects(undisturbed)


def test_another_model_on_the_same_output_is_refused_by_name(scene, other_model, undisturbed):
    before = array_objects(undisturbed)
    with pytest.raises(MismatchError, match=r"model\.sha256.*--overwrite"):
        run(scene, other_model, undisturbed)
    assert array_objects(undisturbed) == before


def test_overwrite_starts_over(model, other_model, tmp_path):
    small = write_scene(tmp_path / "small.tif", 200, 200)
    run(small, model, tmp_path / "out.zarr")
    first = array_objects(tmp_path / "out.zarr")
    report = run(small, other_model, tmp_path / "out.zarr", overwrite=True)
    assert report["blocks"]["done"] == 1
    assert array_objects(tmp_path / "out.zarr") != first


def test_a_place_that_holds_something_else_is_refused(scene, model, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("finished at last")
    with pytest.raises(StorageError, match="must be a new place"):
        run(scene, model, tmp_path / "mine")
    with pytest.raises(StorageError, match="holds something else"):
        run(scene, model, tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "finished at last"


def test_an_unreadable_block_is_given_up_and_the_rest_is_done(model, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.segment.executor.RETRY_DELAY_S", 0.01)
    scene = write_scene(tmp_path / "scene.tif", 100, 2400, holes=False)
    damage_last_tile(scene)
    report = run(scene, model, tmp_path / "out.zarr")
    assert report["status"] == "incomplete"
    assert report["blocks"]["failed"] >= 1
    assert report["blocks"]["done"] >= 1
    assert report["blocks"]["done"] + report["blocks"]["failed"] == report["blocks"]["total"]
    failed = {one["block"] for one in report["failures"]}
    assert Ledger.beside(str(tmp_path / "out.zarr")).failed() == failed
    assert all(any(block in fault for fault in report["audit"]["faults"]) for block in failed)
    record = json.loads(next((tmp_path / "out.zarr.run" / "failed").glob("*.json")).read_text())
    assert "Traceback" in record["traceback"]
    assert len(report["retries"]) == 2 * len(failed)


def test_a_signal_ends_the_run_cleanly_and_it_can_go_on(scene, model, undisturbed, tmp_path):
    output = tmp_path / "out.zarr"
    done = Path(f"{output}.run") / "blocks"

    def stop_after_the_first_block():
        while not (done.is_dir() and any(done.iterdir())):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_after_the_first_block).start()
    report = run(scene, model, output)
    assert report["status"] == "interrupted"
    assert 0 < report["blocks"]["done"] < 4
    again = run(scene, model, output)
    assert again["status"] == "complete"
    assert report["blocks"]["done"] == again["blocks"]["skipped"]
    assert array_objects(output) == array_objects(undisturbed)


def test_a_window_equals_the_same_place_in_the_full_run(scene, model, undisturbed, tmp_path):
    run(scene, model, tmp_path / "out.zarr", region={"window": [300, 500, 400, 350]})
    part, full = Mosaic.open(str(tmp_path / "out.zarr")), Mosaic.open(str(undisturbed))
    row, col = part.attributes["source_origin"]
    assert row % CROPS["stride_px"] == col % CROPS["stride_px"] == 0
    classes = part.classes()
    place = np.zeros(full.grid.window.shape, bool)
    place[300:700, 500:850] = True
    expected = np.where(place, full.classes(), 255)[
        row : row + classes.shape[0], col : col + classes.shape[1]
    ]
    np.testing.assert_array_equal(classes, expected)
    assert part.grid.transform == full.grid.transform @ Affine.translation(col, row)


@pytest.mark.parametrize("edge", ["region", "data"])
def test_logits_hold_to_the_last_pixel_where_the_next_block_has_nothing(edge, model, tmp_path):
    """The last pixels of a block hang on nodes of the next one, wanted or not."""
    scene = write_scene(tmp_path / "scene.tif", 1100, 1300, holes=False)
    region = {"window": [0, 0, 1024, 1024]} if edge == "region" else {}
    with rasterio.open(scene, "r+") as target:
        data = target.read()
        data[:, :880] = data[:, :, :880] = 0  # crops without a pixel cost nothing
        if edge == "data":
            data[:, 1024:] = data[:, :, 1024:] = 0
        target.write(data)
    report = run(scene, model, tmp_path / "out.zarr", region=region)
    assert report["status"] == "complete"
    assert report["blocks"]["done"] == 1
    assert report["blocks"]["total"] == (1 if edge == "region" else 4)
    mosaic = Mosaic.open(str(tmp_path / "out.zarr"))
    logits = mosaic.logits(Window(1000, 1000, 24, 24))
    assert np.abs(np.exp(logits).sum(0) - 1).max() < 0.02


def test_planning_writes_nothing_and_says_what_a_run_will_do(model, tmp_path_factory, tmp_path):
    scene = write_scene(tmp_path_factory.mktemp("strip") / "scene.tif", 150, 1300)
    plan = plan_only(RunConfig.model_validate(settings(scene, model, tmp_path / "out.zarr")))
    assert not list(tmp_path.iterdir())
    report = run(scene, model, tmp_path / "out.zarr")
    assert plan["blocks"] == report["blocks"]["total"]
    assert plan["crops"]["unique"] == report["crops"]["unique"]
    assert plan["crops"]["computed"] >= report["crops"]["computed"]
    assert plan["fingerprint"] == report["fingerprint"]
    assert plan["estimated_seconds"] is None
    calibrated = plan_only(RunConfig.model_validate(settings(scene, model, tmp_path / "out.zarr")))
    assert calibrated["estimated_seconds"] > 0


def test_memory_over_the_limit_is_refused_before_anything_is_written(scene, model, tmp_path):
    with pytest.raises(SettingsError, match=r"must fit into 0\.50 GiB.*projected to take .* GiB.*memory_gib"):
        run(scene, model, tmp_path / "out.zarr", compute={"memory_gib": 0.5})
    assert not list(tmp_path.iterdir())


def test_bands_that_do_not_fit_are_refused_with_both_lists(scene, model, tmp_path):
    with pytest.raises(ModelError, match=r"model takes 3 bands \(red, green, nir\).*1 \(red\), 2 \(green\)"):
        run(scene, model, tmp_path / "out.zarr", source={"bands": [1, 2]})


def test_an_empty_block_is_empty_and_not_done(model, tmp_path):
    scene = write_scene(tmp_path / "scene.tif", 200, 2000, holes=False)
    with rasterio.open(scene, "r+") as target:
        target.write(np.zeros((len(BANDS), 200, 1100), np.uint8), window=((0, 200), (900, 2000)))
    report = run(scene, model, tmp_path / "out.zarr")
    assert report["status"] == "complete"
    assert report["blocks"] == {"total": 2, "done": 1, "empty": 1, "failed": 0, "skipped": 0}
    assert (Mosaic.open(str(tmp_path / "out.zarr")).classes()[:, 900:] == 255).all()


def test_records_that_belong_to_no_run_are_not_trusted(model, tmp_path):
    """A deletion that was cut short leaves them, and an empty block has no object that could be missed."""
    scene = write_scene(tmp_path / "small.tif", 200, 200, holes=False)
    Ledger.beside(str(tmp_path / "out.zarr")).record_finished("r00000c00000", {"state": "empty"})
    report = run(scene, model, tmp_path / "out.zarr")
    assert report["blocks"] == {"total": 1, "done": 1, "empty": 0, "failed": 0, "skipped": 0}
    assert (Mosaic.open(str(tmp_path / "out.zarr")).classes() != 255).all()


def test_a_store_that_fails_under_way_interrupts_what_has_begun(model, tmp_path, monkeypatch):
    """Not refused: a refusal tells a cluster never to try again."""
    monkeypatch.setattr("pipeline.segment.executor.RETRY_DELAY_S", 0.01)
    scene = write_scene(tmp_path / "scene.tif", 100, 2400, holes=False)
    damage_last_tile(scene)
    (tmp_path / "out.zarr.run").mkdir()
    (tmp_path / "out.zarr.run" / "failed").touch()  # where a folder should be: its block cannot be noted
    with pytest.raises(Interrupted, match=r"cannot write 'failed/.*start again to go on"):
        run(scene, model, tmp_path / "out.zarr")
    assert list(ledger_records(tmp_path / "out.zarr")) == ["r00000c00000", "r00000c00001"]


def test_overviews_that_cannot_be_written_are_told_and_written_the_next_time(
    scene, model, undisturbed, continued, monkeypatch
):
    monkeypatch.setattr("pipeline.segment.executor.RETRY_DELAY_S", 0.01)
    (Path(f"{continued}.run") / "overviews.json").unlink()
    place = continued / "overviews/2/classes/c/0/0"
    place.unlink()
    (place / "in the way").mkdir(parents=True)
    report = run(scene, model, continued)
    assert report["status"] == "incomplete"
    assert report["blocks"]["skipped"] == 4
    assert "overviews of square 1/0/0 could not be written" in report["audit"]["faults"][0]
    shutil.rmtree(place)
    assert run(scene, model, continued)["status"] == "complete"
    assert array_objects(continued) == array_objects(undisturbed)
