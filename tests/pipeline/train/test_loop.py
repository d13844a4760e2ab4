"""The loop: it learns, ends in time, keeps what is best, and tells where the time went."""

import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch

from pipeline.errors import Interrupted, TerrazzoError
from pipeline.train import loop as loop_module
from pipeline.train.initial import initial_model
from pipeline.train.loop import train_loop
from pipeline.train.run_log import read_log
from pipeline.train.state import StateStore, read_position, read_tensors
from tests.pipeline.train.loop_runs import (
    CPU,
    TEN_STEPS,
    Undisturbed,
    differences,
    end_of,
    losses_of,
    make_job,
    run,
    steps_of,
)
from tests.pipeline.train.small_tiles import UNLABELLED, write_tile

pytestmark = pytest.mark.usefixtures("brief_loading")


@pytest.mark.slow
def test_it_learns(tiles, tmp_path):
    train = {"optimizer": "adamw", "lr": 0.005, "max_steps": 60, "ema": 0.9, "batch": 8}
    job = make_job(tiles, tmp_path / "model", train=train, augment={"scale": [1.0, 1.0]})
    run(job)
    losses = losses_of(job)
    assert len(losses) == 60
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:5])
    rates = [record["lr"] for record in steps_of(job)]
    assert rates[0] < rates[5] > rates[30] > rates[-1]
    assert rates[-1] < 0.05 * 0.005


def test_accumulation_is_the_same_gradient(tiles, tmp_path):
    """With frozen norms the parts of a batch do not see each other, so that cutting it changes nothing."""
    ends = []
    for accumulate in (1, 3):
        train = TEN_STEPS | {"max_steps": 3, "freeze_bn": True, "accumulate": accumulate}
        job = make_job(tiles, tmp_path / f"model-{accumulate}", train=train)
        run(job)
        ends.append(end_of(job)[0]["model"])
    assert differences(*ends) <= 1e-5


def test_the_callers_random_numbers_and_threads_are_left_alone(tiles, tmp_path):
    torch.manual_seed(3)
    expected, threads = torch.rand(4), torch.get_num_threads()
    torch.manual_seed(3)
    run(make_job(tiles, tmp_path / "model", train={"max_steps": 1}))
    assert torch.equal(torch.rand(4), expected)
    assert torch.get_num_threads() == threads


