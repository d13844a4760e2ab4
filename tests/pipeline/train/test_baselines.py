"""The table: every row judged on the same pixels, learnt from the training split, and on what budget."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from pipeline.errors import MismatchError, SettingsError
from pipeline.train import loop
from pipeline.train.baselines.plain_script import learn
from pipeline.train.baselines.run import compare
from pipeline.train.baselines.settings import BaselinesConfig, ScriptSettings, View
from pipeline.train.run import train
from pipeline.train.tiles.index import load_tile_set
from pipeline.train.tiles.statistics import training_statistics
from tests.pipeline.train.small_tiles import CLASSES, config_of, settings, write_tiles

TINY = {"encoder": "tu-test_resnet.r160_in1k", "crop_px": 32, "batch": 4}
"""An encoder that learns these tiles in a second."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with a tile set and a model trained on it for a few steps."""
    folder = tmp_path_factory.mktemp("baselines")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "LOADING_ALONE_S", 0.05)
        train(run_of(write_tiles(folder / "tiles"), folder / "model"))
    return folder


def run_of(tiles: Path, output: Path):
    """A run of twenty steps, validated otherwise than by default."""
    return config_of(
        settings(
            tiles,
            output,
            train={"max_steps": 20, "optimizer": "adamw", "lr": 0.01},
            validation={"crop": {"size_px": 129, "stride_px": 112}, "scales": [0.5], "flips": ["h"]},
        )
    )


def config(folder: Path, **values) -> BaselinesConfig:
    document = {
        "tiles": {"url": str(folder / "tiles")},
        "crop": {"size_px": 129, "stride_px": 112},
        "threads": 1,
        "script": TINY,
        **values,
    }
    return BaselinesConfig.model_validate(document)


def tile_set(folder: Path):
    found = config(folder)
    return load_tile_set(found.tiles, found.labels, None)


def pixels_of(tile):
    """Bands and labels where there is both, read by rasterio alone."""
    with rasterio.open(tile.image) as image, rasterio.open(tile.labels) as labels:
        bands_CHW, labels_HW = image.read(), labels.read(1)
    known_HW = np.isin(labels_HW, [1, 2, 3]) & (bands_CHW != 0).all(axis=0)
    return bands_CHW[:, known_HW], labels_HW[known_HW] - 1


def test_the_commonest_class_is_that_of_the_training_split(trained):
    (row,) = compare(config(trained, rows=["majority"]))["rows"]
    tiles = tile_set(trained)
    learnt_P = np.concatenate([pixels_of(tile)[1] for tile in tiles.of("train")])
    judged_P = np.concatenate([pixels_of(tile)[1] for tile in tiles.of("val")])
    commonest = np.bincount(learnt_P).argmax()
    expected = np.zeros((3, 4), int)
    expected[:, commonest] = np.bincount(judged_P, minlength=3)
    assert row["confusion"] == expected.tolist()
    assert row["iou"][CLASSES[commonest]] == pytest.approx((judged_P == commonest).mean())
    assert row["miou"] == pytest.approx((judged_P == commonest).mean() / 3)
    by_tile = {tile.id: np.bincount(pixels_of(tile)[1], minlength=3).tolist() for tile in tiles.of("val")}
    assert {name: list(counts["true"]) for name, counts in row["per_tile"].items()} == by_tile


def test_the_regression_is_fitted_to_the_training_split_and_judged_on_the_other(trained):
    (row,) = compare(config(trained, rows=["logistic"]))["rows"]
    tiles = tile_set(trained)
    bands_CP, labels_P = (
        np.concatenate(parts, axis=-1)
        for parts in zip(*(pixels_of(tile) for tile in tiles.of("train")), strict=True)
    )
    weight, bias = torch.zeros(3, 3, requires_grad=True), torch.zeros(3, requires_grad=True)
    inputs_PC = torch.from_numpy((bands_CP.T - bands_CP.mean(axis=1)) / bands_CP.std(axis=1)).float()
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200)

    def loss():
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(
            inputs_PC @ weight + bias, torch.from_numpy(labels_P.astype(np.int64))
        )
        value.backward()
        return value

    optimizer.step(loss)
    judged_CP, truth_P = (
        np.concatenate(parts, axis=-1)
        for parts in zip(*(pixels_of(tile) for tile in tiles.of("val")), strict=True)
    )
    judged_PC = torch.from_numpy((judged_CP.T - bands_CP.mean(axis=1)) / bands_CP.std(axis=1)).float()
    expected_P = (judged_PC @ weight + bias).argmax(dim=1).numpy()
    confusion = np.array(row["confusion"])
    assert confusion.sum() == truth_P.size
    assert row["pixel_accuracy"] == pytest.approx((expected_P == truth_P).mean(), abs=2e-3)
    assert row["miou"] > 0.8  # brightness tells the classes apart but for the noise


