"""A whole run: settings in, checkpoint and report out; taken up, refused and started over."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from deeplab_core import load_checkpoint, save_checkpoint
from deeplab_core.calibrate import calibrate
from pipeline.config import RunConfig
from pipeline.errors import MismatchError, Refused, StorageError
from pipeline.raster.mosaic import Mosaic
from pipeline.segment.run import segment
from pipeline.storage import Folder
from pipeline.train.holding import Holding
from pipeline.train.run import train
from pipeline.train.run_log import read_log
from pipeline.train.steps.step import TrainingStep
from tests.pipeline.train.small_tiles import config_of, settings

pytestmark = pytest.mark.usefixtures("brief_loading")

RECIPE = {
    "optimizer": "adamw", "lr": 0.005, "max_steps": 40, "batch": 8, "ema": 0.9, "warmup_steps": 3,
    "validate_steps": 20,
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tiles, tmp_path_factory):
    """A run that learnt something, its output and its report."""
    output = tmp_path_factory.mktemp("finished") / "model"
    document = settings(tiles, output, train=RECIPE, augment={"scale": [1.0, 1.0]})
    return document, output, train(config_of(document))


def test_the_report_says_what_others_rely_on(finished):
    _, output, report = finished
    assert report["status"] == "complete"
    assert report["output"] == str(output)
    assert report["steps"] == 40
    assert report["best_step"] in (20, 40)
    assert report["miou"] == pytest.approx(np.nanmean(list(report["iou"].values())))
    assert report["miou"] > 0.5, "classes of different brightness are learnt in a minute"
    assert set(report["iou"]) == set(report["dice"]) == {"water", "forest", "field"}
    confusion = np.array(report["confusion"])
    assert report["pixel_accuracy"] == pytest.approx(np.trace(confusion[:, :3]) / confusion.sum())
    assert report["seconds"] > 0
    assert 0 < report["cpu_seconds"] < time.process_time(), "of this process, where everything was done"
    assert sum(report["time_shares"].values()) == pytest.approx(1)
    assert report["loading_images_per_s"] > report["images_per_s"]
    assert json.loads((Path(f"{output}.run") / "report.json").read_text()) == report


def test_the_output_is_a_checkpoint_and_nothing_else(finished):
    _, output, report = finished
    assert sorted(path.name for path in output.iterdir()) == ["model.json", "model.safetensors"]
    metadata = load_checkpoint(output).metadata
    assert metadata is not None
    assert metadata.bands == ("red", "green", "nir")
    assert metadata.lineage.parent is None
    assert metadata.lineage.metrics["val_miou"] == report["miou"]
    assert metadata.lineage.data["digest"] == report["data_digest"]
    assert metadata.sha256 == report["sha256"]


def test_the_run_folder_holds_the_rest(finished):
    _, output, _ = finished
    run = Path(f"{output}.run")
    names = {path.name for path in run.iterdir()}
    assert {"train.json", "states", "log.jsonl", "report.json", "report.html", "validation"} <= names
    assert json.loads((run / "train.json").read_text())["settings"]["train"]["batch"] == 8


def test_segment_region_runs_the_checkpoint_as_it_is(finished, tiles, tmp_path):
    _, output, _ = finished
    scene = tiles / "images" / "tile-0.tif"
    run = {
        "source": {"urls": [str(scene)]},
        "model": {"url": str(output)},
        "crop": {"size_px": 129, "stride_px": 112},
        "output": {"url": str(tmp_path / "mosaic.zarr")},
        "inference": {"compile": "off"},
        "compute": {"executor": "local", "workers": 1, "threads_per_worker": 1},
    }
    assert segment(RunConfig.model_validate(run))["status"] == "complete"
    mosaic = Mosaic.open(str(tmp_path / "mosaic.zarr"))
    with rasterio.open(tiles / "labels" / "tile-0.tif") as file:
        labels_HW = file.read(1)
    predicted_HW = mosaic.classes(mosaic.grid.window)
    counted_HW = (labels_HW != 9) & (predicted_HW != 255)
    assert (predicted_HW == labels_HW - 1)[counted_HW].mean() > 0.6


def test_a_finished_run_started_again_does_nothing(finished):
    document, output, report = finished
    before = {path: path.stat().st_mtime_ns for path in Path(f"{output}.run").rglob("*") if path.is_file()}
    assert train(config_of(document)) == report
    after = {path: path.stat().st_mtime_ns for path in Path(f"{output}.run").rglob("*") if path.is_file()}
    assert after == before


def test_a_run_killed_before_its_report_only_reports(finished, monkeypatch):
    """The last state is there: nothing is trained again."""
    document, output, report = finished
    (Path(f"{output}.run") / "report.json").unlink()
    monkeypatch.setattr(
        "pipeline.train.workers.workplace.train_here", lambda *_: pytest.fail("trained again")
    )
    again = train(config_of(document))
    assert again["sha256"] == report["sha256"]
    assert again["miou"] == report["miou"]


def test_another_configuration_on_the_same_output_is_refused_with_the_field(finished):
    document, _, _ = finished
    other = {**document, "train": {**document["train"], "batch": 4}}
    with pytest.raises(MismatchError, match=r"was begun with train\.batch = 8, now 4; give another --output"):
        train(config_of(other))


def test_an_output_that_holds_something_else_is_left_alone(tiles, tmp_path):
    output = tmp_path / "thesis"
    output.mkdir()
    (output / "chapter-1.txt").write_text("years of work")
    config = config_of(settings(tiles, output, train={"max_steps": 1}))
    for overwrite in (False, True):
        with pytest.raises(StorageError, match="holds something"):
            train(config, overwrite=overwrite)
    assert (output / "chapter-1.txt").read_text() == "years of work"


def test_overwriting_starts_over(tiles, tmp_path):
    output = tmp_path / "model"
    first = train(config_of(settings(tiles, output, train={"max_steps": 1})))
    second = train(config_of(settings(tiles, output, train={"max_steps": 2})), overwrite=True)
    assert (first["steps"], second["steps"]) == (1, 2)
    assert len(list(Path(f"{output}.run/states").iterdir())) == 1


def test_states_that_belong_to_no_run_are_not_taken_up(tiles, tmp_path):
    """What is left of a run whose deletion was cut short, its settings gone first."""
    output = tmp_path / "model"
    train(config_of(settings(tiles, output, train={"max_steps": 2})))
    (tmp_path / "model.run/train.json").unlink()
    for path in output.iterdir():
        path.unlink()
    again = train(config_of(settings(tiles, output, train={"max_steps": 1, "seed": 5})))
    assert again["steps"] == 1
    steps = [record["step"] for record in read_log(Folder(f"{output}.run")) if record["kind"] == "step"]
    assert steps == [1]


def test_a_training_that_another_has_taken_over_writes_no_more(tiles, tmp_path, monkeypatch):
    output = tmp_path / "model"
    config = config_of(settings(tiles, output, train={"max_steps": 2}))
    take_step = TrainingStep.run

    def overtaken(self, parts, step):
        Holding.take(Folder(f"{output}.run"))
        return take_step(self, parts, step)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingStep, "run", overtaken)
        with pytest.raises(MismatchError, match="that one goes on from the newest state, this one ends"):
            train(config)
    assert not output.exists()
    assert not Path(f"{output}.run/states").exists()
    assert train(config)["status"] == "complete"


def test_fine_tuning_starts_from_a_checkpoint_and_says_so(finished, tiles, tmp_path):
    document, output, report = finished
    more = {"init": str(output), "max_steps": 1, "lr": 1e-9, "ema": 0.0, "validate_steps": None}
    tuned = settings(tiles, tmp_path / "tuned", train={**document["train"], **more}, model={})
    tuned["model"] = {}
    found = train(config_of(tuned))
    assert found["parent"] == report["sha256"]
    assert found["model"] == report["model"]
    assert found["miou"] == pytest.approx(report["miou"], abs=0.05)
    metadata = load_checkpoint(tmp_path / "tuned").metadata
    assert metadata is not None
    assert metadata.lineage.parent == report["sha256"]


def test_fine_tuned_weights_do_not_inherit_a_calibration(finished, tiles, tmp_path):
    document, output, _ = finished
    model = load_checkpoint(output)
    model.calibration = calibrate(model, [torch.randn(1, model.config.in_channels, 65, 65)])
    told = model.metadata
    assert told is not None
    save_checkpoint(model, tmp_path / "calibrated", mean=told.mean, std=told.std, bands=told.bands)
    more = {"init": str(tmp_path / "calibrated"), "max_steps": 1, "validate_steps": None}
    tuned = settings(tiles, tmp_path / "tuned", train={**document["train"], **more})
    tuned["model"] = {}
    train(config_of(tuned))
    assert load_checkpoint(tmp_path / "calibrated").calibration is not None
    assert load_checkpoint(tmp_path / "tuned").calibration is None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"labels": {"values": {1: "water", 2: "wood", 3: "field"}, "ignore": [0, 9]}},
            "water, forest, field; got wood",
        ),
        ({"tiles": {"bands": ["red", "nir"]}}, r"\['red', 'green', 'nir'\], got \['red', 'nir'\]"),
        ({"model": {"output_stride": 8}}, r"model\.output_stride must be that of train\.init, 16, got 8"),
    ],
)
def test_fine_tuning_for_something_else_is_refused(finished, tiles, tmp_path, change, sentence):
    _, output, _ = finished
    other = settings(tiles, tmp_path / "tuned", train={"init": str(output)}, **change)
    other["model"] = change.get("model", {})
    other["tiles"]["manifest"] = str(tmp_path / "manifest")
    with pytest.raises(Refused, match=sentence):
        train(config_of(other))


@pytest.mark.slow
def test_a_bucket_serves_as_well_as_a_disk(tiles, s3_bucket):
    output = f"{s3_bucket.url}/models/small"
    config = config_of(settings(tiles, output, train={"max_steps": 3, "checkpoint_steps": 1}))
    report = train(config)
    assert report["status"] == "complete"
    kept = {found.key for found in Folder(f"{output}.run").listing()}
    assert {"report.json", "report.html", "log.jsonl", "states/step-00000003/state.json"} <= kept
    assert train(config) == report
