"""The command line calibrates a model, tells what 8 bits cost, and refuses in one line."""

import json
from pathlib import Path

import pytest
import torch

from deeplab_core import load_checkpoint
from deeplab_core.int8 import computes_in_int8
from jobs.calibrate_model import main
from tests.pipeline.segment.scene import write_model, write_scene


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrate")
    write_model(folder / "model")
    write_scene(folder / "scene.tif", 400, 500)
    return folder


def words(folder: Path, output: Path, *more: str) -> list[str]:
    paths = ["--model", str(folder / "model"), "--source", str(folder / "scene.tif"), "--output", str(output)]
    return [*paths, "--set", "crop.size_px=129", "--set", "crop.stride_px=112", "--crops", "3", *more]


def test_the_report_tells_what_was_found(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(folder, tmp_path / "out", "--json")) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["status"] == "complete"
    assert (report["crops"], report["convolutions"]) == (3, 28)
    model = load_checkpoint(tmp_path / "out")
    assert model.metadata is not None
    assert model.metadata.sha256 == report["sha256"]
    assert model.calibration is not None
    if computes_in_int8(torch.device("cpu")):
        assert report["precisions"]["fp32"]["label_agreement"] == 1.0
        assert 0.9 < report["precisions"]["int8"]["label_agreement"] <= 1.0
        assert all(found["crops_per_s"] > 0 for found in report["precisions"].values())
    else:
        assert report["precisions"] == {}


def test_the_model_itself_may_be_written_over(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "model")
    arguments = words(folder, model)
    arguments[arguments.index("--model") + 1] = str(model)
    assert main(arguments) == 0
    assert "calibrated on 3 crops: 28 convolutions can run in 8 bits" in capsys.readouterr().out
    assert load_checkpoint(model).calibration is not None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--crops", "0"], "refused: --crops must be at least 1, got 0"),
        (["--source", "nowhere.tif"], "refused: "),
        (["--set", "crop.size_px=512"], "refused: crop"),
    ],
)
def test_what_does_not_fit_is_refused(
    folder: Path, tmp_path: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(folder, tmp_path / "out", *more)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