def test_a_model_is_judged_as_its_own_run_judged_it(trained):
    report = compare(config(trained, rows=["model"], model=str(trained / "model")))
    as_validated, at_more_scales = report["rows"]
    run = train(run_of(trained / "tiles", trained / "model"))  # gives the report that it stored
    assert as_validated["confusion"] == run["confusion"]
    assert as_validated["crops"] == run["samples"]
    assert "scale 0.5, flips h" in as_validated["name"]
    assert "scales 0.375 0.5 0.625, flips h v" in at_more_scales["name"]
    assert at_more_scales["confusion"] != as_validated["confusion"]


def test_the_script_learns_as_many_crops_as_the_model(trained):
    row = compare(config(trained, rows=["script"], model=str(trained / "model")))["rows"][0]
    assert (row["steps"], row["crops"]) == (20, 80)
    assert row["processor_s"] > 0
    judged = sum(pixels_of(tile)[1].size for tile in tile_set(trained).of("val"))
    assert np.sum(row["confusion"]) == judged  # windows meet without gap or overlap


def test_the_script_learns_from_the_training_split_alone(trained, tmp_path):
    shutil.copytree(trained / "tiles", tmp_path / "tiles")
    tiles = tile_set(tmp_path)
    for tile in tiles.of("val"):
        Path(tile.image).unlink()
    learnt = learn(
        tiles, training_statistics(tiles), ScriptSettings(**TINY), crops=160, device=torch.device("cpu")
    )
    assert learnt.steps == 40
    shutil.copytree(trained / "tiles", tmp_path / "tiles", dirs_exist_ok=True)
    tile = tiles.of("val")[0]
    with rasterio.open(tile.image) as image:
        bands_CHW = image.read().astype(np.float32)
    statistics = training_statistics(tiles)
    mean_C11, std_C11 = (
        np.array(each, np.float32)[:, None, None] for each in (statistics.mean, statistics.std)
    )
    with torch.inference_mode():
        logits_KHW = learnt.model(torch.from_numpy((bands_CHW - mean_C11) / std_C11)[None])[0]
    with rasterio.open(tile.labels) as file:
        labels_HW = file.read(1)
    known_HW = np.isin(labels_HW, [1, 2, 3])
    right = (logits_KHW.argmax(dim=0).numpy()[known_HW] == labels_HW[known_HW] - 1).mean()
    assert right > 0.6  # the commonest class alone has about half


def test_the_script_ends_with_its_minutes(trained):
    row = compare(config(trained, rows=["script"], script={**TINY, "minutes": 0.01}))["rows"][0]
    assert row["steps"] >= 1
    assert 0.6 <= row["processor_s"] < 6


def test_without_smp_its_row_says_so(trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    rows = compare(config(trained, rows=["script", "majority"], script={**TINY, "crops": 8}))["rows"]
    assert "terrazzo[smp]" in rows[0]["missing"]
    assert rows[1]["miou"] > 0


def test_a_script_without_an_end_is_refused(trained):
    with pytest.raises(SettingsError, match=r"script\.crops, script\.minutes"):
        compare(config(trained, rows=["majority", "script"]))


def test_a_model_that_saw_what_it_is_judged_on_is_refused(trained, tmp_path):
    shutil.copytree(trained / "tiles", tmp_path / "tiles")
    (tmp_path / "tiles" / "tiles.json").unlink()
    found = config(
        tmp_path,
        rows=["model"],
        model=str(trained / "model"),
        tiles={
            "url": str(tmp_path / "tiles"),
            "images": "images/*.tif",
            "labels": "labels/*.tif",
            "seed": 5,
            "val_share": 0.6,
        },
        labels={"values": dict(enumerate(CLASSES, start=1)), "ignore": [0, 9]},
    )
    with pytest.raises(MismatchError, match="must have learnt from this very tile set and split"):
        compare(found)


def test_an_empty_split_is_refused(trained):
    with pytest.raises(SettingsError, match=r"'test' must hold tiles to judge on"):
        compare(config(trained, rows=["majority"], split="test"))


def test_a_view_around_another_scale():
    assert View(scales=(0.5,)).at_more_scales() == View(scales=(0.375, 0.5, 0.625), flips=("h", "v"))


def test_a_pixel_without_label_teaches_nothing(trained):
    """A crop that holds no label at all gives no gradient, rather than one that is no number."""
    tiles = tile_set(trained)
    unlabelled = replace(tiles, values=dict.fromkeys(tiles.values, 255))
    learnt = learn(
        unlabelled, training_statistics(tiles), ScriptSettings(**TINY), crops=8, device=torch.device("cpu")
    )
    assert all(torch.isfinite(parameter).all() for parameter in learnt.model.parameters())