class Hurrying:
    """A clock that goes ten seconds further at every look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 10.0
        return self.now


def test_time_ends_a_run_with_the_rate_at_its_end_and_counts_on_over_resumes(tiles, tmp_path, monkeypatch):
    """Two minutes at ten seconds a look: eleven steps or so, however often it is taken up."""
    train = {
        "max_steps": None,
        "max_minutes": 2.0,
        "warmup_steps": 0,
        "checkpoint_minutes": None,
        "power": 1.0,
    }
    job = make_job(tiles, tmp_path / "model", train=train)
    monkeypatch.setattr(loop_module, "time", SimpleNamespace(monotonic=Hurrying()))
    with pytest.raises(Interrupted):
        train_loop(job, Undisturbed(job, stop_after=4))
    stopped = end_of(job)[1]
    assert 30 <= stopped.elapsed_s <= 90
    train_loop(job, Undisturbed(job))
    records = steps_of(job)
    assert [record["step"] for record in records] == list(range(1, len(records) + 1))
    assert 4 < len(records) < 14
    elapsed = [record["elapsed_s"] for record in records]
    assert elapsed == sorted(elapsed)
    for record in records:
        assert record["progress"] == pytest.approx(record["elapsed_s"] / 120)
        assert record["lr"] == pytest.approx(job.optimizer.lr * (1 - record["progress"]))
    assert records[-1]["progress"] > 0.8


def test_the_nearer_of_two_limits_ends_the_run(tiles, tmp_path):
    job = make_job(tiles, tmp_path / "model", train={"max_steps": 3, "max_minutes": 1e7})
    run(job)
    assert [record["progress"] for record in steps_of(job)] == pytest.approx([0, 1 / 3, 2 / 3], abs=1e-6)


def test_states_are_stored_in_time(tiles, tmp_path, monkeypatch):
    train = {"max_steps": 7, "checkpoint_minutes": 0.6, "keep": 9}
    job = make_job(tiles, tmp_path / "model", train=train)
    monkeypatch.setattr(loop_module, "time", SimpleNamespace(monotonic=Hurrying()))
    train_loop(job, Undisturbed(job))
    stored = sorted(Path(job.run_folder.url, "states").iterdir())
    assert [int(path.name[5:]) for path in stored] == [3, 7], "36 s after the start, at 10 s a look"


def test_the_best_validation_is_kept_and_is_that_of_the_average(tiles, tmp_path, monkeypatch):
    """The scores are made up here, what is validated is not."""
    scores = iter([0.5, 0.9, 0.2, 0.3])
    seen = []
    real = loop_module.validate

    def validate(model, *arguments, **options):
        found = real(model, *arguments, **options)
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        score = next(scores)
        monkeypatch.setattr(type(found.confusion), "miou", property(lambda _: score))
        return found

    monkeypatch.setattr(loop_module, "validate", validate)
    train = {"max_steps": 8, "validate_steps": 2, "keep": 1, "ema": 0.5, "checkpoint_minutes": None}
    job = make_job(tiles, tmp_path / "model", train=train, validation={"max_tiles": 1})
    run(job)
    store = StateStore(job.run_folder, keep=1)
    best = store.best()
    assert best is not None
    assert read_position(best).step == 4
    assert differences(read_tensors(best, CPU)["average"], seen[1]) == 0
    assert sorted(path.name for path in Path(job.run_folder.url, "states").iterdir()) == [
        "step-00000004",
        "step-00000008",
    ]
    validations = [record for record in read_log(job.run_folder) if record["kind"] == "validation"]
    assert [record["step"] for record in validations] == [2, 4, 6, 8]


def test_where_the_time_went_is_told(tiles, tmp_path, caplog):
    caplog.set_level("INFO")
    job = make_job(tiles, tmp_path / "model", train={"max_steps": 3})
    run(job)
    pace = read_log(job.run_folder)[-1]
    assert pace["kind"] == "pace"
    assert set(pace["time_shares"]) == {"loading", "forward", "backward", "all_reduce", "optimizer"}
    assert sum(pace["time_shares"].values()) == pytest.approx(1)
    assert pace["time_shares"]["backward"] > 0.1
    assert pace["loading_images_per_s"] > pace["images_per_s"] > 0
    assert "loading alone" in caplog.text


def test_processor_time_is_counted_on_over_resumes(tiles, tmp_path):
    job = make_job(tiles, tmp_path / "model", train={"max_steps": 6})
    began_s = time.process_time()
    with pytest.raises(Interrupted):
        train_loop(job, Undisturbed(job, stop_after=4))
    first_s, half_s = time.process_time() - began_s, end_of(job)[1].cpu_s
    assert 0.2 * first_s < half_s <= first_s
    time.sleep(0.2)  # is no processor time, nor is what is done between
    sum(range(3_000_000))
    began_s = time.process_time()
    run(job)
    assert half_s < end_of(job)[1].cpu_s <= half_s + time.process_time() - began_s


def test_one_labelled_pixel_is_enough_to_train(tmp_path):
    """Most crops have no label at all: they must neither stop a run nor spoil its loss."""
    for index in range(3):
        write_tile(tmp_path / "tiles", f"tile-{index}", seed=index)
    with rasterio.open(tmp_path / "tiles/labels/tile-1.tif", "r+") as file:
        labels_HW = np.full(file.shape, UNLABELLED, np.uint8)
        labels_HW[70, 90] = 3
        file.write(labels_HW, 1)
    (tmp_path / "tiles/index.csv").write_text("id,split\ntile-0,val\ntile-1,train\ntile-2,val\n")
    loss = {"dice": 1.0, "focal": 0.5, "lovasz": 0.5, "top_k_percent": 20.0}
    train = {"max_steps": 3, "batch": 2, "crop_px": 17, "loss": loss}
    job = make_job(
        tmp_path / "tiles", tmp_path / "model", train=train, sampling={"rare_share": 0.0},
        augment={"scale": [1.0, 1.0]},
    )  # fmt: skip
    assert job.statistics.class_pixels == (0, 0, 1)
    run(job)
    assert np.isfinite(losses_of(job)).all()
    assert end_of(job)[1].finished


def test_a_loss_that_is_no_number_ends_the_run_before_it_is_stored(tiles, tmp_path):
    train = {"max_steps": 9, "lr": 1e18, "warmup_steps": 0, "checkpoint_steps": 8}
    job = make_job(tiles, tmp_path / "model", train=train)
    with pytest.raises(TerrazzoError, match="the loss must stay finite, but became nan at step"):
        run(job)
    assert StateStore(job.run_folder, keep=1).newest() is None


def test_it_learns_in_few_bits(tiles, tmp_path):
    train = {"max_steps": 20, "precision": "bf16", "optimizer": "adamw", "lr": 0.005, "clip_norm": 5.0}
    job = make_job(tiles, tmp_path / "model", train=train, augment={"scale": [1.0, 1.0]})
    run(job)
    losses = losses_of(job)
    assert np.mean(losses[-5:]) < 0.85 * np.mean(losses[:3])
    assert {value.dtype for value in end_of(job)[0]["model"].values()} == {torch.float32, torch.int64}


@pytest.mark.slow
def test_float16_is_scaled_and_the_scale_is_stored(tiles, tmp_path):
    ends = {}
    for precision in ("fp32", "fp16"):
        train = {"max_steps": 2, "batch": 2, "lr": 0.01, "warmup_steps": 0, "precision": precision}
        job = make_job(tiles, tmp_path / precision, train=train)
        run(job)
        ends[precision] = end_of(job)[0]
    assert ends["fp16"]["scaler"]["scale"] >= 1024
    assert ends["fp32"]["scaler"] == {}
    assert 0 < differences(ends["fp16"]["model"], ends["fp32"]["model"]) < 0.1


@pytest.mark.slow
def test_an_auxiliary_head_is_trained_or_left_out(tiles, tmp_path):
    moved = {}
    for weight in (0.4, 0.0):
        train = {"max_steps": 2, "loss": {"auxiliary": weight}, "lr": 0.1, "warmup_steps": 0}
        job = make_job(tiles, tmp_path / f"model-{weight}", train=train, model={"aux_head": True})
        run(job)
        model = end_of(job)[0]["model"]
        torch.manual_seed(job.train.seed)
        start = initial_model(job).state_dict()
        moved[weight] = any(
            not torch.equal(model[name], start[name]) for name in start if name.startswith("aux_head")
        )
    assert moved == {0.4: True, 0.0: False}


def test_frozen_norms_keep_their_statistics(tiles, tmp_path):
    job = make_job(tiles, tmp_path / "model", train={"max_steps": 2, "freeze_bn": True, "batch": 1})
    run(job)
    end, start = end_of(job)[0]["model"], initial_model(job).state_dict()
    for name, value in end.items():
        if "running" in name:
            assert torch.equal(value, start[name]), name
    assert differences(end, start) > 0
